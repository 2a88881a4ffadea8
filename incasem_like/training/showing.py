"""Images of training samples: ortho-slices in TensorBoard, and snapshots on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from incasem_like.targets import activate, channel_slices, targets_of
from incasem_like.training.figures import Image, central_crop, central_planes, ortho_figure
from incasem_like.training.snapshots import write_training_snapshot

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.training.log import Step
    from incasem_like.training.tensorboard import TensorBoardLog


class SampleShow:
    """Writes images and snapshots of the first sample of a batch at the configured intervals.

    Args:
        config: The run's configuration: intervals, targets and voxel size.
        tensorboard: Receives the images.
        snapshots: ``snapshots/<id>``.
    """

    def __init__(self, config: TrainingConfig, tensorboard: TensorBoardLog, snapshots: Path) -> None:
        self._image_every, self._snapshot_every = config.training.image_every, config.training.snapshot.every
        self._voxel_size = [size * config.data.downsample_factor for size in config.data.voxel_size]
        self._tensorboard, self._snapshots, self._targets = tensorboard, snapshots, targets_of(config)

    def __call__(self, step: Step) -> None:
        """Write the step's first sample if an image or snapshot is due at its iteration."""
        with_image = self._image_every and step.iteration % self._image_every == 0
        with_snapshot = self._snapshot_every and step.iteration % self._snapshot_every == 0
        if not with_image and not with_snapshot:
            return
        sample, predicted = _sample(step.batch, 0), self._predicted(step, 0)
        if with_image:
            self._tensorboard.image("training", "ortho_slices", self._figure(sample, predicted), step.iteration)
        if with_snapshot:
            container = self._snapshots / "training" / f"{step.iteration}.zarr"
            write_training_snapshot(container, sample, predicted, self._targets, self._voxel_size, step.loss)

    def keep(self, step: Step) -> Path:
        """Write the samples that made an update fail, so that they can be viewed; return the path of the first.

        Those are the ones whose prediction is not finite, else all of the batch.
        """
        folder = self._snapshots / "not_finite" / str(step.iteration)
        count = len(step.logits)  # fewer than samples if a later part of the batch was not reached
        broken = [number for number in range(count) if not step.logits[number].isfinite().all()] or list(range(count))
        for number in broken:
            write_training_snapshot(
                folder / f"sample_{number}.zarr", _sample(step.batch, number), self._predicted(step, number),
                self._targets, self._voxel_size, step.loss, as_floats=True,
            )  # fmt: skip
        return folder / f"sample_{broken[0]}.zarr"

    def _predicted(self, step: Step, number: int) -> list[npt.NDArray[Any]]:
        logits = step.logits[number : number + 1].float()
        return [
            activate(logits[:, channels], target.activation)[0].cpu().numpy()
            for target, channels in zip(self._targets, channel_slices(self._targets), strict=True)
        ]

    def _figure(self, sample: Mapping[str, Any], predicted: Sequence[npt.NDArray[Any]]) -> Image:
        raw = central_crop(sample["raw"][0], sample["labels"].shape) * 0.5 + 0.5
        pairs = [
            (target, central_planes(sample["targets"][target.name]["target"]), central_planes(values))
            for target, values in zip(self._targets, predicted, strict=True)
        ]
        return ortho_figure(central_planes(raw), pairs, self._voxel_size)


def _sample(batch: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return one sample of a batch as arrays."""
    return {
        name: _sample(value, number) if isinstance(value, Mapping) else value[number].numpy()
        for name, value in batch.items()
        if name != "info"
    }
