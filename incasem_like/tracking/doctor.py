"""Inconsistencies of run stores and the runs directory, and the repair of each."""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from incasem_like.disk import copy_whole
from incasem_like.errors import CheckpointError
from incasem_like.tracking.kinds import kind_named, singular
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import (
    BESIDE_MODELS,
    DELETED_PREFIX,
    MODELS,
    CheckpointRecord,
    TrackedFile,
    folder_name,
    models_folder,
    remove_tree,
)
from incasem_like.tracking.model.summaries import DAMAGED, RunSummary
from incasem_like.tracking.moving.model_files import finish_deletion
from incasem_like.tracking.stores.base import DELETING, IMPORTING, RunStore, errors_of_writing

SETTLED = timedelta(hours=1)
_OF_CHECKPOINTS = ("model_checkpoint_", "training_state_")


@dataclass(frozen=True)
class Finding:
    """An inconsistency.

    Attributes:
        problem: What is wrong, in one sentence.
        repair: What ``mend`` does about it; without ``mend``, what a person can do.
        mend: Repairs it; None where that needs a decision. What changed meanwhile is left alone. Raises an
            ``IncasemError`` if it fails.
    """

    problem: str
    repair: str
    mend: Callable[[], object] | None = None


def examine(
    stores: Sequence[RunStore], runs_directory: Path, *, thorough: bool = False, settled: timedelta = SETTLED
) -> list[Finding]:
    """Find inconsistencies; nothing is changed until a finding is mended. Active runs are left alone.

    Args:
        stores: All that have runs in the runs directory: of every kind, and of every place that holds runs.
        runs_directory: The folder of training runs on this machine.
        thorough: Compare the hashes of checkpoints, rather than their lengths alone.
        settled: What changed less than this ago may be in use and is left alone.
    """
    found = [finding for store in stores for finding in _check_records(store, settled)]
    trainings = [store for store in stores if kind_named(store.kind).keeps_checkpoints]
    for store in trainings:
        for run in store.summaries():
            for one in run.checkpoints if run.status != "RUNNING" else ():
                path = store.runs_directory / one.path
                is_here = path.is_file() and path.with_name(f"training_state_{one.iteration}").is_file()
                if not is_here or path.stat().st_size != one.bytes or (thorough and file_sha256(path) != one.sha256):
                    found += _check_checkpoints(store, run, thorough)
                    break
    return found + list(_check_folders(trainings, Path(runs_directory).absolute(), settled))


def _check_records(store: RunStore, settled: timedelta) -> Iterator[Finding]:
    kind, runs, present = singular(store.kind), store.summaries(), set(store.ids())
    for journal in (journal for journal in store.pending() if not journal.is_held):
        if journal.run_id in present:
            problem = f"{store.description} lacks a part of {kind} run {journal.run_id}, which is in {journal.folder}."
            yield Finding(problem, "Upload it.", partial(store.deliver, journal))
        else:
            problem = f"{journal.folder} belongs to {kind} run {journal.run_id}, which is not in {store.description}."
            repair = "Upload it with 'incasem-like runs sync', or delete the folder if the run was deleted on purpose."
            yield Finding(problem, repair)
    dead = [run.id for run in runs if run.status == "KILLED" and run.recorded_status == "RUNNING"]
    for run in runs:
        name = f"{kind.capitalize()} run {run.id}"
        if run.status == DAMAGED:
            repair = f"Restore it from a backup, or delete it: incasem-like runs delete {run.kind}/{run.id}"
            yield Finding(f"{name} in {store.description} is damaged: {run.damage}.", repair)
        elif run.id in dead:
            last = run.heartbeat or run.start_time
            beat = f", last heartbeat {last:%Y-%m-%d %H:%M} UTC" if last else ""
            problem = f"{name} is recorded as RUNNING, but its process has ended{beat}."
            yield Finding(problem, "Record it as KILLED.", partial(_record_death, store, run.id, dead))
    for run_id in store.unfinished(DELETING):
        problem = f"The deletion of {kind} run {run_id} was interrupted."
        yield Finding(problem, "Finish it.", partial(finish_deletion, store, run_id))
    for run_id, age in store.unfinished(IMPORTING).items():
        if age > settled.total_seconds():
            problem = f"The start or import of {kind} run {run_id} was interrupted."
            yield Finding(problem, "Delete what there is of it.", partial(store.remove, run_id))
    if count := len(store.leftovers(settled)):
        problem = f"{store.description} holds {count} files or parts of files that belong to no run."
        yield Finding(problem, "Delete them.", lambda: store.free(store.leftovers(settled)))


def _record_death(store: RunStore, run_id: int, dead: Sequence[int]) -> None:
    store.heard_of(dead)  # watches all of them at once
    store.set_killed(run_id)


def _check_checkpoints(store: RunStore, run: RunSummary, thorough: bool) -> Iterator[Finding]:
    record = store.get(run.id)
    without_folder = []
    for checkpoint in record.checkpoints:
        for file in checkpoint.files:
            is_here = any(path.is_file() for path in file.candidates)
            if (file.here() if thorough else file.seems_here()) or (not is_here and file.can_be_had()):
                continue
            if not any(path.parent.is_dir() for path in file.candidates):
                without_folder.append(file.registered)
                continue
            state = "changed" if is_here else "missing"
            problem = f"Training run {run.id} registered {file.registered}, which is {state}"
            if file.is_elsewhere():
                yield Finding(f"{problem}; another copy was found.", "Restore it from there.", partial(_restore, file))
            else:
                repair = "Remove the checkpoint from the record, unless you can restore it from a backup."
                mend = partial(_forget, store, run.id, checkpoint)
                yield Finding(f"{problem}; no other copy was found.", repair, mend)
    # The runs of another machine keep their files there.
    if without_folder and record.host.get("hostname") in (None, socket.gethostname()):
        problem = f"Training run {run.id} registered {', '.join(without_folder)}, but the folder is missing."
        yield Finding(problem, "Mount its disk or restore it from a backup; or delete the run.")


def _restore(file: TrackedFile) -> None:
    found, target = file.fetch(), file.candidates[0]
    if found != target:
        with errors_of_writing(target):
            copy_whole(found, target)


def _forget(store: RunStore, run_id: int, checkpoint: CheckpointRecord) -> None:
    """Remove a checkpoint from its run's record, unless its files are there again."""
    try:
        for file in checkpoint.files:
            file.fetch()
    except CheckpointError:
        entries = store.get(run_id).info.get("checkpoints") or []
        store.note(run_id, {"checkpoints": [entry for entry in entries if entry.get("sha256") != checkpoint.sha256]})


def _check_folders(stores: Sequence[RunStore], runs_directory: Path, settled: timedelta) -> Iterator[Finding]:
    """Check the folders of training runs: remains of deletions, folders and files of no run."""
    known: defaultdict[Path, dict[str, int | None]] = defaultdict(dict)  # registered files by folder, with their length
    in_use: set[Path] = set()
    for store in stores:
        for run in store.summaries():
            own = [runs_directory / kind / folder_name(run.id) for kind in (MODELS, *BESIDE_MODELS)]
            known.update({folder: known[folder] for folder in own})
            if run.status in ("RUNNING", DAMAGED):
                in_use.update(own)
            for checkpoint in run.checkpoints:
                path = runs_directory / checkpoint.path
                known[path.parent] |= {path.name: checkpoint.bytes, f"training_state_{checkpoint.iteration}": None}
        for run_id in (*store.unfinished(DELETING), *store.unfinished(IMPORTING)):
            in_use.add(models_folder(runs_directory, run_id))
    for kind in (MODELS, *BESIDE_MODELS):
        for folder in sorted(path for path in (runs_directory / kind).glob("*") if _is_settled(path, settled)):
            if folder.name.startswith(DELETED_PREFIX):
                problem = f"{folder} remains of a deletion that was interrupted."
                yield Finding(problem, "Delete it.", partial(remove_tree, folder))
            elif folder.name.isdecimal() and folder.is_dir() and folder not in known and folder not in in_use:
                problem = f"{folder} belongs to no run in {' or '.join(store.description for store in stores)}."
                yield Finding(problem, "Name the store of its run with --also, or delete the folder if there is none.")
    for folder, names in known.items():
        if folder.parent.name != MODELS or not folder.is_dir() or folder in in_use:
            continue
        # Crashes leave files between writing and registering, or half written.
        strays = [
            path
            for path in sorted(folder.iterdir())
            if path.name.lstrip(".").startswith(_OF_CHECKPOINTS) and path.name not in names
            if path.is_file() and _is_settled(path, settled)
        ]
        problem = f"No run registered {', '.join(path.name for path in strays)} in {folder}."
        registered = [(folder / name, size) for name, size in names.items() if size is not None]
        is_the_runs = any(path.is_file() and path.stat().st_size == size for path, size in registered)
        if strays and is_the_runs:
            found = {path: path.stat().st_mtime_ns for path in strays}
            yield Finding(problem, "Delete them.", partial(_delete_unchanged, found))
        elif strays:
            yield Finding(problem, "If they belong to this run and not to one in another store, delete them.")


def _delete_unchanged(files: dict[Path, int]) -> None:
    for path, stamp in files.items():
        if path.is_file() and path.stat().st_mtime_ns == stamp:
            path.unlink()


def _is_settled(path: Path, settled: timedelta) -> bool:
    return time.time() - path.stat().st_mtime > settled.total_seconds()
