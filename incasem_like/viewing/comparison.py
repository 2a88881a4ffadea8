"""Comparison of runs: the curves of their metrics in one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from incasem_like.errors import InputError
from incasem_like.terminal import nearest
from incasem_like.tracking.kinds import singular
from incasem_like.viewing.figures import Curve, curves_figure

if TYPE_CHECKING:
    from incasem_like.tracking import Metric, RunRecord

# Metrics of a training that users look at first; the metric that selects its best checkpoint comes before these.
USUAL_METRICS = ("dice_class_1", "loss", "loss_train_0")
MOST_PANELS = 4
PANELS_IN_A_ROW = {1: 1, 2: 2, 3: 3}


def comparison_figure(records: Sequence[RunRecord], metrics: Sequence[str] = ()) -> bytes:
    """Draw a panel for each metric, with a curve for each run that has it.

    Args:
        records: The runs.
        metrics: Names of metrics; by default up to four of the most informative ones, see ``telling_metrics``.

    Returns:
        The figure as PNG.

    Raises:
        InputError: A metric is in none of the runs, or no metric of the runs has several points.
    """
    mixed = len({record.kind for record in records}) > 1
    logged = {
        f"{singular(record.kind) if mixed else ''} {record.id} {record.name}".strip(): record.metrics
        for record in records
    }
    known = sorted({name for series in logged.values() for name in series})
    for name in metrics:
        if name not in known:
            hint = nearest(name, known) or f": they have {', '.join(known) or 'none'}."
            raise InputError(f"None of the runs has a metric '{name}'{hint}")
    shown = list(metrics) or telling_metrics(records, list(logged.values()))
    if not shown:
        raise InputError("The runs have no metric of more than one point to plot: name one with --metric.")
    columns = PANELS_IN_A_ROW.get(len(shown), 2)
    return curves_figure({name: _curves(name, logged) for name in shown}, columns)


def telling_metrics(records: Sequence[RunRecord], logged: Sequence[Mapping[str, Metric]]) -> list[str]:
    """Return the up to four most informative metrics with several points: scores and losses, then the most common."""
    points = [{name: len(metric.steps) for name, metric in series.items()} for series in logged]
    curves = {name for counts in points for name, count in counts.items() if count > 1}
    policies = [(record.config.get("training") or {}).get("checkpoints") or {} for record in records]
    usual = dict.fromkeys([*(policy.get("best_metric") for policy in policies), *USUAL_METRICS])
    chosen = [name for name in usual if name in curves]
    if not chosen:
        chosen = sorted(curves, key=lambda name: (-sum(name in counts for counts in points), name))
    return chosen[:MOST_PANELS]


def _curves(name: str, logged: Mapping[str, Mapping[str, Metric]]) -> list[Curve]:
    """Return the curves of one panel; a run has the same colour in all panels."""
    return [
        Curve(label, series[name].steps, series[name].values, colour=f"C{number}")
        for number, (label, series) in enumerate(logged.items())
        if name in series
    ]
