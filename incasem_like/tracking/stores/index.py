"""Summaries of all runs of a store, with an SQLite cache so that only runs that changed are read again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.errors import DamagedRecordError, IncasemError
from incasem_like.tracking.kinds import KINDS_BY_KEY
from incasem_like.tracking.model.cache import cache_directory
from incasem_like.tracking.model.summaries import (
    DAMAGED,
    PARENTS_IN_CONFIG,
    TIMES,
    RunSummary,
    condense,
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
_VERSION = 6  # of the tables below
_TABLES = {"records": ("record", "metrics", "inputs"), "configs": ("keys", "leaves")}
_SECONDS_TO_WAIT_FOR_OTHERS = 1.0
_SECONDS_WHILE_LIVE = 300.0
Row = tuple[str, ...]
_FILES_OF = {"records": ("run.json", "info.json", ANNOTATIONS), "configs": ("config.json",)}
_BLIND_SECONDS_OF_FILES = 2.0  # two writes within one tick of a file system's clock may look alike
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
_BLIND_SECONDS_OF_DATABASES = 60.0


@dataclass(frozen=True)
class Source:
    """A store as the index of its runs reads it.

    Attributes:
        store: Names the store among all; no credentials.
        stamps: Returns, for a table, a text for each run that changes as soon as its row does.
        read: Reads runs for a table and makes their rows; those that are gone are left out.
        age: Returns the seconds since a run was last written, from its id and stamp; None where that is unknown,
            negative where the clock that wrote it is ahead.
        blind_seconds: The time within which another write might not show in the stamp.
    """

    store: str
    stamps: Callable[[str], Mapping[int, str]]
    read: Callable[[str, Sequence[int]], Iterable[tuple[int, Row]]]
    age: Callable[[int, str], float | None]
    blind_seconds: float


def cached_summaries(source: Source, kind: str, config_keys: Sequence[str], inputs: bool) -> list[RunSummary]:
    """Summarize all runs, see ``RunStore.summaries``.

    What lists need of each run is cached in one SQLite file in the user's cache. A row counts while the stamp of its
    run is what it was when the run was read. A damaged file, one of another version and one that cannot be written only
    cost time.
    """
    with without_collection():
        configs = _choose(_rows(source, "configs"), config_keys) if config_keys else {}
        found = []
        for run_id, row in _rows(source, "records").items():
            record = json.loads(row[0])
            if "damage" in record:
                found.append(RunSummary(kind, run_id, status=DAMAGED, damage=record["damage"]))
                continue
            record |= {key: datetime.fromisoformat(record[key]) for key in TIMES if record[key]}
            record["summary"] = MetricSummaries(row[1])
            found.append(summarize(kind, run_id, record, configs.get(run_id), json.loads(row[2]) if inputs else ()))
        return found


def _rows(source: Source, table: str) -> dict[int, Row]:
    """Return the row of every run, by id, sorted."""
    stamps = source.stamps(table)
    path = cache_directory() / "run_index" / f"{hashlib.sha256(source.store.encode()).hexdigest()[:32]}.sqlite"
    found: dict[int, Row] = {}
    with contextlib.suppress(sqlite3.Error, OSError), _connected(path) as connection:
        rows = connection.execute(f"SELECT id, stamp, {', '.join(_TABLES[table])} FROM {table}").fetchall()
        found = {run_id: row for run_id, stamp, *row in rows if stamps.get(run_id) == stamp}
    changed = dict(source.read(table, [run_id for run_id in stamps if run_id not in found]))
    settled = []
    for run_id, row in changed.items():
        age, record = source.age(run_id, stamps[run_id]), json.loads(row[0]) if table == "records" else {}
        # Neither damaged nor just written nor about to be written at its next heartbeat
        still = age is not None and abs(age) > source.blind_seconds and "damage" not in record
        if still and (abs(age or 0.0) > _SECONDS_WHILE_LIVE or record.get("recorded_status") != "RUNNING"):
            settled.append((run_id, stamps[run_id], *row))
    if settled:
        marks = ", ".join("?" * len(settled[0]))
        with contextlib.suppress(sqlite3.Error, OSError), _connected(path) as connection:
            gone = [(run_id,) for (run_id,) in connection.execute(f"SELECT id FROM {table}") if run_id not in stamps]
            connection.executemany(f"DELETE FROM {table} WHERE id = ?", gone)
            connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", settled)
    return dict(sorted({**found, **changed}.items()))


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, timeout=_SECONDS_TO_WAIT_FOR_OTHERS)) as connection:
        try:
            connection.execute("PRAGMA synchronous = OFF")  # what a power cut takes is read again
            if connection.execute("PRAGMA user_version").fetchone() != (_VERSION,):
                with connection:
                    for table, columns in _TABLES.items():
                        connection.execute(f"DROP TABLE IF EXISTS {table}")
                        typed = ", ".join(f"{column} TEXT" for column in ("stamp", *columns))
                        connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, {typed})")
                    connection.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.DatabaseError as error:
            if type(error) is sqlite3.DatabaseError:  # it is not a database, rather than busy or read-only
                path.unlink(missing_ok=True)
            raise
        with connection:
            yield connection


class MetricSummaries(Mapping[str, Mapping[str, float]]):
    """Summaries of metrics as JSON, parsed when asked for: most lists of runs show few or none of them."""

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


def _record_row(document: Mapping[str, Any]) -> Row:
    """Reduce a run's document to the row of its summary."""
    condensed = condense(document)
    condensed |= {key: condensed[key].isoformat() for key in TIMES if condensed[key]}
    inputs = as_mapping(document.get("info")).get("inputs")
    metrics = {
        name: {key: value for key, value in summary.items() if isinstance(value, (int, float))}
        for name, summary in condensed.pop("summary").items()
    }
    return _json(condensed), _json(metrics), _json(inputs if isinstance(inputs, list) else [])


def _config_row(config: Any) -> Row:
    """Flatten a configuration into keys, which many runs have alike, and values."""
    flat = flatten(config)
    return _json(list(flat)), _json(list(flat.values()))


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


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


def folder_source(folder: Path) -> Source:
    """Read runs that are kept as files; one that cannot be read is DAMAGED.

    The stamp is modification time and size of the files of a table; the first one must exist.
    """

    def stamp_of(path: str) -> str:
        try:
            status = os.stat(path)
        except OSError:
            return "0"
        return f"{status.st_mtime_ns}:{status.st_size}"

    def stamps(table: str) -> dict[int, str]:
        times = {name: [stamp_of(f"{folder}/{name}/{file}") for file in _FILES_OF[table]] for name in numbered(folder)}
        return {int(name): " ".join(found) for name, found in times.items() if found[0] != "0"}

    def read(table: str, run_ids: Sequence[int]) -> Iterator[tuple[int, Row]]:
        for run_id in run_ids:
            run = _ListedRun(folder / str(run_id))
            yield run_id, _folder_record(run) if table == "records" else _config_row(run.read_leniently("config.json"))

    def age(run_id: int, stamp: str) -> float:
        return time.time() - max(int(part.partition(":")[0]) for part in stamp.split()) / 1e9

    return Source(str(folder.absolute()), stamps, read, age, _BLIND_SECONDS_OF_FILES)


class _ListedRun(RunFolder):
    """A run whose damage is reported in the list."""

    def _damaged(self, path: Path, reason: object) -> IncasemError:
        return DamagedRecordError(f"{path} cannot be read: {reason}")


def _folder_record(run: RunFolder) -> Row:
    try:
        document = {**run.read("run.json"), "info": run.read("info.json"), "omniboard": run.read(ANNOTATIONS)}
        info = document["info"]
        if "parent" not in info:  # only runs that do not note it themselves have it in their configuration
            document["config"] = run.read("config.json")
        if "summary" not in info:  # Sacred's own observer wrote it
            metrics = {name: as_mapping(points) for name, points in run.read("metrics.json").items()}
            sums = {name: summary_of_points(one.get("steps"), one.get("values")) for name, one in metrics.items()}
            document["info"] = {**info, "summary": {name: summary for name, summary in sums.items() if summary}}
    except (DamagedRecordError, OSError) as error:
        return _json({"damage": str(error)}), "{}", "[]"
    return _record_row(document)


def database_summaries(
    database: Database[Any], store: str, kind: str, config_keys: Sequence[str], inputs: bool, metrics: Sequence[str]
) -> list[RunSummary]:
    """Summarize the runs in a database; one whose document makes no sense is DAMAGED.

    Of other programs' runs, which keep no summary, the metrics that are named are summed up.
    """
    telling = {run["_id"]: run for run in _find(database, None, _TELLING)}

    def stamps(table: str) -> dict[int, str]:
        return {
            run_id: hashlib.blake2b(repr(sorted(run.items())).encode(), digest_size=12).hexdigest()
            for run_id, run in telling.items()
        }

    def read(table: str, run_ids: Sequence[int]) -> Iterator[tuple[int, Row]]:
        for run in _find(database, run_ids, _FIELDS[table]):
            yield run["_id"], _database_record(run) if table == "records" else _config_row(from_bson(run.get("config")))

    def age(run_id: int, stamp: str) -> float | None:
        heard = utc_moment(telling[run_id].get("heartbeat"))
        return None if heard is None else (datetime.now(UTC) - heard).total_seconds()

    source = Source(store, stamps, read, age, _BLIND_SECONDS_OF_DATABASES)
    found = cached_summaries(source, kind, config_keys, inputs)
    foreign = [run.id for run in found if "session" not in telling[run.id]] if metrics else []
    points: dict[int, dict[str, Any]] = {}
    if foreign:
        query = {"run_id": {"$in": foreign}, "name": {"$in": list(metrics)}}
        for series in database["metrics"].find(query, {"run_id": 1, "name": 1, "steps": 1, "values": 1}):
            if summary := summary_of_points(series.get("steps"), series.get("values")):
                points.setdefault(series["run_id"], {})[series["name"]] = summary
    return [replace(run, summary={**points[run.id], **run.summary}) if run.id in points else run for run in found]


def _find(database: Database[Any], run_ids: Sequence[int] | None, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Fetch fields of some runs, or of all; the server looks for the next while those before are worked on."""
    size, whole = _RUNS_IN_ONE_ANSWER, {UNFINISHED: {"$exists": False}}
    parts = [None] if run_ids is None else [run_ids[first : first + size] for first in range(0, len(run_ids), size)]
    queries = [whole if part is None else {"_id": {"$in": list(part)}, **whole} for part in parts]
    projection = dict.fromkeys(fields, 1)
    coming = chain.from_iterable(database["runs"].find(query, projection).batch_size(size) for query in queries)
    with ThreadPoolExecutor(1) as pool:
        next_ones = pool.submit(list, islice(coming, size))
        while found := next_ones.result():
            next_ones = pool.submit(list, islice(coming, size))
            yield from (run for run in found if isinstance(run["_id"], int))


def _database_record(run: Mapping[str, Any]) -> Row:
    try:
        info, result, config = (from_bson(run.get(key)) for key in ("info", "result", "config"))
        return _record_row({**run, "info": info, "result": result, "config": config})
    except Exception as error:  # whatever else wrote here: one odd document does not hide the others
        damage = f"its document makes no sense ({type(error).__name__}: {error})"
        return _json({"damage": damage}), "{}", "[]"
