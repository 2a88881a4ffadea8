"""The figure of a search of segmentation parameters: the score by threshold, and splits against merges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from incasem_like.search import shown
from incasem_like.viewing.figures import new_figure, png

if TYPE_CHECKING:
    from incasem_like.evaluation.decode_search import Candidate

MOST = 12


def search_figure(candidates: Sequence[Candidate], metric: str, mode: str) -> bytes:
    """Draw the metric of each choice over the thresholds, and its VOI curve, as PNG; the best 12 choices are named.

    Args:
        candidates: The choices with their scores.
        metric: The metric that chose the best.
        mode: ``"min"`` or ``"max"``.
    """
    measured = [one for one in candidates if one.trial.value is not None]
    sign = -1 if mode == "max" else 1
    ranked = sorted(measured, key=lambda one: sign * (one.trial.value or 0.0))[:MOST]
    figure = new_figure(width=11, height=4.2 + 0.1 * len(ranked))
    left, right = figure.subplots(1, 2)
    for number, one in enumerate(ranked):
        named = [f"{key.rpartition('.')[2]}={shown(value)}" for key, value in one.trial.parameters.items()]
        label = ", ".join(named) or f"trial {one.trial.number}"
        style = {"color": f"C{number % 10}", "linewidth": 2.5 if number == 0 else 1.0, "marker": "."}
        style["linestyle"] = "-" if number < 10 else "--"  # there are ten colours
        thresholds = [np.nan if threshold is None else threshold for threshold in one.thresholds]
        left.plot(thresholds, _values(one, metric), label=label, **style)
        right.plot(_values(one, "voi_split"), _values(one, "voi_merge"), **style)
        if one.best is not None:
            right.plot(_values(one, "voi_split")[one.best], _values(one, "voi_merge")[one.best], "o", color="k",
                       fillstyle="none", markersize=10 if number == 0 else 5)  # fmt: skip
    left.set_xlabel("threshold")
    left.set_ylabel(metric)
    if ranked:
        columns = 2 if len(ranked) > 3 else 1
        figure.legend(loc="outside lower center", ncols=columns, fontsize=7)  # below, where no curve runs
    right.set_xlabel("VOI split (bits)")
    right.set_ylabel("VOI merge (bits)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return png(figure)


def _values(candidate: Candidate, name: str) -> list[float]:
    return [np.nan if scores[name] is None else float(scores[name]) for scores in candidate.scores]
