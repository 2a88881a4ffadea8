"""A database: files and metrics of no run, pieces of no file, links that Omniboard lacks, files that are gone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from incasem_like.tracking.address import singular
from incasem_like.tracking.checkpoints.uploads import missing_uploads, upload_missing
from incasem_like.tracking.doctor.finding import Finding
from incasem_like.tracking.moments import naive_utc
from incasem_like.tracking.mongo.shared_files import free_unnamed, named_pairs
from incasem_like.tracking.mongo.summaries import UNFINISHED

if TYPE_CHECKING:
    from incasem_like.tracking.mongo.store import MongoStore
    from incasem_like.tracking.store import RunStore

_OWNED = re.compile(r"(?:artifact|checkpoint)://[^/]+/(\d+)/")


def check_database(store: RunStore, settled: timedelta) -> Iterator[Finding]:
    """Check what a database holds beside the documents of its runs."""
    from incasem_like.tracking.mongo.store import MongoStore

    assert isinstance(store, MongoStore)
    with store.errors():
        look = _Look.at(store, settled)
        yield from _files_of_no_run(store, look)
        yield from _pieces_of_no_file(store, look)
        yield from _metrics_of_no_run(store, look)
        yield from _missing_links(store, look)
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
        fields = {"artifacts": 1, "experiment.sources": 1, "resources": 1, "info.metrics": 1, UNFINISHED: 1}
        runs = {run["_id"]: run for run in store.database["runs"].find({}, fields) if isinstance(run["_id"], int)}
        live = frozenset(run.id for run in store.summaries() if run.status == "RUNNING")
        return cls(runs, found, datetime.now(UTC).replace(tzinfo=None) - settled, live)

    def is_settled(self, moment: Any) -> bool:
        """Say whether something of that time is not in the making."""
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
        free_unnamed(store.database, store.files, {file_id: file_id for file_id in set(file_ids) - used})


def _pieces_of_no_file(store: MongoStore, look: _Look) -> Iterator[Finding]:
    """Chunks that uploads left which broke off; those of checkpoints are gone on with where they are still wanted."""
    groups = store.database["fs.chunks"].aggregate(_distinct("files_id"))
    loose = [found["_id"] for found in groups if found["_id"] not in look.files]
    owners = {file_id: _OWNED.match(str(file_id)) for file_id in loose}
    stray = [file_id for file_id, owner in owners.items() if owner is None and look.is_settled(_made(file_id))]
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


def _metrics_of_no_run(store: MongoStore, look: _Look) -> Iterator[Finding]:
    ids = [found["_id"] for found in store.database["metrics"].aggregate(_distinct("run_id"))]
    gone = [run_id for run_id in ids if run_id not in look.runs and store.is_free(run_id)]
    if gone:
        problem = f"There are metrics of {len(gone)} runs that are gone."
        yield Finding(store.description, problem, "Delete them.", partial(_free_metrics, store, gone))


def _free_metrics(store: MongoStore, run_ids: list[Any]) -> None:
    with store.errors("written"):
        gone = [run_id for run_id in run_ids if store.is_free(run_id)]
        store.database["metrics"].delete_many({"run_id": {"$in": gone}})


def _missing_links(store: MongoStore, look: _Look) -> Iterator[Finding]:
    """Runs by whose document Omniboard does not find their metrics, or finds some that are gone."""
    present: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for metric in store.database["metrics"].find({}, {"run_id": 1, "name": 1}):
        present[metric["run_id"]][str(metric["_id"])] = str(metric.get("name"))
    for run_id, run in look.runs.items():
        links = (run.get("info") or {}).get("metrics") or ()
        linked = {str(link.get("id")) for link in links if isinstance(link, Mapping)}
        if run_id not in look.live and UNFINISHED not in run and linked != set(present[run_id]):
            problem = (
                f"{singular(store.kind).capitalize()} run {run_id} does not name its metrics, so Omniboard lacks them."
            )
            yield Finding(store.description, problem, "Name them.", partial(_link, store, run_id))


def _link(store: MongoStore, run_id: int) -> None:
    store.refuse_live(run_id)
    with store.errors("written"):
        found = store.database["metrics"].find({"run_id": run_id}, {"name": 1}).sort("_id", 1)
        links = [{"name": metric["name"], "id": str(metric["_id"])} for metric in found]
        store.database["runs"].update_one({"_id": run_id}, {"$set": {"info.metrics": links}})


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


def _distinct(key: str) -> list[dict[str, Any]]:
    """Ask for the values of a key that an index begins with; sorted by it, so that the documents are not read."""
    return [{"$sort": {key: 1}}, {"$group": {"_id": f"${key}"}}]


def _made(file_id: Any) -> datetime | None:
    """Say when an id was made, if it is one of MongoDB's own."""
    made: datetime | None = getattr(file_id, "generation_time", None)
    return made
