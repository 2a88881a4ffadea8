"""The figure of a sweep: parallel coordinates, one line for each trial, coloured by its value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from incasem_like.viewing.figures import new_figure, png

_TICK_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}


def sweep_figure(
    parameters: Sequence[Mapping[str, Any]], values: Sequence[float], metric: str, mode: str, logarithmic: set[str]
) -> bytes:
    """Draw an axis for each varied key and one for the metric, and a line through them for each trial, as PNG.

    Args:
        parameters: The varied keys of each trial, by dotted key.
        values: The metric of each trial.
        metric: Name of the metric.
        mode: ``"max"`` or ``"min"``; the best trial is drawn thick.
        logarithmic: Keys whose axis is logarithmic.
    """
    keys = list(parameters[0])
    columns = [_Axis([trial[key] for trial in parameters], key in logarithmic) for key in keys]
    columns.append(_Axis(list(values), False))
    figure = new_figure(width=1.8 * len(columns) + 1.5, height=4)
    axes = figure.add_subplot()
    heights = np.array([column.heights for column in columns])
    best = int(np.argmax(values) if mode == "max" else np.argmin(values))
    for trial in sorted(range(len(values)), key=lambda index: index == best):
        colour = figure_colour(heights[-1, trial] if mode == "max" else 1 - heights[-1, trial])
        axes.plot(heights[:, trial], color=colour, linewidth=3 if trial == best else 1.2, alpha=0.9)
    for place, column in enumerate(columns):
        axes.axvline(place, color="0.3", linewidth=0.8)
        for height, text in column.ticks:
            axes.text(place + 0.03, height, text, fontsize=8, va="center", bbox=_TICK_BOX)
    axes.set_xticks(range(len(columns)), [key.replace(".", ".\n") for key in [*keys, metric]], fontsize=8)
    axes.set_yticks([])
    axes.set_ylim(-0.05, 1.05)
    axes.set_xlim(-0.1, len(columns) - 0.6)
    axes.spines[:].set_visible(False)
    return png(figure)


def figure_colour(share: float) -> tuple[float, float, float, float]:
    """Return a colour from dark (worst, 0) to bright (best, 1), told apart by colour-blind readers too."""
    from matplotlib import colormaps

    red, green, blue, alpha = colormaps["viridis"](0.9 * share)
    return float(red), float(green), float(blue), float(alpha)


class _Axis:
    """Heights from 0 to 1 of values along one axis, and its ticks: numbers to scale, all else evenly spaced."""

    def __init__(self, values: Sequence[Any], logarithmic: bool) -> None:
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        names = values if numeric else [json.dumps(value) for value in values]
        known = sorted(set(names))
        places = {name: float(index) for index, name in enumerate(known)}
        if numeric:
            places = {name: float(np.log10(name) if logarithmic else name) for name in known}
        low, high = min(places.values()), max(places.values())
        scaled = {name: (place - low) / (high - low) if high > low else 0.5 for name, place in places.items()}
        self.heights = [scaled[name] for name in names]
        marked = known if len(known) <= 6 else [known[0], known[-1]]
        self.ticks = [(scaled[name], f"{name:.3g}" if numeric else str(name).strip('"')) for name in marked]
