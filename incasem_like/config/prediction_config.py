"""The prediction configuration: all sections of ``config_prediction.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from incasem_like.config.kinds import (
    Checkpoints,
    Count,
    DefaultWords,
    ExistingFile,
    Flag,
    Folder,
    Fraction,
    Positive,
    RunIds,
    Size,
    Weights,
)
from incasem_like.config.locations import default_data_directory
from incasem_like.config.section import Document, Section
from incasem_like.config.shared_sections import DirectoriesConfig, TorchConfig, TrackingConfig


class PredictionDirectoriesConfig(Section):
    """Output folder of predictions."""

    prefix: Annotated[Folder, DefaultWords("`directories.data`")] = Field(
        default_factory=default_data_directory,
        description="Folder of the containers that predictions are written to, under the relative paths of `file`; "
        "null = `directories.data`: the container of the raw volume itself.",
    )


class PredictionSection(Section):
    """Regions, network and options of the prediction."""

    pipeline: Literal["baseline", "baseline_with_context"] = Field(
        "baseline", description="Both names mean the same: tiles include real context from outside the region."
    )
    data: ExistingFile | None = Field(None, description="Data configuration (JSON) of the regions to predict.")
    run_id_training: RunIds | None = Field(
        None,
        description="Training run of the network; `--run_id` sets it. With several runs the mean of their "
        "probabilities is predicted.",
    )
    checkpoint: Checkpoints | None = Field(
        None,
        description="`best`, `last`, an iteration, or the path of a checkpoint; "
        "null = best, or last where none is marked best. For several runs one for all, or a list.",
    )
    weights: Weights | None = Field(
        None, description="Weight of each of several runs in the mean; null = equal weights."
    )
    directories: PredictionDirectoriesConfig = Field(
        default_factory=PredictionDirectoriesConfig, description="Output folder of predictions."
    )
    input_size_voxels: Size | None = Field(
        None,
        description="Input tile in voxels, z, y, x; null = the fastest that fits into memory, by a benchmark of a few "
        "tiles on this device, run once.",
    )
    output_size_voxels: Size | None = Field(
        None, description="Output tile; follows from the input; null = not checked."
    )
    batch_size: Positive | None = Field(
        None,
        description="Tiles per batch; null = 1, on a GPU more if tiles are small. No effect on a CPU, where the U-Net "
        "processes a tile slab by slab, and for 2-D networks.",
    )
    probe: Literal["auto", "here", "worker"] = Field(
        "auto",
        description="Where the device is benchmarked (speed and memory of tiles, accuracy of a lower precision): on "
        "this machine, or by one of the workers (`--workers`), which is started before the others. "
        "auto = by a worker if `torch.device` is only on machines of workers.",
    )
    num_workers: Count = Field(
        8,
        description="Threads that prefetch the tiles of a block while the network computes the previous block and one "
        "more thread writes results behind it; 0 = read, compute and write sequentially.",
    )
    output_dtype: Literal["float32", "float16", "uint8"] = Field(
        "float32", description="Data type of the probability maps; `uint8` is probability x 255."
    )
    precision_tolerance: Fraction | None = Field(
        0.02,
        description="Largest error by `torch.precision` bf16 or fp16 of 99.9 % of the probabilities (0 to 1) of a real "
        "tile of each region; if it is exceeded, fp32 is used. null = not checked.",
    )
    test_time_augmentation: Literal["none", "mirrors", "mirrors_and_transposes"] = Field(
        "none",
        description="Test-time augmentation: average the probabilities over 8 mirrored versions of each tile, or over "
        "16 with y and x exchanged too; takes 8 or 16 times as long, half of that for a 2-D network.",
    )
    log_metrics: Flag = Field(
        False,
        description="Evaluate against the labels of the data configuration and track the metrics of each entry "
        "(`dice_class_1_ds_0`) and their means (`dice_class_1`).",
    )


class PredictionConfig(Document):
    """All parameters of a prediction except the training run of its network."""

    directories: DirectoriesConfig = Field(default_factory=DirectoriesConfig, description="Folders.")
    prediction: PredictionSection = Field(
        default_factory=PredictionSection, description="Regions, network and options."
    )
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


def _get(values: Any, key: str, otherwise: Any = None) -> Any:
    return values.get(key, otherwise) if isinstance(values, Mapping) else None
