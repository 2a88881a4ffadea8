"""Arrays of ids: runs of equal ids, relabelling by a table, sizes, small objects, holes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.uint64]


def runs(labels: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return the value and the length of every run of equal values in memory order.

    A label volume has ten times fewer runs than voxels, so that whatever sorts ids sorts runs.

    >>> [part.tolist() for part in runs(np.array([[7, 7, 7], [7, 0, 2]]))]
    [[7, 0, 2], [4, 1, 1]]
    """
    flat = labels.ravel()
    if not flat.size:
        return flat, np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return flat[starts], np.diff(starts, append=flat.size)


def unique_index(values: Array) -> tuple[Array, npt.NDArray[np.intp]]:
    """Return ``numpy.unique`` of ids with the index of each, without sorting where the ids are small numbers.

    >>> [part.tolist() for part in unique_index(np.array([7, 0, 7, 2]))]
    [[0, 2, 7], [2, 0, 2, 1]]
    """
    if not values.size or values.max() > 8 * values.size:
        ids, index = np.unique(values, return_inverse=True)
        return ids, index
    present = np.zeros(int(values.max()) + 1, bool)
    present[values] = True
    return np.flatnonzero(present).astype(values.dtype), (np.cumsum(present) - 1)[values]


def unique_pairs(one: Ids, other: Ids) -> tuple[Ids, Ids]:
    """Return the different pairs of two columns, sorted.

    >>> [part.tolist() for part in unique_pairs(np.array([2, 1, 2, 2]), np.array([5, 5, 4, 5]))]
    [[1, 2, 2], [5, 4, 5]]
    """
    for _ in range(2):  # first without sorting: touching voxels repeat their pair
        new = np.ones(len(one), bool)
        new[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
        one, other = one[new], other[new]
        order = np.lexsort((other, one))
        one, other = one[order], other[order]
    return one, other


def count_ids(labels: Array) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Return the ids above 0, ascending, and the number of voxels of each.

    >>> [part.tolist() for part in count_ids(np.array([[7, 7, 7], [7, 0, 2]]))]
    [[2, 7], [1, 4]]
    """
    values, lengths = runs(labels)
    ids, index = unique_index(values)
    sizes = np.bincount(index, weights=lengths, minlength=len(ids)).astype(np.int64)
    return ids[ids > 0].astype(np.uint64), sizes[ids > 0]


def object_rows(labels: Array, begin: Sequence[int] = (0, 0, 0)) -> dict[str, Array]:
    """Return id, size, sums of voxel positions, and first and last voxel of each object, all as whole numbers.

    Args:
        labels: (z, y, x), 0 = none.
        begin: Absolute voxel of the first one.

    Returns:
        ``id``, ``size``, ``z_sum``, ``y_sum``, ``x_sum``, ``z_first`` ... ``x_last``, by ascending id.

    >>> rows = object_rows(np.array([[[1, 1, 0, 2]]]), (0, 0, 10))
    >>> rows["size"].tolist(), rows["x_sum"].tolist(), rows["x_last"].tolist()
    ([2, 1], [21, 13], [11, 13])
    """
    rows = labels.reshape(-1, labels.shape[-1])
    changes = np.ones(rows.shape, bool)
    changes[:, 1:] = rows[:, 1:] != rows[:, :-1]
    starts = np.flatnonzero(changes)
    lengths = np.diff(starts, append=rows.size)
    values = rows.ravel()[starts]
    chosen = values > 0
    starts, lengths = starts[chosen], lengths[chosen]
    ids, index = unique_index(values[chosen])
    order = np.argsort(index, kind="stable")
    firsts = np.searchsorted(index[order], np.arange(len(ids)))
    positions = [axis + first for axis, first in zip(np.unravel_index(starts, labels.shape), begin, strict=True)]
    lasts = [*positions[:2], positions[2] + lengths - 1]
    sums = [
        lengths * first + (lengths * (lengths - 1) // 2 if axis == 2 else 0) for axis, first in enumerate(positions)
    ]
    table: dict[str, Array] = {"id": ids.astype(np.uint64)}
    columns = {
        "size": (np.add, lengths),
        **{f"{axis}_sum": (np.add, column) for axis, column in zip("zyx", sums, strict=True)},
        **{f"{axis}_first": (np.minimum, column) for axis, column in zip("zyx", positions, strict=True)},
        **{f"{axis}_last": (np.maximum, column) for axis, column in zip("zyx", lasts, strict=True)},
    }
    for name, (add, column) in columns.items():
        whole = column[order].astype(np.int64)
        table[name] = add.reduceat(whole, firsts) if len(ids) else whole
    return table


def relabel(labels: Array, ids: Ids, new_ids: Array, *, strict: bool = False) -> Array:
    """Replace ids by others; an id that is not in the table becomes 0.

    Args:
        labels: Ids.
        ids: The known ids, ascending.
        new_ids: What each becomes; its data type is that of the result.
        strict: Raise KeyError for an id above 0 that is not in the table.

    >>> relabel(np.array([7, 7, 0, 2]), np.array([2, 7], np.uint64), np.array([1, 9], np.uint32)).tolist()
    [9, 9, 0, 1]
    """
    values, lengths = runs(labels)
    found, known = np.zeros(len(values), new_ids.dtype), values == 0
    if len(ids) and ids[-1] <= 8 * len(values):
        table, is_known = np.zeros(int(ids[-1]) + 2, new_ids.dtype), np.zeros(int(ids[-1]) + 2, bool)
        table[ids], is_known[ids] = new_ids, True
        index = np.minimum(values, ids[-1] + np.uint64(1)).astype(np.int64)
        found, known = table[index], known | is_known[index]
    elif len(ids):
        at = np.minimum(np.searchsorted(ids, values.astype(np.uint64)), len(ids) - 1)
        known |= ids[at] == values
        np.copyto(found, new_ids[at], where=ids[at] == values)
    if strict and not known.all():
        raise KeyError(int(values[~known][0]))
    return np.repeat(found, lengths).reshape(labels.shape)


def consecutive(labels: Array) -> tuple[Ids, Ids]:
    """Return the labels with ids 1..n in ascending order of their old ids, and the n old ids; 0 stays 0.

    >>> [part.tolist() for part in consecutive(np.array([70, 0, 8, 70]))]
    [[2, 0, 1, 2], [8, 70]]
    """
    highest = int(labels.max(initial=0))
    if highest <= labels.size:  # then a table is faster than runs
        present = np.bincount(labels.ravel(), minlength=1) > 0
        present[0] = False
        ids = np.flatnonzero(present).astype(np.uint64)
        table = np.cumsum(present, dtype=np.uint64)
        table[0] = 0
        return labels.astype(np.uint64) if len(ids) == highest else table[labels], ids
    ids, _ = count_ids(labels)
    if not len(ids) or ids[-1] == len(ids):
        return labels.astype(np.uint64), ids
    return relabel(labels, ids, np.arange(1, len(ids) + 1, dtype=np.uint64)), ids


def remove_small(labels: Array, min_size: int, max_size: int | None = None) -> tuple[Array, int]:
    """Set objects below ``min_size`` voxels, or above ``max_size``, to 0; return the labels and how many were removed.

    >>> remove_small(np.array([3, 3, 5]), 2)
    (array([3, 3, 0]), 1)
    """
    ids, sizes = count_ids(labels)
    kept = (sizes >= min_size) & (sizes <= (max_size or np.iinfo(np.int64).max))
    return relabel(labels, ids[kept], ids[kept].astype(labels.dtype)), int(np.count_nonzero(~kept))


def fill_holes(labels: Array) -> tuple[Array, int]:
    """Fill holes: face-connected background that touches one object only and not the border of the array.

    Returns:
        The labels, and the number of voxels filled.

    >>> ring = np.array([[4, 4, 4], [4, 0, 4], [4, 4, 4]])
    >>> fill_holes(np.stack([np.full((3, 3), 4), ring, np.full((3, 3), 4)]))[1]
    1
    """
    background = cc3d.connected_components(labels == 0, connectivity=6)
    count = int(background.max())
    lowest, highest = np.full(count + 1, np.iinfo(np.uint64).max), np.zeros(count + 1, np.uint64)
    at_border = np.zeros(count + 1, bool)
    for axis in range(3):
        moved_labels, moved = np.moveaxis(labels, axis, 0), np.moveaxis(background, axis, 0)
        at_border[moved[0]] = at_border[moved[-1]] = True
        for own, other in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
            chosen = (moved[own] > 0) & (moved_labels[other] > 0)
            holes, neighbours = moved[own][chosen], moved_labels[other][chosen].astype(np.uint64)
            np.minimum.at(lowest, holes, neighbours)
            np.maximum.at(highest, holes, neighbours)
    fills = (lowest == highest) & ~at_border
    fills[0] = False
    filled = fills[background]
    return np.where(filled, highest[background].astype(labels.dtype), labels), int(np.count_nonzero(filled))
