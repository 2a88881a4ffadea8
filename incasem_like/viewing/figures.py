"""Figures for run reports, as PNG bytes: training curves and ortho-slices of raw, ground truth and prediction."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_IN_A_PANEL = 6  # curves whose names fit into it
MOST_POINTS = 1000  # that a curve is drawn with, and twice as many for what is not smooth
PLANES = ("xy", "xz", "yz")
TRUTH_COLOUR = (0.98, 0.78, 0.10)
PREDICTION_COLOUR = (0.10, 0.75, 0.95)
# Paul Tol's muted scheme, told apart with any colour vision; the same object has the same colour in all figures
OBJECT_COLOURS = np.array(
    [[int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)] for code in (
        "cc6677", "88ccee", "ddcc77", "44aa99", "aa4499", "999933", "332288", "117733", "882255")]
)  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """One metric over iterations.

    Attributes:
        label: Text of the legend.
        steps: Iterations, ascending.
        values: One value per step; NaN where the metric was undefined.
        colour: A matplotlib colour; by default the next of its cycle.
        pale: Whether it is drawn pale, behind the others.
    """

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    colour: str | None = None
    pale: bool = False


@dataclass(frozen=True)
class Mark:
    """A circled and labelled point of a panel."""

    step: float
    value: float
    label: str


def curves_figure(
    panels: Mapping[str, Sequence[Curve]], columns: int | None = None, marks: Mapping[str, Mark] | None = None
) -> bytes:
    """Draw one panel per title, each with its curves over iterations.

    Curves of more than 200 points are drawn pale with their running mean on top, so that the trend is visible. Where
    there are many curves, one legend below the panels names them all.

    Args:
        panels: Curves by the title of their panel.
        columns: Number of panels per row; by default all of them.
        marks: Points to circle, by the title of their panel.
    """
    columns = min(columns or len(panels), len(panels))
    rows = -(-len(panels) // columns)
    shared = max(map(len, panels.values()), default=0) > MOST_IN_A_PANEL
    lines = -(-len({curve.label for curves in panels.values() for curve in curves}) // (3 * columns)) if shared else 0
    figure = new_figure(width=5.2 * columns, height=3.2 * rows + 0.18 * lines)
    for place, (title, curves) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, columns, place)
        for number, curve in enumerate(curves):
            _plot(axes, curve, curve.colour or f"C{number}", with_window=not shared)
        if mark := (marks or {}).get(title):
            axes.plot(mark.step, mark.value, "o", color="k", markersize=11, fillstyle="none", label=mark.label)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("iteration", fontsize=9)
        axes.grid(alpha=0.3)
        if curves and not shared:
            axes.legend(fontsize=8)
    if shared:
        shown = [axes.get_legend_handles_labels() for axes in figure.axes]
        named = {label: line for lines, labels in shown for line, label in zip(lines, labels, strict=True)}
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3 * columns, fontsize=8)
    return png(figure)


def _plot(axes: Axes, curve: Curve, colour: str, *, with_window: bool) -> None:
    values = np.asarray(curve.values, dtype=float)
    if len(values) > 200:
        axes.plot(*_envelope(np.asarray(curve.steps), values), color=colour, alpha=0.25, linewidth=0.7, zorder=1)
        window = max(len(values) // 50, 2)
        smooth = np.convolve(values, np.full(window, 1 / window), mode="valid")
        every = max(len(smooth) // MOST_POINTS, 1)
        label = f"{curve.label} (mean of {window})" if with_window else curve.label
        axes.plot(curve.steps[window - 1 :: every], smooth[::every], color=colour, label=label)
        return
    marker, opacity = "." if len(values) < 40 else None, 0.35 if curve.pale else 1.0
    axes.plot(curve.steps, values, color=colour, marker=marker, alpha=opacity, label=curve.label)


def _envelope(steps: NDArray[Any], values: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the lowest and the highest point of each part of a long curve, which looks the same and is drawn fast.

    >>> steps, values = _envelope(np.arange(10_000), np.sin(np.arange(10_000.0)))
    >>> len(steps), bool(values.max() > 0.999), bool((np.diff(steps) >= 0).all())
    (2000, True, True)
    """
    if len(values) <= 2 * MOST_POINTS:
        return steps, values
    edges = np.linspace(0, len(values), MOST_POINTS + 1).astype(int)
    low, high = (np.where(np.isnan(values), instead, values) for instead in (np.inf, -np.inf))
    parts = [(begin, slice(begin, end)) for begin, end in itertools.pairwise(edges)]
    chosen = np.sort([(begin + low[part].argmin(), begin + high[part].argmax()) for begin, part in parts]).ravel()
    return steps[chosen], values[chosen]


def ortho_slices_figure(
    raw: Mapping[str, NDArray[np.generic]],
    overlays: Mapping[str, Mapping[str, NDArray[np.generic]]],
    aspect: Mapping[str, float],
) -> bytes:
    """Draw the three planes through one point: a row per plane, first raw, then raw under each overlay.

    Args:
        raw: Grey values per plane name (``xy``, ``xz``, ``yz``), each 2-D.
        overlays: By column title, what is drawn over raw in each plane, of the raw planes' shapes: ids (0 = nothing
            drawn), in one colour or, if there are several, in a colour for each; or red, green and blue, (y, x, 3).
        aspect: Height of a pixel over its width, per plane; not 1 where voxels are anisotropic.
    """
    columns = 1 + len(overlays)
    heights = [raw[plane].shape[0] * aspect[plane] / raw[plane].shape[1] for plane in PLANES]
    figure = new_figure(width=3.3 * columns, height=min(3.3 * sum(heights) + 0.6, 14))
    grid = figure.add_gridspec(len(PLANES), columns, height_ratios=heights, wspace=0.03, hspace=0.06)
    for row, plane in enumerate(PLANES):
        shown: list[tuple[str, NDArray[np.generic] | None]] = [("raw", None)]
        shown += [(title, planes[plane]) for title, planes in overlays.items()]
        for column, (title, labels) in enumerate(shown):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(raw[plane], cmap="gray", aspect=aspect[plane], interpolation="nearest")
            if labels is not None:
                colour = TRUTH_COLOUR if column == 1 else PREDICTION_COLOUR
                drawn = labels if labels.ndim == 3 else _tint(labels, colour)
                axes.imshow(drawn, aspect=aspect[plane], interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(title, fontsize=10)
            if column == 0:
                axes.set_ylabel(plane, fontsize=10)
    return png(figure)


def _tint(ids: NDArray[np.generic], colour: tuple[float, float, float]) -> NDArray[np.float32]:
    """Return an RGBA image: pale inside objects, full colour on their inner boundaries, transparent elsewhere."""
    mask = ids != 0
    inner = mask.copy()
    inner[1:] &= ids[1:] == ids[:-1]
    inner[:-1] &= ids[1:] == ids[:-1]
    inner[:, 1:] &= ids[:, 1:] == ids[:, :-1]
    inner[:, :-1] &= ids[:, 1:] == ids[:, :-1]
    image = np.zeros((*mask.shape, 4), dtype=np.float32)
    several = len(np.unique(ids[mask])) > 1
    image[mask, :3] = OBJECT_COLOURS[(ids[mask] % len(OBJECT_COLOURS)).astype(int)] if several else colour
    image[..., 3] = np.where(mask & ~inner, 0.95, np.where(mask, 0.45 if several else 0.30, 0.0))
    return image


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches that needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
