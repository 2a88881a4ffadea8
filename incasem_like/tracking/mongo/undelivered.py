"""Delivering what is left in the journal of a run that is over."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import pymongo.errors

from incasem_like.tracking.journal import Journal
from incasem_like.tracking.metrics_log_reading import read_table
from incasem_like.tracking.mongo.delivery import Delivery, SessionLostError, whole_parcel
from incasem_like.tracking.mongo.summaries import REVISION
from incasem_like.tracking.recording.sessions import new_token, tokens
from incasem_like.tracking.series import max_points

if TYPE_CHECKING:
    import gridfs
    from pymongo.database import Database

_ATTEMPTS = 3


class Outcome(Enum):
    """What became of a journal."""

    DELIVERED = "delivered"
    SUPERSEDED = "the run was continued elsewhere since, and the database knows better"
    FOREIGN = "it belongs to a run of another server"


def deliver(
    journal: Journal, database: Database[Any], files: gridfs.GridFS, limit: int | None, description: str
) -> Outcome:
    """Deliver what a journal holds, and let go of it; where it does not belong into the database, it stays.

    Args:
        journal: Of a run that no process writes.
        database: Where to.
        files: Its GridFS.
        limit: Points of each metric in the database; None for what the run's configuration says.
        description: Of the database.

    Raises:
        pymongo.errors.PyMongoError: The server did not take it, or not all of it.
        StoreError: The journal is damaged.
    """
    entry = journal.read()
    if entry is None:
        return Outcome.DELIVERED
    present = database["runs"].find_one({"_id": entry["_id"]}, {"session": 1, "info.sessions": 1, "artifacts": 1})
    if present is None and not journal.is_for(description):
        return Outcome.FOREIGN
    if present is not None and present.get("session") != entry["session"]:
        return Outcome.SUPERSEDED if entry["session"] in tokens(present.get("info")) else Outcome.FOREIGN
    if entry.get("status") == "RUNNING":
        entry.update(status="KILLED", stop_time=entry.get("heartbeat") or entry.get("start_time"))
    ids = {found["name"]: found["_id"] for found in database["metrics"].find({"run_id": entry["_id"]}, {"name": 1})}
    delivery = Delivery(database, files, entry["_id"], entry["session"], ids)
    table = read_table(journal.log.path, limit or max_points(entry.get("config") or {}))
    entry[REVISION] = new_token()
    entry["info"] = {**(entry.get("info") or {}), "metrics": [delivery.link(name) for name in table.series]}
    parcel = whole_parcel(entry, table, journal.artifacts())
    artifacts = _artifacts(entry, present or {})
    try:
        for _ in range(_ATTEMPTS):
            if delivery.send(parcel, artifacts) is not None:
                journal.clear()
                return Outcome.DELIVERED
    except SessionLostError:
        return Outcome.SUPERSEDED
    raise pymongo.errors.OperationFailure("The run is deleted while it is written.")


def _artifacts(entry: Mapping[str, Any], present: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the files that the database has of a run; a process that was killed may not have noted the last of them."""
    both = [*(entry.get("artifacts") or ()), *(present.get("artifacts") or ())]
    return list({artifact["name"]: artifact for artifact in both}.values())
