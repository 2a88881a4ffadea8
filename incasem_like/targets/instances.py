"""Instance ids as all targets read them: consecutive numbers, pairs of voxels, checked axes and voxel sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from incasem_like.errors import InputError

Slices = tuple[slice, ...]


def consecutive_ids(instances: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Return the instances numbered 0, 1, 2, ... in the order of their ids, and the id of each number.

    Only the first voxel of each run of equal ids is sorted, which is several times faster than sorting all.

    Args:
        instances: Instance ids of any integer dtype and shape.

    Returns:
        Numbers, int32, of the instances' shape; sorted ids.

    Raises:
        InputError: The ids are not integers.

    Example:
        >>> numbers, ids = consecutive_ids(np.array([[7, 7, 0], [7, 90, 90]]))
        >>> numbers.tolist(), ids.tolist()
        ([[1, 1, 0], [1, 2, 2]], [0, 7, 90])
    """
    if instances.dtype.kind not in "iu":
        raise InputError(
            f"Instance ids must be integers, but their data type is {instances.dtype}: give a dataset of labels."
        )
    flat = instances.reshape(-1)
    heads = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]])) if flat.size else np.zeros(0, dtype=int)
    ids, numbers = np.unique(flat[heads], return_inverse=True)
    repeated = np.repeat(numbers.astype(np.int32), np.diff(heads, append=flat.size))
    return repeated.reshape(instances.shape), ids


def pair_slices(shape: Sequence[int], offset: Sequence[int]) -> tuple[Slices, Slices]:
    """Return the slices of all voxels v and v + offset that both lie in an array.

    Args:
        shape: Shape of the array.
        offset: Voxels from the first to the second of a pair, one per axis, shorter than the array along each.

    Example:
        >>> here, there = pair_slices((5,), (-2,))
        >>> np.arange(5)[here].tolist(), np.arange(5)[there].tolist()
        ([2, 3, 4], [0, 1, 2])
    """
    here = tuple(slice(max(0, -step), size - max(0, step)) for size, step in zip(shape, offset, strict=True))
    there = tuple(slice(max(0, step), size - max(0, -step)) for size, step in zip(shape, offset, strict=True))
    return here, there


def used_axes(dimensions: int, axes: Sequence[int] | None) -> tuple[int, ...]:
    """Return the axes that a target is computed along, ascending: all of them if ``axes`` is None.

    Raises:
        InputError: An axis that the array doesn't have, or one named twice.
    """
    used = tuple(range(dimensions)) if axes is None else tuple(sorted(axes))
    if any(not 0 <= axis < dimensions for axis in used) or len(set(used)) != len(used):
        raise InputError(
            f"{used} are not axes of an array with {dimensions} axes: choose from 0 to {dimensions - 1}, each once."
        )
    return used


def one_per_axis(value: float | Sequence[float], count: int, name: str, axes: str) -> tuple[float, ...]:
    """Return a length as one positive number per axis; a single number counts for all of them.

    Args:
        value: The length, or one per axis.
        count: Number of axes.
        name: Its name in the error message.
        axes: The axes in the error message, such as ``the labels have 2 axes``.

    Raises:
        InputError: Another number of values, or a value that is not positive and finite.
    """
    values = (value,) * count if isinstance(value, int | float) else tuple(float(number) for number in value)
    if len(values) != count:
        raise InputError(f"{name} has {len(values)} values, but {axes}: give one number, or one per axis.")
    if not all(0 < number < np.inf for number in values):
        raise InputError(f"{name} must be above 0, but is {', '.join(f'{number:g}' for number in values)}.")
    return values
