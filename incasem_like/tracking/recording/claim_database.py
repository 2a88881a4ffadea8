"""Claiming a run in MongoDB: a new one, or one that is resumed, so that one process alone writes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymongo.errors

from incasem_like.errors import RunNotFoundError, StoreError
from incasem_like.tracking.documents import FORMAT, from_document, series_update, to_document
from incasem_like.tracking.metrics_log import AlreadyWrittenError, RunMetrics, base_of, goes_on_from
from incasem_like.tracking.mirror.push import deliver
from incasem_like.tracking.recording.claim import begun_entry, how_it_ended, resumed_run, still_going_on
from incasem_like.tracking.run_folder import Begun, Journal
from incasem_like.tracking.series import MetricTable
from incasem_like.tracking.sessions import (
    Continuation,
    OpenedRun,
    Start,
    begin_metrics,
    describe_session,
    id_taken,
    new_token,
    resume_metrics,
    tokens,
)
from incasem_like.tracking.stores.connection import refusal
from incasem_like.tracking.stores.index import UNFINISHED
from incasem_like.tracking.stores.mongo import MongoStore, _insert, clear_metrics, keep, name_in_run
from incasem_like.tracking.values import from_bson

if TYPE_CHECKING:
    from pymongo.database import Database

_OF_THE_END = ("stop_time", "fail_trace", "result")
# Not tags and notes, which may change meanwhile, nor what others wrote.
_STAYS = ("experiment", "format", "command", "start_time", "resources", "artifacts", "meta", "info")
_SOURCES = "experiment.sources"
_ATTEMPTS_TO_TAKE = 5


def open_new_document(store: MongoStore, start: Start, wanted: int | None, id_above: int, limit: int) -> Begun:
    """Enter a new run.

    Args:
        store: Where it is kept.
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
    named: Mapping[str, Any] = _keep_sources(store, start.ex_info)
    entry = {**begun_entry(start, named[_SOURCES], token), "format": FORMAT}
    started = {**entry, "config": start.config, "captured_out": "", "info": {"sessions": [session]}}
    document = {**to_document(started), "artifacts": []}
    try:
        run_id = _insert(store.database, document, wanted, id_above)
        named = name_in_run(store.database, run_id, named, partial(_keep_sources, store, start.ex_info))
        entry["experiment"]["sources"] = document["experiment"]["sources"] = named[_SOURCES]
        clear_metrics(store.database, run_id)
        journal = store.journals.make(run_id)
        with journal.opening():
            metrics = begin_metrics(journal.log, token, limit)
    except BaseException:
        with contextlib.suppress(pymongo.errors.PyMongoError):
            store.database["runs"].delete_one({"session": token})
        raise
    return Begun(journal, OpenedRun(entry, metrics, [session]), document)


@contextlib.contextmanager
def errors_of_a_start(description: str, run_id: int | None) -> Iterator[None]:
    """Raise one sentence where a run cannot be started."""
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


def _keep_sources(store: MongoStore, ex_info: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Store the sources that the database does not have yet; return their entries in the run's document, by field."""
    entries = []
    for name, md5 in ex_info["sources"]:
        path = Path(ex_info["base_dir"]) / name
        entries.append([name, keep(store.database, store.files, str(path), md5, path.read_bytes)])
    return {_SOURCES: entries}


_OF_A_SESSION = {"session", "status", "host", "heartbeat", *_OF_THE_END}


def claim_in_database(
    store: MongoStore, continues: Continuation | None, id_above: int, start: Start, wanted: int | None, limit: int
) -> Begun:
    """Enter a new run, or take one that is to be continued.

    Args:
        store: Where it is kept.
        continues: The run to go on with; None for a new one.
        id_above: The id of a new run is above this.
        start: What surrounds the process that writes it.
        wanted: The id that was asked for; None for the next one.
        limit: Points of each metric in the database.
    """
    with errors_of_a_start(store.description, wanted):
        if continues is None:
            return open_new_document(store, start, wanted, id_above, limit)
        return claim_document(store, start, continues, limit)


def claim_document(store: MongoStore, start: Start, continuation: Continuation, limit: int) -> Begun:
    """Claim a run that is over.

    Args:
        store: Where it is kept.
        start: What surrounds the process that goes on.
        continuation: The run and the iteration it goes on from.
        limit: Points of each metric in the database.

    Raises:
        RunNotFoundError: There is no such run.
        InputError: It still goes on.
        StoreError: The server does not answer, or another process was quicker.
    """
    run_id, token = continuation.run_id, new_token()
    document = _read_document(store, run_id)
    journal = store.journals.find(run_id, tokens(from_bson(document.get("info") or {})))
    journal = journal or store.journals.make(run_id)
    try:
        with journal.opening():  # nobody here can take the run meanwhile
            deliver(store, journal, limit)  # what an outage kept back
            with _taken(store, run_id, token, start) as (document, ended):
                iteration = continuation.iteration  # not before: it may be looked up in the run
                metrics, metric_ids = _resume(store, journal, document, token, iteration, limit)
    except AlreadyWrittenError:
        raise still_going_on(run_id, store.description, document.get("host") or {}) from None
    run = from_document(document)
    output = str(run.get("captured_out") or "")
    before = {key: run[key] for key in _STAYS if key in run}
    opened = resumed_run(before, output, start, (token, iteration, ended), metrics)
    ours = (*opened.entry, "config", "meta", "info", "captured_out")
    taken = {key: document[key] for key in ours if key in document}
    return Begun(journal, opened, {**taken, **_of_this_session(token, start)}, metric_ids)


def _resume(
    store: MongoStore, journal: Journal, document: Mapping[str, Any], token: str, iteration: int, limit: int
) -> tuple[RunMetrics, dict[str, Any]]:
    """Withdraw what a run logged after an iteration; return its metrics and the ids of their documents."""
    info, run_id = from_bson(document.get("info") or {}), document["_id"]
    present = list(store.database["metrics"].find({"run_id": run_id}))
    if not goes_on_from(journal.log.path, tokens(info)):
        journal.log.add_marker(base=base_of(_table(present, info)))
    metrics = resume_metrics(journal.log, token, iteration, info, limit)
    return metrics, _take_metrics(store.database, present, metrics.table, token, run_id)


def _read_document(store: MongoStore, run_id: int) -> dict[str, Any]:
    found = store.database["runs"].find_one({"_id": run_id, UNFINISHED: {"$exists": False}})
    if found is None:
        raise RunNotFoundError(f"There is no run {run_id} in {store.description} to continue: name one that is there.")
    return dict(found)


@contextlib.contextmanager
def _taken(store: MongoStore, run_id: int, token: str, start: Start) -> Iterator[tuple[dict[str, Any], str]]:
    """Claim a run for a block that resumes it; restore it as it was where the block fails.

    Yields:
        Its document as it was, and how it had ended.
    """
    document: dict[str, Any] = {}
    try:
        for _ in range(_ATTEMPTS_TO_TAKE):
            found = _read_document(store, run_id)
            if found.get("session") == token:
                break
            document, ended = (
                found,
                how_it_ended(found, run_id, store.description, lambda: _read_document(store, run_id)),
            )
            with contextlib.suppress(pymongo.errors.ConnectionFailure):  # it may have come through: the next look tells
                if _make_ours(store, document, token, start):
                    break
        else:
            raise StoreError(f"Run {run_id} in {store.description} changes all the time: see who writes it, try again.")
        yield document, ended
    except BaseException:
        _give_back(store, run_id, document, token)
        raise


def _make_ours(store: MongoStore, document: Mapping[str, Any], token: str, start: Start) -> bool:
    """Make a run this session's, unless it is heard of, or taken by another process, at that very moment."""
    as_found = {key: document.get(key) for key in ("_id", "session", "status", "heartbeat")}
    change = {"$set": _of_this_session(token, start), "$unset": dict.fromkeys(_OF_THE_END, "")}
    return bool(store.database["runs"].update_one(as_found, change).matched_count)


def _of_this_session(token: str, start: Start) -> dict[str, Any]:
    session = {"session": token, "status": "RUNNING", "host": start.host_info, "heartbeat": start.start_time}
    return to_document(session)


def _give_back(store: MongoStore, run_id: int, document: Mapping[str, Any], token: str) -> None:
    """Leave a run that cannot be gone on with as it was, if it was taken; without a server there is no way to."""
    before = {key: document[key] for key in _OF_A_SESSION if key in document}
    new = dict.fromkeys(_OF_A_SESSION - before.keys(), "")
    change = {operator: fields for operator, fields in (("$set", before), ("$unset", new)) if fields}
    if document:
        with contextlib.suppress(pymongo.errors.PyMongoError):
            store.database["runs"].update_one({"_id": run_id, "session": token}, change)


def _table(present: list[dict[str, Any]], info: Mapping[str, Any]) -> MetricTable:
    """Make the table of metrics from the database, where their log is missing."""
    table = MetricTable(max([2, *(len(document["steps"]) for document in present)]))
    for document in present:
        table.put(document["name"], document, (info.get("summary") or {}).get(document["name"]))
    return table


def _take_metrics(
    database: Database[Any], present: list[dict[str, Any]], table: MetricTable, token: str, run_id: int
) -> dict[str, Any]:
    """Make the metrics documents this session's, without what was withdrawn; return their ids."""
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
