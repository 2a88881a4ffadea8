"""Metrics thinned as they grow: how a run store holds a series of any length in a bounded number of points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from incasem_like.tracking.values import as_mapping, as_utc

MAX_POINTS = 2000
Point = tuple[int, float, datetime]
Summary = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """One metric over a run: a value and a UTC time at each step, in the order they were logged."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    timestamps: tuple[datetime, ...]


class BoundedSeries:
    """The points of one metric whose index is a multiple of ``stride``, and the last one.

    ``stride`` is the smallest power of two with which these are at most ``limit`` points, so that what is kept depends
    on the full series alone, not on when it was written or how often the run was interrupted.

    Attributes:
        stride: Distance, in points of the full series, between the kept ones.
        count: Length of the full series.
        points: The kept ones in the order they were logged: step, value, time.
    """

    def __init__(self, limit: int = MAX_POINTS) -> None:
        assert limit >= 2
        self.limit, self.stride, self.count = limit, 1, 0
        self.points: list[Point] = []
        self._last_is_extra = False

    @classmethod
    def from_document(cls, document: Mapping[str, Any], limit: int = MAX_POINTS) -> BoundedSeries:
        """Make a series from a store's document; one without stride and count, as Sacred writes it, is complete."""
        series = cls(limit)
        moments = (as_utc(moment).replace(tzinfo=None) for moment in document["timestamps"])
        series.points = list(zip(document["steps"], document["values"], moments, strict=True))
        series.stride = int(document.get("stride") or 1)
        series.count = int(document.get("count") or len(series.points))
        series._last_is_extra = len(series.points) > (series.count - 1) // series.stride + 1
        series._thin()
        return series

    def append(self, step: int, value: float, moment: datetime) -> None:
        """Add the next point of the full series."""
        if self._last_is_extra:
            self.points.pop()
        self.points.append((step, value, moment))
        self._last_is_extra = self.count % self.stride != 0
        self.count += 1
        if len(self.points) > self.limit:
            self._thin()

    def withdraw(self, after_step: int, count: int | None = None) -> None:
        """Withdraw the points after a step, for a run whose full series is not at hand.

        ``count`` is the length that the full series had then, so that thinning continues as if it had never been
        longer. Without it, at a stride above 1, the series counts as ending at its last kept point.
        """
        ends = self.count - 1
        staying = [
            (position, point)
            for position, point in enumerate(self.points)
            if point[0] <= after_step and (count is None or min(position * self.stride, ends) < count)
        ]
        last = min(staying[-1][0] * self.stride, ends) if staying else -1
        self.points = [point for _, point in staying]
        self.count = last + 1 if count is None or not staying else max(count, last + 1)
        self._last_is_extra = last % self.stride != 0 if staying else False

    def as_document(self) -> dict[str, Any]:
        """Return the metrics document of the series: steps, values, timestamps, stride and count."""
        return {
            "steps": [step for step, _, _ in self.points],
            "values": [value for _, value, _ in self.points],
            "timestamps": [moment for _, _, moment in self.points],
            "stride": self.stride,
            "count": self.count,
        }

    def _thin(self) -> None:
        while len(self.points) > self.limit:
            last = self.points[-1]
            regular = self.points[:-1] if self._last_is_extra else self.points
            self.stride *= 2
            self.points = regular[::2]
            self._last_is_extra = (self.count - 1) % self.stride != 0
            if self._last_is_extra:
                self.points.append(last)


class MetricTable:
    """All metrics of a run as its store holds them: a bounded series and a summary of each.

    Attributes:
        series: By name.
        summary: By name ``last``, ``last_step``, ``min``, ``min_step``, ``max`` and ``max_step`` of the full series;
            undefined values (NaN) are neither smallest nor largest, and without others, these are None.
    """

    def __init__(self, limit: int = MAX_POINTS) -> None:
        self.limit = limit
        self.series: dict[str, BoundedSeries] = {}
        self.summary: dict[str, Summary] = {}

    @classmethod
    def from_documents(
        cls, documents: Mapping[str, Mapping[str, Any]], limit: int, summaries: Mapping[str, Any] | None = None
    ) -> MetricTable:
        """Make a table from a store's documents of metrics, and their summaries where there are any."""
        table = cls(limit)
        for name, document in documents.items():
            table.put(name, document, as_mapping(summaries).get(name))
        return table

    def add(self, name: str, step: int, value: float, moment: datetime) -> None:
        """Add a point."""
        if name not in self.series:
            self.series[name] = BoundedSeries(self.limit)
        self.series[name].append(step, value, moment)
        self._summarize(name, step, value)

    def put(self, name: str, document: Mapping[str, Any], summary: Mapping[str, Any] | None = None) -> None:
        """Add a metric from a store's document of it, with its summary where there is one."""
        self.series[name] = BoundedSeries.from_document(document, self.limit)
        if summary is not None:
            self.summary[name] = dict(summary)
            return
        for step, value in zip(document["steps"], document["values"], strict=True):
            self._summarize(name, step, value)

    def as_documents(self) -> dict[str, dict[str, Any]]:
        """Return the document of each metric."""
        return {name: series.as_document() for name, series in self.series.items()}

    def counts(self) -> dict[str, int]:
        """Return the length of each full series."""
        return {name: series.count for name, series in list(self.series.items())}

    def withdraw(self, after_step: int, counts: Mapping[str, int] | None = None) -> None:
        """Withdraw what was logged after a step, see ``BoundedSeries.withdraw``; a metric without points is removed.

        A smallest or largest value that was itself taken back is looked for among the kept points, until the run comes
        to where it had been.
        """
        for name in list(self.series):
            series = self.series[name]
            series.withdraw(after_step, counts.get(name, 0) if counts is not None else None)
            before = self.summary.pop(name, {})
            if not series.points:
                del self.series[name]
                continue
            for step, value, _ in series.points:
                self._summarize(name, step, value)
            for key in ("min", "max"):
                at = before.get(f"{key}_step")
                if at is not None and at <= after_step:
                    self.summary[name].update({key: before[key], f"{key}_step": at})

    def _summarize(self, name: str, step: int, value: float) -> None:
        if name not in self.summary:
            self.summary[name] = dict.fromkeys(("last", "last_step", "min", "min_step", "max", "max_step"))
        found = self.summary[name]
        found["last"], found["last_step"] = value, step
        if math.isnan(value):
            return
        if found["min"] is None or value < found["min"]:
            found["min"], found["min_step"] = value, step
        if found["max"] is None or value > found["max"]:
            found["max"], found["max_step"] = value, step


def max_points(config: Mapping[str, Any]) -> int:
    """Read how many points of each metric a run's store holds from its configuration, ``tracking.max_points``."""
    section = config.get("tracking")
    value = section.get("max_points") if isinstance(section, Mapping) else None
    return value if isinstance(value, int) and value >= 2 else MAX_POINTS
