"""Sections shared by training and prediction: folders, device and arithmetic, run store."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from incasem_like.config.kinds import DefaultWords, Device, Flag, Folder, Points, Positive, StoredCheckpoints, Text
from incasem_like.config.locations import default_data_directory, default_runs_directory
from incasem_like.config.section import Section


class DirectoriesConfig(Section):
    """Folders of runs and data."""

    runs: Annotated[Folder, DefaultWords("`$INCASEM_RUNS`, else `training_runs` of the repository")] = Field(
        default_factory=default_runs_directory
    )
    """Folder of checkpoints, snapshots, TensorBoard logs and the file-based run store."""
    data: Annotated[Folder, DefaultWords("`$INCASEM_DATA`, else `data` of the repository")] = Field(
        default_factory=default_data_directory
    )
    """Folder that `file` in a data configuration is relative to."""


class TorchConfig(Section):
    """Device and arithmetic."""

    device: Device = Field(0, description="GPU index, `cuda:INDEX`, `cpu` or `mps`.")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward and backward pass; weights and checkpoints stay fp32."""
    channels_last: Flag = Field(False, description="Keep tensors channels-last in memory; faster on some GPUs.")
    compile: Flag = False
    """Compile the network with `torch.compile`: a slow first step, then faster ones."""
    num_threads: Positive | None = Field(None, description="CPU threads of torch; null = torch's default.")

    @property
    def device_name(self) -> str:
        """The device as ``torch.device`` takes it: ``cuda:0``, ``cpu``, ``mps``."""
        return f"cuda:{self.device}" if isinstance(self.device, int) else self.device


class TrackingConfig(Section):
    """The run store."""

    url: Text | None = Field(None, description="MongoDB URL of the run store; null = files under `directories.runs`.")
    max_points: Points = 2000
    """Maximum number of points per metric in the run store, evenly thinned as the run grows; the log `metrics.jsonl` on
    the machine of the run and TensorBoard keep all."""


class TrainingTrackingConfig(TrackingConfig):
    """The run store, and the checkpoints stored in it."""

    store_checkpoints: StoredCheckpoints = "best,last"
    """Checkpoints stored in MongoDB as well, so that other machines can use them by run id: `best`, `last`,
    `best,last`, `all` (of those kept on disk) or `none`. No effect in a file-based run store."""
