"""The training configuration: all sections of ``config_training.yaml`` and constraints between them."""

from __future__ import annotations

import re
import secrets
from typing import Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from incasem_like.config.kinds import Seed, contradiction
from incasem_like.config.network_sections import (
    LossConfig,
    ModelConfig,
    UnetModel,
    VoxelConfig,
    input_sections,
    output_sections,
)
from incasem_like.config.section import Document, Section
from incasem_like.config.shared_sections import DirectoriesConfig, TorchConfig, TrainingTrackingConfig
from incasem_like.config.target_sections import SCORES, Targets, TargetSection, parse_targets
from incasem_like.config.training_sections import SacredConfig, SourcesConfig, TrainingSection, ValidationSection
from incasem_like.terminal import nearest


class TrainingConfig(Document):
    """All parameters of a training, with incasem's keys and defaults."""

    seed: Seed | None = Field(None, description="Random seed; null = drawn at the start and tracked.")
    directories: DirectoriesConfig = Field(default_factory=DirectoriesConfig, description="Folders.")
    training: TrainingSection = Field(default_factory=TrainingSection, description="The training loop.")
    validation: ValidationSection = Field(default_factory=ValidationSection, description="Validation during training.")
    sources: SourcesConfig = Field(default_factory=SourcesConfig)
    """Accepted for compatibility with incasem's files."""
    data: VoxelConfig = Field(default_factory=VoxelConfig, description="Voxels and classes.")
    targets: Targets | None = None
    """What the network learns: a list of targets, whose channels follow one another; null = classes, by
    `data.num_classes` and `loss`."""
    model: SerializeAsAny[ModelConfig] = Field(default_factory=UnetModel, description="Architecture of the network.")
    loss: LossConfig = Field(default_factory=LossConfig, description="Loss of a training without `targets`.")
    torch: TorchConfig = Field(default_factory=TorchConfig, description="Device and arithmetic.")
    sacred: SacredConfig = Field(default_factory=SacredConfig, description="Metrics in the run store.")
    tracking: TrainingTrackingConfig = Field(default_factory=TrainingTrackingConfig)
    """Run store, and the checkpoints stored in it."""

    def with_seed(self) -> Self:
        """Return it with a seed, which is drawn if it sets none."""
        return self if self.seed is not None else self.model_copy(update={"seed": secrets.randbelow(2**32)})

    @property
    def resolved_targets(self) -> tuple[TargetSection, ...]:
        """What the network learns, in the order of its channels; without ``targets``, classes by incasem's keys."""
        targets = self.targets
        if targets is None:
            loss = {"type": self.loss.type, "weight": self.loss.weight}
            classes = {"type": "classes", "loss": loss, **self.loss.balance_labels.model_dump()}
            targets = parse_targets([classes])
        return tuple(target.resolved(self.data.num_classes) for target in targets)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        self._check_input()
        self._check_targets()
        self._check_block_sizes()
        self._check_training_options()
        self._check_augmentation()
        self._check_best_metric()
        return self

    def _check_input(self) -> None:
        """Check what a network on predictions reads, and derive its input channels."""
        synthetic, model = self.training.synthetic, self.model
        if synthetic is None:
            return
        if self.training.data is not None or self.validation.data is not None:
            raise contradiction(
                "training.synthetic trains on random objects: set training.data and validation.data to null, or "
                "training.synthetic."
            )
        if self.targets is None or self.data.num_classes != 2 or self.data.downsample_factor != 1:
            raise contradiction(
                "training.synthetic makes instances of one class: give targets such as affinities, data.num_classes=2 "
                "and data.downsample_factor=1."
            )
        read = tuple(target.resolved(2) for target in synthetic.input)
        for target in read:
            target.check(self.training.input_size_voxels, self.data.voxel_size)
        inputs = input_sections(read, self.data.voxel_size)
        channels = sum(group.channels for group in inputs)
        if model.in_channels != channels and "in_channels" in model.model_fields_set:
            raise contradiction(
                f"model.in_channels is {model.in_channels}, but training.synthetic.input has {channels} channels: "
                f"leave it out, or set model.in_channels={channels}."
            )
        if model.inputs is not None and model.inputs != inputs:
            raise contradiction(
                "model.inputs describes other channels than training.synthetic.input: set it to null, it follows."
            )
        self._derive("model", model.model_copy(update={"in_channels": channels, "inputs": inputs}))

    def _check_targets(self) -> None:
        """Check the targets, and derive what follows from them: the network's channels and the best metric."""
        targets = self.resolved_targets
        if self.targets is not None and self.loss != LossConfig():
            raise contradiction(
                "loss has no effect beside targets: give each target its own loss, or leave targets out."
            )
        voxel_size = [size * self.data.downsample_factor for size in self.data.voxel_size]
        for target in targets:
            target.check(self.training.output_size_voxels, voxel_size)
        model = self.model
        if self.targets is None and model.outputs is not None:
            return  # imported, to predict only
        channels = sum(target.channels for target in targets)
        if model.num_fmaps_out != channels and "num_fmaps_out" in model.model_fields_set:
            names = ", ".join(f"{target.name}: {target.channels}" for target in targets)
            raise contradiction(
                f"model.num_fmaps_out is {model.num_fmaps_out}, but the network needs a channel for each of what it "
                f"learns ({names}): leave it out, or set model.num_fmaps_out={channels}."
            )
        outputs = output_sections(targets)
        if model.outputs is not None and model.outputs != outputs:
            raise contradiction(
                "model.outputs describes other channels than targets: set it to null, it follows from them."
            )
        self._derive("model", model.model_copy(update={"num_fmaps_out": channels, "outputs": outputs}))

    def _check_block_sizes(self) -> None:
        for name, section in (("training", self.training), ("validation", self.validation)):
            for size_in, size_out in zip(section.input_size_voxels, section.output_size_voxels, strict=True):
                if size_out > size_in or (size_in - size_out) % 2:
                    raise contradiction(
                        f"{name}.output_size_voxels {list(section.output_size_voxels)} does not lie centred in "
                        f"{name}.input_size_voxels {list(section.input_size_voxels)}: "
                        "along each axis input - output has to be an even number of at least 0."
                    )

    def _check_training_options(self) -> None:
        training = self.training
        if training.batch_size % training.accumulate:
            raise contradiction(
                f"training.batch_size {training.batch_size} does not divide into training.accumulate "
                f"{training.accumulate} equal parts: set training.batch_size to a multiple of it."
            )
        if training.num_params is not None and training.num_params[0] > training.num_params[1]:
            raise contradiction(
                f"training.num_params {list(training.num_params)} is not ascending: give the fewest and the most."
            )

    def _check_augmentation(self) -> None:
        simple, elastic, sizes = (
            self.training.augmentation.simple,
            self.training.augmentation.elastic,
            self.data.voxel_size,
        )
        if self.training.augmentation.disks is not None and self.training.synthetic is not None:
            raise contradiction(
                "training.augmentation.disks leaves a part of painted labels, but training.synthetic needs none: set "
                "one of them to null."
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
        """Check the metric of the best checkpoint; by default it is the main one of the first target."""
        targets, chosen, known = self.resolved_targets, self.training.checkpoints, self.validation_metrics
        metric = chosen.best_metric if "best_metric" in chosen.model_fields_set else targets[0].main_metric
        key = "training.checkpoints.best_metric"
        if metric not in known:
            ending = nearest(metric, list(known)) or f": known are {', '.join(known)}."
            if self.targets is None and re.fullmatch(rf"({'|'.join(SCORES['classes'])})_class_\d+", metric):
                classes = self.data.num_classes
                ending = f": data.num_classes is {classes}, so classes run from 0 to {classes - 1}."
            raise contradiction(f"{key} '{metric}' is not a validation metric{ending}")
        if chosen.best_mode != known[metric] and "best_mode" in chosen.model_fields_set:
            raise contradiction(
                f"{key} is '{metric}' with best_mode '{chosen.best_mode}', "
                f"which would keep the worst checkpoint: set training.checkpoints.best_mode={known[metric]}."
            )
        best = chosen.model_copy(update={"best_metric": metric, "best_mode": known[metric]})
        self._derive("training", self.training.model_copy(update={"checkpoints": best}))

    @property
    def validation_metrics(self) -> dict[str, Literal["max", "min"]]:
        """The metrics of a validation, and whether the highest or the lowest value is best."""
        targets = self.resolved_targets
        losses = ["loss", *(f"loss_{target.name}" for target in targets if len(targets) > 1)]
        return {
            **{name: best for target in targets for name, best in target.metrics.items()},
            **dict.fromkeys(losses, "min"),
        }

    def _derive(self, section: str, value: Section) -> None:
        """Set a section to what follows from other keys; sections are frozen for everyone else."""
        object.__setattr__(self, section, value)


def _short(number: float) -> float | int:
    return int(number) if number == int(number) else number
