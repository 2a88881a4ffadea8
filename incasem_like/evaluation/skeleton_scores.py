"""Scores of a segmentation by skeletons: VOI, expected run length, splits, merges, edits by minimum cuts, synapses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx
import numpy as np
import numpy.typing as npt
from networkx.algorithms.flow import boykov_kolmogorov
from scipy.spatial import cKDTree

from incasem_like.evaluation.instances import Contingency, partition_scores
from incasem_like.evaluation.skeletons import Sites, Skeletons

Ids = npt.NDArray[np.uint64]
NODE_SCORES = ("voi", "voi_split", "voi_merge", "nvi", "rand_split", "rand_merge", "adapted_rand_error", "nid")


def skeleton_scores(skeletons: Skeletons, segments: Ids) -> dict[str, Any]:
    """Score the segments that the nodes of skeletons lie in.

    A segment is merging if it contains nodes of two skeletons. An edge is *omitted* if an end lies in the background,
    *split* if its ends lie in two segments, *merged* if both lie in a merging one, and else correct. With l(s, i) the
    length of the correct edges of skeleton s in segment i and l the length of all skeletons:

    - ``expected_run_length`` (ERL, nm) = sum of l(s, i)^2 / l; ``max_erl`` that of a perfect segmentation;
      ``normalized_erl`` their quotient
    - ``voi`` and so on: partition scores of the nodes outside the background, each node counted once

    Args:
        skeletons: The skeletons.
        segments: (n,) segment of each node, 0 = background.

    Returns:
        The scores, the numbers and lengths of edges of each kind, and for each merging segment its skeletons
        (``merges``) and for each split skeleton its segments (``splits``), the largest first.

    >>> edges = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])
    >>> chain = Skeletons(np.arange(5.0)[:, None] * [0, 0, 1], np.zeros(5, int), edges)
    >>> skeleton_scores(chain, np.array([1, 1, 1, 2, 2], np.uint64))["expected_run_length"]
    1.25
    """
    owners, lengths = skeletons.skeletons, skeletons.lengths
    one, other = segments[skeletons.edges[:, 0]], segments[skeletons.edges[:, 1]]
    inside = segments > 0
    pairs = np.unique(np.stack([segments[inside], owners[inside].astype(np.uint64)]), axis=1)
    ids, counts = np.unique(pairs[0], return_counts=True)
    merging = ids[counts > 1]
    omitted = (one == 0) | (other == 0)
    split = ~omitted & (one != other)
    merged = ~omitted & ~split & np.isin(one, merging)
    correct = ~(omitted | split | merged)
    total = float(lengths.sum())
    edge_owners = owners[skeletons.edges[:, 0]]
    runs = _sums(np.stack([edge_owners[correct].astype(np.uint64), one[correct]]), lengths[correct])
    whole = _sums(edge_owners[None].astype(np.uint64), lengths)
    erl, best = (float(np.square(sums).sum() / total) if total else float("nan") for sums in (runs, whole))
    table = Contingency.of((owners[inside] - owners.min(initial=0) + 1)[None, None], segments[inside][None, None])
    partition = partition_scores(table)
    kinds = {"omitted": omitted, "split": split, "merged": merged, "correct": correct}
    return {
        **{name: partition[name] for name in NODE_SCORES},
        "expected_run_length": erl,
        "max_erl": best,
        "normalized_erl": erl / best if best else float("nan"),
        "path_length": total,
        **{f"{name}_edges": int(chosen.sum()) for name, chosen in kinds.items()},
        **{f"{name}_length": float(lengths[chosen].sum()) for name, chosen in kinds.items()},
        "nodes": len(segments),
        "background_nodes": int(np.count_nonzero(~inside)),
        "skeletons": len(np.unique(owners)),
        "segments": len(ids),
        "merging_segments": len(merging),
        "split_skeletons": len(np.unique(edge_owners[split])),
        "merges": _groups(pairs[0], pairs[1].astype(np.int64)),
        "splits": _groups(pairs[1].astype(np.int64), pairs[0]),
    }


def _sums(keys: npt.NDArray[Any], lengths: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if not len(lengths):
        return np.zeros(0)
    index = np.unique(keys, axis=1, return_inverse=True)[1].ravel()
    return np.asarray(np.bincount(index, lengths))


def _groups(keys: npt.NDArray[Any], values: npt.NDArray[Any], most: int = 10) -> list[dict[str, Any]]:
    """Return the keys that have several values, those with the most first."""
    ids, index, counts = np.unique(keys, return_inverse=True, return_counts=True)
    worst = [key for key in np.argsort(-counts, kind="stable")[:most] if counts[key] > 1]
    return [{"id": int(ids[key]), "parts": [int(value) for value in values[index == key]]} for key in worst]


def site_scores(sites: Sites, segments: Ids) -> dict[str, Any]:
    """Score the segments that synaptic sites lie in, together and by kind.

    Args:
        sites: The sites.
        segments: (n,) segment of each, 0 = background.

    Returns:
        ``synapse_voi_split`` and ``_merge`` of all sites outside the background, with ``pre_`` or ``post_`` in front
        those of one kind; ``background_sites``; ``synapses`` whose pre- and a postsynaptic site lie in different
        skeletons, and among them ``false_autapses``, which have both in one segment.

    >>> sites = Sites(np.zeros((2, 3)), np.array([1, 2]), np.array(["pre", "post"]), np.array([0, 0]))
    >>> site_scores(sites, np.array([5, 5], np.uint64))["false_autapses"]
    1
    """
    found: dict[str, Any] = {"sites": len(segments), "background_sites": int(np.count_nonzero(segments == 0))}
    for prefix, chosen in (
        ("", np.ones(len(segments), bool)), ("pre_", sites.kinds == "pre"), ("post_", sites.kinds == "post"),
    ):  # fmt: skip
        used = chosen & (segments > 0)
        if prefix and not chosen.any():
            continue
        owners = (sites.skeletons[used] - sites.skeletons.min(initial=0) + 1)[None, None]
        scores = partition_scores(Contingency.of(owners, segments[used][None, None]))
        found |= {f"{prefix}synapse_{name}": scores[name] for name in ("voi_split", "voi_merge")}
    pre, post = (
        [(int(s), int(o), int(i)) for s, o, i in zip(sites.synapses[chosen], sites.skeletons[chosen],
                                                       segments[chosen], strict=True) if s >= 0]
        for chosen in (sites.kinds == "pre", sites.kinds == "post")
    )  # fmt: skip
    by_synapse: dict[int, list[tuple[int, int]]] = {}
    for synapse, owner, segment in pre:
        by_synapse.setdefault(synapse, []).append((owner, segment))
    between = [
        (before, segment)
        for synapse, owner, segment in post
        for other, before in by_synapse.get(synapse, ())
        if owner != other
    ]
    found["synapses"] = len(between)
    found["false_autapses"] = sum(before == segment > 0 for before, segment in between)
    return found


@dataclass(frozen=True)
class FragmentGraph:
    """The fragments of a segmentation and the edges between them.

    Attributes:
        ids: (n,) fragments, ascending.
        edges: (m, 2) indices into ``ids``.
        scores: (m,) merge scores from 0 to 1; NaN for never.
    """

    ids: Ids
    edges: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]


def edits_needed(
    skeletons: Skeletons, fragments: Ids, segments: Ids, graph: FragmentGraph, threshold: float
) -> dict[str, Any]:
    """Count the edits that would correct a segmentation, as a proofreader with a tool for minimum cuts needs them.

    In each merging segment, the two skeletons with the most fragments that still hang together are cut apart between
    their closest fragments, by a minimum cut with capacities 1 - score, and so on in both parts. Fragments that
    contain nodes of several skeletons cannot be split and are left out. Then the segments of each skeleton are merged.

    Args:
        skeletons: The skeletons.
        fragments: (n,) fragment of each node, 0 = background.
        segments: (n,) segment of each node, which consist of fragments.
        graph: The fragments and their scores.
        threshold: Edges with a score below it were merged.

    Returns:
        ``splits_needed`` cuts; ``merges_needed``: of each skeleton the number of its segments, minus 1, and the merges
        that cuts make necessary; both also per segment and per skeleton; ``unsplittable_fragments``.
    """
    inside = (fragments > 0) & (segments > 0)
    owners, fragments, segments = skeletons.skeletons[inside], fragments[inside], segments[inside]
    positions = skeletons.positions[inside]
    merged = graph.scores < threshold
    neighbours = _adjacency(graph.ids, graph.edges[merged], graph.scores[merged])
    splits = extra = 0
    unsplittable: set[int] = set()
    by_segment = _members(segments, owners)
    for members in (nodes for nodes in by_segment if len(np.unique(owners[nodes])) > 1):
        owners_of: dict[int, set[int]] = {}
        for node in members:
            owners_of.setdefault(int(fragments[node]), set()).add(int(owners[node]))
        shared = {fragment for fragment, own in owners_of.items() if len(own) > 1}
        unsplittable |= shared
        terminals: dict[int, list[int]] = {}
        places: dict[int, npt.NDArray[np.float64]] = {}
        for node in members:
            fragment = int(fragments[node])
            places[fragment] = positions[node]
            if fragment not in shared and fragment not in terminals.setdefault(int(owners[node]), []):
                terminals[int(owners[node])].append(fragment)
        groups = [group for group in terminals.values() if group]
        found = split_graph(_component(neighbours, groups), groups, places)
        splits += found.cuts
        extra += sum(len({found.labels[fragment] for fragment in group}) - 1 for group in groups)
    pieces = sum(len(np.unique(segments[nodes])) - 1 for nodes in _members(owners, owners))
    merges = pieces + extra
    count, skeleton_count = len(by_segment), len(np.unique(owners))
    return {
        "splits_needed": splits,
        "merges_needed": merges,
        "edits_needed": splits + merges,
        "splits_needed_per_segment": splits / count if count else float("nan"),
        "merges_needed_per_skeleton": merges / skeleton_count if skeleton_count else float("nan"),
        "unsplittable_fragments": len(unsplittable),
    }


def _members(keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> list[npt.NDArray[np.int64]]:
    """Return the indices of the nodes of each key."""
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1) if len(keys) else []


def _adjacency(ids: Ids, edges: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> dict[int, dict[int, float]]:
    found: dict[int, dict[int, float]] = {}
    ends = ids[edges].tolist()
    for (u, v), score in zip(ends, scores.tolist(), strict=True):
        found.setdefault(u, {})[v] = found.setdefault(v, {})[u] = max(0.0, 1.0 - score)
    return found


def _component(neighbours: Mapping[int, Mapping[int, float]], groups: Sequence[Sequence[int]]) -> Any:
    """Return the part of the graph of fragments that is connected with some of them, as a networkx graph."""
    graph = networkx.Graph()
    front = [fragment for group in groups for fragment in group]
    graph.add_nodes_from(front)
    seen = set(front)
    while front:
        fragment = front.pop()
        for other, capacity in neighbours.get(fragment, {}).items():
            graph.add_edge(fragment, other, capacity=capacity)
            if other not in seen:
                seen.add(other)
                front.append(other)
    return graph


@dataclass(frozen=True)
class SplitGraph:
    """A graph that was cut into parts.

    Attributes:
        cuts: Number of minimum cuts.
        labels: The part of each node.
    """

    cuts: int
    labels: dict[int, int]


def split_graph(
    graph: Any, groups: Sequence[Sequence[int]], positions: Mapping[int, npt.NDArray[np.float64]]
) -> SplitGraph:
    """Cut a graph until no part of it contains nodes of two groups.

    Args:
        graph: A networkx graph with ``capacity`` on its edges.
        groups: Nodes to separate from those of other groups.
        positions: Positions of these nodes.

    >>> import networkx
    >>> graph = networkx.Graph()
    >>> graph.add_edge(1, 2, capacity=0)
    >>> graph.add_edge(2, 3, capacity=1)
    >>> split_graph(graph, [[1], [3]], {1: np.zeros(3), 3: np.ones(3)})
    SplitGraph(cuts=1, labels={1: 0, 2: 1, 3: 1})
    """
    cuts, parts = 0, []
    pending = [(set(part), [list(group) for group in groups]) for part in networkx.connected_components(graph)]
    while pending:
        nodes, inside = pending.pop()
        inside = [kept for group in inside if (kept := [node for node in group if node in nodes])]
        if len(inside) < 2:
            parts.append(nodes)
            continue
        first, second = sorted(inside, key=len, reverse=True)[:2]
        one, other = (np.stack([positions[node] for node in group]) for group in (first, second))
        distances, nearest = cKDTree(other).query(one)
        ends = first[int(distances.argmin())], second[nearest[int(distances.argmin())]]
        _, sides = networkx.minimum_cut(graph.subgraph(nodes), *ends, flow_func=boykov_kolmogorov)
        cuts += 1
        for side in sides:
            pending += [(set(part), inside) for part in networkx.connected_components(graph.subgraph(side))]
    parts.sort(key=min)
    return SplitGraph(cuts, {node: number for number, part in enumerate(parts) for node in sorted(part)})
