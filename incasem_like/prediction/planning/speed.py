"""How fast this machine predicts with a network: measured once with a few tiles, and kept in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from incasem_like.networks import NetworkGeometry
from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.prediction.planning.memory import TileMemory
from incasem_like.prediction.planning.tile_size import UNMEASURED, TileSpeed
from incasem_like.tracking.checkpoints.cache import cache_directory
from incasem_like.volumes import Roi

FORMAT = 1
# Tiles grow by this along each axis until one of them takes so long, or the memory ends.
GROWTH = 1.3
ENOUGH_SECONDS = 4.0
MOST_TILES = 6
Measured = list[tuple[int, int, float]]


def measurable_sizes(
    geometry: NetworkGeometry, memory: TileMemory, limit: float, most_voxels: float
) -> Iterator[tuple[int, ...]]:
    """Give tile sizes from the smallest usable one on, as long as they stay within limits.

    Args:
        geometry: The network's.
        memory: What tiles take.
        limit: Bytes that a tile may take.
        most_voxels: That all tiles may have together.
    """
    size = geometry.input_for_output([2 * (s + b) for s, b in zip(geometry.stride, geometry.border, strict=True)])
    for _ in range(MOST_TILES):
        most_voxels -= math.prod(size)
        z, y, x = map(float, size)
        if most_voxels < 0 or memory.bytes(z, y, x) > limit:
            return
        yield size
        size = geometry.nearest_valid([max(edge + 1, round(edge * GROWTH)) for edge in size])[1]


def measure_speed(
    make_predictor: Callable[[tuple[int, ...]], TiledPredictor], channels: int, sizes: Iterable[tuple[int, ...]]
) -> Measured:
    """Predict tiles of growing size, until one takes seconds, and say how long each took.

    Args:
        make_predictor: Makes what predicts tiles of a size.
        channels: That the network takes.
        sizes: Of the tiles.

    Returns:
        For each tile the voxels that were read and written, and the seconds.
    """
    measured: Measured = []
    for size in sizes:
        predictor = make_predictor(size)
        written = predictor.geometry.output_size(size)
        tile = (Roi((0, 0, 0), size), Roi(predictor.geometry.context, written))
        raw = np.random.default_rng(0).random((channels, *size), dtype=np.float32)
        seconds = _seconds(predictor, raw, tile)
        if not measured or seconds < ENOUGH_SECONDS / 10:
            # The first time pays for what comes once: memory, compiling, the library's choice of algorithms.
            seconds = min(seconds, _seconds(predictor, raw, tile))
        measured.append((math.prod(size), math.prod(written), seconds))
        if seconds > ENOUGH_SECONDS:
            break
    return measured


def _seconds(predictor: TiledPredictor, raw: Any, tile: tuple[Roi, Roi]) -> float:
    begun = time.monotonic()
    for _ in predictor.predict_tiles(lambda roi: raw, [tile]):
        pass
    return time.monotonic() - begun


def fitted(measured: Sequence[tuple[int, int, float]]) -> TileSpeed:
    """Fit the time per voxel read and per voxel written to measured tiles; errors count in proportion to the time.

    What is left where the proportions cannot be told apart is that of ``UNMEASURED``.
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


class SpeedCache:
    """Measured tiles of one network on this machine, kept under what they depend on; losing them costs seconds.

    Args:
        facts: What the time depends on besides the machine; JSON-able.
    """

    def __init__(self, facts: Mapping[str, Any], device: torch.device) -> None:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
        known = {
            "format": FORMAT,
            "torch": torch.__version__,
            "device": name,
            "threads": torch.get_num_threads(),
            **facts,
        }
        key = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
        self.path: Path = cache_directory() / "speed" / f"{key[:32]}.json"

    def read(self) -> Measured:
        """Give the tiles that were measured before; none where there is no such file, or half of one."""
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            return [(int(read), int(written), float(seconds)) for read, written, seconds in kept]
        except (OSError, ValueError, TypeError):
            return []

    def write(self, measured: Measured) -> None:
        """Keep them; where the cache cannot be written they are measured again next time."""
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(measured), encoding="utf-8")
            beside.replace(self.path)


def _processor() -> str:
    """Name the processor of this machine; with the host's name, since one cache may serve several machines."""
    return f"{platform.node()} {platform.machine()} {os.cpu_count()}"
