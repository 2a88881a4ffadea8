"""The folders of a training's files, in incasem's layout below ``directories.runs``."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from incasem_like.errors import InputError
from incasem_like.tracking.model.checkpoints import MODELS, folder_name
from incasem_like.training.checkpoints import CheckpointFolder


@dataclass(frozen=True)
class RunFolders:
    """The folders of one run.

    Attributes:
        runs: ``directories.runs``.
        name: Name of the run's own folders: its id with four digits; for a run without a record
            ``unobserved_<n>``, since only the run store assigns ids.
    """

    runs: Path
    name: str

    @classmethod
    def of_run(cls, runs: Path, run_id: int) -> RunFolders:
        """Name the folders of a run in the store."""
        return cls(runs, folder_name(run_id))

    @classmethod
    def unobserved(cls, runs: Path) -> RunFolders:
        """Make the folder of a run without a record, under a name that no other process uses."""
        for number in itertools.count(1):
            folders = cls(runs, f"unobserved_{number}")
            try:
                folders.models.mkdir(parents=True)
            except FileExistsError:
                continue
            return folders
        raise AssertionError

    @property
    def run_id(self) -> int:
        """The run's id; 0 for one without a record."""
        return int(self.name) if self.name.isdigit() else 0

    @property
    def models(self) -> Path:
        """Checkpoints."""
        return self.runs / MODELS / self.name

    @property
    def tensorboard(self) -> Path:
        """TensorBoard logs."""
        return self.runs / "tensorboard" / self.name

    @property
    def snapshots(self) -> Path:
        """Folder of blocks and predictions for inspection."""
        return self.runs / "snapshots" / self.name


def check_unused(folders: RunFolders) -> None:
    """Check that the checkpoint folder of a new run is empty.

    Raises:
        InputError: It holds checkpoints.
    """
    if CheckpointFolder(folders.models).iterations():
        raise InputError(
            f"{folders.models} already holds checkpoints, of a run {folders.run_id} that is not in this run store: "
            "choose another --id, set directories.runs to another folder, or move them away."
        )
