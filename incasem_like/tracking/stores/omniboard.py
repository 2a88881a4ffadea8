"""The columns that Omniboard's table begins with: what one compares runs by, which it would show as clipped JSON."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any

import pymongo.errors

from incasem_like.tracking.kinds import kind_named

if TYPE_CHECKING:
    from pymongo.database import Database

COLUMNS = "omniboard.custom.columns"


def begin_columns(database: Database[Any], kind: str) -> None:
    """Write the columns of a database that holds no run yet; one that is removed there later does not come back.

    A server that is away or takes no writes is passed over: the start of the run says so.

    Args:
        database: The database of a kind of run.
        kind: trainings, predictions, segmentations, evaluations or bootstrapping.
    """
    wanted = kind_named(kind).omniboard_columns
    with contextlib.suppress(pymongo.errors.PyMongoError):
        if not wanted or database["runs"].find_one({}, {"_id": 1}) or database[COLUMNS].find_one({}, {"_id": 1}):
            return
        for name, path in wanted:
            column = {"name": name, "config_path": path}
            database[COLUMNS].update_one({"_id": _id_of(name)}, {"$setOnInsert": column}, upsert=True)


def _id_of(name: str) -> Any:
    """Return the same id for the same column, so that two first runs at once do not make it twice."""
    from bson import ObjectId

    return ObjectId(hashlib.sha256(name.encode()).digest()[:12])
