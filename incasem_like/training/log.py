"""Scores of predictions, and logging: to TensorBoard in full, to the run store at intervals, under incasem's names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from incasem_like.config.target_sections import SCORES, Kind
from incasem_like.evaluation import ConfusionCounts
from incasem_like.evaluation.voxel import Scores, dice, jaccard, precision, ratio, recall
from incasem_like.targets import Target, activate, channel_slices, targets_of
from incasem_like.training.tensorboard import HPARAMS

if TYPE_CHECKING:
    import torch

    from incasem_like.config import TrainingConfig
    from incasem_like.training.state import BestMemory
    from incasem_like.training.tensorboard import TensorBoardLog


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


class ScalarStore(Protocol):
    """The interface of a tracked run that the log needs."""

    def log_scalar(self, name: str, value: float, step: int) -> None:
        """Store one value of a metric."""
        ...

    def flush(self) -> None:
        """Write everything stored so far to disk."""
        ...


@dataclass(frozen=True)
class Step:
    """One finished update.

    Attributes:
        iteration: 1 .. N.
        loss: Loss of its batch, before the update.
        learning_rate: Learning rate of the update.
        batch: The samples.
        logits: (b, channels, z, y, x) on the device, before the update.
        rate: Recent iterations per second.
        losses: Of several targets, the loss of each, ``loss_<name>``.
    """

    iteration: int
    loss: float
    learning_rate: float
    batch: Mapping[str, Any]
    logits: torch.Tensor
    rate: float
    losses: Mapping[str, float] = field(default_factory=dict)


class TrainingLog:
    """Writes the metrics of training and validation.

    Args:
        config: The run's configuration: intervals, targets and number of classes.
        run: The tracked run.
        tensorboard: The run's TensorBoard folder.
    """

    def __init__(self, config: TrainingConfig, run: ScalarStore, tensorboard: TensorBoardLog) -> None:
        self.run, self.tensorboard = run, tensorboard
        self._classes, self._targets = config.data.num_classes, targets_of(config)
        self._every, self._store_every = config.training.log_every, config.sacred.log_every

    def training(self, step: Step) -> None:
        """Write the metrics that are due after one update.

        TensorBoard gets ``loss_0``, of several targets ``loss_<name>`` of each, ``pct_class_<c>`` (see
        ``class_shares``), ``learning_rate`` and ``iterations_per_second``; the run store ``loss_train_0``,
        ``loss_<name>_train``, ``pct_class_<c>`` and the main score of each target, such as
        ``dice_class_<c>_train``.
        """
        to_store = step.iteration % self._store_every == 0
        if step.iteration % self._every and not to_store:
            return
        shares = class_shares(step.batch, self._targets, self._classes)
        if step.iteration % self._every == 0:
            speed = {"learning_rate": step.learning_rate, "iterations_per_second": step.rate}
            values = {"loss_0": step.loss, **step.losses, **shares, **speed}
            self.tensorboard.scalars("training", values, step.iteration)
        if to_store:
            of_targets = {**step.losses, **self._training_scores(step)}
            named = {f"{name}_train": value for name, value in of_targets.items()}
            self.store({"loss_train_0": step.loss, **shares, **named}, step.iteration)

    def store(self, values: Mapping[str, float], iteration: int) -> None:
        """Write metrics to the run store; undefined ones (NaN) are left out."""
        for name, value in values.items():
            if not math.isnan(value):
                self.run.log_scalar(name, value, iteration)

    def result(self, metrics: Mapping[str, float], best: BestMemory, iteration: int) -> None:
        """Write the results so far to TensorBoard's HParams page; values that are not measured now stay there."""
        main = {name for target in self._targets for name in main_scores(target)} - {"dice_class_0"}
        scores = [name for name in metrics if name.startswith("loss") or name in main]
        values = {name: metrics[name] for name in scores} | {f"best_{best.metric}": best.value, "iteration": iteration}
        self.tensorboard.scalars(HPARAMS, {f"result/{name}": value for name, value in values.items()}, iteration)

    def flush(self) -> None:
        """Flush everything written so far, so that it survives this process."""
        self.tensorboard.flush()
        self.run.flush()

    def _training_scores(self, step: Step) -> dict[str, float]:
        found: dict[str, float] = {}
        for target, channels in zip(self._targets, channel_slices(self._targets), strict=True):
            measured = measure(target)
            values = activate(step.logits[:, channels].float(), target.activation).cpu().numpy()
            wanted, weight = (step.batch["targets"][target.name][key].numpy() for key in ("target", "weight"))
            for index in range(len(values)):
                measured.add(values[index], wanted[index], weight[index] > 0)
            scores = measured.scores()
            found |= {name: scores[name] for name in main_scores(target)}
        return found


def main_scores(target: Target) -> list[str]:
    """Return the names of the score of a target that says most, of each group of its channels."""
    score = next(iter(SCORES[target.kind]))
    return [target.score_name(score, group) for group in target.score_groups]


def class_shares(batch: Mapping[str, Any], targets: Sequence[Target], num_classes: int) -> dict[str, float]:
    """Return the share of the voxels in each class, named ``pct_class_<c>``, 0 to 1.

    Where a target learns classes that overlap, a voxel counts in each of its classes; otherwise voxels of several label
    datasets are background, as they are learnt.
    """
    labels = batch["labels"].numpy()
    # Comparing bytes is forty times faster than counting all values at once, which would delay each step.
    counts = [np.count_nonzero(labels == index) for index in range(num_classes)]
    for target in targets:
        if target.overlaps:
            classes = np.moveaxis(batch["targets"][target.name]["target"].numpy(), 1, 0) > 0
            counts = [labels.size - np.count_nonzero(classes.any(axis=0)), *map(np.count_nonzero, classes)]
    return {f"pct_class_{index}": int(count) / labels.size for index, count in enumerate(counts)}


def mean_scores(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average score tables name by name; undefined scores do not count, and a mean of none is NaN."""
    means = {}
    for name in tables[0] if tables else ():
        defined = [table[name] for table in tables if not math.isnan(table[name])]
        means[name] = float(np.mean(defined)) if defined else math.nan
    return means
