"""Morphology of instance labels, object by object: erosion, dilation, opening and closing by face neighbours."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.formatting.operations import dilate_labels

Array = npt.NDArray[Any]


def erode_labels(labels: Array, steps: int, in_plane: bool = False) -> Array:
    """Shrink every object, one layer of face neighbours per step; what lies beyond the array counts as the object.

    Args:
        labels: Instance labels (z, y, x), 0 = background.
        steps: Layers.
        in_plane: Within sections only.

    >>> erode_labels(np.array([[[1, 1, 1, 1, 2, 2, 0]]]), 1).tolist()
    [[[1, 1, 1, 0, 0, 0, 0]]]
    """
    for _ in range(steps):
        kept = labels != 0
        for axis in range(1 if in_plane else 0, labels.ndim):
            along, ids = np.moveaxis(kept, axis, 0), np.moveaxis(labels, axis, 0)
            same = ids[1:] == ids[:-1]
            along[1:] &= same
            along[:-1] &= same
        labels = np.where(kept, labels, 0)
    return labels


def open_labels(labels: Array, steps: int, in_plane: bool = False) -> Array:
    """Erode every object and dilate it again: what is thinner than 2 * steps + 1 voxels disappears.

    Args:
        labels, steps, in_plane: As for ``erode_labels``.

    >>> open_labels(np.array([[[0, 1, 1, 1, 0, 2, 2, 0]]]), 1, in_plane=True)[0, 0].tolist()
    [0, 1, 1, 1, 0, 0, 0, 0]
    """
    kept = erode_labels(labels, steps, in_plane) != 0
    for _ in range(steps):  # the dilation of an object stays inside of it, so objects do not compete
        grown = kept.copy()
        for axis in range(1 if in_plane else 0, labels.ndim):
            before, after, ids = (np.moveaxis(array, axis, 0) for array in (kept, grown, labels))
            same = ids[1:] == ids[:-1]
            after[1:] |= before[:-1] & same
            after[:-1] |= before[1:] & same
        kept = grown
    return np.where(kept, labels, 0)


def close_labels(labels: Array, steps: int, in_plane: bool = False) -> Array:
    """Dilate every object and erode it again: gaps within an object are filled, gaps between two objects are not.

    What lies beyond the array is background.

    Args:
        labels, steps, in_plane: As for ``erode_labels``.

    >>> close_labels(np.array([[[3, 3, 3, 5], [3, 0, 3, 0], [3, 3, 3, 5]]]), 1, in_plane=True)[0, 1].tolist()
    [3, 3, 3, 0]
    """
    margin = steps + 1  # what lies beyond the array is background here
    around = np.pad(labels, [(0 if in_plane and axis == 0 else margin,) * 2 for axis in range(labels.ndim)])
    closed = erode_labels(dilate_labels(around, steps, in_plane), steps, in_plane)
    inner = closed[0 if in_plane else margin :, margin:, margin:][tuple(slice(size) for size in labels.shape)]
    return np.where(labels == 0, inner, labels)


# Each function, and how many times its steps a voxel of its result depends on voxels around.
MORPHOLOGY = MappingProxyType(
    {
        "erode": (erode_labels, 1),
        "dilate": (dilate_labels, 1),
        "open": (open_labels, 2),
        "close": (close_labels, 2),
    }
)
