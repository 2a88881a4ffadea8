"""The tile size that predicts a region in the least time within a bound on memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from incasem_like.errors import ConfigError
from incasem_like.networks import NetworkGeometry
from incasem_like.prediction.computing.tiling import axis_input, axis_step, grid_phase
from incasem_like.prediction.outputs import fills_chunks
from incasem_like.prediction.planning.memory import MOST_HOST_BYTES_BESIDE_GPU, TileMemory
from incasem_like.volumes import Roi

Floats = npt.NDArray[np.float64]
Numbers = float | Floats

# The work lost when a prediction is interrupted. Small tiles compute their context repeatedly: a network that takes
# minutes for a large tile would take twice as long in all with tiles of a minute.
MOST_SECONDS_PER_TILE = 600.0
# Measured speeds are not more exact than this.
AS_GOOD = 1.001


@dataclass(frozen=True)
class TileSpeed:
    """The time a tile takes.

    Attributes:
        per_input: Seconds per voxel read; the encoder's work is proportional to the input.
        per_output: Seconds per voxel written; the decoder's work is proportional to the output.
        per_tile: Further seconds per tile.
        measured: Whether it was measured on this machine; otherwise only the proportions are meaningful.
    """

    per_input: float
    per_output: float
    per_tile: float = 0.0
    measured: bool = True

    def seconds(self, read: Numbers, written: Numbers, tiles: Numbers) -> Floats:
        """Return the time for a number of tiles that read and write the given numbers of voxels in all."""
        return np.asarray(self.per_input * read + self.per_output * written + self.per_tile * tiles)

    def times(self, count: int) -> TileSpeed:
        """Return the speed if every tile is predicted ``count`` times."""
        return TileSpeed(self.per_input * count, self.per_output * count, self.per_tile * count, self.measured)

    def __add__(self, other: TileSpeed) -> TileSpeed:
        """Return the speed if every tile is predicted at both speeds, one after the other."""
        return TileSpeed(
            self.per_input + other.per_input,
            self.per_output + other.per_output,
            self.per_tile + other.per_tile,
            self.measured and other.measured,
        )


# The proportions of incasem's U-Net: products per voxel of input and output.
UNMEASURED = TileSpeed(per_input=1.0, per_output=3.0, measured=False)


@dataclass(frozen=True)
class TileChoice:
    """A tile size and its costs.

    Attributes:
        input_size: Voxels z, y, x.
        tiles: Number of tiles of the region.
        read: Voxels that they read in all.
        bytes: Estimated memory of one tile where the network computes.
        host_bytes: Additional memory of one tile on the host.
    """

    input_size: tuple[int, ...]
    tiles: int
    read: int
    bytes: int
    host_bytes: int = 0

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
        roi: The region, in absolute voxels.
        origin: Where the raw volume begins, in absolute voxels.
        memory: The memory that tiles take.
        limit: Bytes that a tile may take.
        speed: The time that tiles take.
        workers: Number of workers that predict in parallel.
    """
    axes = [_axis_choices(geometry, axis, roi, grid_phase(geometry, axis, roi, origin)) for axis in range(3)]
    edges = np.ix_(*(sizes for sizes, _, _ in axes))
    used = memory.bytes(*edges)
    beside = np.broadcast_to(memory.host_bytes(*edges), used.shape)
    tiles = _product_over_axes([counts for _, counts, _ in axes])
    read = _product_over_axes([costs for _, _, costs in axes])
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
    size = tuple(int(sizes[index]) for (sizes, _, _), index in zip(axes, best, strict=True))
    return TileChoice(size, int(tiles[best]), int(read[best]), int(used[best]), int(beside[best]))


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
