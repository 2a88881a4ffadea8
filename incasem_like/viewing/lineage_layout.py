"""Layout of a lineage drawing: a column for each step from the data, with few crossings.

The layered method of Sugiyama, Tagawa and Toda (1981): columns, dummy nodes for links that pass through a column, an
order by barycentres, and heights that align neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from incasem_like.tracking.lineage import Lineage, Link

_SWEEPS = 12
_LANE = 12.0


@dataclass(frozen=True)
class Box:
    """A rectangle: left, top, width, height, in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Vertical centre of the box."""
        return self.y + self.height / 2


@dataclass(frozen=True)
class Spacing:
    """Distances in pixels: between columns, between boxes of a column, and the outer margin."""

    columns: float = 170.0
    boxes: float = 26.0
    margin: float = 24.0


@dataclass(frozen=True)
class Layout:
    """Boxes by node, the boxes that each link passes through (its source first, its target last), and the size."""

    boxes: Mapping[str, Box]
    routes: Sequence[tuple[Link, Sequence[Box]]]
    width: float
    height: float


@dataclass
class _Layers:
    """Columns of nodes and dummy nodes, and their neighbours."""

    columns: list[list[str]]
    before: dict[str, list[str]] = field(default_factory=dict)
    after: dict[str, list[str]] = field(default_factory=dict)
    chains: list[list[str]] = field(default_factory=list)

    def connect(self, chain: list[str]) -> None:
        self.chains.append(chain)
        for left, right in pairwise(chain):
            self.after.setdefault(left, []).append(right)
            self.before.setdefault(right, []).append(left)


def lay_out(lineage: Lineage, sizes: Mapping[str, tuple[float, float]], spacing: Spacing | None = None) -> Layout:
    """Position every node, and route every link to the right around the boxes in between.

    Args:
        lineage: Nodes and links.
        sizes: Width and height of each node's box, in pixels.
        spacing: Distances.
    """
    spacing = spacing or Spacing()
    layers = _layers(lineage)
    _order(layers)
    tops = _tops(layers, {key: height for key, (_, height) in sizes.items()}, spacing.boxes)
    highest = min(tops.values())
    boxes: dict[str, Box] = {}
    x = spacing.margin
    for column in layers.columns:
        width = max(sizes.get(key, (0.0, 0.0))[0] for key in column)
        for key in column:
            height = sizes[key][1] if key in sizes else _LANE
            boxes[key] = Box(x, tops[key] - highest + spacing.margin, width, height)
        x += width + spacing.columns
    routes = [(link, [boxes[key] for key in chain]) for link, chain in zip(lineage.links, layers.chains, strict=True)]
    bottom = max(box.y + box.height for box in boxes.values())
    nodes = {key: boxes[key] for key in lineage.nodes}
    return Layout(nodes, routes, x - spacing.columns + spacing.margin, bottom + spacing.margin)


def _layers(lineage: Lineage) -> _Layers:
    number = _column_numbers(lineage)
    lowest = min(number.values())
    layers = _Layers([[] for _ in range(max(number.values()) - lowest + 1)])
    for key in lineage.nodes:
        layers.columns[number[key] - lowest].append(key)
    for place, link in enumerate(lineage.links):
        between = range(number[link.source] + 1, number[link.target])
        lanes = [f"lane {place} {column}" for column in between]
        for column, lane in zip(between, lanes, strict=True):
            layers.columns[column - lowest].append(lane)
        layers.connect([link.source, *lanes, link.target])
    return layers


def _column_numbers(lineage: Lineage) -> dict[str, int]:
    """Return each node's column: one to the right of its rightmost parent."""
    column: dict[str, int] = {}
    underway: set[str] = set()

    def visit(key: str) -> int:
        if key not in column:
            underway.add(key)
            before = [visit(link.source) for link in lineage.sources(key) if link.source not in underway]
            underway.discard(key)
            column[key] = 1 + max(before, default=-1)
        return column[key]

    for key in lineage.nodes:
        visit(key)
    for key in lineage.nodes:  # data that is read late goes just left of its first reader
        after = [column[link.target] for link in lineage.targets(key)]
        if not lineage.sources(key) and after:
            column[key] = min(after) - 1
    return column


def _order(layers: _Layers) -> None:
    """Sort each column by the mean position of its neighbours (barycentre), sweeping back and forth."""
    for neighbours, columns in _sweeps(layers):
        for keys in columns:
            rank = {key: place for column in layers.columns for place, key in enumerate(column)}
            wanted = {key: _mean([rank[one] for one in neighbours.get(key, ())], rank[key]) for key in keys}
            keys.sort(key=lambda key, wanted=wanted: wanted[key])  # type: ignore[misc]


def _tops(layers: _Layers, heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """Return the top of each box, aligned with its neighbours as far as order and gaps permit."""
    height = {key: heights.get(key, _LANE) for column in layers.columns for key in column}
    tops: dict[str, float] = {}
    for column in layers.columns:
        y = -sum(height[key] + gap for key in column) / 2
        for key in column:
            tops[key] = y
            y += height[key] + gap
    for neighbours, columns in _sweeps(layers):
        for column in columns:
            middles = {key: tops[key] + height[key] / 2 for key in tops}
            wanted = {
                key: _mean([middles[one] for one in neighbours.get(key, ())], middles[key]) - height[key] / 2
                for key in column
            }
            lowest = float("-inf")
            for key in column:
                tops[key] = max(wanted[key], lowest)
                lowest = tops[key] + height[key] + gap
            shift = sum(wanted[key] - tops[key] for key in column) / len(column)
            for key in column:
                tops[key] += shift
    return tops


def _sweeps(layers: _Layers) -> Iterator[tuple[Mapping[str, Sequence[str]], Sequence[list[str]]]]:
    for sweep in range(_SWEEPS):
        if sweep % 2 == 0:
            yield layers.before, layers.columns[1:]
        else:
            yield layers.after, layers.columns[-2::-1]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
