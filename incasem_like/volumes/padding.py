"""Padding outside a volume for ROIs that extend beyond it: a constant, its outermost voxels, or the volume mirrored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from funlib.geometry import Roi

Array = np.ndarray[Any, np.dtype[Any]]
Read = Callable[[Roi], Array]
"""Reads an ROI of indices inside the volume; channels, if any, come first."""


def mirrored_indices(begin: int, end: int, size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the indices of an axis at positions ``begin`` to ``end - 1`` when it is mirrored indefinitely.

    The first and last voxel are the mirrors and not repeated: ``... 2 1 | 0 1 2 | 1 0 1 ...`` (numpy's ``"reflect"``).

    Args:
        begin: First position, may be negative.
        end: One past the last position, may exceed ``size``.
        size: Voxels of the axis, at least 1.
    """
    positions = np.arange(begin, end, dtype=np.int64)
    if size == 1:
        return np.zeros_like(positions)
    period = 2 * (size - 1)
    folded = positions % period
    return np.minimum(folded, period - folded)


def outermost_indices(begin: int, end: int, size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the indices of an axis at positions ``begin`` to ``end - 1`` when its outermost voxels are repeated."""
    return np.arange(begin, end, dtype=np.int64).clip(0, size - 1)


FOLDS = {"reflect": mirrored_indices, "edge": outermost_indices}


def read_extended(
    read: Read, roi: Roi, shape: tuple[int, ...], fold: Callable[[int, int, int], Array] = mirrored_indices
) -> Array:
    """Read an ROI of indices that may extend beyond the volume on any side, by any amount.

    Args:
        read: Reads inside the volume.
        roi: ROI in indices (0 = first voxel).
        shape: Spatial shape of the volume.
        fold: Returns the indices inside the volume for positions of an axis: a function of ``FOLDS``.

    Returns:
        Array of the ROI's shape, channels first if ``read`` returns any.
    """
    bounds = zip(roi.begin, roi.end, shape, strict=True)
    indices = [fold(int(begin), int(end), size) for begin, end, size in bounds]
    first = [int(index.min()) for index in indices]
    last = [int(index.max()) for index in indices]
    box = Roi(first, [high - low + 1 for low, high in zip(first, last, strict=True)])
    part = read(box)
    leading = part.ndim - roi.dims
    for axis, (index, low) in enumerate(zip(indices, first, strict=True)):
        if len(index) != box.shape[axis] or index[0] != low or index[-1] != last[axis]:
            part = np.take(part, index - low, axis=leading + axis)
    return part


def read_with_constant(read: Read, roi: Roi, shape: tuple[int, ...], fill: float, empty: Callable[[], Array]) -> Array:
    """Read an ROI of indices and set voxels beyond the volume to ``fill``.

    Args:
        read: Reads inside the volume.
        roi: ROI in indices.
        shape: Spatial shape of the volume.
        fill: Value outside the volume.
        empty: Makes the result array, uninitialised.
    """
    result = empty()
    result[...] = fill
    inside = roi.intersect(Roi((0,) * roi.dims, shape))
    if not inside.empty:
        slices = (inside - roi.begin).to_slices()
        result[(..., *slices)] = read(inside)
    return result
