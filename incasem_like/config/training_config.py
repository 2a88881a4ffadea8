"""The training configuration: all sections of ``config_training.yaml`` and constraints between them."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, SerializeAsAny, model_validator

from incasem_like.config.kinds import Seed, contradiction
from incasem_like.config.network_sections import LossConfig, ModelConfig, UnetModel, VoxelConfig
from incasem_like.config.section import Document
from incasem_like.config.shared_sections import DirectoriesConfig, TorchConfig, TrainingTrackingConfig
from incasem_like.config.training_sections import SacredConfig, SourcesConfig, TrainingSection, ValidationSection
from incasem_like.terminal import nearest

METRICS = ("dice", "jaccard", "precision", "recall")


class TrainingConfig(Document):
    """All parameters of a training, with incasem's keys and defaults."""

    seed: Seed | None = Field(None, description="Random seed; null = drawn at the start and tracked.")
    directories: DirectoriesConfig = Field(default_factory=DirectoriesConfig, description="Folders.")
    training: TrainingSection = Field(default_factory=TrainingSection, description="The training loop.")
    validation: ValidationSection = Field(default_factory=ValidationSection, description="Validation during training.")
    sources: SourcesConfig = Field(
        default_factory=SourcesConfig, description="Accepted for compatibility with incasem's files."
    )
    data: VoxelConfig = Field(default_factory=VoxelConfig, description="Voxels and classes.")
    model: SerializeAsAny[ModelConfig] = Field(default_factory=UnetModel, description="Architecture of the network.")
    loss: LossConfig = Field(default_factory=LossConfig, description="Loss.")
    torch: TorchConfig = Field(default_factory=TorchConfig, description="Device and arithmetic.")
    sacred: SacredConfig = Field(default_factory=SacredConfig, description="Metrics in the run store.")
    tracking: TrainingTrackingConfig = Field(
        default_factory=TrainingTrackingConfig, description="Run store, and the checkpoints stored in it."
    )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        self._check_classes()
        self._check_block_sizes()
        self._check_augmentation()
        self._check_best_metric()
        return self

    def _check_classes(self) -> None:
        classes = self.data.num_classes
        if self.model.outputs is None and self.model.num_fmaps_out != classes:
            raise contradiction(
                f"model.num_fmaps_out is {self.model.num_fmaps_out}, but data.num_classes is {classes}: "
                f"the network needs one output channel per class, set model.num_fmaps_out={classes}."
            )
        if len(self.loss.weight) != classes:
            raise contradiction(
                f"loss.weight has {len(self.loss.weight)} entries, but data.num_classes is {classes}: "
                f"give one weight per class, such as loss.weight={[1.0] * classes}."
            )

    def _check_block_sizes(self) -> None:
        for name, section in (("training", self.training), ("validation", self.validation)):
            for size_in, size_out in zip(section.input_size_voxels, section.output_size_voxels, strict=True):
                if size_out > size_in or (size_in - size_out) % 2:
                    raise contradiction(
                        f"{name}.output_size_voxels {list(section.output_size_voxels)} does not lie centred in "
                        f"{name}.input_size_voxels {list(section.input_size_voxels)}: "
                        "along each axis input - output has to be an even number of at least 0."
                    )

    def _check_augmentation(self) -> None:
        simple, elastic, sizes = (
            self.training.augmentation.simple,
            self.training.augmentation.elastic,
            self.data.voxel_size,
        )
        if simple is not None:
            self._check_exchange(simple.transpose_only)
        if elastic is not None and elastic.rotation and sizes[1] != sizes[2]:
            raise contradiction(
                f"training.augmentation.elastic.rotation turns y into x, but their voxel sizes {_short(sizes[1])} and "
                f"{_short(sizes[2])} nm differ: set training.augmentation.elastic.rotation=false."
            )

    def _check_exchange(self, axes: tuple[int, ...]) -> None:
        """Check that exchanging axes keeps the shape of blocks and does not distort objects."""
        compared: tuple[tuple[str, str, tuple[float, ...], str], ...] = (
            ("voxel sizes", "data.voxel_size", self.data.voxel_size, " nm"),
            ("sizes", "training.input_size_voxels", self.training.input_size_voxels, ""),
            ("output sizes", "training.output_size_voxels", self.training.output_size_voxels, ""),
        )
        kinds = [tuple(values[axis] for _, _, values, _ in compared) for axis in range(3)]
        groups = [[other for other in axes if kinds[other] == kinds[axis]] for axis in axes]
        largest = max(groups, key=len, default=[])
        allowed = largest if len(largest) > 1 else []
        for what, key, values, unit in compared:
            if len({values[axis] for axis in axes}) > 1:
                raise contradiction(
                    f"training.augmentation.simple.transpose_only {list(axes)} exchanges axes whose {what} differ "
                    f"({key} is {[*map(_short, values)]}{unit}): set transpose_only={allowed}."
                )

    def _check_best_metric(self) -> None:
        chosen = self.training.checkpoints
        known = [f"{metric}_class_{index}" for metric in METRICS for index in range(self.data.num_classes)] + ["loss"]
        key = "training.checkpoints.best_metric"
        if chosen.best_metric not in known:
            near = nearest(chosen.best_metric, known)
            ending = near if near else f": known are {', '.join(known)}."
            if re.fullmatch(rf"({'|'.join(METRICS)})_class_\d+", chosen.best_metric):
                classes = self.data.num_classes
                ending = f": data.num_classes is {classes}, so classes run from 0 to {classes - 1}."
            raise contradiction(f"{key} '{chosen.best_metric}' is not a validation metric{ending}")
        better = "min" if chosen.best_metric == "loss" else "max"
        if chosen.best_mode != better:
            raise contradiction(
                f"{key} is '{chosen.best_metric}' with best_mode '{chosen.best_mode}', "
                f"which would keep the worst checkpoint: set training.checkpoints.best_mode={better}."
            )


def _short(number: float) -> float | int:
    return int(number) if number == int(number) else number
