"""Delivering what a run store did not get in time: journals of outages, checkpoints, and runs begun with --offline."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from incasem_like.disk import write_whole
from incasem_like.errors import InputError, StoreError
from incasem_like.tracking.address import FolderAddress, parse_address
from incasem_like.tracking.mirror.checkpoints import runs_lacking_uploads, upload_missing
from incasem_like.tracking.moving.model_files import delete_run, finish_deletion
from incasem_like.tracking.moving.transfer import copy_run
from incasem_like.tracking.opening import open_store
from incasem_like.tracking.run_folder import Journal, Journals
from incasem_like.tracking.sessions import tokens
from incasem_like.tracking.stores.base import DELETING, RunStore
from incasem_like.tracking.stores.files import FileStore

OFFLINE = Path("tracking", "offline")


@dataclass(frozen=True)
class Synced:
    """The outcome for a run that was pending on this machine: what was done, or why nothing was, for a person.

    ``delivered_as`` is its id in the store; None where it was left as it is.
    """

    kind: str
    run_id: int
    delivered_as: int | None
    what: str


def sync_journals(store: RunStore) -> list[Synced]:
    """Deliver what is left on this machine of runs that are over; an active run delivers itself.

    Doing it again, or breaking it off, does no harm.
    """
    waiting, found = offline_store(store.kind, store.runs_directory), list[Synced]()
    if waiting.description != store.description:
        for run_id in waiting.unfinished(DELETING):
            finish_deletion(waiting, run_id)
        found += [_or_why_not(store, one, partial(_deliver_offline, waiting, one, store)) for one in waiting.ids()]
    found += [_or_why_not(store, one.run_id, partial(_delivered, store, one)) for one in store.pending()]
    for record in runs_lacking_uploads(store):
        iterations = ", ".join(str(checkpoint.iteration) for checkpoint in upload_missing(record))
        if iterations:
            found.append(Synced(store.kind, record.id, record.id, f"checkpoints uploaded: {iterations}"))
    return found


def _delivered(store: RunStore, journal: Journal) -> Synced:
    problem = store.deliver(journal)
    return Synced(store.kind, journal.run_id, None if problem else journal.run_id, problem or "record delivered")


def offline_store(kind: str, runs_directory: Path, id_above: int = 0) -> FileStore:
    """Return the store of the runs of a kind that wait on this machine for their database."""
    return FileStore(runs_directory / OFFLINE / f"incasem_{kind}", kind, runs_directory, id_above)


def open_offline(url: str | Path | None, kind: str, runs_directory: Path) -> RunStore:
    """Open the store for a run that may not wait for its database; a store of files is not away and stays.

    Ids continue above those of the database's runs that this machine knows of, so that as few as possible are taken
    when the run is delivered: the datasets that it writes carry its id.
    """
    address = parse_address(url, runs_directory)
    if isinstance(address, FolderAddress):
        return open_store(url, kind, runs_directory)
    known = [journal.run_id for journal in Journals(runs_directory, address.database(kind))]
    return offline_store(kind, runs_directory, max(known, default=0))


def _deliver_offline(waiting: FileStore, run_id: int, store: RunStore) -> Synced:
    record = waiting.get(run_id)
    if record.status == "RUNNING" or waiting.run_folder(run_id).is_held:
        return Synced(store.kind, run_id, None, "is still running: deliver it when it is over")
    if record.status != record.recorded_status:
        waiting.set_killed(run_id)
        record = waiting.get(run_id)
    # It may have been delivered by a process that ended before it could clear up here.
    mine = set(tokens(record.info))
    delivered = (run_id for run_id in reversed(store.ids()) if mine and run_id >= record.id)
    new_id = next((one for one in delivered if mine & set(tokens((store.read_document(one) or {}).get("info")))), None)
    # The ids that offline runs got in their database, for what their children note of them
    path = store.runs_directory / OFFLINE / "new_ids.json"
    noted = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if new_id is None:
        renumbered = {(kind, int(old)): new for kind, ids in noted.items() for old, new in ids.items()}
        new_id = copy_run(record, store, renumbered=renumbered).id
    if new_id != run_id:
        noted.setdefault(store.kind, {})[str(run_id)] = new_id
        write_whole(path, lambda file: file.write(json.dumps(noted).encode()))
    delete_run(waiting, run_id, force=True)  # its checkpoints stay: they belong to the run in the store by now
    renamed = "" if new_id == run_id else f" as run {new_id}, since its id was taken"
    return Synced(store.kind, run_id, new_id, f"run delivered{renamed}")


def _or_why_not(store: RunStore, run_id: int, deliver: Callable[[], Synced]) -> Synced:
    """Deliver a run; one that is damaged or too large must not keep those behind it from being delivered."""
    try:
        return deliver()
    except (InputError, StoreError) as error:
        store.is_free(run_id)  # raises when it is the store that fails
        return Synced(store.kind, run_id, None, str(error).rstrip("."))
