"""Validation: each data-config entry is predicted and measured tile by tile, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from incasem_like.evaluation import ConfusionCounts
from incasem_like.networks import build_loss
from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.targets import balance_weights
from incasem_like.training.figures import OrthoPlanes, ortho_figure
from incasem_like.training.log import TrainingLog, mean_scores, score_table
from incasem_like.training.snapshots import ValidationSnapshot

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.samples import Region
    from incasem_like.volumes import Roi

Array = npt.NDArray[Any]
SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)


class EntryMeasurement:
    """Loss and voxel counts of one entry, accumulated tile by tile.

    The loss is that of training (incasem's validation loss): with l = cross-entropy * class weight and the scale that
    balances the classes within each tile and is 0 outside the mask, it is sum(l * scale) / sum(scale) over the whole
    region. Counts are taken where mask and metric masks allow.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self._config, self._loss = config, build_loss(config.loss)
        self.counts = ConfusionCounts(config.data.num_classes)
        self._loss_sum = self._scale_sum = 0.0

    def add(self, probabilities: Array, labels: Array, mask: Array, metric_mask: Array) -> None:
        """Count one tile: (classes, z, y, x) probabilities against (z, y, x) labels and masks."""
        balance = self._config.loss.balance_labels
        scale = balance_weights(labels, mask, self._config.data.num_classes, balance.clipmin, balance.clipmax)
        total = float(scale.sum(dtype=np.float64))
        if total > 0:
            logits = torch.from_numpy(probabilities).clamp_min(SMALLEST_PROBABILITY).log()
            target = torch.from_numpy(labels.astype(np.int64))
            loss = self._loss(logits[None], target[None], torch.from_numpy(scale)[None])
            self._loss_sum += float(loss) * total
            self._scale_sum += total
        self.counts.update(probabilities, labels, metric_mask)

    @property
    def loss(self) -> float:
        """Loss over all tiles so far; NaN if the mask excludes all voxels."""
        return self._loss_sum / self._scale_sum if self._scale_sum else math.nan


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
        self._network, self._predictor = network, predictor

    def run(self, iteration: int, stop: Callable[[], bool]) -> dict[str, float] | None:
        """Measure all entries and write the scores to the log.

        Args:
            iteration: Number of updates the network has seen.
            stop: Called after every tile; True ends the validation without a result.

        Returns:
            Means over the entries, without undefined values: ``loss``, ``dice_class_<c>``, ``jaccard_class_<c>``,
            ``precision_class_<c>``, ``recall_class_<c>``; NaN where no entry defines one. None when stopped.
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

    def _measure(self, region: Region, iteration: int, stop: Callable[[], bool]) -> tuple[EntryMeasurement, _Picture]:
        measured, picture = EntryMeasurement(self.config), _Picture(region, self.config.data.num_classes)
        snapshot = self._snapshot(region, iteration)

        def read(roi: Roi) -> npt.NDArray[np.float32]:
            return region.read_raw(roi, outside="reflect")

        for tile, probabilities in self._predictor.predict(read, region.roi, region.raw_roi.begin):
            arrays: dict[str, Array] = {
                "raw": region.read_raw(tile),
                "labels": region.read_labels(tile),
                "mask": region.read_mask(tile),
                "metric_mask": region.read_metric_mask(tile),
                "predictions": probabilities,
            }
            measured.add(probabilities, arrays["labels"], arrays["mask"], arrays["metric_mask"])
            picture.add(tile, arrays)
            if snapshot:
                snapshot.add(tile, arrays)
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
        return ValidationSnapshot(container, region.roi, self.config.data.num_classes, region.voxel_size)

    def _log_entry(self, index: int, entry: tuple[EntryMeasurement, _Picture], iteration: int) -> dict[str, float]:
        measured, picture = entry
        scores, part = score_table(measured.counts), f"validation/{self.regions[index].name}"
        self.log.tensorboard.scalars(part, {"loss_0": measured.loss, **scores}, iteration)
        self.log.tensorboard.image(part, "ortho_slices", picture.figure(), iteration)
        named = {f"{name}_validation_ds_{index}": value for name, value in scores.items()}
        self.log.store({f"loss_val_ds_{index}_type_0": measured.loss, **named}, iteration)
        return {"loss": measured.loss, **scores}


class _Picture:
    """Central planes of an entry, gathered from its tiles."""

    def __init__(self, region: Region, num_classes: int) -> None:
        self._voxel_size = region.voxel_size
        self._raw, self._labels = OrthoPlanes(region.roi), OrthoPlanes(region.roi)
        self._probabilities = OrthoPlanes(region.roi, num_classes)

    def add(self, tile: Roi, arrays: Mapping[str, Array]) -> None:
        self._raw.add(tile, arrays["raw"])
        self._labels.add(tile, arrays["labels"])
        self._probabilities.add(tile, arrays["predictions"])

    def figure(self) -> npt.NDArray[np.uint8]:
        return ortho_figure(self._raw.planes, self._labels.planes, self._probabilities.planes, self._voxel_size)
