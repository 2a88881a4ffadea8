"""Boundaries between instances: as a class to learn, and as a gap between the objects to learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from incasem_like.errors import InputError
from incasem_like.targets.instances import consecutive_ids, pair_slices, used_axes
from incasem_like.volumes.values import foreground


def boundary_labels(
    instances: NDArray[np.integer],
    thickness: int = 1,
    axes: Sequence[int] | None = None,
    mask: NDArray[Any] | None = None,
) -> NDArray[np.uint8]:
    """Return a mask of the voxels at a boundary between instances.

    At thickness 1 a voxel is marked when one of its face neighbours has another id (the background 0 is an id like
    any other), which marks one voxel on each side of the change; each further step of thickness grows that by one face
    neighbour. So a voxel is marked exactly when its city-block distance to another id is at most ``thickness``. What
    lies beyond the block or outside the mask is unknown and makes no boundary.

    Args:
        instances: Instance ids of any integer dtype and dimension, 0 = none.
        thickness: Voxels marked on each side, at least 0; 0 marks nothing.
        axes: Axes along which neighbours count, all by default; ``(1, 2)``: only within sections (anisotropic volumes).
        mask: 0 = the id of this voxel is unknown; None: all are known.

    Returns:
        uint8: 1 on boundaries, 0 elsewhere, of the instances' shape.

    Raises:
        InputError: A negative thickness, an axis the array doesn't have, or ids that are not integers.

    Example:
        >>> boundary_labels(np.array([0, 0, 5, 5, 5, 7, 7]))
        array([0, 1, 1, 0, 1, 1, 0], dtype=uint8)
    """
    if thickness < 0:
        raise InputError(f"A boundary cannot be {thickness} voxels thick: give 0 or more.")
    used = used_axes(instances.ndim, axes)
    ids, _ = consecutive_ids(instances)
    known = True if mask is None else foreground(mask)
    # The lowest and the highest known id within the thickness; a voxel is at a boundary where either is not its own.
    lowest, highest = np.where(known, ids, np.iinfo(np.int32).max), np.where(known, ids, -1)
    for _ in range(thickness):
        lowest = _spread(lowest, used, np.minimum)
        highest = _spread(highest, used, np.maximum)
    boundary: NDArray[np.bool_] = (lowest != ids) | (highest != ids)
    boundary &= known
    return boundary.view(np.uint8)


def grow_boundary(
    instances: NDArray[np.integer],
    steps: int = 1,
    mask: NDArray[Any] | None = None,
    axes: Sequence[int] | None = None,
) -> NDArray[np.integer]:
    """Return the instances with a gap of background between them, as gunpowder's ``GrowBoundary`` makes it.

    Each object loses the voxels whose city-block distance to another known id, the background included, is at most
    ``steps``: an erosion of all objects at once. Neither the border of the block nor that of the mask erodes anything;
    voxels outside the mask stay as they are.

    Args:
        instances: Instance ids of any integer dtype and dimension, 0 = background.
        steps: Voxels taken from each side of a boundary, at least 0.
        mask: 0 = the id of this voxel is unknown; None: all are known.
        axes: Axes along which boundaries grow, all by default; ``(1, 2)``: only within sections.

    Returns:
        A copy of the instances, 0 at boundaries.

    Raises:
        InputError: As `boundary_labels`.

    Example:
        >>> grow_boundary(np.array([4, 4, 4, 9, 9, 9]))
        array([4, 4, 0, 0, 9, 9])
    """
    return np.where(boundary_labels(instances, steps, axes, mask), 0, instances).astype(instances.dtype, copy=False)


def _spread(values: NDArray[np.int32], axes: Sequence[int], choose: np.ufunc) -> NDArray[np.int32]:
    """Return the values chosen among each voxel and its face neighbours along the axes."""
    chosen = values.copy()
    for axis in axes:
        one_step = [int(other == axis) for other in range(values.ndim)]
        before, after = pair_slices(values.shape, one_step)
        choose(chosen[before], values[after], out=chosen[before])
        choose(chosen[after], values[before], out=chosen[after])
    return chosen
