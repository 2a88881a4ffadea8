"""A run's document in MongoDB, as Sacred and Omniboard read it, and the same run as its folder holds it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from incasem_like.tracking.series import BoundedSeries
from incasem_like.tracking.values import as_mapping, as_sequence, from_bson, naive_utc, plain, to_bson

FORMAT = "MongoObserver-0.7.0"
_TIMES = ("start_time", "stop_time", "heartbeat")
_WITH_OUR_KEYS = ("config", "info", "result", "meta", "host")
_COLUMNS = ("steps", "values", "timestamps")
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


def metric_id(run_id: int, name: str) -> Any:
    """Return a metric's id: always the same for the same run and name, so that two writers never make two of it."""
    from bson import ObjectId

    return ObjectId(hashlib.sha256(f"{run_id}\0{name}".encode()).digest()[:12])


@dataclass(frozen=True)
class Mark:
    """How much of a series the database has: stride, kept points, length of the full series."""

    stride: int
    points: int
    count: int


def series_update(
    name: str, run_id: int, series: BoundedSeries, mark: Mark | None
) -> tuple[dict[str, Any], Mark] | None:
    """Find the fields by which a metrics document becomes equal to a series; None where it is.

    Positions are set one by one rather than appended to, so that a write that is repeated, because nobody knows whether
    it came through, does no harm.

    Args:
        name: Of the metric.
        run_id: Of the run.
        series: What the document should hold.
        mark: What it holds; None for all to be written.
    """
    new = Mark(series.stride, len(series.points), series.count)
    if new == mark:
        return None
    document = series.as_document()
    if mark is None or mark.stride != series.stride or mark.points > new.points or mark.points == 0:
        return {"name": name, "run_id": run_id, **document}, new
    fields = {"stride": series.stride, "count": series.count}
    for position in range(mark.points - 1, new.points):
        fields.update({f"{column}.{position}": document[column][position] for column in _COLUMNS})
    return fields, new
