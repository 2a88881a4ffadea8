"""Sections that training and prediction share: folders, device and arithmetic, where runs are tracked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from incasem_like.config.kinds import DefaultWords, Device, Flag, Folder, Points, Positive, StoredCheckpoints, Text
from incasem_like.config.locations import default_data_directory, default_runs_directory
from incasem_like.config.section import Section


class DirectoriesConfig(Section):
    """Folders that everything else is found in."""

    runs: Annotated[Folder, DefaultWords("`$INCASEM_RUNS`, else `training_runs` of the repository")] = Field(
        default_factory=default_runs_directory,
        description="Folder of checkpoints, snapshots, TensorBoard logs and the run store kept in files.",
    )
    data: Annotated[Folder, DefaultWords("`$INCASEM_DATA`, else `data` of the repository")] = Field(
        default_factory=default_data_directory,
        description="Folder that `file` in a data configuration is relative to.",
    )


class TorchConfig(Section):
    """Device and arithmetic."""

    device: Device = Field(0, description="GPU index, `cuda:INDEX`, `cpu` or `mps`.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Arithmetic of the forward and backward pass; weights and checkpoints stay fp32."
    )
    channels_last: Flag = Field(False, description="Keep tensors channels-last in memory; faster on some GPUs.")
    compile: Flag = Field(
        False, description="Compile the network with `torch.compile`: slow first step, faster later ones."
    )
    num_threads: Positive | None = Field(None, description="CPU threads of the arithmetic; null = torch's own choice.")

    @property
    def device_name(self) -> str:
        """The device as ``torch.device`` takes it: ``cuda:0``, ``cpu``, ``mps``."""
        return f"cuda:{self.device}" if isinstance(self.device, int) else self.device


class TrackingConfig(Section):
    """Where runs are kept."""

    url: Text | None = Field(None, description="MongoDB URL of the run store; null = files under `directories.runs`.")
    max_points: Points = Field(
        2000,
        description="Points of each metric that the run store holds at most, evenly thinned as the run grows; the log "
        "`metrics.jsonl` on the machine of the run and TensorBoard keep all.",
    )


class TrainingTrackingConfig(TrackingConfig):
    """Where runs are kept, and their checkpoints."""

    store_checkpoints: StoredCheckpoints = Field(
        "best,last",
        description="Checkpoints that a MongoDB store keeps too, so that other machines can use them by run id: "
        "`best`, `last`, `best,last`, `all` (that are kept on disk) or `none`. "
        "Without effect where runs are kept as files.",
    )
