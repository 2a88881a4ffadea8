"""Benchmark of a network on this machine: measured once with a few tiles, and stored in the user's cache."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import nn

from incasem_like.config.prediction_config import PredictionSection
from incasem_like.disk import write_whole
from incasem_like.networks import NetworkGeometry, torch_device
from incasem_like.prediction.computing.loading import NetworkSource, make_predictor, prediction_geometry
from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.prediction.computing.tiling import Tile
from incasem_like.prediction.computing.variants import NONE
from incasem_like.prediction.planning.memory import TileMemory, tile_memory, usable_memory
from incasem_like.prediction.planning.tile_size import UNMEASURED, TileSpeed
from incasem_like.tracking.model.cache import cache_directory
from incasem_like.volumes import Roi
from incasem_like.volumes.chunk_files import digest

FORMAT = 1
# Tiles grow by this factor along each axis until one takes this many seconds, or the memory is used up.
GROWTH = 1.3
ENOUGH_SECONDS = 4.0
MOST_TILES = 6
# Largest number of voxels to measure unless limited otherwise: some seconds of work.
MEASURED_VOXELS = 3e7
# For each measured tile: the voxels read, the voxels written, and the seconds.
Measured = list[tuple[int, int, float]]
Value = TypeVar("Value")


def measurable_sizes(
    geometry: NetworkGeometry, memory: TileMemory, limit: float, most_voxels: float
) -> Iterator[tuple[int, ...]]:
    """Yield growing tile sizes, whose memory is within ``limit`` bytes and whose voxels together within a bound."""
    size = geometry.input_for_output([2 * (s + b) for s, b in zip(geometry.stride, geometry.border, strict=True)])
    for _ in range(MOST_TILES):
        most_voxels -= math.prod(size)
        z, y, x = map(float, size)
        if most_voxels < 0 or memory.bytes(z, y, x) > limit or not memory.fits_tensors(z, y, x):
            return
        yield size
        size = geometry.nearest_valid([max(edge + 1, round(edge * GROWTH)) for edge in size])[1]


def measure_speed(
    make_predictor: Callable[[tuple[int, ...]], TiledPredictor], channels: int, sizes: Iterable[tuple[int, ...]]
) -> Measured:
    """Predict tiles of these sizes, with the given number of input channels, until one takes seconds."""
    measured: Measured = []
    for size in sizes:
        predictor = make_predictor(size)
        written = predictor.geometry.output_size(size)
        tile = Tile(Roi((0, 0, 0), size), Roi(predictor.geometry.context, written))
        raw = np.random.default_rng(0).random((channels, *size), dtype=np.float32)
        seconds = _seconds(predictor, raw, tile)
        if not measured or seconds < ENOUGH_SECONDS / 10:
            # The first run includes one-time work: memory, compilation, the library's choice of algorithms.
            seconds = min(seconds, _seconds(predictor, raw, tile))
        measured.append((math.prod(size), math.prod(written), seconds))
        if seconds > ENOUGH_SECONDS:
            break
    return measured


def _seconds(predictor: TiledPredictor, raw: Any, tile: Tile) -> float:
    started = time.monotonic()
    for _ in predictor.predict_tiles(lambda roi: raw, [tile]):
        pass
    return time.monotonic() - started


def fitted(measured: Sequence[tuple[int, int, float]]) -> TileSpeed:
    """Fit the time per voxel read, per voxel written and per tile, by relative errors.

    If the tiles cannot separate them, the proportions are those of ``UNMEASURED``.
    """
    if not measured:
        return UNMEASURED
    read, written, seconds = (np.array(column, dtype=float) for column in zip(*measured, strict=True))
    whole = np.stack([read, written, np.ones_like(read)], axis=1) / seconds[:, None]
    for columns in (3, 2):
        if columns <= len(measured):
            times = np.linalg.lstsq(whole[:, :columns], np.ones(len(measured)), rcond=None)[0]
            if (times > 0).all():
                return TileSpeed(float(times[0]), float(times[1]), float(times[2]) if columns == 3 else 0.0)
    usual = float(np.mean(seconds / (UNMEASURED.per_input * read + UNMEASURED.per_output * written)))
    return TileSpeed(UNMEASURED.per_input * usual, UNMEASURED.per_output * usual)


def measured_tiles(
    network: nn.Module, source: NetworkSource, section: PredictionSection, most_voxels: float
) -> Measured:
    """Return the times of a network's tiles on this machine: from the cache, else by measuring.

    ``section`` is used without test-time augmentation. Measured tiles have together at most ``most_voxels``; with 0,
    nothing is measured.
    """
    config, device = source.torch, torch_device(source.torch)
    arithmetic = {key: getattr(config, key) for key in ("precision", "channels_last", "compile")}
    cache = speed_cache({"model": source.model.model_dump(mode="json"), **arithmetic}, device)
    measured = cache.read() or []
    if measured or not most_voxels:
        return measured
    plain = section.model_copy(update={"test_time_augmentation": NONE})
    memory, limit = tile_memory(network, source, NONE), usable_memory(device)
    sizes = measurable_sizes(prediction_geometry(source.model), memory, limit, most_voxels)
    channels = source.model.in_channels
    measured = measure_speed(lambda size: make_predictor(network, source, plain, size), channels, sizes)
    cache.write(measured)
    if device.type == "cuda":  # this process may only schedule, and its workers use the same GPU
        torch.cuda.empty_cache()
    return measured


class MeasurementCache(Generic[Value]):
    """A file in the user's cache folder with a measurement, named after everything that it depends on.

    Args:
        folder: Name of the folder of such measurements.
        kind: Type of the measurement.
        facts: Everything that it depends on; JSON-serializable.
    """

    def __init__(self, folder: str, kind: type[Value], facts: Mapping[str, Any]) -> None:
        self._adapter = TypeAdapter(kind)
        self.path: Path = cache_directory() / folder / f"{digest(dict(facts))[:32]}.json"

    def read(self) -> Value | None:
        """Return the measurement; None if the file does not exist or is damaged."""
        try:
            return self._adapter.validate_json(self.path.read_bytes())
        except (OSError, ValueError):
            return None

    def write(self, value: Value) -> None:
        """Store a measurement; if the cache cannot be written, it is measured again next time."""
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unlike dump_json, json writes an infinite difference of precisions as such.
            content = json.dumps(self._adapter.dump_python(value)).encode()
            write_whole(self.path, lambda file: file.write(content))


def speed_cache(facts: Mapping[str, Any], device: torch.device) -> MeasurementCache[Measured]:
    """Return the cache of the measured tiles of one network on this machine."""
    known = {"torch": torch.__version__, "device": device_name(device), "threads": torch.get_num_threads()}
    return MeasurementCache("speed", Measured, {"format": FORMAT, **known, **facts})


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, else of this machine, since one cache may serve several machines."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.node()} {platform.machine()} {os.cpu_count()}"
