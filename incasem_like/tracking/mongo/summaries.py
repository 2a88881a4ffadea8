"""Summaries of runs that are kept in MongoDB."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from incasem_like.tracking.condensing import PARENTS_IN_CONFIG, summary_of_points, without_collection
from incasem_like.tracking.moments import utc_moment
from incasem_like.tracking.packing import (
    SHARED_IN_CONFIGS,
    SHARED_IN_RECORDS,
    pack_config,
    pack_damage,
    pack_record,
    unpack_configs,
    unpack_record,
)
from incasem_like.tracking.plain import from_bson
from incasem_like.tracking.run_index import Payload, RunIndex, Stamp, has_settled, place_in_cache
from incasem_like.tracking.summaries import RunSummary

if TYPE_CHECKING:
    from pymongo.database import Database

UNFINISHED = "unfinished"
REVISION = "revision"  # changes with each change from outside the run that none of the others would tell
_RUNS_IN_ONE_ANSWER = 500
_SECONDS_UNTIL_SETTLED = 60.0
# What changes whenever a summary does: by a run at work, Sacred's as well; by persons, in Omniboard; by ``runs``.
_TELLING = ("status", "heartbeat", "stop_time", "session", REVISION, "omniboard", "result", "experiment.name")
# Whole small parts rather than many fields of them: a server takes its time over each path that it is asked for.
_OF_A_RECORD = (
    *("status", "start_time", "stop_time", "heartbeat", "result", "command", "meta", "host", "omniboard"),
    *("experiment.name", "info.parent", "info.prediction_run_id", "info.summary", "info.checkpoints", "info.inputs"),
    *(f"config.{key}" for key in PARENTS_IN_CONFIG),
)


def read_summaries(
    database: Database[Any], where: str, kind: str, config_keys: Sequence[str], inputs: bool, metrics: Sequence[str]
) -> list[RunSummary]:
    """Summarize all runs of a database, see ``RunStore.summaries``; a run that cannot be made sense of is DAMAGED.

    Args:
        database: Where they are.
        where: Names the database among all; no credentials.
        kind: Of the runs.
        config_keys: What the summaries hold of the configuration.
        inputs: Whether they hold the inputs.
        metrics: Those that are summed up of runs of other programs, which keep no summary themselves.
    """
    with without_collection():
        found = {run["_id"]: run for run in _find(database, None, _TELLING)}
        stamps = {run_id: _stamp(run) for run_id, run in found.items()}
        configs: Mapping[int, Any] = {}
        if config_keys:
            index = _Configs(database, where, found, "configs", SHARED_IN_CONFIGS)
            configs = unpack_configs(index.payloads(stamps), config_keys)
        records = _Records(database, where, found, "summaries", SHARED_IN_RECORDS).payloads(stamps)
        summaries = [
            unpack_record(kind, run_id, payload, configs.get(run_id), inputs) for run_id, payload in records.items()
        ]
        points = _points(database, [run_id for run_id in records if "session" not in found[run_id]], metrics)
        return [
            replace(run, summary={**points[run.id], **run.summary}) if run.id in points else run for run in summaries
        ]


class _DatabaseIndex(RunIndex):
    """An index of runs in a database: in the cache of whoever lists them, so that the database need not be written.

    Args:
        database: Where the runs are.
        where: See ``read_summaries``.
        found: Of each run what tells a change.
        name: What the index is called.
        shared: See ``RunIndex``.
    """

    def __init__(
        self, database: Database[Any], where: str, found: Mapping[int, Mapping[str, Any]], name: str, shared: str
    ) -> None:
        super().__init__(name, shared, [place_in_cache(where, name)])
        self.database, self._found = database, found

    def is_settled(self, run_id: int, stamp: Stamp, payload: Payload) -> bool:
        run = self._found[run_id]
        heard = utc_moment(run.get("heartbeat"))
        if heard is None or "damage" in payload:
            return False
        return has_settled((datetime.now(UTC) - heard).total_seconds(), _SECONDS_UNTIL_SETTLED, run.get("status"))


class _Records(_DatabaseIndex):
    def digest(self, run_ids: Sequence[int]) -> dict[int, Payload]:
        return {run["_id"]: _record(run) for run in _find(self.database, run_ids, _OF_A_RECORD)}


class _Configs(_DatabaseIndex):
    def digest(self, run_ids: Sequence[int]) -> dict[int, Payload]:
        return {
            run["_id"]: pack_config(from_bson(run.get("config"))) for run in _find(self.database, run_ids, ["config"])
        }


def _find(database: Database[Any], run_ids: Sequence[int] | None, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Fetch some fields of some runs, or of all; the server looks for the next while those before are worked on."""
    whole = {UNFINISHED: {"$exists": False}}
    runs, projection = database["runs"], dict.fromkeys(fields, 1)

    def answers() -> Iterator[Mapping[str, Any]]:
        if run_ids is None:
            yield from runs.find(whole, projection).batch_size(_RUNS_IN_ONE_ANSWER)
            return
        for first in range(0, len(run_ids), _RUNS_IN_ONE_ANSWER):
            some = list(run_ids[first : first + _RUNS_IN_ONE_ANSWER])
            yield from runs.find({"_id": {"$in": some}, **whole}, projection).batch_size(_RUNS_IN_ONE_ANSWER)

    coming = answers()
    with ThreadPoolExecutor(1) as pool:
        next_ones = pool.submit(list, islice(coming, _RUNS_IN_ONE_ANSWER))
        while found := next_ones.result():
            next_ones = pool.submit(list, islice(coming, _RUNS_IN_ONE_ANSWER))
            yield from (run for run in found if isinstance(run["_id"], int))


def _stamp(run: Mapping[str, Any]) -> Stamp:
    return hashlib.blake2b(repr(sorted(run.items())).encode(), digest_size=12).hexdigest()


def _record(run: Mapping[str, Any]) -> Payload:
    """Reduce a run's document to what its summary needs."""
    try:
        info, result, config = (from_bson(run.get(key)) for key in ("info", "result", "config"))
        return pack_record({**run, "info": info, "result": result, "config": config})
    except Exception as error:  # whatever else wrote here: one odd document does not hide the others
        return pack_damage(f"its document makes no sense ({type(error).__name__}: {error})")


def _points(database: Database[Any], ids: Sequence[int], names: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Sum up some metrics of runs of other programs, which keep no summary themselves."""
    found: dict[int, dict[str, Any]] = {}
    if not names or not ids:
        return found
    query = {"run_id": {"$in": ids}, "name": {"$in": list(names)}}
    for series in database["metrics"].find(query, {"run_id": 1, "name": 1, "steps": 1, "values": 1}):
        summary = summary_of_points(series.get("steps"), series.get("values"))
        if summary:
            found.setdefault(series["run_id"], {})[series["name"]] = summary
    return found
