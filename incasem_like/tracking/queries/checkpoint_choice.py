"""The choice of a checkpoint that predicts, or that a training starts from, verified against its registered hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from incasem_like.errors import CheckpointError
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.stores.records import RunRecord


@dataclass(frozen=True)
class ChosenCheckpoint:
    """The chosen weights, as they are now and as the training registered them; the iteration may be unknown."""

    path: Path
    sha256: str
    iteration: int | None


def choose_checkpoint(record: RunRecord, which: str | None) -> ChosenCheckpoint:
    """Find a checkpoint and verify it against what its training run registered.

    ``which`` is ``best``, ``last``, an iteration, or the path of a file; None for the best, or the last where none was
    measured.

    Raises:
        CheckpointError: The checkpoint does not exist, or its file changed since it was tracked.
    """
    if which is None:
        try:
            tracked = record.checkpoint("best")
        except CheckpointError:
            tracked = record.checkpoint("last")
    elif which in ("best", "last") or which.isdigit():
        tracked = record.checkpoint(which)
    else:
        path = Path(which).expanduser().absolute()
        registered = [entry for entry in record.checkpoints if entry.path.resolve() == path.resolve()]
        if not registered:
            if not path.is_file():
                raise CheckpointError(
                    f"The checkpoint {path} does not exist: check the path, or choose best, last or an iteration."
                )
            sha256 = file_sha256(path)
            copied = [entry.iteration for entry in record.checkpoints if entry.sha256 == sha256]
            return ChosenCheckpoint(path, sha256, copied[0] if copied else None)
        tracked = registered[0]
    return ChosenCheckpoint(tracked.fetch(), tracked.sha256, tracked.iteration)
