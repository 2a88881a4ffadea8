"""The start of a run kept in MongoDB: an id for a new one, and taking one that is to be continued."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymongo.errors

from incasem_like.errors import InputError, RunNotFoundError, StoreError
from incasem_like.tracking.journal import Journal, Journals
from incasem_like.tracking.metrics_log import AlreadyWrittenError, base_of, goes_on_from
from incasem_like.tracking.mongo.delivery import series_update
from incasem_like.tracking.mongo.summaries import UNFINISHED
from incasem_like.tracking.plain import from_bson, plain, to_bson
from incasem_like.tracking.recording.sessions import (
    Continuation,
    OpenedRun,
    Start,
    begin_metrics,
    continued_meta,
    describe_session,
    how_it_ended,
    new_token,
    noted_by_the_run,
    resume_metrics,
    still_going_on,
    tokens,
)
from incasem_like.tracking.series import MetricTable

if TYPE_CHECKING:
    import gridfs
    from pymongo.database import Database

FORMAT = "MongoObserver-0.7.0"
_ATTEMPTS_TO_TAKE = 5
_OF_THE_END = ("stop_time", "fail_trace", "result")
_OURS = (  # not the tags and notes of persons, which may change meanwhile
    *("_id", "experiment", "format", "command", "start_time", "resources", "artifacts", "captured_out", "info"),
    "heartbeat",
)
_OF_A_SESSION = ("session", "status", "host", "heartbeat", *_OF_THE_END)


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
    token, runs = new_token(), place.database["runs"]
    session = describe_session(token, start)
    entry: dict[str, Any] = {
        "experiment": {**to_bson(plain(start.ex_info)), "sources": _save_sources(place, start.ex_info)},
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
    run_id = _insert(place.database, entry, wanted, id_above)
    try:
        place.database["metrics"].delete_many({"run_id": run_id})  # of a run of that id that is gone
        with contextlib.suppress(pymongo.errors.OperationFailure):
            place.database["metrics"].create_index([("run_id", 1), ("name", 1)])
        journal = place.journals.make(run_id)
        journal.log.open()
        metrics = begin_metrics(journal.log, token, limit)
    except BaseException:
        runs.delete_one({"_id": run_id, "session": token})
        raise
    return Begun(OpenedRun({"_id": run_id, **entry}, metrics, [session]), journal, {})


def take_up(place: Place, start: Start, continuation: Continuation, limit: int) -> Begun:
    """Take a run that is over, so that this process goes on with it and no other can.

    Args:
        place: Where it is kept.
        start: What surrounds the process that goes on.
        continuation: The run and the iteration it goes on from.
        limit: Points of each metric in the database.

    Raises:
        RunNotFoundError: There is no such run.
        InputError: It still goes on.
        StoreError: The server does not answer, or another process was quicker.
    """
    from incasem_like.tracking.mongo.undelivered import deliver

    run_id = continuation.run_id
    document = _read(place, run_id)
    journal = place.journals.find(run_id, tokens(from_bson(document.get("info") or {})))
    if journal is None:
        how_it_ended(document, run_id, place.description)
        journal = place.journals.make(run_id)
    try:
        journal.log.open()
    except AlreadyWrittenError:
        raise still_going_on(run_id, place.description, document.get("host") or {}) from None
    try:
        deliver(journal, place.database, place.files, limit, place.description)  # what an outage kept back
        token = new_token()
        document, ended = _take(place, run_id, token, start)
        with _given_back_on_error(place, document, token), journal.log.all_or_nothing():
            info = from_bson(document.get("info") or {})
            present = list(place.database["metrics"].find({"run_id": run_id}))
            iteration = continuation.iteration  # not before: it may be looked up in the run
            if not goes_on_from(journal.log.path, tokens(info)):
                journal.log.add_marker(base=base_of(_table(present, info)))
            metrics = resume_metrics(journal.log, token, iteration, info, limit)
            metric_ids = _take_metrics(place.database, present, metrics.table, token, run_id)
    except BaseException:
        journal.log.close()
        raise
    session = {**describe_session(token, start, iteration), "before": ended}
    entry = {
        **{key: document[key] for key in _OURS if key in document},
        "host": to_bson(plain(start.host_info)),
        "meta": to_bson(continued_meta(from_bson(document.get("meta")), start.meta_info)),
        "config": to_bson(plain(start.config)),
        "status": "RUNNING",
        "session": token,
    }
    sessions = [*(info.get("sessions") or ()), session]
    output = str(document.get("captured_out") or "")
    return Begun(OpenedRun(entry, metrics, sessions, noted_by_the_run(info), output), journal, metric_ids)


@contextlib.contextmanager
def errors_of_a_start(description: str, run_id: int | None) -> Iterator[None]:
    """Say in one sentence why a run cannot be started."""
    try:
        yield
    except pymongo.errors.DuplicateKeyError:
        raise InputError(
            f"There is a run {run_id} in {description} already: choose another --id or leave it out."
        ) from None
    except pymongo.errors.ConnectionFailure:
        raise StoreError(
            f"{description} stopped answering: start the server and run the same command again, or add --offline to it."
        ) from None
    except pymongo.errors.OperationFailure as error:
        raise StoreError(
            f"{description} does not take a new run (code {error.code}): check that the user may write there."
        ) from None


def highest_id(database: Database[Any]) -> int:
    """Find the highest id that a database ever gave, to runs that were deleted since too."""
    last = database["runs"].find({"_id": {"$gte": 0}}, {"_id": 1}).sort("_id", pymongo.DESCENDING).limit(1)
    noted = database["counters"].find_one({"_id": "runs"}) or {}
    return max([0, int(noted.get("highest") or 0), *(int(run["_id"]) for run in last)])


def note_id(database: Database[Any], run_id: int) -> None:
    """Note that an id is used, whatever becomes of its run."""
    database["counters"].update_one({"_id": "runs"}, {"$max": {"highest": run_id}}, upsert=True)


def _insert(database: Database[Any], entry: Mapping[str, Any], wanted: int | None, id_above: int) -> int:
    while True:
        run_id = wanted if wanted is not None else max(highest_id(database), id_above) + 1
        try:
            database["runs"].insert_one({"_id": run_id, **entry})
        except pymongo.errors.DuplicateKeyError:
            if wanted is not None:
                raise
            continue
        note_id(database, run_id)
        return run_id


def _save_sources(place: Place, ex_info: Mapping[str, Any]) -> list[list[Any]]:
    """Store the sources that the database does not have yet.

    Sacred looks for them by an MD5 that today's GridFS does not keep, and so stores every source with every run.
    """
    paths = {name: str(Path(ex_info["base_dir"]) / name) for name, _ in ex_info["sources"]}
    query = {"filename": {"$in": list(paths.values())}, "md5": {"$exists": True}}
    stored = {(file["filename"], file["md5"]): file["_id"] for file in place.database["fs.files"].find(query)}
    entries = []
    for name, md5 in ex_info["sources"]:
        file_id = stored.get((paths[name], md5))
        if file_id is None:
            file_id = place.files.put(Path(paths[name]).read_bytes(), filename=paths[name], md5=md5)
        entries.append([name, file_id])
    return entries


def _read(place: Place, run_id: int) -> dict[str, Any]:
    found = place.database["runs"].find_one({"_id": run_id, UNFINISHED: {"$exists": False}})
    if found is None:
        raise RunNotFoundError(f"There is no run {run_id} in {place.description} to continue: name one that is there.")
    return dict(found)


def _take(place: Place, run_id: int, token: str, start: Start) -> tuple[dict[str, Any], str]:
    """Make the run this session's, unless it is heard of, or taken by another process, at that very moment."""
    for _ in range(_ATTEMPTS_TO_TAKE):
        document = _read(place, run_id)
        ended = how_it_ended(document, run_id, place.description)
        as_found = {key: document.get(key) for key in ("_id", "session", "status", "heartbeat")}
        mine = {
            "session": token,
            "status": "RUNNING",
            "host": to_bson(plain(start.host_info)),
            "heartbeat": start.start_time,
        }
        over = dict.fromkeys(_OF_THE_END, "")
        if place.database["runs"].update_one(as_found, {"$set": mine, "$unset": over}).matched_count:
            return document, ended
    raise StoreError(f"Run {run_id} in {place.description} changes all the time: see who writes it and try again.")


@contextlib.contextmanager
def _given_back_on_error(place: Place, document: Mapping[str, Any], token: str) -> Iterator[None]:
    """Leave a run that was taken and cannot be gone on with as it was."""
    try:
        yield
    except BaseException:
        before = {key: document[key] for key in _OF_A_SESSION if key in document}
        change = {"$set": before} if "session" in before else {"$set": before, "$unset": {"session": ""}}
        with contextlib.suppress(pymongo.errors.PyMongoError):
            place.database["runs"].update_one({"_id": document["_id"], "session": token}, change)
        raise


def _table(present: list[dict[str, Any]], info: Mapping[str, Any]) -> MetricTable:
    """Take what the database has of the metrics, for want of their log."""
    table = MetricTable(max([2, *(len(document["steps"]) for document in present)]))
    for document in present:
        table.put(document["name"], document, (info.get("summary") or {}).get(document["name"]))
    return table


def _take_metrics(
    database: Database[Any], present: list[dict[str, Any]], table: MetricTable, token: str, run_id: int
) -> dict[str, Any]:
    """Make the metrics documents this session's, without what was withdrawn; give their ids."""
    ids: dict[str, Any] = {}
    for document in present:
        series = table.series.get(document["name"])
        if series is None or document["name"] in ids:
            database["metrics"].delete_one({"_id": document["_id"]})
            continue
        update = series_update(document["name"], run_id, series, None)
        assert update is not None
        database["metrics"].update_one({"_id": document["_id"]}, {"$set": {**update[0], "session": token}})
        ids[document["name"]] = document["_id"]
    return ids
