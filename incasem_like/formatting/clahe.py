"""Contrast-limited adaptive histogram equalisation (CLAHE) on arrays: grey bins, look-up tables, interpolation.

The algorithm is that of Zuiderveld (Graphics Gems IV, 1994) in n dimensions, with the choices of
``skimage.exposure.equalize_adapthist``: with any block size the result is that of the function applied to the
whole volume, because tables belong to a grid that starts at the volume's first voxel, not at a block's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

GREY_LEVELS = 2**14
Tables = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GreyScale:
    """Mapping of the grey values of a volume to the bins of its histograms.

    Attributes:
        dtype: uint8, uint16, or a float type with values in [0, 1].
        low: Minimum of the whole volume; becomes the lowest level.
        high: Maximum of the whole volume.
        bins: Requested number of bins; the uppermost may stay empty, as in the original algorithm.
    """

    dtype: str
    low: float
    high: float
    bins: int = 256

    def bin_of(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the bin of every value: uint8 when 256 bins or fewer, else uint16; same shape."""
        if np.dtype(self.dtype).kind == "f":
            values = np.clip(np.rint(values.astype(np.float32) * np.float32(65535)), 0, 65535).astype(np.uint16)
        return np.asarray(self._table.take(values))

    @cached_property
    def _table(self) -> npt.NDArray[Any]:
        """Bin of every 8- or 16-bit value; one look-up replaces rescaling in floating point."""
        kind = np.dtype(self.dtype)
        size, factor = (2**8, 257) if kind == np.uint8 else (2**16, 1)
        gain = 65535 if kind.kind == "f" else factor
        low, high = (float(np.rint(np.float32(edge) * np.float32(gain))) for edge in (self.low, self.high))
        values = np.clip(np.arange(size, dtype=np.float64) * factor, low, high)
        levels = np.rint((values - low) / max(high - low, 1.0) * (GREY_LEVELS - 1)).astype(np.int64)
        return (levels // (1 + GREY_LEVELS // self.bins)).astype(np.uint8 if self.bins <= 256 else np.uint16)


def tile_table(histogram: npt.NDArray[np.int64], clip_limit: float) -> npt.NDArray[np.uint16]:
    """Return the look-up table of one tile: bin -> grey level, 0 to 16383, monotone.

    Args:
        histogram: Voxels of the tile in each bin.
        clip_limit: Share of the tile's voxels that a bin may hold before the excess is spread over all; 0 = no limit.
    """
    voxels = int(histogram.sum())
    limit = max(int(clip_limit * voxels), 1) if clip_limit > 0 else voxels
    cumulated = np.cumsum(clip_histogram(histogram, limit)).astype(np.float64)
    return np.minimum(cumulated * ((GREY_LEVELS - 1) / voxels), GREY_LEVELS - 1).astype(np.uint16)


def clip_histogram(histogram: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """Clip every bin to ``limit`` and distribute the excess evenly over the bins below it.

    Bins get an equal share each; those brought close to the limit are filled up to it. The remainder is added in
    single counts to bins at regular steps, round after round, until none remains or every bin is full.
    """
    spread = np.minimum(histogram, limit)
    excess = int(histogram.sum() - spread.sum())
    share = excess // histogram.size
    low = spread < limit - share
    spread[low] += share
    # Bins that have just come within one share of the limit are filled up, too: skimage's order of steps.
    filled = np.where(spread >= limit - share, limit, spread)
    excess = int(histogram.sum() - filled.sum())
    spread = filled
    while excess > 0:
        before = excess
        for first in range(spread.size):
            below = spread < limit
            step = max(1, int(np.count_nonzero(below)) // excess)
            chosen = np.arange(first, spread.size, step)
            chosen = chosen[below[chosen]]
            spread[chosen] += 1
            excess -= len(chosen)
            if excess <= 0:
                break
        if excess == before:
            break
    return spread


def tile_grid(shape: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """Return the number of tiles along each axis; the last ones are padded by reflection."""
    return tuple(-(-size // length) for size, length in zip(shape, kernel, strict=True))


def tables_round(
    tables: npt.NDArray[np.uint16], begin: Sequence[int], shape: Sequence[int], kernel: Sequence[int]
) -> Tables:
    """Return the tables that ``interpolate`` needs for a block; those at the border of the grid are repeated beyond it.

    Args:
        tables: Tables of all tiles, (tz, ty, tx, bins).
        begin: Index of the block's first voxel in the volume.
        shape: Voxels of the block.
        kernel: Tile size, voxels.
    """
    needed = []
    for start, size, length, count in zip(begin, shape, kernel, tables.shape[:-1], strict=True):
        first, last = ((position + length // 2) // length - 1 for position in (start, start + size - 1))
        needed.append(np.clip(np.arange(first, last + 2), 0, count - 1))
    return tables[np.ix_(*needed)].astype(np.float32)


def interpolate(
    binned: npt.NDArray[Any], begin: tuple[int, int, int], tables: Tables, kernel: tuple[int, int, int]
) -> npt.NDArray[np.float32]:
    """Look up every voxel in the tables of the eight nearest tiles and interpolate trilinearly.

    Args:
        binned: Bins of a block, (z, y, x).
        begin: Index of the block's first voxel in the volume.
        tables: Result of ``tables_round`` for the block, shape (tz, ty, tx, bins).
        kernel: Tile size, voxels.

    Returns:
        Grey levels in [0, 16383], whole numbers, shape of the block.
    """
    (low_z, weight_z), (low_y, weight_y), (low_x, weight_x) = (
        _place(start, size, length) for start, size, length in zip(begin, binned.shape, kernel, strict=True)
    )
    tiles_x, bins = tables.shape[2:]
    corner = ((low_y * tiles_x)[:, None] + low_x[None, :]) * bins
    right, below = bins, tiles_x * bins
    across, down = weight_x[None, :], weight_y[:, None]
    levels = np.empty(binned.shape, dtype=np.float32)
    for z in range(binned.shape[0]):
        # The tables of a section are interpolated along z first: four look-ups per voxel instead of eight.
        upper, lower = tables[low_z[z]].ravel(), tables[low_z[z] + 1].ravel()
        section = upper + (lower - upper) * weight_z[z]
        index = binned[z] + corner
        near = _mix(section.take(index), section[right:].take(index), across)
        far = _mix(section[below:].take(index), section[below + right :].take(index), across)
        levels[z] = _mix(near, far, down)
    # Rounding of float32 must not push a whole number below itself before it is truncated.
    levels += np.float32(1e-3)
    np.floor(levels, out=levels)
    return levels


def _place(begin: int, size: int, length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return, along one axis, the table below each voxel (relative to the block's first) and the weight of the next."""
    position = np.arange(begin, begin + size) + length // 2
    tile = position // length
    return tile - tile[0], ((position % length) / length).astype(np.float32)


def _mix(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Interpolate in place, overwriting ``second``: first + (second - first) * weight."""
    second -= first
    second *= weight
    second += first
    return second


def to_uint8(levels: npt.NDArray[np.float32], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Rescale grey levels so that ``low`` becomes 0 and ``high`` 255, rounded; a constant volume becomes 0."""
    if high <= low:
        return np.zeros(levels.shape, dtype=np.uint8)
    stretched = np.rint((levels - np.float32(low)) * np.float32(255 / (high - low)))
    return np.asarray(stretched, dtype=np.uint8)
