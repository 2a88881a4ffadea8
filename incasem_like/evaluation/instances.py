"""Metrics of instance segmentations, all computed from one contingency table that blocks add up to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from incasem_like.evaluation.voxel import dice, jaccard, precision, ratio, recall
from incasem_like.segmentation.label_arrays import unique_index

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]

PARTITION_SCORES = (
    "voi", "voi_split", "voi_merge", "nvi", "nvi_split", "nvi_merge", "nid", "rand_split", "rand_merge",
    "adapted_rand_error", "rand_index", "cremi_score",
)  # fmt: skip
IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


@dataclass(frozen=True)
class Contingency:
    """How many voxels each pair of a ground-truth id and a predicted id has in common; 0 is background.

    Attributes:
        truth, predicted: (n,) ids of the pairs, sorted, each pair once.
        counts: (n,) voxels.
        positions: (n, 3) sums of the absolute voxel positions z, y, x.
    """

    truth: Ids
    predicted: Ids
    counts: Counts
    positions: Counts

    @classmethod
    def of(
        cls, truth: Array, predicted: Array, valid: Array | None = None, begin: Sequence[int] = (0, 0, 0)
    ) -> Contingency:
        """Count arrays.

        Args:
            truth, predicted: (z, y, x) ids.
            valid: (z, y, x), non-zero where a voxel counts; None counts all.
            begin: Absolute voxel of the first one.

        >>> Contingency.of(np.array([[[1, 1, 2]]]), np.array([[[5, 5, 5]]])).counts.tolist()
        [2, 1]
        """
        one, other = (np.ascontiguousarray(array).reshape(-1) for array in (truth, predicted))
        changes = np.empty(truth.size, bool)
        np.not_equal(one[1:], one[:-1], out=changes[1:])
        changes[1:] |= other[1:] != other[:-1]
        chosen = None if valid is None else valid.reshape(-1) != 0
        if chosen is not None:
            changes[1:] |= chosen[1:] != chosen[:-1]
        changes[:: max(1, truth.shape[-1])] = True  # runs end with their row
        starts = np.flatnonzero(changes)
        lengths = np.diff(starts, append=truth.size)
        if chosen is not None:
            starts, lengths = starts[chosen[starts]], lengths[chosen[starts]]
        (ids, i), (others, j) = (unique_index(flat[starts]) for flat in (one, other))
        index = i * len(others) + j
        if few := len(ids) * len(others) <= 4 * len(index) + 4096:  # count without sorting
            known = np.flatnonzero(np.bincount(index, minlength=1))
        else:
            known, index = np.unique(index, return_inverse=True)
        rows = starts // truth.shape[2]
        z = rows // truth.shape[1]
        y, x = rows - z * truth.shape[1], starts - rows * truth.shape[2]
        voxels = lengths.astype(np.float64)
        sums = voxels * (z + begin[0]), voxels * (y + begin[1]), voxels * (x + begin[2] + (voxels - 1) / 2)
        counts, *positions = (
            np.bincount(index, total)[known if few else ...].astype(np.int64) for total in (voxels, *sums)
        )
        first, second = np.divmod(known, max(1, len(others)))
        return cls(ids[first].astype(np.uint64), others[second].astype(np.uint64), counts, np.stack(positions, axis=1))

    @classmethod
    def merged(cls, parts: Iterable[Contingency]) -> Contingency:
        """Add the tables of several blocks, or volumes with distinct ids."""
        whole = list(parts)
        truth, predicted, counts, positions = (
            np.concatenate([getattr(part, name) for part in whole])
            for name in ("truth", "predicted", "counts", "positions")
        )
        if not len(truth):
            return cls(truth, predicted, counts, positions)
        order = np.lexsort((predicted, truth))
        truth, predicted = truth[order], predicted[order]
        first = np.ones(len(truth), bool)
        first[1:] = (truth[1:] != truth[:-1]) | (predicted[1:] != predicted[:-1])
        starts = np.flatnonzero(first)
        counts, positions = (np.add.reduceat(sums[order], starts, axis=0) for sums in (counts, positions))
        return cls(truth[starts], predicted[starts], counts, positions)

    @classmethod
    def pooled(cls, tables: Sequence[Contingency], with_background: bool = False) -> Contingency:
        """Join the tables of several volumes, whose ids are renumbered so that they differ.

        Args:
            tables: A table for each volume.
            with_background: Whether the background of each volume becomes an object of its own; else it stays 0.

        >>> table = Contingency.of(np.array([[[1, 1]]]), np.array([[[0, 7]]]))
        >>> Contingency.pooled([table, table]).predicted.tolist()
        [0, 1, 0, 2]
        """
        columns: dict[str, list[Ids]] = {"truth": [], "predicted": []}
        for name, found in columns.items():
            known = 0
            for table in tables:
                ids = getattr(table, name)
                unique, index = np.unique(ids, return_inverse=True)
                new = np.arange(1, len(unique) + 1, dtype=np.uint64) + np.uint64(known)
                if not with_background and len(unique) and unique[0] == 0:
                    new = np.append(np.uint64(0), new[:-1])
                known = int(new.max(initial=known))
                found.append(new[index])
        one, other = (np.concatenate(ids) for ids in columns.values())
        return cls(one, other, *(np.concatenate([getattr(table, name) for table in tables])
                                 for name in ("counts", "positions")))  # fmt: skip

    def to_array(self) -> npt.NDArray[np.uint64]:
        """Return (n, 6): truth, predicted, count and position sums, to be stored."""
        about = np.column_stack([self.counts, self.positions]).astype(np.int64).view(np.uint64)
        return np.column_stack([self.truth, self.predicted, about])

    @classmethod
    def from_array(cls, array: npt.NDArray[np.uint64]) -> Contingency:
        """Return the table that ``to_array`` stored."""
        about = np.ascontiguousarray(array[:, 2:]).view(np.int64)
        return cls(array[:, 0], array[:, 1], about[:, 0], about[:, 1:])

    def where(self, chosen: npt.NDArray[np.bool_]) -> Contingency:
        """Return the chosen pairs."""
        return Contingency(self.truth[chosen], self.predicted[chosen], self.counts[chosen], self.positions[chosen])

    @property
    def labelled(self) -> Contingency:
        """The pairs with a ground-truth id; the predicted background counts as an object."""
        return self.where(self.truth > 0)

    @property
    def labelled_by_both(self) -> Contingency:
        """The pairs without any background."""
        return self.where((self.truth > 0) & (self.predicted > 0))


def partition_scores(table: Contingency) -> dict[str, float]:
    """Compare two partitions of the same voxels.

    With p(i, j) the share of voxels with ground-truth id i and predicted id j, H entropies in bits and I the mutual
    information:

    - ``voi_split`` = H(predicted | truth), ``voi_merge`` = H(truth | predicted), ``voi`` their sum (Meila 2007);
      ``nvi_*`` = ``voi_*`` / H(truth, predicted)
    - ``nid`` = 1 - I / max(H(truth), H(predicted))
    - ``rand_split`` = sum p(i, j)^2 / sum p(i)^2, ``rand_merge`` = sum p(i, j)^2 / sum p(j)^2; ``adapted_rand_error``
      = 1 - their harmonic mean (Arganda-Carreras 2015); ``rand_index``: share of pairs of voxels that agree
    - ``cremi_score`` = sqrt(voi * adapted_rand_error)

    Args:
        table: The voxels to compare, usually ``Contingency.labelled``.

    Returns:
        The scores; NaN of an empty table.

    >>> table = Contingency.of(np.array([[[1, 1, 2, 2]]]), np.array([[[1, 1, 1, 1]]]))
    >>> partition_scores(table)["voi_merge"]
    1.0
    """
    if not len(table.counts):
        return dict.fromkeys(PARTITION_SCORES, float("nan"))
    sizes = [table.counts, *(_marginal(ids, table.counts)[1] for ids in (table.truth, table.predicted))]
    floats = [size.astype(np.float64) for size in sizes]
    logs = np.array([(size * np.log2(size)).sum() for size in floats])
    found = scores_of_sums(floats[0].sum(), logs, np.array([np.square(size).sum() for size in floats]))
    return {name: float(value) for name, value in found.items()}


def scores_of_sums(voxels: Array, logs: Array, squares: Array) -> dict[str, Array]:
    """Return the scores of ``partition_scores``, of any number of tables at a time.

    Args:
        voxels: (...) voxels of each table.
        logs: (3, ...) sums of n log2 n over the pairs of ids, the ground-truth ids and the predicted ids;
            n is the number of voxels of each.
        squares: (3, ...) sums of n^2, likewise.
    """
    joint, of_truth, of_predicted = np.log2(voxels) - logs / voxels
    split, merge = np.maximum(0.0, joint - of_truth), np.maximum(0.0, joint - of_predicted)
    both, truth, predicted = squares
    error = 1 - 2 * both / (truth + predicted)
    pairs, disagreeing = voxels * (voxels - 1), truth + predicted - 2 * both
    information, larger = of_truth + of_predicted - joint, np.maximum(of_truth, of_predicted)

    def share(part: Array, whole: Array, otherwise: float) -> Array:
        return np.where(whole > 0, part / np.where(whole > 0, whole, 1), otherwise)

    values = (
        split + merge, split, merge, share(split + merge, joint, 0), share(split, joint, 0), share(merge, joint, 0),
        1 - share(information, larger, 1), both / truth, both / predicted, error,
        1 - share(disagreeing, pairs, 0), np.sqrt((split + merge) * np.maximum(0.0, error)),
    )  # fmt: skip
    return dict(zip(PARTITION_SCORES, values, strict=True))


def _marginal(ids: Ids, counts: Counts) -> tuple[Ids, Counts, npt.NDArray[np.intp]]:
    """Return the ids, the voxels of each, and the index of each pair's id."""
    unique, index = np.unique(ids, return_inverse=True)
    return unique, np.bincount(index, counts, len(unique)).astype(np.int64), index


def object_counts(
    table: Contingency, thresholds: Sequence[float], homes: Sequence[npt.NDArray[np.intp]] = ()
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Match the objects of a table, background excluded, and count them per part of the volume.

    Args:
        table: All voxels, background included, each pair once.
        thresholds: Of the IoU.
        homes: The parts of the ground-truth and of the predicted objects, background included, in the order of their
            ids; none counts all in one part.

    Returns:
        (3, thresholds, parts) matches, predicted objects without, and ground-truth objects without, and (parts,) the
        sum of the IoU of matches above 0.5. A match is counted in the part of its ground-truth object.
    """
    truth, truth_sizes, i = _marginal(table.truth, table.counts)
    predicted, predicted_sizes, j = _marginal(table.predicted, table.counts)
    of_truth, of_predicted = homes or (np.zeros(len(ids), np.intp) for ids in (truth, predicted))
    parts = 1 + max(of_truth.max(initial=0), of_predicted.max(initial=0))
    iou = table.counts / (truth_sizes[i] + predicted_sizes[j] - table.counts)
    both = (table.truth > 0) & (table.predicted > 0)
    iou, i, j = iou[both], i[both], j[both]
    counts = np.zeros((3, len(thresholds), parts), np.int64)
    for row, threshold in enumerate(thresholds):
        chosen = iou >= threshold
        graph = coo_matrix((np.ones(int(chosen.sum())), (i[chosen], j[chosen])), (len(truth), len(predicted))).tocsr()
        match = np.full(len(truth), -1)
        if graph.nnz:
            match = maximum_bipartite_matching(graph, perm_type="column")
        alone = predicted > 0
        alone[match[match >= 0]] = False
        for kind, home in enumerate((of_truth[match >= 0], of_predicted[alone], of_truth[(truth > 0) & (match < 0)])):
            counts[kind, row] = np.bincount(home, minlength=parts)
    above = iou > 0.5
    return counts, np.bincount(of_truth[i[above]], iou[above], parts).astype(np.float64)


def scores_of_objects(counts: Array, iou: Array) -> dict[str, Array]:
    """Return (thresholds, ...) ``precision``, ``recall``, ``f1`` and ``ap``, and (...) ``panoptic_quality``.

    Args:
        counts: (3, thresholds, ...) matches, predicted objects without, and ground-truth objects without.
        iou: (...) sum of the IoU of matches above 0.5.
    """
    tp, fp, fn = counts
    return {
        "precision": precision(tp, fp), "recall": recall(tp, fn), "f1": dice(tp, fp, fn), "ap": jaccard(tp, fp, fn),
        "panoptic_quality": ratio(2 * iou, (2 * tp + fp + fn)[0]),
    }  # fmt: skip


def object_scores(table: Contingency, thresholds: Sequence[float] = IOU_THRESHOLDS) -> dict[str, Any]:
    """Score objects by their intersection over union (IoU); background is not an object.

    A ground-truth and a predicted object match if their IoU reaches the threshold, each at most once. With ``tp``
    matches, ``fp`` predicted and ``fn`` ground-truth objects without: precision tp / (tp + fp), recall tp / (tp + fn),
    f1, ap = tp / (tp + fp + fn). Panoptic quality (Kirillov 2019) is the sum of the IoU of matches above 0.5, over
    tp + fp / 2 + fn / 2.

    Args:
        table: All voxels, background included.
        thresholds: Of the IoU.

    Returns:
        ``thresholds`` (a list of scores for each), ``mean_ap``, ``panoptic_quality``, ``truth_objects``,
        ``predicted_objects``.
    """
    per_part, iou = object_counts(table, thresholds)
    counts = per_part.sum(axis=2)
    found = scores_of_objects(counts, iou.sum())
    names = ("precision", "recall", "f1", "ap")
    rows = [
        {"iou": threshold, **dict(zip(("tp", "fp", "fn"), counts[:, row].tolist(), strict=True)),
         **{name: float(found[name][row]) for name in names}}
        for row, threshold in enumerate(thresholds)
    ]  # fmt: skip
    return {
        "thresholds": rows,
        "mean_ap": float(np.mean(found["ap"])),
        "panoptic_quality": float(found["panoptic_quality"]),
        "truth_objects": int(counts[0, 0] + counts[2, 0]),
        "predicted_objects": int(counts[0, 0] + counts[1, 0]),
    }


def largest_errors(table: Contingency, kind: str, most: int = 10) -> list[dict[str, Any]]:
    """Return the objects that contribute most to the VOI, the worst first.

    Args:
        table: The voxels to compare.
        kind: ``split``: ground-truth objects that several predicted ones cover; ``merge``: the reverse.
        most: Objects to return, at most.

    Returns:
        For each its ``id``, ``bits`` of the VOI, ``voxels``, and its largest ``parts``: ids on the other side, their
        voxels, and the mean ``position`` (absolute voxels z, y, x) of what both have in common.
    """
    own, other = (table.truth, table.predicted) if kind == "split" else (table.predicted, table.truth)
    ids, sizes, index = _marginal(own, table.counts)
    shares = table.counts / sizes[index]
    bits = np.bincount(index, -table.counts * np.log2(shares), len(ids)) / max(1, int(table.counts.sum()))
    found = []
    for worst in np.argsort(-bits, kind="stable")[:most]:
        if bits[worst] <= 0:
            break
        pairs = np.flatnonzero(index == worst)
        pairs = pairs[np.argsort(-table.counts[pairs], kind="stable")][:5]
        parts = [
            {
                "id": int(other[pair]),
                "voxels": int(table.counts[pair]),
                "position": [round(float(total) / int(table.counts[pair])) for total in table.positions[pair]],
            }
            for pair in pairs
        ]
        about = {"id": int(ids[worst]), "bits": float(bits[worst]), "voxels": int(sizes[worst]), "parts": parts}
        found.append(about)
    return found
