"""What a deletion freed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Freed:
    """What a deletion freed; two of them add up.

    Attributes:
        runs: Records of runs.
        metrics: Series of metrics.
        artifacts: Files stored with the run.
        sources: Stored source files that no other run needs.
        stored_checkpoints: Checkpoints in the database.
        checkpoints: Checkpoints on this machine.
        bytes: Space of all that, in bytes; of records in a database only their files count.
        folders: Folders of the runs directory that are gone: checkpoints, TensorBoard logs, snapshots.
        kept: What was left alone, and why; one sentence each.
    """

    runs: int = 0
    metrics: int = 0
    artifacts: int = 0
    sources: int = 0
    stored_checkpoints: int = 0
    checkpoints: int = 0
    bytes: int = 0
    folders: tuple[Path, ...] = ()
    kept: tuple[str, ...] = ()

    def __add__(self, other: Freed) -> Freed:
        return Freed(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))
