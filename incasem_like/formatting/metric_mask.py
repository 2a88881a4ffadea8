"""Metric masks: exclude voxels near object boundaries from scores, because annotations are uncertain there."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.volumes.values import foreground


def metric_mask(labels: npt.NDArray[Any], outwards: int, inwards: int) -> npt.NDArray[np.uint8]:
    """Return a mask of the voxels that count in scores.

    A voxel is left out when it lies outside all objects at a city-block distance of at most ``outwards`` from one, or
    inside at a city-block distance of at most ``inwards`` from the outside. All ids are one object; what lies beyond
    the array counts as outside.

    Args:
        labels: Labels of any integer type, 0 = outside.
        outwards: Voxels left out around objects, 0 or more.
        inwards: Voxels left out within objects, 0 or more.

    Returns:
        uint8: 1 counts, 0 is left out.
    """
    objects = foreground(labels)
    dilated = grow(objects, outwards)
    # Voxels beyond the array are background: a border of background erodes objects at the array's edge.
    outside = np.pad(~objects, 1, constant_values=True) if inwards > 0 else ~objects
    eaten = grow(outside, inwards)
    if inwards > 0:
        eaten = eaten[(slice(1, -1),) * labels.ndim]
    return (~(dilated & eaten)).view(np.uint8)


def grow(mask: npt.NDArray[np.bool_], steps: int) -> npt.NDArray[np.bool_]:
    """Dilate a mask by face neighbours, ``steps`` times."""
    for _ in range(steps):
        grown = mask.copy()
        for axis in range(mask.ndim):
            before, after = (_part(mask.ndim, axis, part) for part in (slice(None, -1), slice(1, None)))
            grown[before] |= mask[after]
            grown[after] |= mask[before]
        mask = grown
    return mask


def _part(dimensions: int, axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, part, *(slice(None),) * (dimensions - axis - 1))
