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
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from incasem_like.disk import lock
from incasem_like.errors import DiskFullError, IncasemError, StoreError
from incasem_like.tracking.series import MAX_POINTS, Metric, MetricTable
from incasem_like.tracking.values import as_utc

_LINES_AT_ONCE = 1000
START_OF_A_POINT = b'{"name"'
log = logging.getLogger("incasem_like.tracking")


class AlreadyWrittenError(Exception):
    """Another process holds the log, since its run is still running."""


class MetricsLog:
    """Appends to a run's log, which is made when opened, and locks it for as long as it is open.

    Memory does not grow with the run.

    Attributes:
        table: What a store holds of the run's metrics, after ``begin`` or ``resume``.
        refused: Why the file did not take what waits to be written, or None.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table = MetricTable()
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
        self._file, self._length = file, os.fstat(file).st_size
        for start in range((self._length - 1) // 4096 * 4096, -1, -4096):
            newline = os.pread(file, min(4096, self._length - start), start).rfind(b"\n")
            self._length = start + newline + 1
            if newline >= 0:
                break
        os.ftruncate(file, self._length)

    def begin(self, token: str, limit: int) -> None:
        """Begin the log of a new run in its first session; its table has at most ``limit`` points of each metric."""
        self.add_marker(session=token)
        self.save()
        self.table = MetricTable(limit)

    def resume(self, token: str, iteration: int, counts: Mapping[str, int] | None, limit: int) -> None:
        """Resume the log of a run in a new session; what it logged after an iteration is withdrawn.

        ``counts`` are the numbers of points of each metric then; None if nobody noted them.
        """
        self.add_marker(session=token)
        self.add_marker(withdrawn_after=iteration, counts=counts)
        self.save()
        self.table = read_table(self.path, limit)

    def take(self, metrics_by_name: Mapping[str, Mapping[str, Any]]) -> None:
        """Add new points, in the form in which Sacred passes them to observers, and write them.

        An ``OSError`` means that the file does not take them now: the next call tries again, and the table has them.
        """
        for name, columns in metrics_by_name.items():
            start = f'{START_OF_A_POINT.decode()}: {json.dumps(name)}, "step": '
            for step, value, moment in zip(columns["steps"], columns["values"], columns["timestamps"], strict=True):
                time = moment.isoformat()
                self._pending.append(f'{start}{step}, "value": {json.dumps(value)}, "time": "{time}"}}\n')
                self.table.add(name, step, value, moment)
        self.save()

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


def goes_on_from(path: Path, sessions: list[str], *, complete: bool = False) -> bool:
    """Return whether a log ends where the run ended whose sessions had these tokens, so that it may be resumed.

    With ``complete``: whether it holds all points, from the first session to the last.
    """
    if not path.is_file():
        return False
    written: list[str] = []
    base = None
    for _, marker in _markers(path):
        if "base" in marker:
            written, base = [], marker["base"]
        elif marker.get("session") in sessions:  # others died before they wrote anything else
            written.append(marker["session"])
    if complete and any(metric.get("stride", 1) > 1 for metric in (base or {}).values()):
        return False
    return bool(written) and (sessions == written if base is None else sessions[-len(written) :] == written)


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


def _lines_that_count(path: Path) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the points of a log, and the base before them, but not the points that a later line withdraws.

    With each comes the line that withdraws most of what stands before it.
    """
    markers = _markers(path)
    start = max((number for number, marker in markers if "base" in marker), default=0)
    coming = [marker for number, marker in markers if "withdrawn_after" in marker and number > start]
    coming.append({"withdrawn_after": math.inf})
    bound = min(coming, key=itemgetter("withdrawn_after"))
    with open(path, "rb") as file:
        for content in _contents(path, islice(file, start, None)):
            if "withdrawn_after" in content:
                coming = coming[1:]
                bound = min(coming, key=itemgetter("withdrawn_after"))
            elif "base" in content or ("name" in content and content["step"] <= bound["withdrawn_after"]):
                yield content, bound


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
        yield from (one for one in found or (_read(path, line) for line in several) if isinstance(one, dict))


def _read(path: Path, line: bytes) -> dict[str, Any] | None:
    """Read a line; None for one that is not whole: the run was killed, or is just now, in the middle of it."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        log.warning("A line of %s is damaged and left out.", path)
        return None
    return content if isinstance(content, dict) else None


def not_saved(log: MetricsLog, run_id: int | None) -> IncasemError:
    """Make the error of a run whose metrics cannot be written: it must not go on as if nothing were missing."""
    assert log.refused is not None
    is_full = log.refused.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return (DiskFullError if is_full else StoreError)(
        f"The metrics of run {run_id} cannot be written to {log.path} ({log.refused.strerror or log.refused}): "
        f"{'free some space' if is_full else 'check the disk'}, then continue the run."
    )
