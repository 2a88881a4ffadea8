"""Connected components of affinities and of masks, and hysteresis thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import cc3d
import numpy as np
import numpy.typing as npt

from incasem_like.segmentation.affinities import Offset, ends, neighbour_channels
from incasem_like.segmentation.label_arrays import count_ids, relabel

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.uint64]
Connectivity = Literal[6, 18, 26]


def label_mask(mask: npt.NDArray[np.bool_], connectivity: Connectivity = 26) -> Array:
    """Label the connected components of a mask.

    Args:
        mask: (z, y, x).
        connectivity: Whether voxels are neighbours that share a face (6), also an edge (18), also a corner (26).

    Returns:
        Ids 1..n in the smallest unsigned type that the engine chooses.

    >>> label_mask(np.array([[[True, False], [False, True]]]), 6).tolist()
    [[[1, 0], [0, 2]]]
    """
    return np.asarray(cc3d.connected_components(mask.view(np.uint8), connectivity=connectivity, binary_image=True))


def label_affinities(joined: npt.NDArray[np.bool_], offsets: Sequence[Offset]) -> Array:
    """Label voxels that are connected by affinities of direct neighbours; voxels without any connection are 0.

    Args:
        joined: (channels, z, y, x), whether the affinity of v with v + offset reaches the threshold.
        offsets: Of the channels; those that are not of direct neighbours are ignored.

    Raises:
        DataError: An axis has no channel of direct neighbours.

    >>> joined = np.array([[[[0, 1, 0, 1, 0]]], [[[0, 0, 0, 0, 0]]], [[[0, 1, 0, 1, 0]]]], bool)
    >>> label_affinities(joined, [(-1, 0, 0), (0, -1, 0), (0, 0, -1)]).tolist()
    [[[1, 1, 2, 2, 0]]]
    """
    shape = joined.shape[1:]
    graph = np.zeros(shape, np.uint8)  # bits 2 * axis and 2 * axis + 1: connected to the next and the previous voxel
    for axis, channel in enumerate(neighbour_channels(offsets)):
        offset = offsets[channel]
        here, there = ends(shape, offset)
        edges = joined[channel][here]
        forward = 2 * axis + (offset[axis] < 0)
        graph[here] |= edges.view(np.uint8) << np.uint8(forward)
        graph[there] |= edges.view(np.uint8) << np.uint8(forward ^ 1)
    labels = np.asarray(cc3d.color_connectivity_graph(graph, connectivity=6))
    labels[graph == 0] = 0
    return labels


def hysteresis(
    probabilities: Array, low: float, high: float, *, min_size: int = 0, connectivity: Connectivity = 26
) -> Ids:
    """Label the components of voxels that reach ``low`` and contain a voxel that reaches ``high``.

    Args:
        probabilities: (z, y, x) from 0 to 1.
        low, high: Thresholds; a voxel reaches a threshold that it equals.
        min_size: Smallest number of voxels of a whole component.
        connectivity: As for ``label_mask``.

    >>> hysteresis(np.array([[[0.3, 0.9, 0.0, 0.3]]]), 0.2, 0.8).tolist()
    [[[1, 1, 0, 0]]]
    """
    labels = label_mask(probabilities >= low, connectivity)
    ids, sizes = count_ids(labels)
    kept = np.isin(ids, labels[probabilities >= high]) & (sizes >= min_size)
    return np.asarray(relabel(labels, ids[kept], np.arange(1, np.count_nonzero(kept) + 1, dtype=np.uint64)))
