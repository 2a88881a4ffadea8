"""Summaries of runs that are kept in MongoDB."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from incasem_like.tracking.plain import from_bson
from incasem_like.tracking.summaries import (
    ALL_KEYS,
    PARENTS_IN_CONFIG,
    RunSummary,
    condense,
    damaged,
    flatten,
    select,
    summarize,
    summary_of_points,
)

if TYPE_CHECKING:
    from pymongo.database import Database

UNFINISHED = "unfinished"
_FIELDS = (
    *("status", "start_time", "stop_time", "heartbeat", "result", "command", "experiment.name"),
    *("meta.command", "meta.comment", "meta.options.--name", "meta.options.--comment"),
    *("host.hostname", "host.pid", "host.boot_id", "host.pid_namespace", "host.process_start"),
    *("info.parent", "info.prediction_run_id", "info.summary", "omniboard.tags", "omniboard.notes"),
    *(f"info.checkpoints.{key}" for key in ("iteration", "path", "sha256", "bytes")),
)


def read_summaries(
    database: Database[Any], kind: str, config_keys: Sequence[str], inputs: bool, metrics: Sequence[str]
) -> list[RunSummary]:
    """Summarize all runs of a database, see ``RunStore.summaries``; a run that cannot be made sense of is DAMAGED."""
    fields = [*_FIELDS, *_config_fields(config_keys), *(["info.inputs"] if inputs else [])]
    found = database["runs"].find({UNFINISHED: {"$exists": False}}, dict.fromkeys(fields, 1)).sort("_id", 1)
    documents = [document for document in found if isinstance(document["_id"], int)]
    points = _points_of_others(database, documents, metrics) if metrics else {}
    return [_summarize(kind, document, config_keys, inputs, points.get(document["_id"], {})) for document in documents]


def _summarize(
    kind: str, document: dict[str, Any], config_keys: Sequence[str], inputs: bool, points: Mapping[str, Any]
) -> RunSummary:
    try:
        for key in ("config", "info", "result"):
            document[key] = from_bson(document.get(key))
        condensed = condense(document)
        if points:
            condensed["summary"] = {**points, **condensed["summary"]}
        config = select(flatten(document["config"]), config_keys) if config_keys else None
        read = (document["info"] or {}).get("inputs") if inputs else None
        return summarize(kind, document["_id"], condensed, config, read if isinstance(read, list) else ())
    except Exception as error:  # whatever else wrote here: one odd document does not hide the others
        return damaged(kind, document["_id"], f"its document makes no sense ({type(error).__name__}: {error})")


def _config_fields(keys: Sequence[str]) -> list[str]:
    """Name the parts of the configuration to be fetched; MongoDB refuses a section beside a key inside it."""
    if ALL_KEYS in keys:
        return ["config"]
    wanted = {*keys, *PARENTS_IN_CONFIG}
    outermost = [key for key in wanted if not any(key.startswith(f"{other}.") for other in wanted)]
    return [f"config.{key}" for key in outermost]


def _points_of_others(
    database: Database[Any], documents: Iterable[Mapping[str, Any]], names: Sequence[str]
) -> dict[int, dict[str, Any]]:
    """Sum up some metrics of the runs that keep no summary themselves."""
    others = [document["_id"] for document in documents if not (document.get("info") or {}).get("summary")]
    query = {"run_id": {"$in": others}, "name": {"$in": list(names)}}
    found: dict[int, dict[str, Any]] = {}
    for series in database["metrics"].find(query, {"run_id": 1, "name": 1, "steps": 1, "values": 1}):
        summary = summary_of_points(series.get("steps"), series.get("values"))
        if summary:
            found.setdefault(series["run_id"], {})[series["name"]] = summary
    return found
