"""Voxel metrics per class (dice, jaccard, precision, recall) from counts that accumulate block by block.

Definitions, per class ``c`` with the background as class 0, over valid voxels only (mask and metric masks):

* dice = 2 TP / (2 TP + FP + FN) and jaccard = TP / (TP + FP + FN), where a voxel counts as predicted ``c`` when its
  probability of ``c`` is at least the threshold (0.5, inclusive);
* precision = TP / (TP + FP) and recall = TP / (TP + FN), where a voxel counts as predicted ``c`` when ``c`` is its most
  probable class (the lowest such class on a tie).

A score whose denominator is zero is undefined and is NaN: dice and jaccard of a class that is neither labelled nor
predicted, precision of one never predicted, recall of one never labelled. NaN is not evidence for or against a model,
so averages should leave it out (``numpy.nanmean``), and a comparison with NaN is never "better".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError

Array = npt.NDArray[Any]
Scores = npt.NDArray[np.float64]


def ratio(numerator: Array, denominator: Array) -> Scores:
    """Divide elementwise as floats; NaN where the denominator is zero."""
    below = np.asarray(denominator, dtype=np.float64)
    defined = np.where(below == 0, np.nan, below)
    return np.asarray(np.asarray(numerator, dtype=np.float64) / defined)


def dice(tp: Array, fp: Array, fn: Array) -> Scores:
    """Sørensen-Dice coefficient (equal to F1) from voxel counts; NaN where neither side has a voxel."""
    return ratio(2 * np.asarray(tp), 2 * np.asarray(tp) + fp + fn)


def jaccard(tp: Array, fp: Array, fn: Array) -> Scores:
    """Jaccard index (intersection over union) from voxel counts; NaN where neither side has a voxel."""
    return ratio(tp, np.asarray(tp) + fp + fn)


def precision(tp: Array, fp: Array) -> Scores:
    """Share of the predicted voxels that are right; NaN where none is predicted."""
    return ratio(tp, np.asarray(tp) + fp)


def recall(tp: Array, fn: Array) -> Scores:
    """Share of the labelled voxels that are found; NaN where none is labelled."""
    return ratio(tp, np.asarray(tp) + fn)


class ConfusionCounts:
    """Counts of right and wrong voxels per class, accumulated over any number of blocks.

    Attributes:
        num_classes: Number of classes including background.
        threshold: Lowest probability that counts as predicted, for dice and jaccard.
        predicted: (num_classes,) voxels whose probability of the class reaches the threshold.
        labelled: (num_classes,) voxels with that label.
        tp: (num_classes,) voxels that are both; ``fp``, ``fn`` and ``tn`` are derived.
        confusion: (num_classes, num_classes) voxels by label (row) and most probable class (column).
    """

    def __init__(self, num_classes: int, threshold: float = 0.5) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes, self.threshold = num_classes, threshold
        self.tp = np.zeros(num_classes, dtype=np.int64)
        self.predicted = np.zeros(num_classes, dtype=np.int64)
        self.labelled = np.zeros(num_classes, dtype=np.int64)
        self.confusion = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, predicted: Array, labels: Array, valid: Array | None = None) -> None:
        """Count one block; call it once per block, blocks must not overlap.

        Args:
            predicted: Probabilities, (num_classes, z, y, x), floats in [0, 1] or uint8 in [0, 255]; or a class map
                (z, y, x) of integers, which counts as probability 1 of its class.
            labels: (z, y, x) class of every voxel, 0 .. num_classes - 1.
            valid: (z, y, x), non-zero where the voxel counts; None counts all.

        Raises:
            DataError: A label or a class of a class map is outside 0 .. num_classes - 1.
            ValueError: The shapes do not match.
        """
        is_class_map = predicted.ndim == labels.ndim
        if predicted.shape[0 if is_class_map else 1 :] != labels.shape:
            raise ValueError(f"predicted {predicted.shape} does not match labels {labels.shape}")
        if not is_class_map and predicted.shape[0] != self.num_classes:
            raise ValueError(f"predicted has {predicted.shape[0]} channels, expected {self.num_classes}")
        labels, predicted = _valid_voxels(labels, predicted, valid)
        target = self._classes_of(labels, "label")
        self.labelled += np.bincount(target, minlength=self.num_classes)
        if is_class_map:
            decided = self._classes_of(predicted, "predicted class")
            self.predicted += np.bincount(decided, minlength=self.num_classes)
            self.tp += np.bincount(target[decided == target], minlength=self.num_classes)
        else:
            decided = np.argmax(predicted, axis=0)
            least = self.threshold * 255 if predicted.dtype == np.uint8 else self.threshold
            for index in range(self.num_classes):
                reached = predicted[index] >= least
                self.predicted[index] += np.count_nonzero(reached)
                self.tp[index] += np.count_nonzero(reached & (target == index))
        pairs = np.bincount(target * self.num_classes + decided, minlength=self.num_classes**2)
        self.confusion += pairs.reshape(self.confusion.shape)

    def _classes_of(self, classes: Array, what: str) -> npt.NDArray[np.intp]:
        least, greatest = (int(classes.min()), int(classes.max())) if classes.size else (0, 0)
        if least < 0 or greatest >= self.num_classes:
            found = least if least < 0 else greatest
            raise DataError(
                f"Found {what} {found}, but there are {self.num_classes} classes (0 to {self.num_classes - 1}): "
                "relabel the data or raise num_classes."
            )
        return classes.astype(np.intp)

    def merge(self, other: ConfusionCounts) -> ConfusionCounts:
        """Return the sum of both counts, as if all blocks had been counted together; neither is changed."""
        if (other.num_classes, other.threshold) != (self.num_classes, self.threshold):
            raise ValueError("only counts with the same number of classes and the same threshold can be merged")
        both = ConfusionCounts(self.num_classes, self.threshold)
        for name in ("tp", "predicted", "labelled", "confusion"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    __add__ = merge

    @classmethod
    def merged(cls, parts: Iterable[ConfusionCounts]) -> ConfusionCounts:
        """Merge one or more counts into one."""
        remaining = iter(parts)
        total = next(remaining)
        for part in remaining:
            total = total.merge(part)
        return total

    @property
    def total(self) -> int:
        """Number of valid voxels counted."""
        return int(self.labelled.sum())

    @property
    def fp(self) -> npt.NDArray[np.int64]:
        """Voxels per class predicted (probability at least the threshold) but not labelled."""
        return self.predicted - self.tp

    @property
    def fn(self) -> npt.NDArray[np.int64]:
        """Voxels per class labelled but not predicted."""
        return self.labelled - self.tp

    @property
    def tn(self) -> npt.NDArray[np.int64]:
        """Voxels per class neither labelled nor predicted."""
        return self.total - self.predicted - self.fn

    @property
    def dice(self) -> Scores:
        """(num_classes,) dice at the threshold."""
        return dice(self.tp, self.fp, self.fn)

    @property
    def jaccard(self) -> Scores:
        """(num_classes,) jaccard index at the threshold."""
        return jaccard(self.tp, self.fp, self.fn)

    @property
    def precision(self) -> Scores:
        """(num_classes,) precision of the most probable class."""
        return ratio(np.diagonal(self.confusion), self.confusion.sum(axis=0))

    @property
    def recall(self) -> Scores:
        """(num_classes,) recall of the most probable class."""
        return ratio(np.diagonal(self.confusion), self.confusion.sum(axis=1))

    def scores(self, suffix: str = "") -> dict[str, float]:
        """Return all scores by the names they are logged under.

        Args:
            suffix: Appended to every name: ``_ds_0`` for the first data-config entry.

        Returns:
            ``dice_class_<c>``, ``jaccard_class_<c>``, ``precision_<c>`` and ``recall_<c>`` for every class;
            NaN where undefined.
        """
        named = {
            "dice_class": self.dice,
            "jaccard_class": self.jaccard,
            "precision": self.precision,
            "recall": self.recall,
        }
        return {
            f"{name}_{index}{suffix}": float(value)
            for name, values in named.items()
            for index, value in enumerate(values)
        }

    def __repr__(self) -> str:
        return f"ConfusionCounts(num_classes={self.num_classes}, threshold={self.threshold}, total={self.total})"


def voxel_scores(
    predicted: Array, labels: Array, valid: Array | None = None, *, num_classes: int, threshold: float = 0.5
) -> dict[str, float]:
    """Score one array at once: ``ConfusionCounts.update`` followed by ``scores``; the arguments are described there."""
    counts = ConfusionCounts(num_classes, threshold)
    counts.update(predicted, labels, valid)
    return counts.scores()


def _valid_voxels(labels: Array, predicted: Array, valid: Array | None) -> tuple[Array, Array]:
    """Flatten the spatial axes and keep the valid voxels; no copy when all are valid."""
    predicted = predicted.reshape(-1) if predicted.ndim == labels.ndim else predicted.reshape(predicted.shape[0], -1)
    if valid is not None and valid.shape != labels.shape:
        raise ValueError(f"valid {valid.shape} does not match labels {labels.shape}")
    labels = labels.reshape(-1)
    if valid is None:
        return labels, predicted
    kept = valid.reshape(-1) != 0
    return (labels, predicted) if kept.all() else (labels[kept], predicted[..., kept])
