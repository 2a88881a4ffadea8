"""Sections of the training loop: samples, augmentation, optimizer, checkpoints, validation, logging."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from incasem_like.config.appearance_sections import AppearanceSections
from incasem_like.config.kinds import (
    Axes,
    Checkpoint,
    Count,
    DefaultWords,
    ExistingFile,
    Flag,
    Fraction,
    NotNegative,
    Positive,
    PositiveNumber,
    Size,
    Spread,
    Text,
    contradiction,
)
from incasem_like.config.section import Section, without_nulls
from incasem_like.config.synthetic_sections import SyntheticSection

Pipeline = Literal["baseline_with_context"]


class OptimizerConfig(Section):
    """The optimizer."""

    lr: PositiveNumber = Field(3e-5, description="Learning rate.")
    type: Literal["adam", "adamw", "rmsprop", "sgd"] = Field("adam", description="Optimizer of torch.")
    weight_decay: NotNegative = 3e-5
    """L2 penalty, added to the gradient; `adamw` shrinks the weights by it instead (decoupled)."""
    momentum: Annotated[Fraction, Field(lt=1)] = Field(0.0, description="Momentum of `sgd` and `rmsprop`.")

    @model_validator(mode="after")
    def _momentum_has_an_effect(self) -> Self:
        if self.momentum and self.type not in ("sgd", "rmsprop"):
            raise contradiction(
                f"training.optimizer.momentum is {self.momentum:g}, but {self.type} has none: leave it out, or set "
                "training.optimizer.type to sgd or rmsprop."
            )
        return self


class ScheduleConfig(Section):
    """Learning-rate schedule."""

    type: Literal["constant", "cosine", "linear", "polynomial", "plateau"] = "constant"
    """Learning-rate schedule from the end of the warm-up to `training.iterations`. `plateau` lowers the rate whenever
    `checkpoints.best_metric` stops improving."""
    warmup_iterations: Count = 0
    """Iterations over which the learning rate rises linearly from 0; 0 = none."""
    final_fraction: Fraction = 0.0
    """Final, or with `plateau` lowest, learning rate as a share of `optimizer.lr`."""
    power: PositiveNumber = Field(0.9, description="Exponent of `polynomial`: (1 - progress) ^ power.")
    factor: Annotated[Fraction, Field(gt=0, lt=1)] = 0.2
    """Factor of the learning rate at a plateau (`plateau`)."""
    patience: Count = 3
    """Validations without improvement that are waited for before the rate is lowered (`plateau`)."""


class RejectConfig(Section):
    """Rejection of random blocks."""

    min_masked: Fraction = 0.05
    """Share of foreground voxels in a block below which it may be rejected."""
    reject_probability: Fraction = Field(0.9, description="Probability that a block with less foreground is rejected.")
    min_mask_fraction: Fraction = 0.75
    """Share of the block inside `mask` below which it may be rejected."""
    mask_reject_probability: Fraction = Field(0.95, description="Probability that a block with less mask is rejected.")


class ElasticConfig(Section):
    """Elastic deformation, rotation and section misalignment; null instead of the section switches it off."""

    control_point_spacing: Size = Field((32, 32, 32), description="Spacing of the control points in voxels, z, y, x.")
    jitter_sigma: Spread = (2.0, 2.0, 2.0)
    """Standard deviation of a control point's displacement in voxels, z, y, x."""
    subsample: Positive = 4
    """Compute the deformation on a grid coarser by this factor; 1 = exact and slow."""
    rotation: Flag = Field(True, description="Rotate about z by a random angle up to 90 degrees.")
    section_shift_probability: Fraction = 0.05
    """Probability per z section that it and all later ones are shifted in y and x."""
    section_slip_probability: Fraction = 0.0
    """Probability per z section that it alone is shifted in y and x."""
    max_misalign: Count = Field(2, description="Maximum shift or slip in voxels.")


class IntensityConfig(Section):
    """Brightness and contrast; null instead of the section switches it off."""

    scale: Fraction = Field(0.15, description="Contrast is multiplied by 1 - scale to 1 + scale.")
    shift: Fraction = Field(0.15, description="Brightness is shifted by -shift to +shift; raw ranges from 0 to 1.")


class SimpleConfig(Section):
    """Mirroring and transposing; null instead of the section switches it off."""

    transpose_only: Axes = (0, 1, 2)
    """Axes that may be exchanged (0 = z); they need equal voxel sizes."""
    mirror_only: Axes = Field((0, 1, 2), description="Axes that may be mirrored (0 = z).")


class DisksConfig(Section):
    """Sparse labels: of each z section of a block, only disks at new random places count; off by default."""

    count: Positive = Field(1, description="Disks of each z section.")
    radius: PositiveNumber = Field(20.0, description="Radius of a disk in voxels.")


class AugmentationConfig(AppearanceSections):
    """Random changes of each training block; null switches one off."""

    elastic: ElasticConfig | None = Field(default_factory=ElasticConfig, description="Elastic deformation; null = off.")
    intensity: IntensityConfig | None = Field(default_factory=IntensityConfig)
    """Brightness and contrast; null = off."""
    simple: SimpleConfig | None = Field(default_factory=SimpleConfig)
    """Mirroring and transposing; null = off."""
    disks: DisksConfig | None = Field(None, description="Only random disks of the labels count; null = off.")


class SnapshotConfig(Section):
    """Training blocks written to disk for inspection."""

    every: Count = 1000
    """Write raw, labels, loss scaling and prediction of a block every n iterations; 0 = never."""


class ProfilingConfig(Section):
    """Timing statistics."""

    every: Count = Field(1000, description="Print the times of loading and computing every n iterations; 0 = never.")


class PrecacheConfig(Section):
    """Prefetching of training blocks."""

    cache_size: Positive = Field(20, description="Total number of prefetched blocks.")
    num_workers: Count = Field(8, description="Worker processes that make blocks; 0 = in the training process itself.")


class CheckpointsConfig(Section):
    """Checkpoints kept on disk."""

    keep_last: Positive = Field(3, description="Number of newest checkpoints to keep.")
    keep_every: Count = Field(0, description="Checkpoints at multiples of this iteration are kept as well; 0 = none.")
    best_metric: Annotated[Text, DefaultWords("`dice_class_1`, or the first metric of the first target")] = (
        "dice_class_1"
    )
    """Validation metric whose best checkpoint is kept: `dice_class_C`, `jaccard_class_C`, `precision_class_C`,
    `recall_class_C` for class C; `NAME_dice`, `NAME_bce`, ... of another target NAME; `loss`, or `loss_NAME` of several
    targets."""
    best_mode: Annotated[Literal["max", "min"], DefaultWords("that of the metric")] = "max"
    """Whether the highest or the lowest value is best."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, values: Any) -> Any:
        return without_nulls(values, ("best_metric", "best_mode"))


class StartFromConfig(Section):
    """The checkpoint of another training to start from; `--start_from` also uses its configuration."""

    run_id: Positive | None = None
    """Training run of the weights; null = random weights, or the file named below."""
    checkpoint: Checkpoint | None = None
    """`best`, `last`, an iteration, or the path of a checkpoint; null = best, or last where none is marked best."""
    optimizer: Literal["reset", "keep"] = "reset"
    """Start with a new optimizer state, or keep the moments of that checkpoint; learning rate and weight decay are
    those of this configuration in both cases."""

    @property
    def named(self) -> bool:
        """Whether the training starts from a checkpoint."""
        return self.run_id is not None or self.checkpoint is not None

    @model_validator(mode="after")
    def _names_a_run_or_a_file(self) -> Self:
        which = self.checkpoint
        if self.run_id is None and which is not None and (which in ("best", "last") or which.isdigit()):
            raise contradiction(
                f"training.start_from.checkpoint is {which}, but of no training run: set training.start_from.run_id "
                "too, or give the path of a file."
            )
        return self


class TrainingSection(Section):
    """The training loop."""

    pipeline: Pipeline = Field("baseline_with_context", description="How samples are made.")
    data: ExistingFile | None = Field(None, description="Data configuration (JSON) to train on.")
    synthetic: SyntheticSection | None = None
    """Train on random objects instead, for networks that read predictions; null = on `data`."""
    start_from: StartFromConfig = Field(default_factory=StartFromConfig)
    """Checkpoint of another training to start from."""
    iterations: Positive = Field(200_000, description="Number of optimizer steps; iterations count from 1.")
    batch_size: Positive = Field(1, description="Blocks per optimizer step, over all processes and parts.")
    accumulate: Positive = 1
    """Parts of a batch that are computed one after another, which takes less memory; their gradients are averaged. Must
    divide `batch_size`."""
    input_size_voxels: Size = Field((204, 204, 204), description="Input block of the network in voxels, z, y, x.")
    output_size_voxels: Size = (110, 110, 110)
    """Output block of the network, centred in the input, in voxels, z, y, x."""
    stage_weights: Annotated[tuple[PositiveNumber, ...], Field(min_length=1)] | None = None
    """Weights of the outputs of a network that returns several in training (intermediate supervision), the final one
    last; null = equal."""
    save_every: Positive = Field(1000, description="Write a checkpoint every n iterations, and at the end.")
    log_every: Positive = Field(1, description="Write the loss to TensorBoard every n iterations.")
    image_every: Count = Field(1000, description="Write ortho-slices to TensorBoard every n iterations; 0 = never.")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="The optimizer.")
    learning_rate_schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    """Learning-rate schedule."""
    clip_gradient_norm: PositiveNumber | None = None
    """Largest norm of the gradient of all weights; a longer one is shortened; null = no limit."""
    ema_decay: Annotated[Fraction, Field(gt=0, lt=1)] | None = None
    """Decay per iteration of an exponential moving average of the weights, such as 0.999; the average is validated, and
    is what checkpoints hold for predictions; null = off."""
    early_stopping: Positive | None = None
    """Validations in a row without improvement of `checkpoints.best_metric` after which the training ends; null =
    never."""
    num_params: tuple[Count, Count] | None = None
    """Fewest and most parameters that a network may have to be trained; null = any number."""
    reject: RejectConfig = Field(default_factory=RejectConfig, description="Rejection of random blocks.")
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    """Random changes of each block."""
    snapshot: SnapshotConfig = Field(default_factory=SnapshotConfig)
    """Blocks written to disk for inspection."""
    profiling_stats: ProfilingConfig = Field(default_factory=ProfilingConfig, description="Timing statistics.")
    precache: PrecacheConfig = Field(default_factory=PrecacheConfig, description="Prefetching of training blocks.")
    checkpoints: CheckpointsConfig = Field(default_factory=CheckpointsConfig, description="Checkpoints kept on disk.")

    @field_validator("learning_rate_schedule", "optimizer", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    @field_validator("start_from", mode="before")
    @classmethod
    def _run_alone_or_pair(cls, value: Any) -> Any:
        """Accept a run id, incasem's pair of id and checkpoint, or null for none."""
        if value is None:
            return {}
        if isinstance(value, int) and not isinstance(value, bool):
            return {"run_id": value}
        if isinstance(value, list | tuple) and len(value) in (1, 2):
            return dict(zip(("run_id", "checkpoint"), value, strict=False))
        return value


class ValidationSnapshotConfig(Section):
    """Validation predictions written to disk."""

    every: Count = Field(10, description="Write the prediction of every n-th validation; 0 = never.")


class ValidationSection(Section):
    """Validation during training."""

    pipeline: Pipeline = Field("baseline_with_context", description="How samples are made.")
    data: ExistingFile | None = None
    """Data configuration (JSON) to validate on; null = no validation."""
    validate_every: Positive = Field(1000, description="Validate every n iterations, and at the end.")
    input_size_voxels: Size = Field((204, 204, 204), description="Input tile of the prediction in voxels, z, y, x.")
    output_size_voxels: Size = Field((110, 110, 110), description="Output tile of the prediction in voxels, z, y, x.")
    snapshot: ValidationSnapshotConfig = Field(default_factory=ValidationSnapshotConfig)
    """Validation predictions written to disk."""


class SourcesConfig(Section):
    """Accepted so that incasem's files can be read."""

    class_: Text = Field("DataSourcesSemantic", alias="class")
    """Accepted for compatibility with incasem; no effect."""


class SacredConfig(Section):
    """Metrics in the run store."""

    log_every: Positive = Field(1000, description="Write training metrics to the run store every n iterations.")
