"""Agglomeration of fragments by their affinities: scoring functions, merge history, scores of edges, cuts."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import waterz
from bioimage_cpp.graph import region_adjacency_graph
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from incasem_like.segmentation.label_arrays import consecutive

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.uint64]
Scores = npt.NDArray[np.float32]


def _quantile(percent: int, init_max: bool) -> str:
    flag = "true" if init_max else "false"
    return f"OneMinus<HistogramQuantileAffinity<RegionGraphType, {percent}, ScoreValue, 256, {flag}>>"


# The score of an edge is 1 minus the mean, or a percentile, of the affinities on the contact of two fragments;
# init-max begins with the largest affinity of each edge alone. waterz has all of these compiled.
SCORING = MappingProxyType(
    {
        "mean": "OneMinus<MeanAffinity<RegionGraphType, ScoreValue>>",
        **{
            f"hist_quant_{percent}{'_initmax' * init_max}": _quantile(percent, init_max)
            for init_max in (False, True)
            for percent in (10, 25, 50, 75, 90)
        },
    }
)


@dataclass(frozen=True)
class MergeHistory:
    """The merges of an agglomeration, in their order.

    Attributes:
        ids: Ids of the fragments, ascending.
        merged: (n, 2) indices into ``ids``: each merge joins the objects that contain these two fragments.
        scores: (n,) running maximum of the scores: a merge is undone where the threshold is not above it.
    """

    ids: Ids
    merged: npt.NDArray[np.int64]
    scores: Scores

    def cut(self, threshold: float) -> Ids:
        """Return the segment of each fragment when all merges with a score below the threshold are made.

        Returns:
            Segment ids 1..m in the order of ``ids``, in ascending order of the first fragment of each segment.

        >>> history = MergeHistory(np.array([4, 6, 9], np.uint64), np.array([[0, 2]]), np.array([0.3], np.float32))
        >>> history.cut(0.5).tolist(), history.cut(0.3).tolist()
        ([1, 2, 1], [1, 2, 3])
        """
        kept = self.merged[self.scores < threshold]
        return joined_nodes(len(self.ids), kept[:, 0], kept[:, 1])

    def edge_scores(self, edges: npt.NDArray[np.int64]) -> Scores:
        """Return the score at which the two fragments of each edge first belong to one object; NaN for never.

        That is the score of their lowest common ancestor in the tree of merges.

        Args:
            edges: (m, 2) indices into ``ids``.

        >>> history = MergeHistory(
        ...     np.array([4, 6, 9], np.uint64), np.array([[0, 2], [2, 1]]), np.array([0.25, 0.5], np.float32)
        ... )
        >>> history.edge_scores(np.array([[0, 1], [0, 2]])).tolist()
        [0.5, 0.25]
        """
        parents, stamps = self._links()
        u, v = (edges[:, side].astype(np.int64) for side in range(2))
        scores = np.zeros(len(edges), np.float32)
        climbing = np.flatnonzero(u != v)
        while len(climbing):
            a, b = u[climbing], v[climbing]
            lower = np.where(stamps[a] <= stamps[b], a, b)
            ended = np.isinf(stamps[lower])
            scores[climbing] = np.where(ended, np.nan, stamps[lower])
            u[climbing] = np.where(lower == a, parents[a], a)
            v[climbing] = np.where(lower == a, b, parents[b])
            climbing = climbing[~ended & (u[climbing] != v[climbing])]
        return scores

    def _links(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return a forest of the fragments, as deep as the logarithm of their number: parents, and scores of the links.

        Scores grow towards the roots, whose own is infinite: objects are united by size, without path compression.
        """
        parents = list(range(len(self.ids)))
        sizes, stamps = [1] * len(parents), [np.inf] * len(parents)
        for (a, b), score in zip(self.merged.tolist(), self.scores.tolist(), strict=True):
            while parents[a] != a:
                a = parents[a]
            while parents[b] != b:
                b = parents[b]
            if a == b:
                continue
            if sizes[a] < sizes[b]:
                a, b = b, a
            parents[b], stamps[b] = a, score
            sizes[a] += sizes[b]
        return np.array(parents, np.int64), np.array(stamps)


def joined_nodes(count: int, u: Array, v: Array) -> Ids:
    """Return the component of each of ``count`` nodes with edges from ``u`` to ``v``: 1..m, by its first node.

    >>> joined_nodes(4, np.array([0]), np.array([2])).tolist()
    [1, 2, 1, 3]
    """
    graph = coo_matrix((np.ones(len(u), np.uint8), (u, v)), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    _, first, index = np.unique(labels, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.uint64)
    order[np.argsort(first)] = np.arange(1, len(first) + 1, dtype=np.uint64)
    return order[index]


def agglomerate(
    fragments: Ids, affinities: Array, scoring: str = "mean", max_threshold: float = 1.0, queue_bins: int = 0
) -> MergeHistory:
    """Merge fragments greedily, lowest score first, and return the history of merges.

    Args:
        fragments: (z, y, x), 0 = none.
        affinities: (3, z, y, x) float32 from 0 to 1, of the voxel before along z, y and x (offset -1).
        scoring: A name in ``SCORING``.
        max_threshold: Merges stop at this score.
        queue_bins: 0 merges in exact order; 256 is faster and merges scores of one bin in any order.

    Returns:
        The history; ``cut(t)`` is the segmentation at any threshold t up to ``max_threshold``.
    """
    local, ids = consecutive(fragments)
    if not len(ids):
        return MergeHistory(ids, np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    local = np.ascontiguousarray(local)  # waterz changes it in place, and needs memory for all ids up to the largest
    with _stdout_discarded():
        ((_, history),) = waterz.agglomerate(
            np.ascontiguousarray(affinities, np.float32),
            [max_threshold],
            fragments=local,
            return_merge_history=True,
            scoring_function=SCORING[scoring],
            discretize_queue=queue_bins,
        )
    merged = np.array([(merge["a"], merge["b"]) for merge in history], np.int64).reshape(-1, 2) - 1
    scores = np.array([merge["score"] for merge in history], np.float32)
    return MergeHistory(ids, merged, np.maximum.accumulate(scores) if len(scores) else scores)


def adjacent_pairs(fragments: Ids) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Return the ids of the fragments, ascending, and the (n, 2) indices of pairs that share a face; 0 is left out.

    >>> [part.tolist() for part in adjacent_pairs(np.array([[[5, 5, 0, 9]], [[5, 3, 9, 9]]], np.uint64))]
    [[3, 5, 9], [[0, 1], [0, 2]]]
    """
    local, ids = consecutive(fragments)
    if not len(ids):
        return ids, np.zeros((0, 2), np.int64)
    pairs = np.asarray(region_adjacency_graph(local, number_of_threads=1).uv_ids(), np.int64)
    return ids, pairs[pairs.min(axis=1) > 0] - 1


@contextlib.contextmanager
def _stdout_discarded() -> Iterator[None]:
    """Discard what C++ code prints."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
