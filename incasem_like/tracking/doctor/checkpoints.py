"""Checkpoints that runs registered and that are missing, or not the same any more."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.errors import CheckpointError, StoreError
from incasem_like.tracking.checkpoints import file_sha256
from incasem_like.tracking.checkpoints.cache import cached_path
from incasem_like.tracking.doctor.finding import Finding
from incasem_like.tracking.files.layout import copy_whole

if TYPE_CHECKING:
    from incasem_like.tracking.checkpoints import CheckpointRecord, TrackedFile
    from incasem_like.tracking.records import RunRecord
    from incasem_like.tracking.store import RunStore
    from incasem_like.tracking.summaries import CheckpointSummary, RunSummary


def check_checkpoints(stores: Sequence[RunStore], thorough: bool) -> Iterator[Finding]:
    """Hold the checkpoints of training runs against their records."""
    for store in stores:
        for run in store.summaries():
            if run.status == "RUNNING" or not run.checkpoints:
                continue
            if not all(_seems_right(store.runs_directory, checkpoint, thorough) for checkpoint in run.checkpoints):
                yield from _check_run(store, run, thorough)


def _seems_right(runs_directory: Path, checkpoint: CheckpointSummary, thorough: bool) -> bool:
    path = runs_directory / checkpoint.path
    try:
        right = path.stat().st_size == checkpoint.bytes
    except OSError:
        return False
    beside = path.with_name(f"training_state_{checkpoint.iteration}")
    return right and beside.is_file() and (not thorough or file_sha256(path) == checkpoint.sha256)


def _check_run(store: RunStore, run: RunSummary, thorough: bool) -> Iterator[Finding]:
    record = store.get(run.id)
    without_folder = []
    for checkpoint in record.checkpoints:
        for file in checkpoint.files:
            state = _state_of(file, thorough)
            elsewhere = _elsewhere(file)
            if state == "right" or (state == "missing" and elsewhere):
                continue
            if not any(path.parent.is_dir() for path in file.candidates):
                without_folder.append(file.registered)
                continue
            problem = f"Training run {run.id} registered {file.registered}, which is {state}"
            if elsewhere:
                mend = partial(_restore, file)
                yield Finding(store.description, f"{problem}; there is another copy.", "Restore it from there.", mend)
            else:
                repair = "Take the checkpoint out of the record, unless you can restore it from a backup."
                mend = partial(_forget, store, run.id, checkpoint)
                yield Finding(store.description, f"{problem}; there is no other copy.", repair, mend)
    if without_folder and _ran_here(record):
        problem = f"Training run {run.id} registered {', '.join(without_folder)}, and the folder is not there."
        yield Finding(store.description, problem, "Mount its disk or restore it from a backup; or delete the run.")


def _state_of(file: TrackedFile, thorough: bool) -> str:
    """Say whether the file in the runs directory is right, missing or changed."""
    present = [path for path in file.candidates if path.is_file()]
    if not present:
        return "missing"
    right = [path for path in present if path.stat().st_size == file.bytes]
    if thorough:
        right = [path for path in right if file_sha256(path) == file.sha256]
    return "right" if right else "changed"


def _elsewhere(file: TrackedFile) -> bool:
    """Say whether the cache, the database or a publisher has it."""
    return cached_path(file.name, file.sha256).is_file() or file.url is not None or file.sha256 in file.places.stored


def _ran_here(record: RunRecord) -> bool:
    """Say whether a run's files should be on this machine; another one's runs keep theirs there."""
    return record.host.get("hostname") in (None, socket.gethostname())


def _restore(file: TrackedFile) -> None:
    """Put the right file into the place of the changed one."""
    found = file.fetch()
    target = file.candidates[0]
    if found == target:
        return
    try:
        copy_whole(found, target)
    except OSError as error:
        raise StoreError(f"{target} cannot be written ({error.strerror or error}): check its rights.") from None


def _forget(store: RunStore, run_id: int, checkpoint: CheckpointRecord) -> None:
    """Take a checkpoint out of its run's record, unless it is there again."""
    try:
        for file in checkpoint.files:
            file.fetch()
        return
    except CheckpointError:
        entries = store.get(run_id).info.get("checkpoints") or []
    store.note(run_id, {"checkpoints": [entry for entry in entries if entry.get("sha256") != checkpoint.sha256]})
