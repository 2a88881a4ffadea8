"""Where the boxes of a lineage drawing go: a column for each step from the data, few crossings within."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from incasem_like.tracking.lineage import Lineage

_SWEEPS = 8


@dataclass(frozen=True)
class Box:
    """A rectangle: left, top, width, height, in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Spacing:
    """Distances in pixels: between columns, between boxes of a column, and around all."""

    columns: float = 150.0
    boxes: float = 18.0
    margin: float = 24.0


def place_boxes(
    lineage: Lineage, sizes: Mapping[str, tuple[float, float]], spacing: Spacing | None = None
) -> tuple[dict[str, Box], tuple[float, float]]:
    """Place every node: all links point to the right.

    Args:
        lineage: Nodes and links, without circles.
        sizes: Width and height of each node's box.
        spacing: Distances.

    Returns:
        The boxes by node, and width and height of the whole.
    """
    spacing = spacing or Spacing()
    columns = _ordered(lineage, _columns(lineage))
    widths = [max(sizes[key][0] for key in column) for column in columns]
    heights = [sum(sizes[key][1] for key in column) + spacing.boxes * (len(column) - 1) for column in columns]
    tallest = max(heights)
    boxes: dict[str, Box] = {}
    x = spacing.margin
    for column, width, height in zip(columns, widths, heights, strict=True):
        y = spacing.margin + (tallest - height) / 2
        for key in column:
            boxes[key] = Box(x, y, width, sizes[key][1])
            y += sizes[key][1] + spacing.boxes
        x += width + spacing.columns
    return boxes, (x - spacing.columns + spacing.margin, tallest + 2 * spacing.margin)


def _columns(lineage: Lineage) -> dict[str, int]:
    """Each node's column: one further right than the rightmost that it came from."""
    column: dict[str, int] = {}
    open_nodes: set[str] = set()

    def visit(key: str) -> int:
        if key not in column:
            open_nodes.add(key)
            before = [visit(link.source) for link in lineage.sources(key) if link.source not in open_nodes]
            open_nodes.discard(key)
            column[key] = 1 + max(before, default=-1)
        return column[key]

    for key in lineage.nodes:
        visit(key)
    for key in lineage.nodes:  # data that is read late stands just left of its first reader, not far out
        after = [column[link.target] for link in lineage.targets(key)]
        if not lineage.sources(key) and after:
            column[key] = min(after) - 1
    return column


def _ordered(lineage: Lineage, column: Mapping[str, int]) -> list[list[str]]:
    """Sort each column by the middle of its neighbours (barycentre), sweeping to and fro."""
    numbers = sorted(set(column.values()))
    columns = [[key for key in lineage.nodes if column[key] == number] for number in numbers]
    for sweep in range(_SWEEPS):
        rightwards = sweep % 2 == 0
        for keys in columns if rightwards else reversed(columns):
            rank = {key: place for others in columns for place, key in enumerate(others)}

            def middle(key: str, rank: Mapping[str, int] = rank, rightwards: bool = rightwards) -> float:
                links = lineage.sources(key) if rightwards else lineage.targets(key)
                near = [rank[link.source if rightwards else link.target] for link in links]
                return sum(near) / len(near) if near else rank[key]

            keys.sort(key=middle)
    return columns
