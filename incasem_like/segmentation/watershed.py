"""Fragments (supervoxels) by a seeded watershed on the distance to boundaries, in 3-D or section by section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from bioimage_cpp.distance import distance_transform
from bioimage_cpp.segmentation import label, watershed
from scipy import ndimage

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.uint64]


def watershed_fragments(
    interior: Array,
    *,
    threshold: float = 0.5,
    seed_distance: float = 10.0,
    voxel_size: Sequence[float] = (1.0, 1.0, 1.0),
    in_xy: bool = False,
    flood_boundaries: bool = False,
) -> Ids:
    """Divide the interior of objects into fragments, one around each local maximum of the distance to the boundary.

    Distances are Euclidean. A seed is a face-connected set of voxels with the largest distance within a box of
    ``seed_distance`` around them; the seeds flood the negated distance.

    Args:
        interior: (z, y, x), from 0 (boundary) to 1: the mean affinity, or 1 minus the probability of a boundary.
        threshold: Voxels above it are interior.
        seed_distance: Side of the box in which only the largest distance is a seed, in units of ``voxel_size``.
        voxel_size: (z, y, x).
        in_xy: Treat each section by itself; ids continue over the sections.
        flood_boundaries: Assign all other voxels to the nearest fragment; otherwise they stay 0.

    Returns:
        Ids 1..n, uint64; 0 in boundaries and where no seed floods the interior.

    >>> row = np.array([[[1, 1, 1, 0, 1, 1, 1]]], np.float32)
    >>> watershed_fragments(row, seed_distance=3).tolist()
    [[[1, 1, 1, 0, 2, 2, 2]]]
    """
    inside = interior > threshold
    if not in_xy:
        return _flood(inside, seed_distance, voxel_size, flood_boundaries)
    fragments = np.zeros(inside.shape, np.uint64)
    highest = 0
    for section, found in zip(inside, fragments, strict=True):
        found[:] = _flood(section, seed_distance, voxel_size[1:], flood_boundaries)
        found[found > 0] += np.uint64(highest)
        highest = max(highest, int(found.max(initial=0)))
    return fragments


def _flood(
    inside: npt.NDArray[np.bool_], seed_distance: float, voxel_size: Sequence[float], flood_boundaries: bool
) -> Ids:
    if not inside.any():
        return np.zeros(inside.shape, np.uint64)
    unit = min(voxel_size)  # so that isotropic distances are exact numbers of voxels
    if inside.all():  # no distance is defined: one fragment
        return np.ones(inside.shape, np.uint64)
    distance = distance_transform(inside, sampling=[size / unit for size in voxel_size])
    box = [max(1, round(seed_distance / size)) for size in voxel_size]
    seeds = (ndimage.maximum_filter(distance, size=box) == distance) & inside
    fragments: Ids = watershed(distance.max() - distance, label(seeds, connectivity=1), mask=inside)
    if flood_boundaries:  # by distance: on their plateau, the flooding would depend on the order of voxels
        nearest = distance_transform(
            fragments == 0, sampling=list(voxel_size), return_distances=False, return_indices=True
        )
        fragments = fragments[tuple(nearest)]
    return fragments
