"""The start of a new run kept in MongoDB: its id, sources and first document."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymongo.errors

from incasem_like.errors import StoreError
from incasem_like.tracking.journal import Journal, Journals
from incasem_like.tracking.mongo.refusals import refusal
from incasem_like.tracking.mongo.shared_files import keep, name_in_run
from incasem_like.tracking.plain import plain, to_bson
from incasem_like.tracking.recording.sessions import (
    OpenedRun,
    Start,
    begin_metrics,
    describe_session,
    id_taken,
    new_token,
)

if TYPE_CHECKING:
    import gridfs
    from pymongo.database import Database

log = logging.getLogger("incasem_like.tracking")

FORMAT = "MongoObserver-0.7.0"
_SOURCES = "experiment.sources"
SECONDS_FOR_THE_INDEX = 10.0


@dataclass(frozen=True)
class Place:
    """Where a run is kept: its database, the database's GridFS, its journals, and its description for messages."""

    database: Database[Any]
    files: gridfs.GridFS
    journals: Journals
    description: str


@dataclass(frozen=True)
class Begun:
    """A run that this process writes: what is known of it, its journal, and the ids of its metrics documents."""

    run: OpenedRun
    journal: Journal
    metric_ids: dict[str, Any]


def open_new(place: Place, start: Start, wanted: int | None, id_above: int, limit: int) -> Begun:
    """Enter a new run.

    Args:
        place: Where it is kept.
        start: What is to be recorded.
        wanted: The id that was asked for; None for the next one, above all that ever were.
        id_above: The next one is above this too.
        limit: Points of each metric in the database.

    Raises:
        InputError: There is a run of the wanted id.
        StoreError: The server does not take it.
    """
    token = new_token()
    session = describe_session(token, start)
    named: Mapping[str, Any] = _keep_sources(place, start.ex_info)
    experiment = {**to_bson(plain(start.ex_info)), "sources": named[_SOURCES]}
    entry: dict[str, Any] = {
        "experiment": experiment,
        "format": FORMAT,
        "command": start.command,
        "host": to_bson(plain(start.host_info)),
        "start_time": start.start_time,
        "config": to_bson(plain(start.config)),
        "meta": to_bson(plain(start.meta_info)),
        "status": "RUNNING",
        "resources": [],
        "artifacts": [],
        "captured_out": "",
        "info": {"sessions": to_bson(plain([session]))},
        "heartbeat": None,
        "session": token,
    }
    try:
        run_id = _insert(place.database, entry, wanted, id_above)
        named = name_in_run(place.database, run_id, named, partial(_keep_sources, place, start.ex_info))
        experiment["sources"] = named[_SOURCES]
        clear_metrics(place.database, run_id)
        journal = place.journals.make(run_id)
        with journal.opening():
            metrics = begin_metrics(journal.log, token, limit)
    except BaseException:
        with contextlib.suppress(pymongo.errors.PyMongoError):
            place.database["runs"].delete_one({"session": token})
        raise
    return Begun(OpenedRun({"_id": run_id, **entry}, metrics, [session]), journal, {})


@contextlib.contextmanager
def errors_of_a_start(description: str, run_id: int | None) -> Iterator[None]:
    """Say in one sentence why a run cannot be started."""
    try:
        yield
    except pymongo.errors.DuplicateKeyError:
        raise id_taken(run_id, description) from None
    except pymongo.errors.ConnectionFailure:
        raise StoreError(
            f"{description} stopped answering: start the server and run the same command again, or add --offline to it."
        ) from None
    except pymongo.errors.OperationFailure as error:
        raise refusal(description, "written", error) from None


def highest_id(database: Database[Any]) -> int:
    """Find the highest id that a database ever gave, to runs that were deleted since too."""
    last = database["runs"].find({"_id": {"$gte": 0}}, {"_id": 1}).sort("_id", pymongo.DESCENDING).limit(1)
    noted = database["counters"].find_one({"_id": "runs"}) or {}
    return max([0, int(noted.get("highest") or 0), *(int(run["_id"]) for run in last)])


def note_id(database: Database[Any], run_id: int) -> None:
    """Note that an id is used, whatever becomes of its run."""
    database["counters"].update_one({"_id": "runs"}, {"$max": {"highest": run_id}}, upsert=True)


def clear_metrics(database: Database[Any], run_id: int) -> None:
    """Make sure that there are no metrics of a new run, of one of its id that is gone, and that an index finds them.

    Sacred makes no index. Where a database is so large that making it takes long, the run starts without: a person can
    make it at leisure, and ids are not given twice as a rule.
    """
    metrics = database["metrics"]
    try:
        with pymongo.timeout(SECONDS_FOR_THE_INDEX):
            with contextlib.suppress(pymongo.errors.OperationFailure):
                metrics.create_index([("run_id", 1), ("name", 1)])
            metrics.delete_many({"run_id": run_id})
    except pymongo.errors.PyMongoError as error:
        if not error.timeout:
            raise
        log.warning(
            "Database %s has so many metrics that runs are found slowly in it: have its administrator call "
            "db.metrics.createIndex({run_id: 1, name: 1}) once.",
            database.name,
        )


def _insert(database: Database[Any], entry: Mapping[str, Any], wanted: int | None, id_above: int) -> int:
    while True:
        run_id = wanted if wanted is not None else max(highest_id(database), id_above) + 1
        try:
            database["runs"].insert_one({"_id": run_id, **entry})
        except pymongo.errors.DuplicateKeyError:
            if wanted is not None:
                raise
            continue
        except pymongo.errors.ConnectionFailure:  # perhaps only the answer was lost
            if database["runs"].find_one({"_id": run_id, "session": entry["session"]}, {"_id": 1}) is None:
                raise
        note_id(database, run_id)
        return run_id


def _keep_sources(place: Place, ex_info: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Store the sources that the database does not have yet; gives what the run's document says of them, by field."""
    entries = []
    for name, md5 in ex_info["sources"]:
        path = Path(ex_info["base_dir"]) / name
        entries.append([name, keep(place.database, place.files, str(path), md5, path.read_bytes)])
    return {_SOURCES: entries}
