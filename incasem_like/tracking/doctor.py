"""What is inconsistent in run stores and the runs directory, and the repair of each."""

from __future__ import annotations

import re
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.disk import copy_whole
from incasem_like.errors import CheckpointError, InputError, StoreError
from incasem_like.tracking.kinds import kind_named, singular
from incasem_like.tracking.mirror.checkpoints import missing_uploads, upload_missing
from incasem_like.tracking.model.cache import cached_path, file_sha256
from incasem_like.tracking.model.checkpoints import (
    BESIDE_MODELS,
    DELETED_PREFIX,
    MODELS,
    folder_name,
    models_folder,
    remove_tree,
)
from incasem_like.tracking.model.summaries import DAMAGED
from incasem_like.tracking.moving.deletion import finish_deletion
from incasem_like.tracking.moving.model_files import OWNERS
from incasem_like.tracking.stores.base import DELETING, IMPORTING
from incasem_like.tracking.stores.files import SHELVES, FileStore, free_unnamed_files, unnamed
from incasem_like.tracking.stores.index import UNFINISHED
from incasem_like.tracking.stores.mongo import MongoStore, free_unnamed, named_pairs
from incasem_like.tracking.values import naive_utc

if TYPE_CHECKING:
    from incasem_like.tracking.model.checkpoints import CheckpointRecord, TrackedFile
    from incasem_like.tracking.model.summaries import CheckpointSummary, RunSummary
    from incasem_like.tracking.stores.base import RunRecord, RunStore


@dataclass(frozen=True)
class Finding:
    """An inconsistency.

    Attributes:
        place: The store or folder where it is.
        problem: What is wrong, in one sentence.
        repair: What ``mend`` does about it; without ``mend``, what a person can do.
        mend: Repairs it; None where that takes a person's judgement. What was found to be otherwise meanwhile is left
            alone. Raises an ``IncasemError`` where it cannot.
    """

    place: str
    problem: str
    repair: str
    mend: Callable[[], object] | None = None


def check_checkpoints(stores: Sequence[RunStore], thorough: bool) -> Iterator[Finding]:
    """Compare the checkpoints of training runs with their records."""
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
    """Return whether the file in the runs directory is right, missing or changed."""
    present = [path for path in file.candidates if path.is_file()]
    if not present:
        return "missing"
    right = [path for path in present if path.stat().st_size == file.bytes]
    if thorough:
        right = [path for path in right if file_sha256(path) == file.sha256]
    return "right" if right else "changed"


def _elsewhere(file: TrackedFile) -> bool:
    """Return whether the cache, the database or a publisher has it."""
    return cached_path(file.name, file.sha256).is_file() or file.url is not None or file.sha256 in file.places.stored


def _ran_here(record: RunRecord) -> bool:
    """Return whether a run's files should be on this machine; another one's runs keep theirs there."""
    return record.host.get("hostname") in (None, socket.gethostname())


def _restore(file: TrackedFile) -> None:
    """Replace the changed file by the right one."""
    found = file.fetch()
    target = file.candidates[0]
    if found == target:
        return
    try:
        copy_whole(found, target)
    except OSError as error:
        raise StoreError(f"{target} cannot be written ({error.strerror or error}): check its rights.") from None


def _forget(store: RunStore, run_id: int, checkpoint: CheckpointRecord) -> None:
    """Remove a checkpoint from its run's record, unless it is there again."""
    try:
        for file in checkpoint.files:
            file.fetch()
        return
    except CheckpointError:
        entries = store.get(run_id).info.get("checkpoints") or []
    store.note(run_id, {"checkpoints": [entry for entry in entries if entry.get("sha256") != checkpoint.sha256]})


def check_records(store: RunStore, settled: timedelta) -> Iterator[Finding]:
    """Check the records of a store."""
    yield from _undelivered(store)
    runs = store.summaries()
    dead = [run.id for run in runs if run.status == "KILLED" and run.recorded_status == "RUNNING"]
    for run in runs:
        name = f"{singular(run.kind).capitalize()} run {run.id}"
        if run.status == DAMAGED:
            problem = f"{name} is damaged: {run.damage}."
            repair = (
                f"Restore it from a backup, or delete {run.kind}/{run.id} with 'incasem-like runs delete' and the "
                "flags of this store."
            )
            yield Finding(store.description, problem, repair)
        elif run.id in dead:
            heard = run.heartbeat or run.start_time
            said = f", last heard of at {heard:%Y-%m-%d %H:%M} UTC" if heard else ""
            problem = f"{name} says RUNNING, but its process is gone{said}."
            yield Finding(store.description, problem, "Set it down as KILLED.", partial(_set_down, store, run.id, dead))
    for run_id in store.unfinished(DELETING):
        problem = f"The deletion of {singular(store.kind)} run {run_id} broke off."
        yield Finding(store.description, problem, "Finish it.", partial(finish_deletion, store, run_id))
    for run_id, age in store.unfinished(IMPORTING).items():
        if age > settled.total_seconds():
            problem = f"{singular(store.kind).capitalize()} run {run_id} was begun or imported, and never came to be."
            mend = partial(store.remove, run_id)
            yield Finding(store.description, problem, "Delete what there is of it.", mend)


def _undelivered(store: RunStore) -> Iterator[Finding]:
    present = set(store.ids())
    for journal in store.pending():
        run = f"{singular(store.kind)} run {journal.run_id}"
        if journal.is_held:
            continue
        if journal.run_id in present:
            problem = f"The record of {run} is not all there: the rest waits in {journal.folder}."
            yield Finding(store.description, problem, "Deliver it.", partial(store.deliver, journal))
        else:
            problem = f"{journal.folder} waits for {run}, which is not there."
            repair = "Deliver it with 'incasem-like runs sync', or delete the folder if the run was deleted on purpose."
            yield Finding(store.description, problem, repair)


def _set_down(store: RunStore, run_id: int, dead: Sequence[int]) -> None:
    """Note that a run was killed, unless somebody did so or continued it meanwhile; watches all that look dead once."""
    for journal in store.pending(run_id):
        store.deliver(journal)
    record = store.get(run_id)
    if record.recorded_status == "RUNNING" and record.status != "RUNNING":
        if run_id in store.heard_of(dead):
            raise InputError("it is running; the clock of its machine and that of this one differ.")
        store.set_state(run_id, "KILLED", record.heartbeat or record.start_time)


_OF_CHECKPOINTS = ("model_checkpoint_", "training_state_")


@dataclass
class _Account:
    """What the runs of a number say of their folder: names of registered files by length, and whether it may change."""

    names: dict[str, int | None] = field(default_factory=dict)
    in_use: bool = False


def check_folders(stores: Sequence[RunStore], runs_directory: Path, settled: timedelta) -> Iterator[Finding]:
    """Check the folders of training runs.

    Args:
        stores: All that have training runs there.
        runs_directory: The folder of runs.
        settled: What changed less than this ago is left alone.
    """
    accounts = _accounts(stores, runs_directory)
    for kind in (MODELS, *BESIDE_MODELS):
        for folder in sorted((runs_directory / kind).glob("*")):
            if folder.name.startswith(DELETED_PREFIX) and _is_settled(folder, settled):
                problem = f"{folder} is left of a deletion that broke off."
                yield Finding(str(runs_directory), problem, "Delete it.", partial(remove_tree, folder))
            elif (
                folder.name.isdecimal() and folder.is_dir() and folder not in accounts and _is_settled(folder, settled)
            ):
                problem = f"{folder} belongs to no run in {' or '.join(store.description for store in stores)}."
                repair = "Name the store of its run too; or delete the folder, if there is none."
                yield Finding(str(folder.parent), problem, repair)
    for folder, account in accounts.items():
        if folder.parent.name == MODELS and folder.is_dir() and not account.in_use:
            yield from _check_files(folder, account, settled)


def _accounts(stores: Sequence[RunStore], runs_directory: Path) -> dict[Path, _Account]:
    """Find what accounts for each folder: a run's number, or a path that a run registered."""
    accounts: defaultdict[Path, _Account] = defaultdict(_Account)
    for store in stores:
        for run in store.summaries():
            own = [runs_directory / kind / folder_name(run.id) for kind in (MODELS, *BESIDE_MODELS)]
            for folder in own:
                accounts[folder].in_use |= run.status in ("RUNNING", DAMAGED)
            for checkpoint in run.checkpoints:
                path = runs_directory / checkpoint.path
                accounts[path.parent].names[path.name] = checkpoint.bytes
                accounts[path.parent].names[f"training_state_{checkpoint.iteration}"] = None
        for run_id in (*store.unfinished(DELETING), *store.unfinished(IMPORTING)):
            accounts[models_folder(runs_directory, run_id)].in_use = True
    return dict(accounts)


def _check_files(folder: Path, account: _Account, settled: timedelta) -> Iterator[Finding]:
    """Find files that no run registered: crashes leave them between writing and registering, or half written."""
    strays = [path for path in sorted(folder.iterdir()) if _is_stray(path, account) and _is_settled(path, settled)]
    if not strays:
        return
    named = ", ".join(path.name for path in strays)
    problem = f"No run registered {named} in {folder}."
    registered = [(folder / name, size) for name, size in account.names.items() if size is not None]
    if any(path.is_file() and path.stat().st_size == size for path, size in registered):  # so the folder is that run's
        mend = partial(_delete, strays, [path.stat().st_mtime_ns for path in strays])
        yield Finding(str(folder), problem, "Delete what no run can use.", mend)
    else:
        repair = "If they are of this run and not of one in another store, delete them."
        yield Finding(str(folder), problem, repair)


def _is_stray(path: Path, account: _Account) -> bool:
    if path.name in account.names or path.name == OWNERS or not path.is_file():
        return False
    return path.name.lstrip(".").startswith(_OF_CHECKPOINTS)


def _is_settled(path: Path, settled: timedelta) -> bool:
    return time.time() - path.stat().st_mtime > settled.total_seconds()


def _delete(paths: Sequence[Path], stamps: Sequence[int]) -> None:
    """Delete files that are as they were found."""
    for path, stamp in zip(paths, stamps, strict=True):
        if path.is_file() and path.stat().st_mtime_ns == stamp:
            path.unlink()


def check_sources(store: FileStore, settled: timedelta) -> Iterator[Finding]:
    """Check the sources and resources that runs share: those of runs that never came to be are named by none."""
    if not store.folder.is_dir():
        return
    paths = [path for shelf in SHELVES for path in (store.folder / shelf).glob("*")]
    old = {path.relative_to(store.folder).as_posix() for path in paths if _is_settled(path, settled)}
    if found := unnamed(store.folder, old):
        problem = f"{len(found)} source files in {store.folder} are named by no run."
        yield Finding(store.description, problem, "Delete them.", partial(free_unnamed_files, store.folder, found))


_OWNED = re.compile(r"(?:artifact|checkpoint)://[^/]+/(\d+)/")


def check_database(store: MongoStore, settled: timedelta) -> Iterator[Finding]:
    """Check what a database holds beside the documents of its runs."""
    with store.errors():
        look = _Look.at(store, settled)
        yield from _files_of_no_run(store, look)
        yield from _pieces_of_no_file(store, look)
        yield from _missing_files(store, look)


@dataclass(frozen=True)
class _Look:
    """What was found at first: documents in brief, files in brief, and the moment before which things are settled."""

    runs: Mapping[int, Mapping[str, Any]]
    files: Mapping[Any, Mapping[str, Any]]
    before: datetime
    live: frozenset[int]

    @classmethod
    def at(cls, store: MongoStore, settled: timedelta) -> _Look:
        """Look at a database; the files first, for a run that begins meanwhile names none that are not there yet."""
        files = store.database["fs.files"].find({}, {"filename": 1, "uploadDate": 1, "md5": 1})
        found = {file["_id"]: file for file in files}
        fields = {"artifacts": 1, "experiment.sources": 1, "resources": 1, UNFINISHED: 1}
        runs = {run["_id"]: run for run in store.database["runs"].find({}, fields) if isinstance(run["_id"], int)}
        live = frozenset(run.id for run in store.summaries() if run.status == "RUNNING")
        return cls(runs, found, datetime.now(UTC).replace(tzinfo=None) - settled, live)

    def is_settled(self, moment: Any) -> bool:
        """Return whether something of that time is not in the making."""
        made = naive_utc(moment)
        return made is None or made < self.before


def _files_of_no_run(store: MongoStore, look: _Look) -> Iterator[Finding]:
    """Artifacts and checkpoints of runs that are gone, or that the run does not name; sources that no run names."""
    named = {pair[1] for run in look.runs.values() for pair in named_pairs(run)}
    artifacts = {entry.get("file_id") for run in look.runs.values() for entry in run.get("artifacts") or ()}
    forsaken: dict[str, list[Any]] = {"files of no run": [], "sources that no run names": []}
    for file_id, file in look.files.items():
        if not look.is_settled(file.get("uploadDate")) or file_id in named or file_id in artifacts:
            continue
        owner = _OWNED.match(str(file.get("filename")))
        if owner and int(owner[1]) not in look.live:
            is_checkpoint = str(file["filename"]).startswith("checkpoint")
            if int(owner[1]) not in look.runs or not is_checkpoint:
                forsaken["files of no run"].append(file_id)
        elif not owner and "md5" in file:
            forsaken["sources that no run names"].append(file_id)
    for what, file_ids in forsaken.items():
        if file_ids:
            mend = partial(_free_if_unnamed, store, file_ids)
            yield Finding(store.description, f"GridFS holds {len(file_ids)} {what}.", "Delete them.", mend)


def _free_if_unnamed(store: MongoStore, file_ids: list[Any]) -> None:
    with store.errors("written"):
        artifact = {"artifacts.file_id": {"$in": file_ids}}
        used = {
            entry["file_id"]
            for run in store.database["runs"].find(artifact, {"artifacts": 1})
            for entry in run["artifacts"]
        }
        free_unnamed(store.database, {file_id: file_id for file_id in set(file_ids) - used})


def _pieces_of_no_file(store: MongoStore, look: _Look) -> Iterator[Finding]:
    """Chunks that uploads left which broke off; those of checkpoints are resumed where they are still wanted."""
    # Sorted by what an index begins with, so that the documents are not read
    groups = store.database["fs.chunks"].aggregate([{"$sort": {"files_id": 1}}, {"$group": {"_id": "$files_id"}}])
    loose = [found["_id"] for found in groups if found["_id"] not in look.files]
    owners = {file_id: _OWNED.match(str(file_id)) for file_id in loose}
    others = [file_id for file_id, owner in owners.items() if owner is None]
    stray = [file_id for file_id in others if look.is_settled(getattr(file_id, "generation_time", None))]
    if stray:
        problem = f"GridFS holds pieces of {len(stray)} files that were never finished."
        yield Finding(store.description, problem, "Delete them.", partial(_free_pieces, store, stray))
    for run_id in sorted({int(owner[1]) for owner in owners.values() if owner} - look.live):
        problem = f"An upload of checkpoints of training run {run_id} broke off."
        if run_id not in look.runs:
            mend: Callable[[], object] = partial(store.checkpoint_files.remove_run, run_id)
            yield Finding(store.description, problem, "Delete the pieces, for the run is gone.", mend)
        else:
            yield Finding(
                store.description, problem, "Finish it, or delete the pieces.", partial(_finish, store, run_id)
            )


def _finish(store: MongoStore, run_id: int) -> None:
    record = store.get(run_id)
    upload_missing(record)
    if not missing_uploads(record) and record.status != "RUNNING":
        store.checkpoint_files.remove_partial(run_id)


def _free_pieces(store: MongoStore, file_ids: list[Any]) -> None:
    with store.errors("written"):
        present = {file["_id"] for file in store.database["fs.files"].find({"_id": {"$in": file_ids}}, {"_id": 1})}
        loose = [file_id for file_id in file_ids if file_id not in present]
        store.database["fs.chunks"].delete_many({"files_id": {"$in": loose}})


def _missing_files(store: MongoStore, look: _Look) -> Iterator[Finding]:
    for run_id, run in look.runs.items():
        artifacts = [entry for entry in run.get("artifacts") or () if isinstance(entry, Mapping)]
        gone = [str(entry.get("name")) for entry in artifacts if entry.get("file_id") not in look.files]
        gone += [
            str(name) for name, key in named_pairs(run) if not isinstance(key, str | None) and key not in look.files
        ]
        if gone and run_id not in look.live and UNFINISHED not in run:
            shown = ", ".join(gone[:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else "")
            problem = f"{singular(store.kind).capitalize()} run {run_id} names files that are gone: {shown}."
            yield Finding(store.description, problem, "Restore the database from a backup.")


SETTLED = timedelta(hours=1)


def examine(
    stores: Sequence[RunStore], runs_directory: Path, *, thorough: bool = False, settled: timedelta = SETTLED
) -> list[Finding]:
    """Find what is inconsistent; nothing is changed until a finding is mended. Active runs are left alone.

    Args:
        stores: All that have runs in the runs directory: of every kind, and of every place where runs are kept.
        runs_directory: The folder of training runs on this machine.
        thorough: Read checkpoints through and compare their hashes, rather than their lengths alone.
        settled: What changed less than this ago may be in the making and is left alone.

    Raises:
        StoreError: A store does not answer.
    """
    found: list[Finding] = []
    for store in stores:
        found += check_records(store, settled)
        if isinstance(store, FileStore):
            found += check_sources(store, settled)
        elif isinstance(store, MongoStore):
            found += check_database(store, settled)
    trainings = [store for store in stores if kind_named(store.kind).keeps_checkpoints]
    found += check_checkpoints(trainings, thorough)
    return found + list(check_folders(trainings, Path(runs_directory).absolute(), settled))
