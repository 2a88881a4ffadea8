"""The log of a run's metrics at full resolution: lines of JSON that are only ever appended to.

A line is a point, ``{"name": …, "step": …, "value": …, "time": …}``, or says something of those before it:
``{"session": TOKEN}``: a process began to write; ``{"withdrawn_after": STEP}``: the points of later steps up to here do
not count, since the run was continued from there; ``{"base": {NAME: …}}``: in place of all before it, what was known of
the run, which was continued on another machine in between.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from incasem_like.disk import lock
from incasem_like.errors import DiskFullError, IncasemError, StoreError
from incasem_like.tracking.series import MAX_POINTS, Metric, MetricTable
from incasem_like.tracking.values import as_utc

_LINES_AT_ONCE = 1000
START_OF_A_POINT = b'{"name"'
_UNDEFINED = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
log = logging.getLogger("incasem_like.tracking")
_NOTHING_WITHDRAWN: Mapping[str, Any] = {"withdrawn_after": math.inf}


class AlreadyWrittenError(Exception):
    """Another process holds the log, since its run is still running."""


class MetricsLog:
    """Appends to a run's log, which is made when opened, and locks it for as long as it is open.

    Attributes:
        refused: Why the file did not take what waits to be written, or None.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refused: OSError | None = None
        self._file: int | None = None
        self._pending: list[str] = []
        self._length = 0

    def open(self) -> None:
        """Open and lock the log; half a line that a killed process left at its end is cut off.

        Raises:
            AlreadyWrittenError: Another process holds it.
        """
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        if not lock(file, wait=False):
            os.close(file)
            raise AlreadyWrittenError
        self._file, self._length = file, _length_of_whole_lines(self.path)
        os.ftruncate(file, self._length)

    def add_points(self, name: str, points: Iterable[tuple[int, float, datetime]]) -> None:
        """Add points of a metric; ``save`` writes them."""
        start = f'{START_OF_A_POINT.decode()}: {json.dumps(name)}, "step": '
        for step, value, moment in points:
            number = repr(value)
            number = _UNDEFINED.get(number, number)
            self._pending.append(f'{start}{step}, "value": {number}, "time": "{moment.isoformat()}"}}\n')

    def add_marker(self, **content: Any) -> None:
        """Add a line about those before it; ``save`` writes it."""
        self._pending.append(json.dumps(content) + "\n")

    def save(self) -> None:
        """Append what was taken; what a full disk does not take is taken back and waits for the next time."""
        if not self._pending or self._file is None:
            return
        content = "".join(self._pending).encode()
        try:
            written = 0
            while written < len(content):
                written += os.write(self._file, content[written:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._length)
            self.refused = error
            raise
        self._pending.clear()
        self.refused = None
        self._length += len(content)

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Truncate what a block wrote that fails."""
        before = self._length
        try:
            yield
        except BaseException:
            self._pending.clear()
            if self._file is not None:
                os.ftruncate(self._file, before)
                self._length = before
            raise

    def close(self) -> None:
        """Release the log; another process may lock it now."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _length_of_whole_lines(path: Path) -> int:
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 4096)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def read_log(path: Path) -> dict[str, Metric]:
    """Read all metrics of a log, without what was withdrawn."""
    columns: defaultdict[str, list[tuple[int, float, datetime]]] = defaultdict(list)
    for content, bound in _lines_that_count(path):
        if "name" in content:
            columns[content["name"]].append((content["step"], content["value"], as_utc(content["time"])))
        for name, metric in content.get("base", {}).items():
            for step, value, moment in zip(metric["steps"], metric["values"], metric["timestamps"], strict=True):
                if step <= bound["withdrawn_after"]:
                    columns[name].append((step, value, as_utc(moment)))
    return {name: Metric(name, *zip(*points, strict=True)) for name, points in columns.items()}


def read_table(path: Path, limit: int = MAX_POINTS) -> MetricTable:
    """Make from a log what a store holds of a run's metrics; takes no memory that grows with the log."""
    table = MetricTable(limit)
    for content, bound in _lines_that_count(path):
        if "name" in content:
            table.add(content["name"], content["step"], content["value"], datetime.fromisoformat(content["time"]))
            continue
        base, step = content["base"], bound["withdrawn_after"]
        for name, metric in base.items():
            table.put(name, metric, metric.get("summary"))
        if any(max(metric["steps"], default=step) > step for metric in base.values()):
            table.withdraw(step, bound.get("counts"))
    return table


def goes_on_from(path: Path, sessions: list[str]) -> bool:
    """Return whether a log ends where the run ended whose sessions had these tokens, so that it may be resumed."""
    if not path.is_file():
        return False
    tokens, base = _written_by(path)
    written = [token for token in tokens if token in sessions]  # others died before they wrote anything else
    return bool(written) and (sessions == written if base is None else sessions[-len(written) :] == written)


def is_complete(path: Path, sessions: list[str]) -> bool:
    """Return whether a log holds a run's metrics at full resolution, from its first session to its last."""
    if not goes_on_from(path, sessions):
        return False
    base = _written_by(path)[1] or {}
    return all(metric.get("stride", 1) == 1 for metric in base.values())


def was_written_in(path: Path, sessions: list[str]) -> bool:
    """Return whether one of a run's sessions wrote a log."""
    return any(marker.get("session") in sessions for _, marker in _markers(path) if "session" in marker)


def base_of(table: MetricTable) -> dict[str, Any]:
    """Write what is known of a run's metrics as the content of a ``base`` line."""
    documents = table.as_documents()
    for name, document in documents.items():
        document["timestamps"] = [moment.isoformat() for moment in document["timestamps"]]
        document["summary"] = table.summary.get(name)
    return documents


def _written_by(path: Path) -> tuple[list[str], dict[str, Any] | None]:
    """List the sessions that wrote a log since its last base, and give that."""
    written: list[str] = []
    base = None
    for _, marker in _markers(path):
        if "base" in marker:
            written, base = [], marker["base"]
        elif "session" in marker:
            written.append(marker["session"])
    return written, base


def _lines_that_count(path: Path) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the points of a log, and the base before them, but not the points that a later line withdraws.

    With each comes the line that withdraws most of what stands before it.
    """
    markers = _markers(path)
    start = max((number for number, marker in markers if "base" in marker), default=0)
    coming = [marker for number, marker in markers if "withdrawn_after" in marker and number > start]
    bound = _reaching_furthest(coming)
    with open(path, "rb") as file:
        for content in _contents(path, islice(file, start, None)):
            if "withdrawn_after" in content:
                coming = coming[1:]
                bound = _reaching_furthest(coming)
            elif "base" in content or ("name" in content and content["step"] <= bound["withdrawn_after"]):
                yield content, bound


def _reaching_furthest(withdrawals: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return min(withdrawals, key=lambda marker: marker["withdrawn_after"], default=_NOTHING_WITHDRAWN)


def _markers(path: Path) -> list[tuple[int, dict[str, Any]]]:
    with open(path, "rb") as file:
        lines = [(number, line) for number, line in enumerate(file) if not line.startswith(START_OF_A_POINT)]
    return [(number, content) for number, line in lines if (content := _read(path, line)) is not None]


def _contents(path: Path, lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """Read lines; many at once, which takes a small part of the time, unless one of them is not whole."""
    while several := list(islice(lines, _LINES_AT_ONCE)):
        try:
            found = json.loads(b"[%s]" % b",".join(several)) if several[-1].endswith(b"\n") else None
        except ValueError:
            found = None
        yield from filter(_is_content, found or (_read(path, line) for line in several))


def _is_content(value: Any) -> bool:
    return isinstance(value, dict)


def _read(path: Path, line: bytes) -> dict[str, Any] | None:
    """Read a line; None for one that is not whole: the run was killed, or is just now, in the middle of it."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        log.warning("A line of %s is damaged and left out.", path)
        return None
    return content if isinstance(content, dict) else None


class RunMetrics:
    """Takes what a run logs into its open log and the table that its store holds; memory does not grow with the run."""

    def __init__(self, log: MetricsLog, table: MetricTable) -> None:
        self.log, self.table = log, table

    def take(self, metrics_by_name: Mapping[str, Mapping[str, Any]]) -> None:
        """Add new points, in the form in which Sacred passes them to observers, and write them to the log.

        An ``OSError`` means that the log does not take them now: the next call tries again, and the table has them.
        """
        for name, columns in metrics_by_name.items():
            points = list(zip(columns["steps"], columns["values"], columns["timestamps"], strict=True))
            self.log.add_points(name, points)
            for step, value, moment in points:
                self.table.add(name, step, value, moment)
        self.log.save()


def not_saved(log: MetricsLog, run_id: int | None) -> IncasemError:
    """Make the error of a run whose metrics cannot be written: it must not go on as if nothing were missing."""
    assert log.refused is not None
    said = f"The metrics of run {run_id} cannot be written to {log.path} ({log.refused.strerror or log.refused})"
    if log.refused.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFullError(f"{said}: free some space, then continue the run.")
    return StoreError(f"{said}: check the disk, then continue the run.")
