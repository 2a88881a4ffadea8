"""Summaries of runs that are kept in MongoDB."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

from incasem_like.tracking.condensing import (
    PARENTS_IN_CONFIG,
    condense,
    damaged,
    summarize,
    summary_of_points,
    without_collection,
)
from incasem_like.tracking.plain import escape_key, from_bson, unescape_key
from incasem_like.tracking.summaries import ALL_KEYS, RunSummary, flatten, select

if TYPE_CHECKING:
    from pymongo.database import Database

UNFINISHED = "unfinished"
_RUNS_IN_ONE_ANSWER = 500
# Whole small parts rather than many fields of them: a server takes its time over each path that it is asked for.
_FIELDS = (
    *("status", "start_time", "stop_time", "heartbeat", "result", "command", "session", "meta", "host", "omniboard"),
    *("experiment.name", "info.parent", "info.prediction_run_id", "info.summary", "info.checkpoints"),
)


def read_summaries(
    database: Database[Any], kind: str, config_keys: Sequence[str], inputs: bool, metrics: Sequence[str]
) -> list[RunSummary]:
    """Summarize all runs of a database, see ``RunStore.summaries``; a run that cannot be made sense of is DAMAGED."""
    fields = [*_FIELDS, *_config_fields(config_keys), *(["info.inputs"] if inputs else [])]
    whole = {UNFINISHED: {"$exists": False}}
    found = database["runs"].find(whole, dict.fromkeys(fields, 1)).batch_size(_RUNS_IN_ONE_ANSWER)
    summaries, others = [], []
    with without_collection():
        for document in _ahead(found):
            if not isinstance(document["_id"], int):
                continue
            if "session" in document:
                summaries.append(_summarize(kind, document, config_keys, inputs))
            else:
                others.append(document)
        if others:
            ids = [document["_id"] for document in others]
            origins, points = _origins(database, ids), _points(database, ids, metrics)
            for document in others:
                more = (origins.get(document["_id"]), points.get(document["_id"], {}))
                summaries.append(_summarize(kind, document, config_keys, inputs, *more))
    return sorted(summaries, key=lambda summary: summary.id)


def _ahead(documents: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Have the server look for the next documents while those before are worked on."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(list, islice(documents, _RUNS_IN_ONE_ANSWER))
        while found := coming.result():
            coming = pool.submit(list, islice(documents, _RUNS_IN_ONE_ANSWER))
            yield from found


class SummariesInBson(Mapping[str, Mapping[str, float]]):
    """Summaries of metrics as MongoDB gave them, read when asked for: most lists of runs show few or none of them.

    Args:
        found: By the name that MongoDB takes.
    """

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._found = found

    def __getitem__(self, name: str) -> Mapping[str, float]:
        numbers = self._found[escape_key(name)]
        if not isinstance(numbers, Mapping):
            raise KeyError(name)
        return {key: value for key, value in numbers.items() if value is not None}

    def __iter__(self) -> Iterator[str]:
        return (unescape_key(name) for name, numbers in self._found.items() if isinstance(numbers, Mapping))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


def _summarize(
    kind: str,
    document: dict[str, Any],
    config_keys: Sequence[str],
    inputs: bool,
    origin: Any = None,
    points: Mapping[str, Any] | None = None,
) -> RunSummary:
    """Summarize a run.

    Args:
        kind: Of the run.
        document: What was fetched of it.
        config_keys: What its summary holds of the configuration.
        inputs: Whether it holds the inputs.
        origin: Of a run of another program, the part of its configuration that tells its parents.
        points: Of such a run, the metrics that were asked for, summed up.
    """
    run_id = document["_id"]
    try:
        info = _mapping(document.get("info"))
        parts: dict[str, Any] = {"info": {**info, "summary": None}, "config": origin}
        if info.get("parent") is not None:
            parts["info"]["parent"] = from_bson(info["parent"])
        if document.get("result") is not None:
            parts["result"] = from_bson(document["result"])
        condensed = condense({**document, **parts})
        summary = SummariesInBson(_mapping(info.get("summary")))
        condensed["summary"] = {**points, **summary} if points else summary
        chosen = select(flatten(from_bson(document.get("config"))), config_keys) if config_keys else None
        read = from_bson(info.get("inputs")) if inputs else None
        return summarize(kind, run_id, condensed, chosen, read if isinstance(read, list) else ())
    except Exception as error:  # whatever else wrote here: one odd document does not hide the others
        return damaged(kind, run_id, f"its document makes no sense ({type(error).__name__}: {error})")


def _config_fields(keys: Sequence[str]) -> list[str]:
    """Name the parts of the configuration to be fetched.

    MongoDB refuses a section beside a key inside it, a path with empty parts, and one with a dollar.
    """
    if ALL_KEYS in keys:
        return ["config"]
    paths = {".".join(map(escape_key, key.split("."))) for key in keys if all(key.split("."))}
    outermost = [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]
    return [f"config.{path}" for path in outermost]


def _origins(database: Database[Any], ids: Sequence[int]) -> dict[int, Any]:
    """Fetch what the configuration of runs of other programs tells of their parents."""
    fields = {f"config.{key}": 1 for key in PARENTS_IN_CONFIG}
    return {run["_id"]: run.get("config") for run in database["runs"].find({"_id": {"$in": ids}}, fields)}


def _points(database: Database[Any], ids: Sequence[int], names: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Sum up some metrics of runs of other programs, which keep no summary themselves."""
    found: dict[int, dict[str, Any]] = {}
    if not names:
        return found
    query = {"run_id": {"$in": ids}, "name": {"$in": list(names)}}
    for series in database["metrics"].find(query, {"run_id": 1, "name": 1, "steps": 1, "values": 1}):
        summary = summary_of_points(series.get("steps"), series.get("values"))
        if summary:
            found.setdefault(series["run_id"], {})[series["name"]] = summary
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
