"""The tile size that predicts a region in the least time within a bound on memory; the time of a tile is measured once.

Measurements are made with a few tiles, and stored in the user's cache.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter
from torch import nn

from incasem_like.config.prediction_config import PredictionSection
from incasem_like.disk import write_whole
from incasem_like.errors import ConfigError
from incasem_like.networks import NetworkGeometry, torch_device
from incasem_like.prediction.computing.loading import NetworkSource, make_predictor, prediction_geometry
from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.prediction.computing.tiling import NONE, Tile, axis_input, axis_step, grid_phase
from incasem_like.prediction.outputs import fills_chunks
from incasem_like.prediction.planning.memory import MOST_HOST_BYTES_BESIDE_GPU, TileMemory, tile_memory, usable_memory
from incasem_like.tracking.model.cache import cache_directory
from incasem_like.volumes import Roi
from incasem_like.volumes.chunk_files import digest

Floats = npt.NDArray[np.float64]
Numbers = float | Floats

# The work lost when a prediction is interrupted. Small tiles compute their context repeatedly: a network that takes
# minutes for a large tile would take twice as long in all with tiles of a minute.
MOST_SECONDS_PER_TILE = 600.0
# Measured speeds are not more exact than this.
AS_GOOD = 1.001


@dataclass(frozen=True)
class TileSpeed:
    """The seconds that a tile takes; where they were not ``measured``, only the proportions are meaningful."""

    per_input: float  # per voxel read: the encoder's work is proportional to the input
    per_output: float  # per voxel written: the decoder's work is proportional to the output
    per_tile: float = 0.0
    measured: bool = True

    def seconds(self, read: Numbers, written: Numbers, tiles: Numbers) -> Floats:
        """Return the time for a number of tiles that read and write the given numbers of voxels in all."""
        return np.asarray(self.per_input * read + self.per_output * written + self.per_tile * tiles)


def sum_of_speeds(speeds: Sequence[TileSpeed]) -> TileSpeed:
    """Return the speed if every tile is predicted at all of these, one after the other."""
    parts = zip(*((one.per_input, one.per_output, one.per_tile) for one in speeds), strict=True)
    read, written, tiles = (sum(values) for values in parts)
    return TileSpeed(read, written, tiles, measured=all(one.measured for one in speeds))


# The proportions of incasem's U-Net: products per voxel of input and output.
UNMEASURED = TileSpeed(per_input=1.0, per_output=3.0, measured=False)


@dataclass(frozen=True)
class TileChoice:
    """A tile size, in voxels z, y, x, and its costs."""

    input_size: tuple[int, ...]
    tiles: int  # of the region
    read: int  # voxels, by all tiles
    bytes: int  # estimated memory of one tile where the network computes
    host_bytes: int = 0  # in addition on the host

    def seconds(self, speed: TileSpeed, written: int) -> float:
        """Estimate the time that all tiles take, one after the other."""
        return float(speed.seconds(float(self.read), float(written), float(self.tiles)))


def choose_input_size(
    geometry: NetworkGeometry,
    roi: Roi,
    origin: Sequence[int],
    memory: TileMemory,
    limit: float,
    speed: TileSpeed,
    workers: int = 1,
) -> TileChoice:
    """Choose the tile size with which all workers finish earliest; the smallest valid one if memory allows none.

    Context is computed again for each tile, so that few large tiles are faster, until one tile covers the region; but
    no worker should wait while the others predict.

    Args:
        geometry: The network's.
        roi, origin: The region, and where the raw volume begins, in absolute voxels.
        memory, speed: What tiles take.
        limit: Bytes that a tile may take.
        workers: Number of workers that predict in parallel.
    """
    axes = [_axis_choices(geometry, axis, roi, grid_phase(geometry, axis, roi, origin)) for axis in range(3)]
    edges = np.ix_(*(sizes for sizes, _, _ in axes))
    tiles, read = (_product_over_axes(values) for values in list(zip(*axes, strict=True))[1:])
    used, beside = memory.bytes(*edges), memory.host_bytes(*edges)
    seconds = speed.seconds(read, float(roi.size), tiles)
    allowed = (used <= limit) & (beside <= MOST_HOST_BYTES_BESIDE_GPU) & memory.fits_tensors(*edges)
    if speed.measured:
        allowed &= (seconds / tiles <= MOST_SECONDS_PER_TILE) | (tiles == tiles.max())
    rank = np.where(allowed, seconds / tiles * np.ceil(tiles / workers), np.inf)
    if np.isfinite(rank).any():
        # Along axes where larger tiles gain nothing, as across independently predicted sections, there are fewer.
        rank = np.where(rank <= AS_GOOD * rank.min(), tiles, np.inf)
    else:
        rank = used
    best = np.unravel_index(np.argmin(rank), rank.shape)
    size = [int(sizes[index]) for (sizes, _, _), index in zip(axes, best, strict=True)]
    return describe_input_size(geometry, roi, origin, memory, size)


def describe_input_size(
    geometry: NetworkGeometry, roi: Roi, origin: Sequence[int], memory: TileMemory, input_size: Sequence[int]
) -> TileChoice:
    """Return the costs of a given tile size.

    Raises:
        ConfigError: It is too small to cover the region.
    """
    tiles, read = 1, 1
    for axis, size in enumerate(input_size):
        phase = grid_phase(geometry, axis, roi, origin)
        count, cost = _axis_cost(geometry, axis, roi.shape[axis], phase, axis_step(geometry, axis, size, phase))
        tiles, read = tiles * count, read * cost
    z, y, x = map(float, input_size)
    return TileChoice(tuple(input_size), tiles, read, int(memory.bytes(z, y, x)), int(memory.host_bytes(z, y, x)))


def _axis_choices(geometry: NetworkGeometry, axis: int, roi: Roi, phase: int) -> tuple[Floats, Floats, Floats]:
    """List tile sizes along an axis, how many tiles of that size there are, and what they read together."""
    stride, length = geometry.stride[axis], roi.shape[axis]
    found: list[tuple[int, int, int]] = []
    size, tiles, fewest = geometry.smallest_input[axis], 0, 0
    while tiles != 1:
        try:
            step = axis_step(geometry, axis, size, phase)
        except ConfigError:
            size += stride
            continue
        tiles, read = _axis_cost(geometry, axis, length, phase, step)
        # A larger tile that still leaves as many of them reads no less. Tiles that share chunks are written twice.
        if tiles != fewest and (tiles == 1 or not found or fills_chunks(step)):
            found.append((size, tiles, read))
            fewest = tiles
        size += stride
    sizes, counts, costs = zip(*found, strict=True)
    return np.array(sizes, dtype=float), np.array(counts, dtype=float), np.array(costs, dtype=float)


def _axis_cost(geometry: NetworkGeometry, axis: int, length: int, phase: int, step: int) -> tuple[int, int]:
    """Return how many tiles a ``step`` apart cover ``length`` voxels, and how many voxels they read together."""
    tiles = -(-length // step)
    last = axis_input(geometry, axis, length - (tiles - 1) * step, phase)
    return tiles, (tiles - 1) * axis_input(geometry, axis, step, phase) + last


def _product_over_axes(values: Sequence[Floats]) -> Floats:
    z, y, x = np.ix_(*values)
    return np.asarray(z * y * x)


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
    for _ in predictor.predict_parts(lambda roi: raw, [tile]):
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
