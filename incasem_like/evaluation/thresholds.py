"""A threshold sweep in one pass: exact voxel counts at every threshold, accumulated block by block."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import InputError
from incasem_like.evaluation.voxel import Scores, dice, jaccard, precision, recall
from incasem_like.segmentation.probabilities import stored_threshold

Array = npt.NDArray[Any]

METRICS = ("jaccard", "dice", "precision_recall")
SMALLEST_STEP = 1e-5
MOST_COMPARED = 64  # thresholds; comparing with each is faster than a binary search as long as they are few


def threshold_range(start: float, stop: float, step: float) -> tuple[float, ...]:
    """Return the thresholds from ``start`` to ``stop`` in steps, including ``stop`` if a step reaches it.

    Steps are counted in decimals, so 0.1 to 0.9 in steps of 0.1 are nine thresholds and the third is 0.3 exactly.

    Raises:
        InputError: The step is too small, a bound is outside [0, 1], or they are in the wrong order.
    """
    if not step > SMALLEST_STEP:
        raise InputError(
            f"--threshold_step is {step:g}, but must be greater than {SMALLEST_STEP:g}: 0.1 gives a first look."
        )
    if not (0 <= start <= 1 and 0 <= stop <= 1):
        raise InputError(
            f"Thresholds are probabilities from 0 to 1, but were asked from {start:g} to {stop:g}: choose others."
        )
    if start > stop:
        raise InputError(f"--threshold_start {start:g} is above --threshold_stop {stop:g}: exchange them.")
    first, last, width = (Decimal(repr(float(value))) for value in (start, stop, step))
    return tuple(float(first + index * width) for index in range(int((last - first) / width) + 1))


class ThresholdSweep:
    """Voxel counts of one class at several thresholds, accumulated over any number of blocks.

    A voxel counts as predicted at threshold t when its probability is at least t. Valid voxels are counted by how many
    thresholds they reach; the counts at each threshold are the exact cumulative sums of that histogram.

    Attributes:
        thresholds: Ascending probabilities in [0, 1].
        positives: (n + 1,) labelled voxels by the number of thresholds they reach; ``negatives`` likewise.
    """

    def __init__(self, thresholds: Sequence[float], dtype: npt.DTypeLike, scale: float = 1.0) -> None:
        """Prepare empty counts.

        Args:
            thresholds: Ascending probabilities in [0, 1].
            dtype: Data type of the stored probabilities.
            scale: The stored value of probability 1: 255 for uint8, 1 for floats.
        """
        if not thresholds or any(later <= earlier for earlier, later in itertools.pairwise(thresholds)):
            raise ValueError(f"thresholds must ascend, got {thresholds}")
        self.thresholds = tuple(thresholds)
        stored = [stored_threshold(value, np.dtype(dtype), scale) for value in thresholds]
        self._stored = np.array(stored, dtype=dtype)
        # 8 or 16 bits have so few values that the thresholds reached by each are looked up in a table.
        few = self._stored.dtype.kind == "u" and self._stored.dtype.itemsize <= 2
        every = np.arange(np.iinfo(self._stored.dtype).max + 1) if few else None
        self._levels = None if every is None else np.searchsorted(self._stored, every, side="right")
        self.positives = np.zeros(len(thresholds) + 1, dtype=np.int64)
        self.negatives = np.zeros(len(thresholds) + 1, dtype=np.int64)

    def update(self, probabilities: Array, target: Array, valid: Array | None = None) -> None:
        """Count one block.

        Args:
            probabilities: (z, y, x) in the stored dtype.
            target: (z, y, x), non-zero where the class is labelled.
            valid: (z, y, x), non-zero where the voxel counts; None counts all.
        """
        bins = self.positives.size
        code = self._reached(probabilities.ravel())
        np.add(code, bins, out=code, where=target.ravel() != 0)
        if valid is not None:
            code[valid.ravel() == 0] = 2 * bins
        counts = np.bincount(code, minlength=2 * bins)
        self.negatives += counts[:bins]
        self.positives += counts[bins : 2 * bins]

    def _reached(self, probabilities: Array) -> Array:
        """Return how many of the n thresholds each voxel reaches, in an integer type that holds 2 n + 1."""
        kind = np.min_scalar_type(2 * self.positives.size)
        if self._levels is not None:
            return self._levels.astype(kind)[probabilities]
        if len(self.thresholds) > MOST_COMPARED:
            reached = np.searchsorted(self._stored, probabilities, side="right").astype(kind)
            reached[np.isnan(probabilities)] = 0  # NaN sorts last, but reaches no threshold
            return np.asarray(reached)
        reached = np.zeros(probabilities.shape, kind)
        for least in self._stored:
            reached += probabilities >= least
        return np.asarray(reached)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(2, n + 1) ``positives`` and ``negatives``, to be added to a sweep over other blocks."""
        return np.stack([self.positives, self.negatives])

    def add_counts(self, counts: npt.NDArray[np.int64]) -> None:
        """Add the ``counts`` of a sweep over other blocks with the same thresholds."""
        if counts.shape != (2, self.positives.size):
            raise ValueError("only counts at the same thresholds can be added")
        self.positives += counts[0]
        self.negatives += counts[1]

    def subset(self, thresholds: Sequence[float]) -> ThresholdSweep:
        """Return the counts at some of the thresholds, ascending."""
        found = copy.copy(self)
        at = [self.thresholds.index(threshold) for threshold in thresholds]
        found.thresholds = tuple(thresholds)
        for name, reached in (("positives", self.tp[at]), ("negatives", self.fp[at])):
            total = getattr(self, name).sum()
            setattr(found, name, -np.diff(np.concatenate([[total], reached, [0]])))
        return found

    @property
    def total(self) -> int:
        """Number of valid voxels counted."""
        return int(self.positives.sum() + self.negatives.sum())

    @property
    def tp(self) -> npt.NDArray[np.int64]:
        """(n,) labelled voxels predicted at each threshold."""
        return np.asarray(np.cumsum(self.positives[::-1])[::-1][1:])

    @property
    def fp(self) -> npt.NDArray[np.int64]:
        """(n,) unlabelled voxels predicted at each threshold."""
        return np.asarray(np.cumsum(self.negatives[::-1])[::-1][1:])

    @property
    def fn(self) -> npt.NDArray[np.int64]:
        """(n,) labelled voxels missed at each threshold."""
        return np.asarray(self.positives.sum() - self.tp)

    @property
    def tn(self) -> npt.NDArray[np.int64]:
        """(n,) unlabelled voxels not predicted at each threshold."""
        return np.asarray(self.negatives.sum() - self.fp)

    def scores(self) -> dict[str, Scores]:
        """Return (n,) ``jaccard``, ``dice``, ``precision`` and ``recall`` at each threshold, NaN where undefined."""
        tp, fp, fn = self.tp, self.fp, self.fn
        return {
            "jaccard": jaccard(tp, fp, fn),
            "dice": dice(tp, fp, fn),
            "precision": precision(tp, fp),
            "recall": recall(tp, fn),
        }

    def best(self, metric: str) -> BestThreshold | None:
        """Return the lowest threshold with the highest score (``precision_recall``: the sum of both).

        Returns:
            None when the score is undefined at every threshold.
        """
        scores = self.scores()
        values = scores["precision"] + scores["recall"] if metric == "precision_recall" else scores[metric]
        if np.isnan(values).all():
            return None
        index = int(np.nanargmax(values))
        return BestThreshold(metric, index, self.thresholds[index], float(values[index]))

    def result(self, metric: str) -> dict[str, Any]:
        """Return scores ``{name: {threshold: value}}``, counts and best as plain JSON, None where undefined."""
        best = self.best(metric)
        names = [repr(threshold) for threshold in self.thresholds]
        columns = {name: [plain(value) for value in values] for name, values in self.scores().items()}
        counts = {name: [int(value) for value in getattr(self, name)] for name in ("tp", "fp", "fn", "tn")}
        return {
            **{name: dict(zip(names, values, strict=True)) for name, values in columns.items()},
            "counts": {name: dict(zip(names, values, strict=True)) for name, values in counts.items()},
            "best": {"metric": metric, "threshold": best.threshold, "value": best.value} if best else None,
            "voxels": self.total,
        }


@dataclass(frozen=True)
class BestThreshold:
    """The threshold at which a metric is highest, its index in the sweep, and the value there."""

    metric: str
    index: int
    threshold: float
    value: float


def plain(value: float) -> float | None:
    """Return a score as a plain value, None where it is undefined."""
    return None if math.isnan(value) else float(value)
