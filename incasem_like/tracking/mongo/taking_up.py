"""Taking a run that is kept in MongoDB and is over, so that this process goes on with it and no other can."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pymongo.errors

from incasem_like.errors import RunNotFoundError, StoreError
from incasem_like.tracking.journal import Journal
from incasem_like.tracking.metrics_log import AlreadyWrittenError
from incasem_like.tracking.metrics_log_reading import base_of, goes_on_from
from incasem_like.tracking.mongo.delivery import series_update
from incasem_like.tracking.mongo.starting import Begun, Place
from incasem_like.tracking.mongo.summaries import UNFINISHED
from incasem_like.tracking.plain import from_bson, plain, to_bson
from incasem_like.tracking.recording.run_metrics import RunMetrics
from incasem_like.tracking.recording.sessions import (
    Continuation,
    OpenedRun,
    Start,
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
    from pymongo.database import Database

_ATTEMPTS_TO_TAKE = 5
_OF_THE_END = ("stop_time", "fail_trace", "result")
_OURS = (  # not the tags and notes of persons, which may change meanwhile
    *("_id", "experiment", "format", "command", "start_time", "resources", "artifacts", "captured_out", "info"),
    "heartbeat",
)
_OF_A_SESSION = {"session", "status", "host", "heartbeat", *_OF_THE_END}


def take_up(place: Place, start: Start, continuation: Continuation, limit: int) -> Begun:
    """Take a run.

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

    run_id, token = continuation.run_id, new_token()
    document = _read(place, run_id)
    journal = place.journals.find(run_id, tokens(from_bson(document.get("info") or {})))
    journal = journal or place.journals.make(run_id)
    try:
        with journal.opening():  # nobody here can take the run meanwhile
            deliver(journal, place.database, place.files, limit, place.description)  # what an outage kept back
            with _taken(place, run_id, token, start) as (document, ended):
                iteration = continuation.iteration  # not before: it may be looked up in the run
                metrics, metric_ids = _resume(place, journal, document, token, iteration, limit)
    except AlreadyWrittenError:
        raise still_going_on(run_id, place.description, document.get("host") or {}) from None
    session = {**describe_session(token, start, iteration), "before": ended}
    return Begun(_opened(document, start, session, metrics), journal, metric_ids)


def _resume(
    place: Place, journal: Journal, document: Mapping[str, Any], token: str, iteration: int, limit: int
) -> tuple[RunMetrics, dict[str, Any]]:
    """Withdraw what a run logged after an iteration; gives its metrics and the ids of their documents."""
    info, run_id = from_bson(document.get("info") or {}), document["_id"]
    present = list(place.database["metrics"].find({"run_id": run_id}))
    if not goes_on_from(journal.log.path, tokens(info)):
        journal.log.add_marker(base=base_of(_table(present, info)))
    metrics = resume_metrics(journal.log, token, iteration, info, limit)
    return metrics, _take_metrics(place.database, present, metrics.table, token, run_id)


def _opened(document: Mapping[str, Any], start: Start, session: Mapping[str, Any], metrics: RunMetrics) -> OpenedRun:
    """Put together what is known of a run now that it is this process's."""
    info = from_bson(document.get("info") or {})
    entry = {
        **{key: document[key] for key in _OURS if key in document},
        "host": to_bson(plain(start.host_info)),
        "meta": to_bson(continued_meta(from_bson(document.get("meta")), start.meta_info)),
        "config": to_bson(plain(start.config)),
        "status": "RUNNING",
        "session": session["token"],
    }
    sessions = [*(info.get("sessions") or ()), dict(session)]
    return OpenedRun(entry, metrics, sessions, noted_by_the_run(info), str(document.get("captured_out") or ""))


def _read(place: Place, run_id: int) -> dict[str, Any]:
    found = place.database["runs"].find_one({"_id": run_id, UNFINISHED: {"$exists": False}})
    if found is None:
        raise RunNotFoundError(f"There is no run {run_id} in {place.description} to continue: name one that is there.")
    return dict(found)


@contextlib.contextmanager
def _taken(place: Place, run_id: int, token: str, start: Start) -> Iterator[tuple[dict[str, Any], str]]:
    """Have a run for a block that goes on with it; give it back as it was where that cannot be.

    Yields:
        Its document as it was, and how it had ended.
    """
    document: dict[str, Any] = {}
    try:
        for _ in range(_ATTEMPTS_TO_TAKE):
            found = _read(place, run_id)
            if found.get("session") == token:
                break
            document, ended = found, how_it_ended(found, run_id, place.description, lambda: _read(place, run_id))
            with contextlib.suppress(pymongo.errors.ConnectionFailure):  # it may have come through: the next look tells
                if _make_ours(place, document, token, start):
                    break
        else:
            raise StoreError(f"Run {run_id} in {place.description} changes all the time: see who writes it, try again.")
        yield document, ended
    except BaseException:
        _give_back(place, run_id, document, token)
        raise


def _make_ours(place: Place, document: Mapping[str, Any], token: str, start: Start) -> bool:
    """Make a run this session's, unless it is heard of, or taken by another process, at that very moment."""
    as_found = {key: document.get(key) for key in ("_id", "session", "status", "heartbeat")}
    mine = {
        "session": token,
        "status": "RUNNING",
        "host": to_bson(plain(start.host_info)),
        "heartbeat": start.start_time,
    }
    change = {"$set": mine, "$unset": dict.fromkeys(_OF_THE_END, "")}
    return bool(place.database["runs"].update_one(as_found, change).matched_count)


def _give_back(place: Place, run_id: int, document: Mapping[str, Any], token: str) -> None:
    """Leave a run that cannot be gone on with as it was, if it was taken; without a server there is no way to."""
    before = {key: document[key] for key in _OF_A_SESSION if key in document}
    new = dict.fromkeys(_OF_A_SESSION - before.keys(), "")
    change = {operator: fields for operator, fields in (("$set", before), ("$unset", new)) if fields}
    if document:
        with contextlib.suppress(pymongo.errors.PyMongoError):
            place.database["runs"].update_one({"_id": run_id, "session": token}, change)


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
