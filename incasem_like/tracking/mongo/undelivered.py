"""Delivering what is left in the journal of a run that is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pymongo.errors

from incasem_like.tracking.journal import Journal
from incasem_like.tracking.metrics_log import read_table
from incasem_like.tracking.mongo.delivery import Delivery, SessionLostError, whole_parcel

if TYPE_CHECKING:
    import gridfs
    from pymongo.database import Database

_ATTEMPTS = 3


def deliver(journal: Journal, database: Database[Any], files: gridfs.GridFS, limit: int) -> bool:
    """Deliver what a journal holds, and let go of it.

    Args:
        journal: Of a run that no process writes.
        database: Where to.
        files: Its GridFS.
        limit: Points of each metric in the database.

    Returns:
        False where the run was continued elsewhere since: then the database knows better, and the journal stays.

    Raises:
        pymongo.errors.PyMongoError: The server did not take it, or not all of it.
        StoreError: The journal is damaged.
    """
    entry = journal.read()
    if entry is None:
        return True
    if entry.get("status") == "RUNNING":
        entry.update(status="KILLED", stop_time=entry.get("heartbeat") or entry.get("start_time"))
    ids = {found["name"]: found["_id"] for found in database["metrics"].find({"run_id": entry["_id"]}, {"name": 1})}
    delivery = Delivery(database, files, entry["_id"], entry["session"], ids)
    table = read_table(journal.log.path, limit)
    entry["info"] = {**(entry.get("info") or {}), "metrics": [delivery.link(name) for name in table.series]}
    parcel = whole_parcel(entry, table, journal.artifacts())
    try:
        for _ in range(_ATTEMPTS):
            if delivery.send(parcel, entry.get("artifacts") or ()) is not None:
                journal.clear()
                return True
    except SessionLostError:
        return False
    raise pymongo.errors.OperationFailure("The run is deleted while it is written.")
