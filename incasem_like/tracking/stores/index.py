"""Summaries of all runs of a store, with an SQLite cache so that only runs that changed are read again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.errors import DamagedRecordError
from incasem_like.tracking.kinds import KINDS_BY_KEY
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
from incasem_like.tracking.run_folder import ANNOTATIONS, RunFolder, numbered
from incasem_like.tracking.values import as_mapping, from_bson, utc_moment

if TYPE_CHECKING:
    from pymongo.database import Database

UNFINISHED = "unfinished"
REVISION = "revision"  # changes with each change from outside the run that none of the others would tell
_VERSION = 5  # of the tables below
_TABLES = {"records": ("record", "metrics", "inputs"), "configs": ("keys", "leaves")}
_SECONDS_TO_WAIT_FOR_OTHERS = 1.0
_SECONDS_WHILE_LIVE = 300.0
Row = tuple[str, ...]


class RunIndex(ABC):
    """What lists need of each run of a store, cached in one SQLite file in the user's cache.

    A row counts while the stamp of its run is what it was when the run was read. A damaged file, one of another version
    and one that cannot be written only cost time.

    Args:
        store: Names the store among all; no credentials.
    """

    def __init__(self, store: str) -> None:
        name = hashlib.sha256(store.encode()).hexdigest()[:32]
        self.path = cache_directory() / "run_index" / f"{name}.sqlite"

    @abstractmethod
    def stamps(self, table: str) -> Mapping[int, str]:
        """Return, for each run, a text that changes as soon as its row in a table changes."""

    @abstractmethod
    def read(self, table: str, run_ids: Sequence[int]) -> Iterable[tuple[int, Row]]:
        """Read runs and make their rows; those that are gone are left out."""

    @abstractmethod
    def is_settled(self, run_id: int, stamp: str, record: Mapping[str, Any]) -> bool:
        """Return whether a run is worth caching, see ``has_settled``; ``record`` is empty for a configuration."""

    def rows(self, table: str) -> dict[int, Row]:
        """Return the row of every run, by id, sorted."""
        stamps = self.stamps(table)
        found = {run_id: row for run_id, stamp, *row in self._load(table) if stamps.get(run_id) == stamp}
        changed = dict(self.read(table, [run_id for run_id in stamps if run_id not in found]))
        settled = [
            (run_id, stamps[run_id], *row)
            for run_id, row in changed.items()
            if self.is_settled(run_id, stamps[run_id], json.loads(row[0]) if table == "records" else {})
        ]
        if settled:
            self._save(table, settled, stamps)
        return dict(sorted({**found, **changed}.items()))

    def summaries(self, kind: str, config_keys: Sequence[str], inputs: bool) -> list[RunSummary]:
        """Summarize all runs, see ``RunStore.summaries``."""
        with without_collection():
            configs = _choose(self.rows("configs"), config_keys) if config_keys else {}
            return [
                _summary(kind, run_id, row, configs.get(run_id), inputs) for run_id, row in self.rows("records").items()
            ]

    def _load(self, table: str) -> list[tuple[Any, ...]]:
        with contextlib.suppress(sqlite3.Error, OSError), self._connected() as connection:
            return connection.execute(f"SELECT id, stamp, {', '.join(_TABLES[table])} FROM {table}").fetchall()
        return []

    def _save(self, table: str, rows: Sequence[tuple[Any, ...]], present: Mapping[int, str]) -> None:
        marks = ", ".join("?" * (2 + len(_TABLES[table])))
        with contextlib.suppress(sqlite3.Error, OSError), self._connected() as connection:
            gone = [(run_id,) for (run_id,) in connection.execute(f"SELECT id FROM {table}") if run_id not in present]
            connection.executemany(f"DELETE FROM {table} WHERE id = ?", gone)
            connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self.path, timeout=_SECONDS_TO_WAIT_FOR_OTHERS)) as connection:
            try:
                connection.execute("PRAGMA synchronous = OFF")  # what a power cut takes is read again
                if connection.execute("PRAGMA user_version").fetchone() != (_VERSION,):
                    self._make_tables(connection)
            except sqlite3.DatabaseError as error:
                if type(error) is sqlite3.DatabaseError:  # it is not a database, rather than busy or read-only
                    self.path.unlink(missing_ok=True)
                raise
            with connection:
                yield connection

    @staticmethod
    def _make_tables(connection: sqlite3.Connection) -> None:
        with connection:
            for table, columns in _TABLES.items():
                connection.execute(f"DROP TABLE IF EXISTS {table}")
                typed = ", ".join(f"{column} TEXT" for column in ("stamp", *columns))
                connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, {typed})")
            connection.execute(f"PRAGMA user_version = {_VERSION}")


class MetricSummaries(Mapping[str, Mapping[str, float]]):
    """Summaries of metrics that are parsed when asked for: most lists of runs show few or none of them.

    Args:
        text: The summaries as JSON.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _parsed(self) -> dict[str, dict[str, float]]:
        parsed: dict[str, dict[str, float]] = json.loads(self._text)
        return parsed

    def __getitem__(self, name: str) -> Mapping[str, float]:
        """Parse one metric alone: lists that sort or filter by it read that of every run."""
        for before in ",{":
            _, found, after = self._text.partition(f"{before}{json.dumps(name)}:{{")
            if found:
                values: dict[str, float] = json.loads(f"{{{after.partition('}')[0]}}}")
                return values
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parsed)

    def __len__(self) -> int:
        return len(self._parsed)

    def __repr__(self) -> str:
        return repr(self._parsed)


def has_settled(age: float, least: float, status: Any) -> bool:
    """Return whether a run is neither just written nor about to be written again at its next heartbeat.

    Args:
        age: Seconds since it was last written; negative where the clock that wrote it is ahead.
        least: Seconds within which another write might not show.
        status: Its recorded state, as far as that is known.
    """
    return abs(age) > least and (abs(age) > _SECONDS_WHILE_LIVE or status != "RUNNING")


def _record_row(document: Mapping[str, Any]) -> Row:
    """Reduce a run's document to the row of its summary."""
    condensed = condense(document)
    condensed["times"] = [moment and moment.isoformat() for moment in condensed["times"]]
    inputs = as_mapping(document.get("info")).get("inputs")
    metrics = {
        name: {key: value for key, value in summary.items() if isinstance(value, (int, float))}
        for name, summary in condensed.pop("summary").items()
    }
    return _json(condensed), _json(metrics), _json(inputs if isinstance(inputs, list) else [])


def _damage_row(damage: str) -> Row:
    """Make the row of a run whose record cannot be read."""
    return _json({"damage": damage}), "{}", "[]"


def _config_row(config: Any) -> Row:
    """Flatten a configuration into keys, which many runs have alike, and values."""
    flat = flatten(config)
    return _json(list(flat)), _json(list(flat.values()))


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _summary(kind: str, run_id: int, row: Row, config: Mapping[str, Any] | None, inputs: bool) -> RunSummary:
    record = json.loads(row[0])
    if "damage" in record:
        return damaged(kind, run_id, record["damage"])
    record["times"] = [datetime.fromisoformat(text) if text else None for text in record["times"]]
    record["summary"] = MetricSummaries(row[1])
    return summarize(kind, run_id, record, config, json.loads(row[2]) if inputs else ())


def _choose(rows: Mapping[int, Row], wanted: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Choose leaves of the configuration of every run; which of a list of keys they are is found out once."""
    positions: dict[str, dict[str, int]] = {}
    found = {}
    for run_id, (keys, leaves) in rows.items():
        if keys not in positions:
            positions[keys] = select({key: position for position, key in enumerate(json.loads(keys))}, wanted)
        values = json.loads(leaves) if positions[keys] else ()
        found[run_id] = {key: values[position] for key, position in positions[keys].items()}
    return found


_FILES_OF = {"records": ("run.json", "info.json", ANNOTATIONS), "configs": ("config.json",)}


class FolderIndex(RunIndex):
    """The index of runs that are kept as files; a run that cannot be read is DAMAGED.

    Args:
        folder: The folder of the runs.
    """

    _SECONDS_UNTIL_SETTLED = 2.0  # two writes within one tick of a file system's clock may look alike

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder.absolute()))
        self.folder = folder

    def stamps(self, table: str) -> dict[int, str]:
        """Return modification time and size of the files of each run; the first of them must exist."""
        found = {}
        for name in numbered(self.folder):
            times = [_stamp_of_file(f"{self.folder}/{name}/{file}") for file in _FILES_OF[table]]
            if times[0] != "0":
                found[int(name)] = " ".join(times)
        return found

    def is_settled(self, run_id: int, stamp: str, record: Mapping[str, Any]) -> bool:  # noqa: D102
        newest = max(int(part.partition(":")[0]) for part in stamp.split())
        return has_settled(time.time() - newest / 1e9, self._SECONDS_UNTIL_SETTLED, record.get("status"))

    def read(self, table: str, run_ids: Sequence[int]) -> Iterator[tuple[int, Row]]:  # noqa: D102
        read = _folder_record if table == "records" else _folder_config
        for run_id in run_ids:
            yield run_id, read(self.folder / str(run_id))


def _stamp_of_file(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "0"
    return f"{status.st_mtime_ns}:{status.st_size}"


def _folder_record(directory: Path) -> Row:
    try:
        run = RunFolder(directory, _unreadable)
        document = {**run.read("run.json"), "info": run.read("info.json"), "omniboard": run.read(ANNOTATIONS)}
        info = document["info"]
        if "parent" not in info:  # only runs that do not note it themselves have it in their configuration
            document["config"] = run.read("config.json")
        if "summary" not in info:  # Sacred's own observer wrote it
            document["info"] = {**info, "summary": _summary_of_metrics(run.read("metrics.json"))}
    except (DamagedRecordError, OSError) as error:
        return _damage_row(str(error))
    return _record_row(document)


def _folder_config(directory: Path) -> Row:
    try:
        return _config_row(RunFolder(directory, _unreadable).read("config.json"))
    except (DamagedRecordError, OSError):
        return _config_row({})


def _summary_of_metrics(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    found = {}
    for name, points in metrics.items():
        if isinstance(points, Mapping):
            summary = summary_of_points(points.get("steps"), points.get("values"))
            if summary:
                found[str(name)] = summary
    return found


def _unreadable(path: Path, reason: object) -> DamagedRecordError:
    return DamagedRecordError(f"{path} cannot be read: {reason}")


# What changes whenever a summary does: by a run at work, Sacred's as well; by persons, in Omniboard; by ``runs``.
_TELLING = ("status", "heartbeat", "stop_time", "session", REVISION, "omniboard", "result", "experiment.name")
# Whole small parts rather than many fields of them: a server takes its time over each path that it is asked for.
_FIELDS = {
    "records": (
        *("status", "start_time", "stop_time", "heartbeat", "result", "command", "meta", "host", "omniboard"),
        *("experiment.name", "info.parent", "info.summary", "info.checkpoints"),
        *("info.inputs", *(f"info.{key}" for key in KINDS_BY_KEY), *(f"config.{key}" for key in PARENTS_IN_CONFIG)),
    ),
    "configs": ("config",),
}
_RUNS_IN_ONE_ANSWER = 500


class DatabaseIndex(RunIndex):
    """The index of runs in a database; a run whose document makes no sense is DAMAGED.

    Args:
        database: Where the runs are.
        store: Names the database among all; no credentials.
    """

    _SECONDS_UNTIL_SETTLED = 60.0

    def __init__(self, database: Database[Any], store: str) -> None:
        super().__init__(store)
        self.database = database
        self._found = {run["_id"]: run for run in self._find(None, _TELLING)}

    def stamps(self, table: str) -> dict[int, str]:  # noqa: D102
        return {
            run_id: hashlib.blake2b(repr(sorted(run.items())).encode(), digest_size=12).hexdigest()
            for run_id, run in self._found.items()
        }

    def is_settled(self, run_id: int, stamp: str, record: Mapping[str, Any]) -> bool:  # noqa: D102
        run = self._found[run_id]
        heard = utc_moment(run.get("heartbeat"))
        if heard is None or "damage" in record:
            return False
        return has_settled((datetime.now(UTC) - heard).total_seconds(), self._SECONDS_UNTIL_SETTLED, run.get("status"))

    def read(self, table: str, run_ids: Sequence[int]) -> Iterator[tuple[int, Row]]:  # noqa: D102
        for run in self._find(run_ids, _FIELDS[table]):
            yield run["_id"], _database_record(run) if table == "records" else _config_row(from_bson(run.get("config")))

    def summaries(
        self, kind: str, config_keys: Sequence[str], inputs: bool, metrics: Sequence[str] = ()
    ) -> list[RunSummary]:
        """Summarize all runs; of other programs' runs, which keep no summary, sum up the metrics that are named."""
        found = super().summaries(kind, config_keys, inputs)
        points = self._points([run.id for run in found if "session" not in self._found[run.id]], metrics)
        return [replace(run, summary={**points[run.id], **run.summary}) if run.id in points else run for run in found]

    def _find(self, run_ids: Sequence[int] | None, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Fetch fields of some runs, or of all; the server looks for the next while those before are worked on."""
        whole = {UNFINISHED: {"$exists": False}}
        runs, projection = self.database["runs"], dict.fromkeys(fields, 1)

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

    def _points(self, ids: Sequence[int], names: Sequence[str]) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        if not names or not ids:
            return found
        query = {"run_id": {"$in": ids}, "name": {"$in": list(names)}}
        for series in self.database["metrics"].find(query, {"run_id": 1, "name": 1, "steps": 1, "values": 1}):
            summary = summary_of_points(series.get("steps"), series.get("values"))
            if summary:
                found.setdefault(series["run_id"], {})[series["name"]] = summary
        return found


def _database_record(run: Mapping[str, Any]) -> Row:
    try:
        info, result, config = (from_bson(run.get(key)) for key in ("info", "result", "config"))
        return _record_row({**run, "info": info, "result": result, "config": config})
    except Exception as error:  # whatever else wrote here: one odd document does not hide the others
        return _damage_row(f"its document makes no sense ({type(error).__name__}: {error})")
