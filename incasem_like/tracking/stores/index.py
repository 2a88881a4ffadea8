"""Summaries of all runs of a store, with a cache so that only runs that changed are read again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.disk import write_whole
from incasem_like.tracking.model.cache import cache_directory
from incasem_like.tracking.model.summaries import (
    PARENTS_IN_CONFIG,
    RunSummary,
    condense,
    damaged,
    flatten,
    select,
    summarize,
    summary_of_points,
    without_collection,
)
from incasem_like.tracking.run_folder import ANNOTATIONS
from incasem_like.tracking.values import as_mapping, from_bson, utc_moment

if TYPE_CHECKING:
    from pymongo.database import Database

_VERSION = 4
_SECONDS_WHILE_LIVE = 300.0
Stamp = Sequence[Any]
Payload = dict[str, Any]


class RunIndex(ABC):
    """One file of JSON lines: a line for each run, and one for each value that many runs share.

    A line counts while the stamp of its run is that of when it was read. Damaged lines, other versions and a missing
    file only cost time.

    Args:
        name: What the index is called.
        shared: Key of the payload whose value many runs have alike; stored once.
        places: Where the index may lie; the first that can be written is used.
    """

    def __init__(self, name: str, shared: str, places: Sequence[Path]) -> None:
        self.name, self.shared, self.places = name, shared, tuple(places)

    @abstractmethod
    def digest(self, run_ids: Sequence[int]) -> Mapping[int, Payload]:
        """Read some runs and make the payload of each, a dict fit for JSON; those that are gone are left out."""

    @abstractmethod
    def is_settled(self, run_id: int, stamp: Stamp, payload: Payload) -> bool:
        """Whether a run is worth a line, see ``has_settled``."""

    def payloads(self, stamps: Mapping[int, Stamp]) -> dict[int, Payload]:
        """Give the payload of every run, by id, sorted.

        Args:
            stamps: Of each run something fit for JSON that is another one as soon as its payload is; taken before.
        """
        lines, pool = self._read()
        current = {
            run_id: line
            for run_id, line in lines.items()
            if run_id in stamps and line[1] == stamps[run_id] and line[3] in pool
        }
        found = {run_id: {**line[2], self.shared: pool[line[3]]} for run_id, line in current.items()}
        changed = self.digest([run_id for run_id in stamps if run_id not in current])
        settled = [
            self._line(run_id, stamps[run_id], payload, pool)
            for run_id, payload in changed.items()
            if self.is_settled(run_id, stamps[run_id], payload)
        ]
        if settled:
            self._write([*current.values(), *settled], pool)
        found.update(changed)
        return dict(sorted(found.items()))

    def _line(self, run_id: int, stamp: Stamp, payload: Payload, pool: dict[str, Any]) -> list[Any]:
        value = payload[self.shared]
        key = _digest(json.dumps(value, sort_keys=True))[:24]
        pool[key] = value
        return [run_id, stamp, {name: item for name, item in payload.items() if name != self.shared}, key]

    def _read(self) -> tuple[dict[int, list[Any]], dict[str, Any]]:
        """Give the lines of runs ``[id, stamp, payload, key of the shared value]`` by id, and the shared values."""
        for place in sorted(self.places, key=_modified, reverse=True):
            try:
                first, *lines = place.read_text(encoding="utf-8").splitlines()
                if json.loads(first) != [self.name, _VERSION]:
                    continue
                entries = json.loads(f"[{','.join(lines)}]")
                runs = {entry[0]: entry for entry in entries if len(entry) == 4}
                return runs, {entry[0]: entry[1] for entry in entries if len(entry) == 2}
            except (OSError, ValueError, TypeError, LookupError, RecursionError):
                continue
        return {}, {}

    def _write(self, lines: Sequence[Any], pool: dict[str, Any]) -> None:
        used = {line[3] for line in lines}
        entries = [[self.name, _VERSION], *([key, pool[key]] for key in pool if key in used), *lines]
        text = "\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
        for place in self.places:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                write_whole(place, lambda file: file.write(text.encode()))
                return
            except OSError:
                continue


def has_settled(age: float, least: float, status: Any) -> bool:
    """Tell a run that is neither just written nor about to be written again at its next heartbeat.

    Args:
        age: Seconds since it was last written; of a clock that is ahead, the other way round.
        least: Seconds within which another write might not show.
        status: What it says of itself, as far as that is known.
    """
    return abs(age) > least and (abs(age) > _SECONDS_WHILE_LIVE or status != "RUNNING")


def place_in_cache(store: str, name: str) -> Path:
    """Say where the user's cache has an index of a store, which is named by its address."""
    return cache_directory() / "run_index" / f"{_digest(store)[:32]}.{name}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


# Keys of the payloads whose values many runs have alike
SHARED_IN_RECORDS, SHARED_IN_CONFIGS = "inputs", "keys"
_POINTS = ("last", "last_step", "min", "min_step", "max", "max_step")


class PackedSummaries(Mapping[str, Mapping[str, float]]):
    """Summaries of metrics that are unpacked when asked for: most lists of runs show few or none of them.

    Args:
        text: What ``pack`` gave.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def pack(cls, summaries: Mapping[str, Mapping[str, Any]]) -> str:
        """Write summaries of metrics in few characters."""
        packed = {name: [summary.get(key) for key in _POINTS] for name, summary in summaries.items()}
        return json.dumps(packed, separators=(",", ":"))

    @cached_property
    def _unpacked(self) -> dict[str, dict[str, float]]:
        return {
            name: {key: value for key, value in zip(_POINTS, values, strict=True) if value is not None}
            for name, values in json.loads(self._text).items()
        }

    def __getitem__(self, name: str) -> Mapping[str, float]:
        """Unpack one metric alone: lists that sort or filter by it read that of every run."""
        for before in ",{":
            _, found, after = self._text.partition(f"{before}{json.dumps(name)}:[")
            if found:
                values = json.loads(f"[{after.partition(']')[0]}]")
                return {key: value for key, value in zip(_POINTS, values, strict=True) if value is not None}
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._unpacked)

    def __len__(self) -> int:
        return len(self._unpacked)

    def __repr__(self) -> str:
        return repr(self._unpacked)


def pack_record(document: Mapping[str, Any]) -> Payload:
    """Reduce a run's document to what its summary needs, fit for JSON."""
    condensed = condense(document)
    inputs = as_mapping(document.get("info")).get("inputs")
    return {
        **condensed,
        "times": [moment and moment.isoformat() for moment in condensed["times"]],
        "summary": PackedSummaries.pack(condensed["summary"]),
        "inputs": inputs if isinstance(inputs, list) else [],
    }


def pack_damage(damage: str) -> Payload:
    """Note, in place of a record, what is wrong with it."""
    return {"damage": damage, "inputs": []}


def unpack_record(
    kind: str, run_id: int, payload: Payload, config: Mapping[str, Any] | None = None, inputs: bool = False
) -> RunSummary:
    """Make a summary of what ``pack_record`` or ``pack_damage`` gave."""
    if "damage" in payload:
        return damaged(kind, run_id, payload["damage"])
    times = [datetime.fromisoformat(text) if text else None for text in payload["times"]]
    condensed = {**payload, "times": times, "summary": PackedSummaries(payload["summary"])}
    return summarize(kind, run_id, condensed, config, payload["inputs"] if inputs else ())


def pack_config(config: Any) -> Payload:
    """Spread a configuration out and part its keys, which many runs share, from its values."""
    flat = flatten(config)
    return {"keys": list(flat), "values": list(flat.values())}


def unpack_configs(payloads: Mapping[int, Payload], wanted: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Choose leaves of the configuration of every run; which of a list of keys they are is found out once."""
    places: dict[int, dict[str, int]] = {}
    found = {}
    for run_id, payload in payloads.items():
        keys, values = payload["keys"], payload["values"]
        if id(keys) not in places:
            places[id(keys)] = select({key: place for place, key in enumerate(keys)}, wanted)
        found[run_id] = {key: values[place] for key, place in places[id(keys)].items()}
    return found


_RECORD_FILES = ("run.json", "info.json", ANNOTATIONS)
_CONFIG_FILES = ("config.json",)
_SECONDS_UNTIL_SETTLED = 2.0  # two writes within one tick of a file system's clock may look alike


def summarize_folder(folder: Path, kind: str, config_keys: Sequence[str], inputs: bool) -> list[RunSummary]:
    """Summarize all runs of a folder, see ``RunStore.summaries``; a run that cannot be read is DAMAGED."""
    with without_collection():
        records = _FolderRecords(folder, "summaries", SHARED_IN_RECORDS).payloads(_stamps(folder, _RECORD_FILES))
        configs: Mapping[int, Any] = {}
        if config_keys:
            index = _FolderConfigs(folder, "configs", SHARED_IN_CONFIGS)
            configs = unpack_configs(index.payloads(_stamps(folder, _CONFIG_FILES)), config_keys)
        return [
            unpack_record(kind, run_id, payload, configs.get(run_id), inputs) for run_id, payload in records.items()
        ]


class _FileIndex(RunIndex):
    """An index of runs in folders.

    It lies beside them; where that folder cannot be written, in the user's cache.

    Args:
        folder: The folder of the runs.
        name: What the index is called.
        shared: See ``RunIndex``.
    """

    def __init__(self, folder: Path, name: str, shared: str) -> None:
        super().__init__(name, shared, (folder / f".{name}.index", place_in_cache(str(folder.absolute()), name)))
        self.folder = folder

    def is_settled(self, run_id: int, stamp: Stamp, payload: Payload) -> bool:
        return has_settled(time.time() - max(stamp[::2]) / 1e9, _SECONDS_UNTIL_SETTLED, payload.get("status"))


class _FolderRecords(_FileIndex):
    def digest(self, run_ids: Sequence[int]) -> dict[int, Payload]:
        return {run_id: _folder_record(self.folder / str(run_id)) for run_id in run_ids}


class _FolderConfigs(_FileIndex):
    def digest(self, run_ids: Sequence[int]) -> dict[int, Payload]:
        return {run_id: _config(self.folder / str(run_id)) for run_id in run_ids}


def _stamps(folder: Path, names: Sequence[str]) -> dict[int, Stamp]:
    """Give modification time and size of some files of each run, the first of which must be there."""
    return dict(_each_stamp(str(folder), names))


def _each_stamp(base: str, names: Sequence[str]) -> Iterator[tuple[int, Stamp]]:
    try:
        present = os.listdir(base)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in present:
        if name.isdecimal() and str(int(name)) == name:
            stamp: list[int] = []
            for source in names:
                try:
                    status = os.stat(f"{base}/{name}/{source}")
                except OSError:
                    stamp += (0, 0)
                else:
                    stamp += (status.st_mtime_ns, status.st_size)
            if stamp[0]:
                yield int(name), stamp


def _folder_record(directory: Path) -> Payload:
    """Reduce a run's files to what its summary needs."""
    try:
        document = {**_mapping(directory / "run.json"), "info": _mapping(directory / "info.json")}
        document["omniboard"] = _mapping(directory / ANNOTATIONS)
        info = document["info"]
        if "parent" not in info:  # only runs that do not note it themselves have it in their configuration
            document["config"] = _mapping(directory / "config.json")
        if "summary" not in info:
            document["info"] = {**info, "summary": _summary_of_metrics(directory / "metrics.json")}
    except _DamagedError as error:
        return pack_damage(str(error))
    return pack_record(document)


def _config(directory: Path) -> Payload:
    try:
        return pack_config(_mapping(directory / "config.json"))
    except _DamagedError:
        return pack_config({})


def _summary_of_metrics(path: Path) -> dict[str, dict[str, float]]:
    """Sum up the metrics of a run that does not do so itself: Sacred's own observer wrote it."""
    found = {}
    for name, points in _mapping(path).items():
        if isinstance(points, Mapping):
            summary = summary_of_points(points.get("steps"), points.get("values"))
            if summary:
                found[str(name)] = summary
    return found


class _DamagedError(Exception):
    """A file of a run is not what it should be; the message names it."""


def _mapping(path: Path) -> dict[str, Any]:
    """Read a file of a run that holds a mapping; empty where it is missing."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise _DamagedError(f"{path} cannot be read: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _DamagedError(f"{path} holds no mapping but a {type(value).__name__}")
    return value


UNFINISHED = "unfinished"
REVISION = "revision"  # changes with each change from outside the run that none of the others would tell
_RUNS_IN_ONE_ANSWER = 500
_SECONDS_UNTIL_SETTLED_THERE = 60.0
# What changes whenever a summary does: by a run at work, Sacred's as well; by persons, in Omniboard; by ``runs``.
_TELLING = ("status", "heartbeat", "stop_time", "session", REVISION, "omniboard", "result", "experiment.name")
# Whole small parts rather than many fields of them: a server takes its time over each path that it is asked for.
_OF_A_RECORD = (
    *("status", "start_time", "stop_time", "heartbeat", "result", "command", "meta", "host", "omniboard"),
    *("experiment.name", "info.parent", "info.prediction_run_id", "info.summary", "info.checkpoints", "info.inputs"),
    *(f"config.{key}" for key in PARENTS_IN_CONFIG),
)


def summarize_database(
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
            index = _DatabaseConfigs(database, where, found, "configs", SHARED_IN_CONFIGS)
            configs = unpack_configs(index.payloads(stamps), config_keys)
        records = _DatabaseRecords(database, where, found, "summaries", SHARED_IN_RECORDS).payloads(stamps)
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
        where: See ``summarize_database``.
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
        return has_settled((datetime.now(UTC) - heard).total_seconds(), _SECONDS_UNTIL_SETTLED_THERE, run.get("status"))


class _DatabaseRecords(_DatabaseIndex):
    def digest(self, run_ids: Sequence[int]) -> dict[int, Payload]:
        return {run["_id"]: _database_record(run) for run in _find(self.database, run_ids, _OF_A_RECORD)}


class _DatabaseConfigs(_DatabaseIndex):
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


def _database_record(run: Mapping[str, Any]) -> Payload:
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
