"""Mutex watershed: objects from attractive affinities of neighbours and repulsive ones over a distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from bioimage_cpp.graph import UndirectedGraph
from bioimage_cpp.graph.mutex_watershed import mutex_watershed_clustering, semantic_mutex_watershed_clustering
from bioimage_cpp.segmentation import mutex_watershed as engine

from incasem_like.segmentation.affinities import Offset, ends

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.uint64]


def is_attractive(offset: Sequence[int]) -> bool:
    """Return whether an offset leads to a neighbour, also a diagonal one; others repel."""
    return max(abs(step) for step in offset) <= 1


def has_attraction(affinities: Array, offsets: Sequence[Offset]) -> npt.NDArray[np.bool_]:
    """Return where a voxel has an affinity above 0 with any neighbour; others belong to no object.

    >>> near = np.array([0, 0, 0.5, 0], np.float32).reshape(1, 1, 1, 4)
    >>> has_attraction(near, [(0, 0, -1)]).tolist()
    [[[False, True, True, False]]]
    """
    found = np.zeros(affinities.shape[1:], bool)
    for values, offset in zip(affinities, offsets, strict=True):
        if is_attractive(offset):
            here, there = ends(found.shape, offset)
            attracts = values[here] > 0
            found[here] |= attracts
            found[there] |= attracts
    return found


def mutex_weights(affinities: Array, offsets: Sequence[Offset], bias: float | Sequence[float] = 0.0) -> Array:
    """Return the weights of pairs: the affinity where an offset attracts, 1 - affinity where it repels, plus the bias.

    Args:
        affinities: (channels, z, y, x) from 0 to 1.
        offsets: Of the channels.
        bias: A number, added to all repulsions; or one for each offset, also of those that attract.
    """
    attractive = [is_attractive(offset) for offset in offsets]
    if isinstance(bias, int | float):
        bias = [0.0 if attracts else bias for attracts in attractive]
    weights = np.empty(affinities.shape, np.float32)
    for found, values, attracts, shift in zip(weights, affinities, attractive, bias, strict=True):
        found[:] = (values if attracts else 1 - values) + np.float32(shift)
    return weights


def mutex_watershed(
    affinities: Array,
    offsets: Sequence[Offset],
    *,
    bias: float | Sequence[float] = 0.0,
    strides: Sequence[int] = (1, 1, 1),
    randomized_strides: bool = False,
    noise: float | Sequence[float] = 0.0,
    seed: int = 0,
    mask: npt.NDArray[np.bool_] | None = None,
    seeds: Ids | None = None,
) -> Ids:
    """Segment affinities by the mutex watershed (Wolf et al. 2018, arXiv:1904.12654).

    All pairs of voxels are visited in the order of their weights: offsets to neighbours attract with the affinity,
    longer ones repel with ``1 - affinity + bias``. An attractive pair joins two objects unless a repulsive pair that
    came before forbids it.

    Args:
        affinities: (channels, z, y, x) from 0 to 1.
        offsets: Of the channels.
        bias: Added to all repulsions: above 0, more is separated; or one for each offset, see ``mutex_weights``.
        strides: Every how many voxels along z, y, x repulsive pairs count.
        randomized_strides: Choose the same share of repulsive pairs at random.
        noise: Standard deviation of normal noise on the weights, which breaks ties without a preferred direction; a
            number, or one for each offset.
        seed: Of noise and random pairs.
        mask: Voxels to segment; others are 0.
        seeds: (z, y, x) ids of known objects, 0 elsewhere: voxels of one id belong to one object, those of different
            ids never do.

    Returns:
        Ids 1..n, uint64; with seeds, some may be missing.

    >>> near = np.array([1, 1, 0.3, 1], np.float32).reshape(1, 1, 1, 4)
    >>> far = np.array([1, 1, 0.1, 0.1], np.float32).reshape(1, 1, 1, 4)
    >>> mutex_watershed(np.concatenate([near, far]), [(0, 0, -1), (0, 0, -2)]).tolist()
    [[[1, 1, 2, 2]]]
    """
    order = sorted(range(len(offsets)), key=lambda channel: not is_attractive(offsets[channel]))
    attractive = sum(is_attractive(offset) for offset in offsets)
    weights = mutex_weights(affinities, offsets, bias)
    generator = np.random.default_rng(seed)
    if np.any(noise):
        deviations = np.broadcast_to(np.asarray(noise, np.float32), len(offsets))
        for channel, deviation in zip(weights, deviations, strict=True):
            channel += deviation * generator.standard_normal(channel.shape, np.float32)
    weights = weights[order]
    if seeds is not None and seeds.any():
        chosen = np.ones(seeds.shape, bool) if mask is None else mask
        counts = np.zeros(seeds.shape, bool)  # the voxels whose repulsive pairs count
        counts[tuple(slice(None, None, step) for step in strides)] = True
        if randomized_strides:
            counts = generator.random(seeds.shape) < 1 / np.prod(strides)
        return _with_seeds(weights, [offsets[channel] for channel in order], attractive, chosen, counts, seeds)
    if randomized_strides:  # the engine draws from NumPy's global generator
        state = np.random.get_state()
        np.random.seed(generator.integers(2**32))
    try:
        found: Ids = engine(
            weights,
            [offsets[channel] for channel in order],
            attractive,
            strides=None if tuple(strides) == (1, 1, 1) else list(strides),
            randomized_strides=randomized_strides,
            mask=mask,
        )
    finally:
        if randomized_strides:
            np.random.set_state(state)
    return found


def _with_seeds(
    weights: Array,
    offsets: Sequence[Offset],
    attractive: int,
    mask: npt.NDArray[np.bool_],
    counts: npt.NDArray[np.bool_],
    seeds: Ids,
) -> Ids:
    nodes = np.cumsum(mask).reshape(mask.shape) - 1
    columns: dict[bool, list[Array]] = {True: [], False: []}
    for channel, offset in enumerate(offsets):
        here, there = ends(mask.shape, offset)
        chosen = mask[here] & mask[there]
        if channel >= attractive:
            chosen &= counts[here]
        pairs = np.sort(np.stack([nodes[here][chosen], nodes[there][chosen]], 1).astype(np.uint64), axis=1)
        columns[channel < attractive].append(np.column_stack([pairs, weights[channel][here][chosen].view(np.uint32)]))
    attracts, repels = (np.concatenate(columns[kind]) for kind in (True, False))
    edges = [(rows[:, :2], rows[:, 2].astype(np.uint32).view(np.float32)) for rows in (attracts, repels)]
    found = np.zeros(mask.shape, np.uint64)
    found[mask] = cluster_with_seeds(seeds[mask], *edges)
    return found


def cluster_with_seeds(seeds: Ids, attracts: tuple[Array, Array], repels: tuple[Array, Array]) -> Ids:
    """Cluster a graph by the mutex watershed; nodes of one seed become one cluster, those of different seeds never.

    Args:
        seeds: (n,) id of the known object of each node; 0 for none.
        attracts, repels: Pairs (m, 2) of nodes, and the weight of each.

    Returns:
        Cluster of each node, from 1.

    >>> edges = np.array([[0, 1], [1, 2], [2, 3]], np.uint64), np.array([0.9, 0.8, 0.7])
    >>> nothing = np.zeros((0, 2), np.uint64), np.zeros(0)
    >>> cluster_with_seeds(np.array([5, 0, 0, 7], np.uint64), edges, nothing).tolist()
    [1, 1, 1, 2]
    """
    pairs, weights = attracts
    order = np.lexsort((-weights, pairs[:, 1], pairs[:, 0]))
    order = order[np.append(True, (np.diff(pairs[order].astype(np.int64), axis=0) != 0).any(1))[: len(order)]]
    graph = UndirectedGraph.from_edges(len(seeds), np.ascontiguousarray(pairs[order]))
    edges = (graph, weights[order].astype(np.float64), np.ascontiguousarray(repels[0]), repels[1].astype(np.float64))
    if not seeds.any():
        return np.asarray(mutex_watershed_clustering(*edges), np.uint64) + np.uint64(1)
    known = np.flatnonzero(seeds)
    ids, of = np.unique(seeds[known], return_inverse=True)
    first = 1 + max(float(values.max(initial=0)) for values in (edges[1], edges[3]))  # before all pairs
    labels, _ = semantic_mutex_watershed_clustering(
        *edges, np.stack([known, of], 1).astype(np.uint64), np.full(len(known), first)
    )
    labels = np.asarray(labels, np.uint64) + np.uint64(1)
    one_of_each = np.zeros(len(ids), np.uint64)
    one_of_each[of[::-1]] = labels[known][::-1]  # that of the first node
    joined = np.arange(int(labels.max()) + 1, dtype=np.uint64)
    joined[labels[known]] = one_of_each[of]
    return np.asarray(joined[labels])


def seeds_of(fragments: Ids, seeds: Ids, count: int) -> Ids:
    """Return the seed that each of the fragments 1..count contains; 0 for none."""
    found = np.zeros(count + 1, np.uint64)
    chosen = (seeds > 0) & (fragments > 0)
    found[fragments[chosen]] = seeds[chosen]
    return found[1:]


def with_seed_ids(segments: Ids, seeds: Ids) -> Ids:
    """Return the segment of each fragment with the id of its seed; those without follow after the largest seed.

    >>> with_seed_ids(np.array([1, 2, 1, 3, 0]), np.array([0, 0, 40, 0, 0], np.uint64)).tolist()
    [40, 41, 40, 42, 0]
    """
    new_ids = np.zeros(int(segments.max(initial=0)) + 1, np.uint64)
    chosen = (seeds > 0) & (segments > 0)
    new_ids[segments[chosen]] = seeds[chosen]
    others = np.flatnonzero(new_ids[1:] == 0) + 1
    new_ids[others] = np.arange(1, len(others) + 1, dtype=np.uint64) + seeds.max(initial=np.uint64(0))
    return np.asarray(new_ids[segments])
