"""Distances to the boundaries between instances, signed and normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from incasem_like.targets.instances import consecutive_ids, one_per_axis, pair_slices, used_axes

# tanh(9) is 1 to the last digit of float32: normalised distances need no search beyond 9 scales.
SATURATION = 9.0


def boundary_distance(
    instances: NDArray[np.integer],
    voxel_size: float | Sequence[float] = 1.0,
    axes: Sequence[int] | None = None,
    limit: float | None = None,
) -> NDArray[np.float32]:
    """Return the signed distance of each voxel to the nearest voxel of another id, from centre to centre.

    It is positive in objects and negative in the background, which is an id like any other; so it jumps from one voxel
    size to its negative at the surface of an object, and touching objects are apart. Nothing is known beyond the block:
    its border is not a boundary. The time grows with the largest distance, not with the number of objects.

    Args:
        instances: Instance ids of any integer dtype and dimension, 0 = background.
        voxel_size: World units per voxel: a number, or one per axis.
        axes: Axes along which distances count, all by default; ``(1, 2)``: within sections.
        limit: Longest distance to look for, in world units; what is farther gets the limit. None: the diagonal of the
            block, which is also what all voxels get in a block without boundary.

    Returns:
        float32 distances in world units, of the instances' shape.

    Raises:
        InputError: Ids that are not integers, an axis the array doesn't have, lengths that are not positive.

    Example:
        >>> boundary_distance(np.array([0, 0, 5, 5, 5, 8]), voxel_size=10).tolist()
        [-20.0, -10.0, 10.0, 20.0, 10.0, 10.0]
    """
    used = used_axes(instances.ndim, axes)
    sizes = one_per_axis(voxel_size, instances.ndim, "voxel_size", f"the labels have {instances.ndim} axes")
    diagonal = float(np.linalg.norm([sizes[axis] * instances.shape[axis] for axis in used]))
    farthest = diagonal if limit is None else one_per_axis(limit, 1, "limit", "it is one length")[0]
    ids, _ = consecutive_ids(instances)
    squared = np.full(ids.shape, farthest**2, dtype=np.float32)
    for axis in used:
        # After each axis: the squared distance to the nearest voxel of another id among those that differ from this
        # voxel in the axes so far. A voxel of the same id passes on its own, one of another id ends the search.
        found = squared.copy()
        for step in range(1, ids.shape[axis]):
            reach = np.float32((step * sizes[axis]) ** 2)
            if reach >= found.max():
                break
            before, after = pair_slices(ids.shape, [step if other == axis else 0 for other in range(ids.ndim)])
            same = ids[before] == ids[after]
            for here, there in ((before, after), (after, before)):
                through = squared[there] * same
                through += reach
                np.minimum(found[here], through, out=found[here])
        squared = found
    distance = np.sqrt(squared, out=squared)
    return np.where(instances == 0, -distance, distance)


def normalised_distance(
    instances: NDArray[np.integer],
    scale: float,
    voxel_size: float | Sequence[float] = 1.0,
    axes: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Return the signed distance to the nearest boundary, d, as ``tanh(d / scale)``.

    Near boundaries it is proportional to the distance; far from them, where a network cannot see any, it is constant.

    Args:
        instances: Instance ids of any integer dtype and dimension, 0 = background.
        scale: Distance, in world units, at which it reaches 0.76; about the radius of the objects.
        voxel_size: World units per voxel: a number, or one per axis.
        axes: Axes along which distances count, as for `boundary_distance`.

    Returns:
        float32, -1 to 1: positive in objects, negative in the background.

    Raises:
        InputError: As `boundary_distance`, and a scale that is not positive.

    Example:
        >>> print(normalised_distance(np.array([0, 0, 5, 5]), scale=2).round(2))
        [-0.76 -0.46  0.46  0.76]
    """
    (length,) = one_per_axis(scale, 1, "scale", "it is one length")
    distance = boundary_distance(instances, voxel_size, axes, limit=SATURATION * length)
    distance /= length
    return np.tanh(distance, out=distance)
