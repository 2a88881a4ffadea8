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
    """Where predictions go."""

    prefix: Annotated[Folder, DefaultWords("`directories.data`")] = Field(
        default_factory=default_data_directory,
        description="Folder of the containers that predictions are written to, under the names that `file` gives; "
        "null = `directories.data`: the container of the raw volume itself.",
    )


class PredictionSection(Section):
    """What is predicted, with what, and how."""

    pipeline: Literal["baseline", "baseline_with_context"] = Field(
        "baseline", description="Both names mean the same: tiles see real context from outside the region."
    )
    data: ExistingFile | None = Field(None, description="Data configuration (JSON) of the regions to predict.")
    run_id_training: RunIds | None = Field(
        None,
        description="Training run the network comes from; `--run_id` sets it. Of several runs the mean of their "
        "probabilities is predicted.",
    )
    checkpoint: Checkpoints | None = Field(
        None,
        description="`best`, `last`, an iteration, or the path of a checkpoint; "
        "null = best, or last where none is best. For several runs one for all, or a list with one for each.",
    )
    weights: Weights | None = Field(
        None, description="What each of several runs counts in the mean; null = all the same."
    )
    directories: PredictionDirectoriesConfig = Field(
        default_factory=PredictionDirectoriesConfig, description="Where predictions go."
    )
    input_size_voxels: Size | None = Field(
        None,
        description="Raw tile in voxels, z, y, x; null = the quickest that the memory allows, by the time that a few "
        "tiles take here, which is measured once.",
    )
    output_size_voxels: Size | None = Field(
        None, description="Tile that results; follows from the input, null = not checked."
    )
    batch_size: Positive | None = Field(
        None,
        description="Tiles that the network takes together; null = 1, on a GPU more where tiles are small. Without "
        "effect on a CPU, where the U-Net takes a tile slab by slab, and on networks on sections.",
    )
    survey: Literal["auto", "here", "worker"] = Field(
        "auto",
        description="Where it is found out how fast tiles are, how much memory they may take and whether a lower "
        "precision is exact enough: on this machine, or by one of the workers (`--workers`), which is started before "
        "the others. auto = by a worker where `torch.device` is on machines of workers only.",
    )
    num_workers: Count = Field(
        8,
        description="Threads that read the tiles of a block side by side, while the network computes the previous "
        "block and one more thread writes the results; 0 = read, compute and write in turn.",
    )
    output_dtype: Literal["float32", "float16", "uint8"] = Field(
        "float32", description="Type of the probability maps; `uint8` is probability x 255."
    )
    precision_tolerance: Fraction | None = Field(
        0.02,
        description="How far `torch.precision` bf16 or fp16 may change 999 of 1000 values, of 0 to 1, of a real tile "
        "of each region; where it is more, fp32 is used. null = not checked.",
    )
    test_time_augmentation: Literal["none", "mirrors", "mirrors_and_transposes"] = Field(
        "none",
        description="Average the probabilities over 8 mirrored positions of each tile, or over 16 with y and x "
        "exchanged too; takes 8 or 16 times as long, half of that for a network on sections.",
    )
    log_metrics: Flag = Field(
        False,
        description="Compare with the labels of the data configuration and track the metrics: of each entry "
        "(`dice_class_1_ds_0`), and their means (`dice_class_1`).",
    )


class PredictionConfig(Document):
    """Everything a prediction is determined by besides the training run it takes the network from."""

    directories: DirectoriesConfig = Field(default_factory=DirectoriesConfig, description="Folders.")
    prediction: PredictionSection = Field(default_factory=PredictionSection, description="What, with what, and how.")
    torch: TorchConfig = Field(default_factory=TorchConfig, description="Device and arithmetic.")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="Where runs are kept.")

    @model_validator(mode="before")
    @classmethod
    def _write_beside_the_data(cls, values: Any) -> Any:
        """Let ``prediction.directories.prefix`` follow ``directories.data`` unless it is given."""
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
