"""Scores of predictions, accumulated block by block: one way of measuring for each kind of target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from incasem_like.config.target_sections import SCORES, Kind
from incasem_like.evaluation import ConfusionCounts
from incasem_like.evaluation.voxel import Scores, dice, jaccard, precision, ratio, recall
from incasem_like.targets import Target

Array = npt.NDArray[Any]
SMALLEST = 1e-7  # of a probability whose logarithm is taken


class Measure(Protocol):
    """Accumulates blocks of predictions."""

    def add(self, values: Array, target: Array, counted: Array) -> None:
        """Compare a block with its target.

        Args:
            values: (channels, z, y, x) as predicted, with activation.
            target: As `Target.make` returns it.
            counted: True where a voxel counts; of the target's shape, or with one channel for all.
        """
        ...

    def scores(self) -> dict[str, float]:
        """Return all validation metrics of the target by name; NaN where undefined."""
        ...


def measure(target: Target) -> Measure:
    """Return a new measure for a target."""
    return MEASURES[target.kind](target)


class ClassMeasure:
    """Scores of classes that exclude each other; see ``evaluation.voxel``."""

    def __init__(self, target: Target) -> None:
        self._target, self.counts = target, ConfusionCounts(target.channels)

    def add(self, values: Array, target: Array, counted: Array) -> None:
        """Count a block; see `Measure`."""
        self.counts.update(values, target, counted)

    def scores(self) -> dict[str, float]:
        """Return dice, jaccard, precision and recall of each class."""
        return {
            self._target.score_name(score, group): float(getattr(self.counts, score)[channel])
            for score in SCORES["classes"]
            for group, (channel,) in self._target.score_groups.items()
        }


class BinaryMeasure:
    """Scores of independent channels at a threshold of 0.5, and their binary cross-entropy."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._tp, self._predicted, self._true, self._total, self._entropy = np.zeros((5, target.channels))

    def add(self, values: Array, target: Array, counted: Array) -> None:
        """Count a block; see `Measure`."""
        counted = np.broadcast_to(counted, target.shape)
        for channel, (value, true, count) in enumerate(zip(values, target > 0, counted, strict=True)):
            value, true = value[count], true[count]
            predicted = value >= 0.5
            self._tp[channel] += np.count_nonzero(predicted & true)
            self._predicted[channel] += np.count_nonzero(predicted)
            self._true[channel] += np.count_nonzero(true)
            self._total[channel] += true.size
            right = np.clip(np.where(true, value, 1 - value), SMALLEST, 1)
            self._entropy[channel] -= np.log(right).sum(dtype=np.float64)

    def scores(self) -> dict[str, float]:
        """Return dice, jaccard, precision, recall and cross-entropy of each group of channels."""
        counts = np.stack([self._tp, self._predicted, self._true, self._total, self._entropy])
        groups = self._target.score_groups
        tp, predicted, true, total, entropy = np.stack(
            [counts[:, list(channels)].sum(axis=1) for channels in groups.values()], axis=1
        )
        fp, fn = predicted - tp, true - tp
        values: dict[str, Scores] = {
            "dice": dice(tp, fp, fn), "jaccard": jaccard(tp, fp, fn), "precision": precision(tp, fp),
            "recall": recall(tp, fn), "bce": ratio(entropy, total),
        }  # fmt: skip
        return {
            self._target.score_name(score, group): float(values[score][index])
            for score in SCORES["binary"]
            for index, group in enumerate(groups)
        }


class ValueMeasure:
    """Mean squared error of continuous values."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._errors, self._total = np.zeros((2, target.channels))

    def add(self, values: Array, target: Array, counted: Array) -> None:
        """Add the errors of a block; see `Measure`."""
        counted = np.broadcast_to(counted, target.shape)
        self._errors += np.where(counted, np.square(values - target, dtype=np.float64), 0).sum(axis=(1, 2, 3))
        self._total += counted.sum(axis=(1, 2, 3))

    def scores(self) -> dict[str, float]:
        """Return the error of each group of channels."""
        return {
            self._target.score_name("mse", group): float(ratio(self._errors[of].sum(), self._total[of].sum()))
            for group, channels in self._target.score_groups.items()
            for of in [list(channels)]
        }


MEASURES: Mapping[Kind, type[ClassMeasure] | type[BinaryMeasure] | type[ValueMeasure]] = {
    "classes": ClassMeasure,
    "binary": BinaryMeasure,
    "values": ValueMeasure,
}
