"""Reading the log of a run's metrics, whose lines ``metrics_log`` describes: points, sessions, what was withdrawn."""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from incasem_like.tracking.metrics_log import START_OF_A_POINT
from incasem_like.tracking.records import Metric
from incasem_like.tracking.series import MAX_POINTS, MetricTable

log = logging.getLogger("incasem_like.tracking")


def read_log(path: Path) -> dict[str, Metric]:
    """Read all metrics of a log, without what was withdrawn."""
    columns: defaultdict[str, list[tuple[int, float, datetime]]] = defaultdict(list)
    for name, step, value, moment in _points_that_count(path):
        columns[name].append((step, value, datetime.fromisoformat(moment).replace(tzinfo=UTC)))
    return {name: Metric(name, *zip(*points, strict=True)) for name, points in columns.items()}


def read_table(path: Path, limit: int = MAX_POINTS) -> MetricTable:
    """Make from a log what a store holds of a run's metrics; takes no memory that grows with the log."""
    table = MetricTable(limit)
    markers = _markers(path)
    if any("base" in marker for _, marker in markers):
        for name, step, value, moment in _every_line(path, table):
            table.add(name, step, value, datetime.fromisoformat(moment))
        return table
    for name, step, value, moment in _points_that_count(path, markers):
        table.add(name, step, value, datetime.fromisoformat(moment))
    return table


def goes_on_from(path: Path, sessions: list[str]) -> bool:
    """Find out whether a log ends where a run ended, so that it may be continued.

    Args:
        path: Of the log.
        sessions: Tokens of all the run's sessions.
    """
    written, base = _written_by(path)
    return bool(written) and (sessions == written if base is None else sessions[-len(written) :] == written)


def is_complete(path: Path, sessions: list[str]) -> bool:
    """Find out whether a log holds a run's metrics at full resolution, from its first session to its last."""
    if not path.is_file() or not goes_on_from(path, sessions):
        return False
    base = _written_by(path)[1] or {}
    return all(metric.get("stride", 1) == 1 for metric in base.values())


def was_written_in(path: Path, sessions: list[str]) -> bool:
    """Find out whether one of a run's sessions wrote a log."""
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


def _points_that_count(
    path: Path, markers: list[tuple[int, dict[str, Any]]] | None = None
) -> Iterator[tuple[str, int, float, str]]:
    """Read the points of a log and of its base, in order, without what was withdrawn later on."""
    markers = _markers(path) if markers is None else markers
    withdrawals = [
        (line, -math.inf if "base" in marker else marker["withdrawn_after"])
        for line, marker in markers
        if "base" in marker or "withdrawn_after" in marker
    ]
    bound = _lowest(withdrawals, -1)
    for number, content in _lines(path):
        if withdrawals and withdrawals[0][0] <= number:
            withdrawals.pop(0)
            bound = _lowest(withdrawals, number)
        if "name" in content:
            if content["step"] <= bound:
                yield content["name"], content["step"], content["value"], content["time"]
            continue
        for name, metric in content.get("base", {}).items():
            for step, value, moment in zip(metric["steps"], metric["values"], metric["timestamps"], strict=True):
                if step <= bound:
                    yield name, step, value, moment


def _every_line(path: Path, table: MetricTable) -> Iterator[tuple[str, int, float, str]]:
    """Give each point of a log while doing to the table what the other lines say."""
    for _, content in _lines(path):
        if "name" in content:
            yield content["name"], content["step"], content["value"], content["time"]
        elif "base" in content:
            table.series.clear()
            table.summary.clear()
            for name, metric in content["base"].items():
                table.put(name, metric, metric.get("summary"))
        elif "withdrawn_after" in content:
            table.withdraw(content["withdrawn_after"], content.get("counts"))


def _lowest(withdrawals: list[tuple[int, float]], line: int) -> float:
    return min((step for number, step in withdrawals if number > line), default=math.inf)


def _markers(path: Path) -> list[tuple[int, dict[str, Any]]]:
    with open(path, "rb") as file:
        lines = [(number, line) for number, line in enumerate(file) if not line.startswith(START_OF_A_POINT)]
    return [(number, content) for number, line in lines if (content := _read(path, line)) is not None]


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            content = _read(path, line)
            if content is not None:
                yield number, content


def _read(path: Path, line: bytes) -> dict[str, Any] | None:
    """Read a line; None for one that is not whole: the run was killed, or is just now, in the middle of it."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        log.warning("A line of %s is damaged and left out.", path)
        return None
    return content if isinstance(content, dict) else None
