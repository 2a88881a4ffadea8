"""Images of training samples: ortho-slices in TensorBoard, and snapshots on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.training.figures import central_crop, central_planes, ortho_figure
from incasem_like.training.snapshots import write_training_snapshot

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.training.log import Step
    from incasem_like.training.tensorboard import TensorBoardLog


class SampleShow:
    """Writes images and snapshots of the first sample of a batch at the configured intervals.

    Args:
        config: The run's configuration: intervals and voxel size.
        tensorboard: Receives the images.
        snapshots: ``snapshots/<id>/training``.
    """

    def __init__(self, config: TrainingConfig, tensorboard: TensorBoardLog, snapshots: Path) -> None:
        self._image_every, self._snapshot_every = config.training.image_every, config.training.snapshot.every
        self._voxel_size = [size * config.data.downsample_factor for size in config.data.voxel_size]
        self._tensorboard, self._snapshots = tensorboard, snapshots

    def __call__(self, step: Step) -> None:
        """Write the step's first sample if an image or snapshot is due at its iteration."""
        with_image = self._image_every and step.iteration % self._image_every == 0
        with_snapshot = self._snapshot_every and step.iteration % self._snapshot_every == 0
        if not with_image and not with_snapshot:
            return
        sample = {name: step.batch[name][0].numpy() for name in ("raw", "labels", "mask", "scale")}
        probabilities = step.logits[0].float().softmax(dim=0).cpu().numpy()
        if with_image:
            self._tensorboard.image("training", "ortho_slices", self._figure(sample, probabilities), step.iteration)
        if with_snapshot:
            container = self._snapshots / f"{step.iteration}.zarr"
            write_training_snapshot(container, sample, probabilities, self._voxel_size, step.loss)

    def _figure(self, sample: dict[str, npt.NDArray[Any]], probabilities: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        raw = central_crop(sample["raw"][0], sample["labels"].shape) * 0.5 + 0.5
        return ortho_figure(
            central_planes(raw), central_planes(sample["labels"]), central_planes(probabilities), self._voxel_size
        )
