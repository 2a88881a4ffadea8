"""Scores with intervals: counts per part of the evaluated volume, resampled; and the comparison of two evaluations.

An evaluated ROI is divided into about 64 parts of similar size. A bootstrap draws as many parts with replacement and
scores them together; the interval contains the middle 95 % of the results. Two segmentations of the same voxels are
compared on the same draws, so that parts that are difficult for both do not hide the difference.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from incasem_like.errors import InputError
from incasem_like.evaluation.instances import (
    IOU_THRESHOLDS,
    Contingency,
    object_counts,
    scores_of_objects,
    scores_of_sums,
)
from incasem_like.evaluation.voxel import dice, jaccard, precision, recall
from incasem_like.volumes import Coordinate, Roi

Array = npt.NDArray[Any]
Values = npt.NDArray[np.float64]

PARTS, SHORTEST = 64, 8
RESAMPLES, SEED, LEVEL = 1000, 0, 0.95
FEWEST_RESAMPLES, MOST_VALUES, VALUES_AT_ONCE = 100, 20_000_000, 4_000_000
LOWER_IS_BETTER = frozenset(
    {"voi", "voi_split", "voi_merge", "nvi", "nvi_split", "nvi_merge", "nid", "adapted_rand_error", "cremi_score"}
)
OBJECT_SCORES = ("precision", "recall", "f1", "ap", "mean_ap", "panoptic_quality")  # but for the mean, at IoU 0.5
ARTIFACT = "parts.npz"
MOST_ROWS = 20_000_000


def part_shape(roi: Roi, voxel_size: Sequence[float], parts: int = PARTS) -> Coordinate:
    """Return the shape in voxels of parts that divide an ROI, as cubic as possible, each edge at least 8 voxels.

    >>> list(part_shape(Roi((0, 0, 0), (40, 256, 256)), (10, 10, 10)))
    [40, 32, 32]
    """
    pieces = [1, 1, 1]
    while np.prod(pieces) < parts:
        lengths = [-(-size // piece) for size, piece in zip(roi.shape, pieces, strict=True)]
        order = sorted(range(3), key=lambda axis: -lengths[axis] * voxel_size[axis])
        axis = next((axis for axis in order if lengths[axis] >= 2 * SHORTEST), None)
        if axis is None:
            break
        pieces[axis] *= 2
    return Coordinate(-(-size // piece) for size, piece in zip(roi.shape, pieces, strict=True))


def parts_within(roi: Roi, shape: Sequence[int], block: Roi) -> Iterator[tuple[int, Roi]]:
    """Yield the number and the overlap of each part that a block touches.

    >>> [number for number, _ in parts_within(Roi((0, 0, 0), (4, 4, 4)), (2, 4, 4), Roi((1, 0, 0), (2, 1, 1)))]
    [0, 1]
    """
    step = Coordinate(shape)
    counts = [-(-size // edge) for size, edge in zip(roi.shape, step, strict=True)]
    first, last = (block.begin - roi.begin) // step, (block.end - roi.begin - 1) // step
    for z in range(first[0], last[0] + 1):
        for y in range(first[1], last[1] + 1):
            for x in range(first[2], last[2] + 1):
                number = (z * counts[1] + y) * counts[2] + x
                yield number, Roi(roi.begin + Coordinate(z, y, x) * step, step).intersect(block)


class Parts(Protocol):
    """Counts per part of an evaluated volume."""

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """Ascending numbers of the parts that have anything to score."""

    @property
    def values(self) -> int:
        """How many counts a draw adds up; of many, fewer draws are made."""

    def scores(self, weights: Values) -> dict[str, Values]:
        """Return the scores of draws: ``weights`` (parts, draws), in the order of ``numbers``."""


@dataclass(frozen=True)
class InstanceParts:
    """Contingency tables of parts.

    Scores are made of sums of n log2 n and n^2 over pairs of ids, ground-truth ids and predicted ids. An id or pair in
    one part, drawn w times, adds w n log2 n + w log2(w) n and w^2 n^2: only those in several parts are added up anew
    for each draw.

    Attributes:
        numbers: (k,) the parts.
        confined: (3, 3, k) of pairs, ground-truth and predicted ids in one part: sums of n, n log2 n and n^2.
        spread: Of those in several parts: (ids, k) voxels.
    """

    numbers: npt.NDArray[np.int64]
    confined: Values
    spread: tuple[csr_matrix, csr_matrix, csr_matrix]

    @classmethod
    def of(cls, parts: npt.NDArray[np.int64], table: Contingency) -> InstanceParts:
        """Make it of rows: the part of each, and the pair of ids with its voxels; pairs recur in several parts."""
        numbers, column = np.unique(parts, return_inverse=True)
        truth, predicted = (np.unique(ids, return_inverse=True)[1] for ids in (table.truth, table.predicted))
        pairs = np.unique(truth * (predicted.max(initial=0) + 1) + predicted, return_inverse=True)[1]
        confined, spread = np.zeros((3, 3, len(numbers))), []
        for kind, index in enumerate((pairs, truth, predicted)):
            shape = (int(index.max(initial=-1)) + 1, len(numbers))
            counts = csr_matrix((table.counts.astype(float), (index, column)), shape)
            once = np.diff(counts.indptr) == 1
            spread.append(counts[~once])
            alone = counts[once]
            for row, values in enumerate((alone.data, alone.data * np.log2(alone.data), alone.data**2)):
                confined[kind, row] = np.bincount(alone.indices, values, len(numbers))
        return cls(numbers, confined, (spread[0], spread[1], spread[2]))

    @property
    def values(self) -> int:
        """The number of pairs in several parts."""
        return int(self.spread[0].shape[0])

    def scores(self, weights: Values) -> dict[str, Values]:
        """Return all partition scores of draws."""
        found: list[dict[str, Values]] = []
        step = max(1, VALUES_AT_ONCE // max(1, self.values))
        for begin in range(0, weights.shape[1], step):
            draws = weights[:, begin : begin + step]
            factors = np.stack([draws, draws * np.log2(np.maximum(draws, 1)), draws**2])
            voxels, logs, squares = np.zeros((3, 3, draws.shape[1]))
            for kind, (count, log, square) in enumerate(self.confined):
                drawn = np.asarray(self.spread[kind] @ draws)
                voxels[kind] = count @ factors[0] + drawn.sum(axis=0)
                logs[kind] = log @ factors[0] + count @ factors[1]
                logs[kind] += (drawn * np.log2(np.maximum(drawn, 1))).sum(axis=0)
                squares[kind] = square @ factors[2] + np.square(drawn).sum(axis=0)
            found.append(scores_of_sums(voxels[0], logs, squares))
        return {name: np.concatenate([scores[name] for scores in found]) for name in found[0]}


@dataclass(frozen=True)
class ObjectParts:
    """Matched and other objects of parts, each in the part that has most of its voxels.

    Attributes:
        numbers: (k,) all parts with voxels that count.
        counts: (3, thresholds, k) matches, predicted objects without, and ground-truth objects without.
        iou: (k,) sums of the IoU of matches above 0.5.
    """

    numbers: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    iou: Values

    @classmethod
    def of(cls, parts: npt.NDArray[np.int64], table: Contingency) -> ObjectParts:
        """Make it of rows, as ``InstanceParts``, background included."""
        numbers, column = np.unique(parts, return_inverse=True)
        homes = []
        for ids in (table.truth, table.predicted):
            unique, index = np.unique(ids, return_inverse=True)
            voxels = csr_matrix((table.counts, (index, column)), (len(unique), len(numbers)))
            order = np.lexsort((voxels.data, np.repeat(np.arange(len(unique)), np.diff(voxels.indptr))))
            homes.append(voxels.indices[order[voxels.indptr[1:] - 1]].astype(np.intp))
        counts, iou = object_counts(Contingency.merged([table]), IOU_THRESHOLDS, homes)
        missing = len(numbers) - len(iou)
        return cls(numbers, np.pad(counts, ((0, 0), (0, 0), (0, missing))), np.pad(iou, (0, missing)))

    @property
    def values(self) -> int:
        """Three counts per threshold."""
        return 3 * len(IOU_THRESHOLDS)

    def scores(self, weights: Values) -> dict[str, Values]:
        """Return ``OBJECT_SCORES`` of draws."""
        found = scores_of_objects(self.counts @ weights, self.iou @ weights)
        return {
            **{name: found[name][0] for name in ("precision", "recall", "f1", "ap")},
            "mean_ap": found["ap"].mean(axis=0),
            "panoptic_quality": found["panoptic_quality"],
        }

    def to_array(self) -> Values:
        """Return (k, 2 + 3 * thresholds), to be stored."""
        return np.column_stack([self.numbers, self.iou, self.counts.reshape(-1, len(self.numbers)).T])

    @classmethod
    def from_array(cls, array: Values) -> ObjectParts:
        """Return what ``to_array`` stored."""
        counts = array[:, 2:].T.astype(np.int64).reshape(3, -1, len(array))
        return cls(array[:, 0].astype(np.int64), counts, array[:, 1])


@dataclass(frozen=True)
class VoxelParts:
    """Counts of right and wrong voxels of parts, at one threshold.

    Attributes:
        numbers: (k,) the parts.
        counts: (k, 3) true positives, false positives, false negatives.
    """

    numbers: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @property
    def values(self) -> int:
        """Three counts."""
        return 3

    def scores(self, weights: Values) -> dict[str, Values]:
        """Return dice, jaccard, precision and recall of draws."""
        tp, fp, fn = self.counts.T @ weights
        return {
            "dice": dice(tp, fp, fn),
            "jaccard": jaccard(tp, fp, fn),
            "precision": precision(tp, fp),
            "recall": recall(tp, fn),
        }


def _draws(parts: Parts, resamples: int) -> Values:
    """Return (parts, draws) how often each part is drawn."""
    count = len(parts.numbers)
    resamples = max(FEWEST_RESAMPLES, min(resamples, MOST_VALUES // max(1, parts.values)))
    return np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), resamples).T.astype(float)


def _middle(values: Values) -> list[float] | None:
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]


def intervals(parts: Parts, resamples: int = RESAMPLES) -> dict[str, list[float] | None]:
    """Return the interval of each score; None where there are too few parts.

    >>> parts = VoxelParts(np.arange(4), np.array([[5, 1, 0], [5, 1, 0], [5, 1, 0], [5, 1, 0]]))
    >>> [round(bound, 3) for bound in intervals(parts)["precision"]]
    [0.833, 0.833]
    """
    count = len(parts.numbers)
    if count < 2:
        return {}
    return {name: _middle(values) for name, values in parts.scores(_draws(parts, resamples)).items()}


@dataclass(frozen=True)
class Comparison:
    """Whether one evaluation is better than another.

    Attributes:
        metric: The score that is compared.
        values: Of both.
        difference: First minus second.
        interval: Of the difference.
        parts: Number of parts.
    """

    metric: str
    values: tuple[float, float]
    difference: float
    interval: list[float] | None
    parts: int

    @property
    def better(self) -> int | None:
        """0 or 1, the one that is better, or None if the interval contains 0."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return None
        lower = 0 if self.difference < 0 else 1
        return lower if self.metric in LOWER_IS_BETTER else 1 - lower

    def sentence(self, first: str, second: str) -> str:
        """Return it in words.

        >>> Comparison("voi", (0.5, 0.75), -0.25, [-0.375, -0.125], 64).sentence("Run 12", "run 9")
        'Run 12 is better than run 9: voi is lower by 0.2500 (95 % interval 0.1250 to 0.3750, 64 parts).'
        """
        names = (first, second)
        value = f"{self.metric} {self.values[0]:.4f} and {self.values[1]:.4f}"
        if self.interval is None:
            return f"{first} and {second} have {value}; there are too few parts to tell whether that is by chance."
        if self.better is None:
            low, high = self.interval
            return (
                f"{first} and {second} cannot be told apart: {value}, a difference of {self.difference:.4f} "
                f"(95 % interval {low:.4f} to {high:.4f}, {self.parts} parts)."
            )
        better, worse = names[self.better], names[1 - self.better]
        word = "lower" if self.metric in LOWER_IS_BETTER else "higher"
        low, high = sorted(map(abs, self.interval))
        if "/" not in better + worse:  # names of datasets stay as they are
            better, worse = better[0].upper() + better[1:], worse[0].lower() + worse[1:]
        return (
            f"{better} is better than {worse}: {self.metric} is {word} "
            f"by {abs(self.difference):.4f} (95 % interval {low:.4f} to {high:.4f}, {self.parts} parts)."
        )


def compare(one: Parts, other: Parts, metric: str, resamples: int = RESAMPLES) -> Comparison:
    """Compare two evaluations of the same voxels by a paired bootstrap.

    Raises:
        InputError: They lack the metric, or were scored on different parts.
    """
    if not np.array_equal(one.numbers, other.numbers):
        raise InputError("The evaluations have labels in different parts of the volume: evaluate both on the same.")
    count = len(one.numbers)
    whole = np.ones((count, 1))
    known = one.scores(whole)
    if metric not in known or metric not in other.scores(whole):
        raise InputError(f"Unknown metric '{metric}' of these evaluations: choose one of {', '.join(known)}.")
    values = float(known[metric][0]), float(other.scores(whole)[metric][0])
    interval = None
    if count >= 2:
        draws = _draws(max(one, other, key=lambda parts: parts.values), resamples)
        interval = _middle(one.scores(draws)[metric] - other.scores(draws)[metric])
    return Comparison(metric, values, values[0] - values[1], interval, count)


def pack(parts: Mapping[str, Any]) -> bytes:
    """Return arrays as the artifact of a run."""
    file = io.BytesIO()
    np.savez_compressed(file, **parts)
    return file.getvalue()
