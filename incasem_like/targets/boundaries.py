"""Boundaries between instances, as a class to learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from incasem_like.errors import InputError


def boundary_labels(
    instances: NDArray[np.integer], thickness: int = 1, axes: Sequence[int] | None = None
) -> NDArray[np.uint8]:
    """Return a mask of the voxels at a boundary between instances.

    At thickness 1 a voxel is marked when one of its face neighbours has another id (the background 0 is an id like
    any other), which marks one voxel on each side of the change; each further step of thickness grows that by one face
    neighbour. So a voxel is marked exactly when its city-block distance to another id is at most ``thickness``.

    Args:
        instances: Instance ids of any integer dtype and dimension, 0 = none.
        thickness: Voxels marked on each side, at least 0; 0 marks nothing.
        axes: Axes along which neighbours count, all by default; ``(1, 2)``: only within sections (anisotropic volumes).

    Returns:
        uint8: 1 on boundaries, 0 elsewhere, of the instances' shape.

    Raises:
        InputError: A negative thickness, or an axis the array doesn't have.

    Example:
        >>> boundary_labels(np.array([0, 0, 5, 5, 5, 7, 7]))
        array([0, 1, 1, 0, 1, 1, 0], dtype=uint8)
    """
    if thickness < 0:
        raise InputError(f"A boundary cannot be {thickness} voxels thick: give 0 or more.")
    used = tuple(range(instances.ndim)) if axes is None else tuple(axes)
    if any(not 0 <= axis < instances.ndim for axis in used):
        raise InputError(
            f"Boundaries along axes {used} were asked of an array with {instances.ndim} axes: "
            f"use 0 to {instances.ndim - 1}."
        )
    boundary = np.zeros(instances.shape, dtype=bool)
    if thickness == 0:
        return boundary.view(np.uint8)
    for axis in used:
        before, after = _neighbours(instances.ndim, axis)
        changes = instances[before] != instances[after]
        boundary[before] |= changes
        boundary[after] |= changes
    for _ in range(thickness - 1):
        boundary = _grown(boundary, used)
    return boundary.view(np.uint8)


def _grown(mask: NDArray[np.bool_], axes: Sequence[int]) -> NDArray[np.bool_]:
    grown = mask.copy()
    for axis in axes:
        before, after = _neighbours(mask.ndim, axis)
        grown[before] |= mask[after]
        grown[after] |= mask[before]
    return grown


def _neighbours(dimensions: int, axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return slices that pair every voxel but the last along ``axis`` with the next one."""
    before = [slice(None)] * dimensions
    after = [slice(None)] * dimensions
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    return tuple(before), tuple(after)
