"""The points a run logged since its last heartbeat."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

MOST_POINTS = 20_000


class MetricBuffer:
    """Takes points from any thread at little cost.

    Args:
        overflow: Called when more points wait than memory should hold; must not wait for anything.
    """

    def __init__(self, overflow: Callable[[], object]) -> None:
        self._overflow = overflow
        self._lock = threading.Lock()
        self._points: list[tuple[str, int, float, datetime]] = []
        self._counts: Counter[str] = Counter()

    def start_from(self, counts: Mapping[str, int]) -> None:
        """Count on from what a continued run has logged before."""
        with self._lock:
            self._counts.update(counts)

    def add(self, name: str, value: float, step: int) -> None:
        """Take a point."""
        moment = datetime.now(UTC).replace(tzinfo=None)
        with self._lock:
            self._points.append((name, step, value, moment))
            self._counts[name] += 1
            full = len(self._points) % MOST_POINTS == 0
        if full:
            self._overflow()

    def counts(self) -> dict[str, int]:
        """Give the number of points of each metric over the whole run."""
        with self._lock:
            return dict(self._counts)

    def take(self) -> dict[str, dict[str, Any]]:
        """Hand over the points since the last call, in the form in which Sacred gives them to observers."""
        with self._lock:
            points, self._points = self._points, []
        found: dict[str, dict[str, Any]] = {}
        for name, step, value, moment in points:
            columns = found.get(name)
            if columns is None:
                columns = found[name] = {"name": name, "steps": [], "values": [], "timestamps": []}
            columns["steps"].append(step)
            columns["values"].append(value)
            columns["timestamps"].append(moment)
        return found
