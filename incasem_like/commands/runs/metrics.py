"""Summaries of the metrics of one run, from its record or computed from their points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from incasem_like.tracking import Metric, RunRecord


def metric_summaries(record: RunRecord) -> dict[str, dict[str, Any]]:
    """Return last, smallest and largest value of each metric with their iterations, in the form of ``info.summary``.

    Runs written by Sacred itself or an earlier version have no summary: it is computed from the metrics.
    """
    noted = record.info.get("summary")
    if isinstance(noted, dict) and noted:
        return noted
    return {name: summary for name, metric in record.metrics.items() if (summary := _summarized(metric))}


def _summarized(metric: Metric) -> dict[str, Any]:
    if not metric.steps:
        return {}
    last = {"last": metric.values[-1], "last_step": metric.steps[-1]}
    defined = [(value, step) for value, step in zip(metric.values, metric.steps, strict=True) if value == value]
    if not defined:
        return last
    (least, least_step), (most, most_step) = min(defined), max(defined)
    return {**last, "min": least, "min_step": least_step, "max": most, "max_step": most_step}
