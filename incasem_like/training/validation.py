"""Validation: each data-config entry is predicted and measured tile by tile, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.samples.blocks import BlockReader, label_block
from incasem_like.samples.settings import SampleSettings
from incasem_like.targets import Target, channel_slices
from incasem_like.training.log import TrainingLog, mean_scores, measure
from incasem_like.training.snapshots import Picture, ValidationSnapshot
from incasem_like.volumes import Coordinate

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.config.target_sections import Activation
    from incasem_like.samples import Region
    from incasem_like.volumes import Roi

Array = npt.NDArray[Any]
SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)
ALMOST_CERTAIN = 1e-7


class EntryMeasurement:
    """Losses and scores of one entry, accumulated tile by tile.

    Losses are those of training. That of a region is the mean over its tiles by their sums of weights; for incasem's
    cross-entropy, the sum over the whole region of loss times weight, divided by the sum of weights. Scores count where
    mask and metric masks allow.

    Args:
        targets: What the network learns, in the order of its channels.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets, self._slices = targets, channel_slices(targets)
        self._measures = [measure(target) for target in targets]
        self._losses, self._weights = np.zeros((2, len(targets)))

    def add(self, values: Array, made: Sequence[tuple[Array, Array]], metric_mask: Array) -> None:
        """Compare one tile of predicted values (channels, z, y, x) with what each target makes of its labels."""
        for index, (target, channels) in enumerate(zip(self._targets, self._slices, strict=True)):
            wanted, weight = made[index]
            total = float(weight.sum(dtype=np.float64))
            if total > 0:
                logits = _logits(torch.from_numpy(values[channels]), target.activation)
                batch = (torch.from_numpy(np.ascontiguousarray(array))[None] for array in (wanted, weight))
                self._losses[index] += float(target.loss_of(logits[None], *batch)) * total
                self._weights[index] += total
            self._measures[index].add(values[channels], wanted, (weight > 0) & (metric_mask > 0))

    @property
    def loss(self) -> float:
        """The weighted sum of the targets' losses over all tiles so far; NaN if one is undefined."""
        return float(sum(target.weight * loss for target, loss in zip(self._targets, self._means, strict=True)))

    def scores(self) -> dict[str, float]:
        """Return all validation metrics by name; NaN where undefined."""
        names = [f"loss_{target.name}" for target in self._targets] if len(self._targets) > 1 else []
        scores = dict(zip(names, self._means, strict=False))
        for measured in self._measures:
            scores |= measured.scores()
        return scores

    @property
    def _means(self) -> list[float]:
        """The loss of each target; NaN where no voxel counts."""
        pairs = zip(self._losses.tolist(), self._weights.tolist(), strict=True)
        return [loss / weight if weight else math.nan for loss, weight in pairs]


def _logits(values: torch.Tensor, activation: Activation) -> torch.Tensor:
    """Return logits that the activation turns into these values; certain ones are not infinite."""
    if activation == "softmax":
        return values.clamp_min(SMALLEST_PROBABILITY).log()
    return values.logit(eps=ALMOST_CERTAIN) if activation == "sigmoid" else values


class Validator:
    """Measures a network on the validation entries.

    Args:
        config: The run's configuration.
        regions: The opened entries, in the order of the data config.
        network: The network in training, on its device.
        predictor: Predicts a region tile by tile with that network.
        log: Receives scores and images.
        snapshots: ``snapshots/<id>/validation``.
    """

    def __init__(
        self,
        config: TrainingConfig,
        regions: Sequence[Region],
        *,
        network: torch.nn.Module,
        predictor: TiledPredictor,
        log: TrainingLog,
        snapshots: Path,
    ) -> None:
        self.config, self.regions, self.log, self.snapshots = config, regions, log, snapshots
        self.settings = SampleSettings.from_config(config)
        self.targets = self.settings.targets
        self._network, self._predictor = network, predictor

    def run(self, iteration: int, stop: Callable[[], bool]) -> dict[str, float] | None:
        """Measure all entries and write the scores to the log.

        Args:
            iteration: Number of updates the network has seen.
            stop: Called after every tile; True ends the validation without a result.

        Returns:
            Means over the entries, without undefined values: ``loss`` and the metrics of each target, such as
            ``dice_class_<c>``; NaN where no entry defines one. None when stopped.
        """
        self._network.eval()
        try:
            measured = []
            for region in self.regions:
                measured.append(self._measure(region, iteration, stop))
                if stop():
                    return None
        finally:
            self._network.train()
        tables = [self._log_entry(index, entry, iteration) for index, entry in enumerate(measured)]
        means = mean_scores(tables)
        self.log.store(means, iteration)
        self.log.tensorboard.scalars("validation", means, iteration)
        return means

    def _measure(self, region: Region, iteration: int, stop: Callable[[], bool]) -> tuple[EntryMeasurement, Picture]:
        measured, picture = EntryMeasurement(self.targets), Picture(region.roi, self.targets, region.voxel_size)
        snapshot = self._snapshot(region, iteration)
        settings = self.settings
        weighted = region.weights is not None
        reader = BlockReader(region, Coordinate(0, 0, 0), 0, 0, settings.instance_classes, weighted)
        context = Coordinate(settings.label_context)

        def read(roi: Roi) -> npt.NDArray[np.float32]:
            return region.read_raw(roi, outside="reflect")

        for tile, values in self._predictor.predict(read, region.roi, region.raw_roi.begin):
            arrays = reader.read_labels(tile.grow(context, context))
            block = label_block(arrays, settings.instance_classes, region.voxel_size, settings.label_context)
            made = [target.weighted(block) for target in self.targets]
            raw, metric_mask = region.read_raw(tile), region.read_metric_mask(tile)
            measured.add(values, made, metric_mask)
            picture.add(tile, raw, [wanted for wanted, _ in made], values)
            if snapshot:
                labels = {"labels": block.crop(block.classes), "mask": block.crop(block.mask)}
                snapshot.add(tile, {"raw": raw, **labels, "metric_mask": metric_mask}, values)
            if stop():
                return measured, picture
        if snapshot:
            snapshot.close()
        return measured, picture

    def _snapshot(self, region: Region, iteration: int) -> ValidationSnapshot | None:
        every, between = self.config.validation.snapshot.every, self.config.validation.validate_every
        if not every or iteration % (every * between):
            return None
        container = self.snapshots / region.name / f"{iteration}.zarr"
        return ValidationSnapshot(container, region, self.targets)

    def _log_entry(self, index: int, entry: tuple[EntryMeasurement, Picture], iteration: int) -> dict[str, float]:
        measured, picture = entry
        scores, part = measured.scores(), f"validation/{self.regions[index].name}"
        self.log.tensorboard.scalars(part, {"loss_0": measured.loss, **scores}, iteration)
        self.log.tensorboard.image(part, "ortho_slices", picture.figure(), iteration)
        named = {f"{name}_validation_ds_{index}": value for name, value in scores.items()}
        self.log.store({f"loss_val_ds_{index}_type_0": measured.loss, **named}, iteration)
        return {"loss": measured.loss, **scores}
