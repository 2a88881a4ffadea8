"""What a database lacks of a run's checkpoints, and bringing it there after the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from incasem_like.tracking.checkpoints.policy import StorePolicy
from incasem_like.tracking.checkpoints.progress import transfer_progress
from incasem_like.tracking.checkpoints.record import CheckpointRecord

if TYPE_CHECKING:
    from incasem_like.tracking.mongo.checkpoint_files import CheckpointFiles
    from incasem_like.tracking.records import RunRecord
    from incasem_like.tracking.store import RunStore


def missing_uploads(record: RunRecord, *, verify: bool = False) -> list[CheckpointRecord]:
    """List the checkpoints that the run's store should hold by ``tracking.store_checkpoints`` and does not.

    Args:
        record: The run.
        verify: Read the store's copies through; damaged ones count as missing.

    Raises:
        StoreError: The server does not answer.
    """
    files, wanted = record.store.checkpoint_files, _wanted(record)
    if files is None or not wanted:
        return []
    sound = {copy.sha256 for copy in files.of_run(record.id) if not verify or files.is_sound(copy)}
    return [one for one in wanted if any(file.sha256 not in sound for file in one.files)]


def runs_lacking_uploads(store: RunStore) -> list[RunRecord]:
    """Find the runs that are over and whose missing checkpoints this machine has: ``upload_missing`` helps them.

    Raises:
        StoreError: The server does not answer.
    """
    files = store.checkpoint_files
    if files is None:
        return []
    stored = {(copy.run_id, copy.sha256) for copy in files.everything()}
    suspects = [
        summary.id
        for summary in store.summaries()
        if summary.status != "RUNNING"
        and any(
            (summary.id, one.sha256) not in stored and (store.runs_directory / one.path).is_file()
            for one in summary.checkpoints
        )
    ]
    records = [store.get(run_id) for run_id in suspects]
    return [record for record in records if any(_seems_here(one) for one in missing_uploads(record))]


def upload_missing(record: RunRecord, *, verify: bool = False) -> list[CheckpointRecord]:
    """Finish what a run could not upload before it ended; a run that goes on does so itself and is left alone.

    Copies that better ones replace are then taken out. What this machine does not have the files of stays missing.

    Args:
        record: The run.
        verify: Read the store's copies through, and replace damaged ones.

    Returns:
        The checkpoints that were uploaded.

    Raises:
        StoreError: The server does not answer, or refuses.
    """
    files, wanted = record.store.checkpoint_files, _wanted(record)
    if files is None or not wanted or record.status == "RUNNING":
        return []
    missing = missing_uploads(record, verify=verify)
    if record.seems_dead and record.store.heard_of([record.id]):
        return []  # it lives, by a clock that is behind, and has the say over its copies
    with files.as_store_errors():
        uploaded = [one for one in missing if _upload(files, record.id, one, verify)]
        if len(uploaded) == len(missing):
            named = {file.sha256 for one in wanted for file in one.files}
            files.remove([copy.id for copy in files.of_run(record.id) if copy.sha256 not in named])
            files.remove_partial(record.id)
    return uploaded


def _seems_here(checkpoint: CheckpointRecord) -> bool:
    return all(file.seems_here() for file in checkpoint.files)


def _wanted(record: RunRecord) -> list[CheckpointRecord]:
    return StorePolicy.from_config(record.config).wanted(record.checkpoints)


def _upload(files: CheckpointFiles, run_id: int, checkpoint: CheckpointRecord, replace: bool) -> bool:
    """Upload both files of a checkpoint, instead of what is there or unless it is; False when they are not here."""
    found = [(file, path) for file in checkpoint.files if (path := file.here())]
    if len(found) < len(checkpoint.files):
        return False
    if replace:
        hashes = [file.sha256 for file in checkpoint.files]
        files.remove([copy.id for copy in files.of_run(run_id) if copy.sha256 in hashes])
    for file, path in found:
        with transfer_progress(f"Uploading {file.name}", file.bytes) as advance:
            proceed = _Advancing(advance)
            files.upload(path, run_id, file.sha256, checkpoint.entry if file is checkpoint.model else None, proceed)
            proceed(file.bytes)
    return True


class _Advancing:
    """Turns the bytes done so far into the bytes done since."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self._before = advance, 0

    def __call__(self, done: int) -> bool:
        self._advance(done - self._before)
        self._before = done
        return True
