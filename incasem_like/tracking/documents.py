"""A run's document in MongoDB, as Sacred and Omniboard read it, and the same run as its folder holds it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from incasem_like.tracking.values import as_mapping, as_sequence, from_bson, naive_utc, plain, to_bson

FORMAT = "MongoObserver-0.7.0"
_TIMES = ("start_time", "stop_time", "heartbeat")
_WITH_OUR_KEYS = ("config", "info", "result", "meta", "host")
_FILE_ID = re.compile("[0-9a-f]{24}")


def to_document(run: Mapping[str, Any]) -> dict[str, Any]:
    """Make fields of a document from fields of a run, but for its artifacts, which have ids of their own there."""
    document: dict[str, Any] = {}
    for key, value in run.items():
        if key in _TIMES:
            document[key] = naive_utc(value)
        elif key == "experiment" and isinstance(value, Mapping):
            others = {name: item for name, item in value.items() if name != "sources"}
            document[key] = {**to_bson(plain(others)), "sources": _with_ids(value.get("sources"))}
        elif key == "resources":
            document[key] = _with_ids(value)
        elif key != "artifacts":
            document[key] = to_bson(plain(value))
    return document


def from_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """Make a run from its document: plain keys, artifacts by name, without the links that Omniboard needs."""
    run = {key: from_bson(value) if key in _WITH_OUR_KEYS else value for key, value in document.items()}
    artifacts = [entry for entry in as_sequence(document.get("artifacts")) if isinstance(entry, Mapping)]
    run["artifacts"] = [str(entry.get("name")) for entry in artifacts]
    run["info"] = {key: value for key, value in as_mapping(run.get("info")).items() if key != "metrics"}
    return run


def _with_ids(pairs: Any) -> list[Any]:
    """Turn the ids of files, which a folder holds as text, into ids."""
    from bson import ObjectId

    def as_id(key: Any) -> Any:
        return ObjectId(key) if isinstance(key, str) and _FILE_ID.fullmatch(key) else key

    found = [pair for pair in as_sequence(pairs) if isinstance(pair, (list, tuple)) and len(pair) == 2]
    return [[name, as_id(key)] for name, key in found]
