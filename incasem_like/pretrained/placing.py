"""Storing an imported checkpoint in the folder of its run's checkpoints: ``<runs>/models/<id>/``."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.errors import InputError
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import models_folder
from incasem_like.tracking.moving.model_files import owners, share

if TYPE_CHECKING:
    from incasem_like.pretrained.checkpoint_run import ImportedCheckpoint
    from incasem_like.tracking.stores.base import RunStore


def check_place(checkpoint: ImportedCheckpoint, store: RunStore, run_id: int, registered: Sequence[str] = ()) -> None:
    """Check that an imported checkpoint can be stored in the folder of a run.

    Args:
        checkpoint: The file.
        store: Store that has the run or will have it.
        run_id: The run.
        registered: Hashes of the checkpoints that the run has already.

    Raises:
        InputError: The folder holds checkpoints of a run of the same id in another store; or the run has another
            checkpoint of the same iteration.
    """
    target = _target(checkpoint, store, run_id)
    own = {checkpoint.sha256, *registered}
    if any(file_sha256(path) not in own for path in target.parent.glob("model_checkpoint_*")):
        raise InputError(
            f"{target.parent} already holds checkpoints, of a run {run_id} that is not in {store.description}: choose "
            "another --id, or move them away."
        )
    if target.exists() and not _is_it(target, checkpoint):
        raise InputError(
            f"Run {run_id} in {store.description} has another checkpoint of iteration {checkpoint.iteration}: import "
            "this one under another --id."
        )


def place(checkpoint: ImportedCheckpoint, store: RunStore, run_id: int) -> dict[str, Any]:
    """Store a checkpoint in the folder of its run, and return its entry in ``info.checkpoints``.

    The file appears atomically: as a hard link if the file system supports that, else as a copy.

    Raises:
        InputError: The file changed since it was read.
        OSError: The folder cannot be written.
    """
    target = _target(checkpoint, store, run_id)
    if not _is_it(target, checkpoint):
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with contextlib.suppress(OSError):
                os.link(checkpoint.path, beside)
            if not beside.exists():
                shutil.copyfile(checkpoint.path, beside)
            if file_sha256(beside) != checkpoint.sha256:
                raise InputError(f"{checkpoint.path} changed while it was imported: run the same command again.")
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)
    _note_owner(target.parent, store, run_id)
    entry: dict[str, Any] = {
        "iteration": checkpoint.iteration,
        "path": target.relative_to(store.runs_directory).as_posix(),
        "sha256": checkpoint.sha256,
        "bytes": target.stat().st_size,
        "metrics": {},
    }
    return entry | ({"url": checkpoint.url} if checkpoint.url else {})


def _target(checkpoint: ImportedCheckpoint, store: RunStore, run_id: int) -> Path:
    return models_folder(store.runs_directory, run_id) / f"model_checkpoint_{checkpoint.iteration}"


def _is_it(path: Path, checkpoint: ImportedCheckpoint) -> bool:
    return path.is_file() and file_sha256(path) == checkpoint.sha256


def _note_owner(folder: Path, store: RunStore, run_id: int) -> None:
    """Record every store that has this run as an owner of the folder, which deletion from one store then keeps."""
    share(folder, [*owners(folder), (store.description, run_id)])
