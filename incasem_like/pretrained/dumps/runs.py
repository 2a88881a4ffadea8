"""The trainings in a dump of incasem's database: records, metrics and files of Sacred's MongoDB observer."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bson import json_util

from incasem_like.pretrained.dumps.dump import CHUNKS, FILES, METRICS, RUNS, Dump, Place
from incasem_like.pretrained.foreign import ORIGIN, ForeignRun, configuration, origin
from incasem_like.tracking.model.summaries import unpickled
from incasem_like.tracking.series import Metric
from incasem_like.tracking.values import plain, without_credentials

ORIGINAL_RECORD = "original_run.json"
_NOT_IN_A_NAME = re.compile(r"[/\\\x00-\x1f]")
# A run in a dump is not active, whatever its last status was.
_NOT_ENDED = ("RUNNING", "QUEUED", "None")


class DumpedRuns:
    """The runs of one dumped database, read one at a time."""

    def __init__(self, dump: Dump) -> None:
        self.dump = dump

    def ids(self) -> list[int]:
        """Return the ids of the runs, sorted; runs with other than numeric ids are left out."""
        return sorted(run["_id"] for run in self.dump.collection(RUNS) if _is_id(run.get("_id")))

    def runs(self, wanted: Sequence[int] | None = None) -> Iterator[ForeignRun]:
        """Yield the runs; all if none are named.

        Raises:
            DataError: The dump is damaged.
        """
        for run in self.dump.collection(RUNS):
            if _is_id(run.get("_id")) and (wanted is None or run["_id"] in wanted):
                yield self._translated(run)

    def _translated(self, run: Mapping[str, Any]) -> ForeignRun:
        run_id = int(run["_id"])
        settings = configuration(run.get("config") or {}, f"in the configuration of run {run_id} of {self.dump.source}")
        meta, experiment = unpickled(run.get("meta") or {}), dict(unpickled(run.get("experiment") or {}))
        options = meta.get("options") or {}
        name = str(options.get("--name") or experiment.get("name") or f"run {run_id}")
        artifacts, sources, missing = self._files_of(run)
        identity = _identity(run)
        info = {key: value for key, value in unpickled(run.get("info") or {}).items() if key != "metrics"}
        info |= settings.info | origin(identity, str(self.dump.source), run_id)
        if missing:
            info[ORIGIN]["files_not_in_dump"] = missing
        ended = str(run.get("status")) not in _NOT_ENDED
        document = {
            "experiment": experiment,
            "command": str(run.get("command") or "train"),
            "host": unpickled(run.get("host") or {}),
            "meta": meta,
            "status": str(run.get("status")) if ended else "KILLED",
            "start_time": _moment(run.get("start_time")),
            "stop_time": _moment(run.get("stop_time") or (None if ended else run.get("heartbeat"))),
            "heartbeat": _moment(run.get("heartbeat")),
            "result": unpickled(run.get("result")),
            "config": settings.config,
            "info": info,
            "captured_out": str(run.get("captured_out") or ""),
            "fail_trace": [str(line) for line in run.get("fail_trace") or ()],
        }
        noted = run.get("omniboard") or {}
        return ForeignRun(
            run_id,
            name,
            identity,
            {key: value if isinstance(value, datetime) else _plain(value) for key, value in document.items()},
            self.metrics(run_id),
            artifacts,
            sources,
            tuple(tag for tag in noted.get("tags") or () if isinstance(tag, str)),
            str(noted.get("notes") or ""),
            settings.problem,
            tuple(missing),
        )

    def metrics(self, run_id: int) -> dict[str, Metric]:
        """Return the metrics of a run; points that are not numeric are left out."""
        found = {}
        for place in self._metric_places.get(run_id, ()):
            document = self.dump.collection(METRICS).read(place)
            metric = _metric(document)
            found[metric.name] = metric
        return found

    def _files_of(self, run: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, bytes], list[str]]:
        """Return a run's artifacts, including its original record, its sources, and the names of incomplete files."""
        wanted = [(_file_name(str(entry["name"])), entry.get("file_id")) for entry in _artifact_entries(run)]
        artifacts = {name: self._content(file_id) for name, file_id in wanted}
        sources = {name: self._content(file_id) for name, file_id in _source_pairs(run)}
        missing = [name for name, content in {**sources, **artifacts}.items() if content is None]
        record = json_util.dumps(without_credentials(dict(run)), json_options=json_util.RELAXED_JSON_OPTIONS, indent=2)
        whole = {name: content for name, content in artifacts.items() if content is not None}
        return (
            {**whole, ORIGINAL_RECORD: record.encode()},
            {name: content for name, content in sources.items() if content is not None},
            missing,
        )

    def _content(self, file_id: Any) -> bytes | None:
        """Assemble a file of GridFS; None if it is incomplete in the database."""
        file, places = self._files.get(file_id), self._chunk_places.get(file_id, {})
        if file is None:
            return None
        chunks = self.dump.collection(CHUNKS)
        content = b"".join(bytes(chunks.read(places[number])["data"]) for number in sorted(places))
        named = file.get("md5")
        spoilt = isinstance(named, str) and hashlib.md5(content, usedforsecurity=False).hexdigest() != named
        return None if spoilt or len(content) != file.get("length", len(content)) else content

    @functools.cached_property
    def _metric_places(self) -> dict[int, list[Place]]:
        found: dict[int, list[Place]] = {}
        for document, place in self.dump.collection(METRICS).places():
            if _is_id(document.get("run_id")):
                found.setdefault(int(document["run_id"]), []).append(place)
        return found

    @functools.cached_property
    def _files(self) -> dict[Any, dict[str, Any]]:
        return {file["_id"]: file for file in self.dump.collection(FILES)}

    @functools.cached_property
    def _chunk_places(self) -> dict[Any, dict[int, Place]]:
        found: dict[Any, dict[int, Place]] = {}
        for document, place in self.dump.collection(CHUNKS).places():
            found.setdefault(document.get("files_id"), {})[int(document["n"])] = place
        return found


def _metric(document: Mapping[str, Any]) -> Metric:
    columns = (document.get("steps") or (), document.get("values") or (), document.get("timestamps") or ())
    points = []
    for step, value, moment in zip(*columns, strict=False):
        number = unpickled(value)
        if isinstance(number, (int, float)) and isinstance(step, (int, float)) and isinstance(moment, datetime):
            points.append((int(step), float(number), _moment(moment) or moment))
    steps, values, moments = zip(*points, strict=True) if points else ((), (), ())
    return Metric(str(document.get("name")), tuple(steps), tuple(values), tuple(moments))


def _artifact_entries(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in run.get("artifacts") or () if isinstance(entry, Mapping) and "name" in entry]


def _source_pairs(run: Mapping[str, Any]) -> list[tuple[str, Any]]:
    pairs = (run.get("experiment") or {}).get("sources") or ()
    return [(str(pair[0]), pair[1]) for pair in pairs if isinstance(pair, (list, tuple)) and len(pair) == 2]


def _file_name(name: str) -> str:
    """Convert any name to that of a file in the run's own folder."""
    return _NOT_IN_A_NAME.sub("_", name).strip(".") or "file"


def _identity(run: Mapping[str, Any]) -> str:
    """Return the identity of a run, its id and start: dumps made at different times contain the same run."""
    start = _moment(run.get("start_time"))
    return f"sacred run {run['_id']} of {start.isoformat() if start else 'unknown time'}"


def _plain(value: Any) -> Any:
    return without_credentials(plain(value))


def _moment(value: Any) -> datetime | None:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else None


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
