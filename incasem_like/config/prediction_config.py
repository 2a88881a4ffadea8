"""The configurations of a prediction and of a series of predictions with many checkpoints of one training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from incasem_like.config.kinds import (
    Checkpoints,
    Count,
    DefaultWords,
    ExistingFile,
    Flag,
    Folder,
    FormerName,
    Fraction,
    Positive,
    RunIds,
    Size,
    Text,
    Weights,
    contradiction,
)
from incasem_like.config.locations import default_data_directory
from incasem_like.config.section import Document, Section
from incasem_like.config.shared_sections import DirectoriesConfig, TorchConfig, TrackingConfig


class PredictionDirectoriesConfig(Section):
    """Output folder of predictions."""

    prefix: Annotated[Folder, DefaultWords("`directories.data`")] = Field(default_factory=default_data_directory)
    """Folder of the containers that predictions are written to, under the relative paths of `file`; null =
    `directories.data`: the container of the raw volume itself."""


class PredictionSection(Section):
    """Regions, network and options of the prediction."""

    pipeline: Literal["baseline", "baseline_with_context"] = "baseline"
    """Both names mean the same: tiles include real context from outside the region."""
    data: ExistingFile | None = Field(None, description="Data configuration (JSON) of the regions to predict.")
    run_id_training: RunIds | None = None
    """Training run of the network; `--run_id` sets it. With several runs the mean of their probabilities is
    predicted."""
    checkpoint: Checkpoints | None = None
    """`best`, `last`, an iteration, or the path of a checkpoint; null = best, or last where none is marked best. For
    several runs one for all, or a list."""
    weights: Weights | None = None
    """Weight of each of several runs in the mean; null = equal weights."""
    directories: PredictionDirectoriesConfig = Field(default_factory=PredictionDirectoriesConfig)
    """Output folder of predictions."""
    input_size_voxels: Size | None = None
    """Input tile in voxels, z, y, x; null = the fastest that fits into memory, by a benchmark of a few tiles on this
    device, run once."""
    output_size_voxels: Size | None = None
    """Output tile; follows from the input; null = not checked."""
    batch_size: Positive | None = None
    """Tiles per batch; null = 1, on a GPU more if tiles are small. No effect on a CPU, where the U-Net processes a tile
    slab by slab, and for 2-D networks."""
    probe: Literal["auto", "here", "worker"] = "auto"
    """Where the device is benchmarked (speed and memory of tiles, accuracy of a lower precision): on this machine, or
    by one of the workers (`--workers`), which is started before the others. auto = by a worker if `torch.device` is
    only on machines of workers."""
    num_threads: Annotated[Count, FormerName("num_workers")] = 8
    """Threads that prefetch the tiles of a block while the network computes the previous block and one more thread
    writes results behind it; 0 = read, compute and write sequentially."""
    output_dtype: Literal["float32", "float16", "uint8"] = "float32"
    """Data type of the probability maps; `uint8` is probability x 255."""
    precision_tolerance: Fraction | None = 0.02
    """Largest error by `torch.precision` bf16 or fp16 of 99.9 % of the probabilities (0 to 1) of a real tile of each
    region; if it is exceeded, fp32 is used. null = not checked."""
    test_time_augmentation: Literal["none", "mirrors", "mirrors_and_transposes"] = "none"
    """Test-time augmentation: average the probabilities over 8 mirrored versions of each tile, or over 16 with y and x
    exchanged too; takes 8 or 16 times as long, half of that for a 2-D network."""
    log_metrics: Flag = False
    """Evaluate against the labels of the data configuration and track the metrics of each entry (`dice_class_1_ds_0`)
    and their means (`dice_class_1`)."""


class PredictionConfig(Document):
    """All parameters of a prediction except the training run of its network."""

    directories: DirectoriesConfig = Field(default_factory=DirectoriesConfig, description="Folders.")
    prediction: PredictionSection = Field(default_factory=PredictionSection)
    """Regions, network and options."""
    torch: TorchConfig = Field(default_factory=TorchConfig, description="Device and arithmetic.")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="Run store.")

    @model_validator(mode="before")
    @classmethod
    def _write_beside_the_data(cls, values: Any) -> Any:
        """Set ``prediction.directories.prefix`` to ``directories.data`` unless it is given."""
        data = _get(_get(values, "directories"), "data")
        prediction = _get(values, "prediction", {})
        folders = _get(prediction, "directories", {})
        if not isinstance(folders, Mapping) or _get(folders, "prefix") is not None:
            return values
        if data is None:
            data = default_data_directory()
        return {**values, "prediction": {**prediction, "directories": {**folders, "prefix": data}}}


class SeriesSection(Section):
    """Checkpoints of the training to predict with, and predictions to keep."""

    start: Count | None = Field(None, description="First iteration; null = that of the first checkpoint.")
    stop: Count | None = Field(None, description="Last iteration, inclusive; null = that of the last checkpoint.")
    step: Positive | None = None
    """Step between iterations, which must all have a checkpoint; null = all checkpoints."""
    best: Positive | None = None
    """Number of these checkpoints to use, the best by the training's own validation (`training.checkpoints`); null =
    all."""
    checkpoint_dir: Folder | None = None
    """Folder of checkpoints that the training run did not register; null = the registered ones."""
    checkpoint_basename: Text = "model_checkpoint_"
    """Prefix of the iteration in the file names of `checkpoint_dir`."""
    keep: Literal["all", "best", "none"] = "all"
    """Predictions to keep on disk; the others are deleted after evaluation."""
    metric: Text | None = None
    """Metric that selects the best iteration (larger is better), such as `jaccard_class_2`, or `dice_class_1_ds_0` of
    the first entry alone; null = the training's own `best_metric`, or `dice_class_1`."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.start is not None and self.stop is not None and self.start > self.stop:
            raise contradiction(
                f"series.start is {self.start} and series.stop is {self.stop}, so that no iteration is between: "
                "exchange them."
            )
        if self.best is not None and self.step is not None:
            raise contradiction(
                f"series.step is {self.step} and series.best is {self.best}: set one of them, since the best ones are "
                "no fixed step apart."
            )
        if self.best is not None and self.checkpoint_dir is not None:
            raise contradiction(
                "series.best goes by what the training run noted of its checkpoints, and series.checkpoint_dir names "
                "files that it does not know: set one of them."
            )
        return self


class SeriesConfig(PredictionConfig):
    """All parameters of a series of predictions except the training run of its networks."""

    series: SeriesSection = Field(default_factory=SeriesSection)
    """Checkpoints to predict with, and predictions to keep."""

    @model_validator(mode="after")
    def _is_about_one_run(self) -> Self:
        if self.prediction.checkpoint is not None:
            raise contradiction(
                f"prediction.checkpoint is {self.prediction.checkpoint}, but a series predicts with many: set "
                "series.start, series.stop and series.step, or call predict.py."
            )
        if isinstance(self.prediction.run_id_training, tuple):
            raise contradiction(
                f"prediction.run_id_training is {list(self.prediction.run_id_training)}, but a series is of one "
                "training: name one, or call predict.py for the mean of several."
            )
        return self


def _get(values: Any, key: str, otherwise: Any = None) -> Any:
    return values.get(key, otherwise) if isinstance(values, Mapping) else None
