"""Draws a lineage as SVG: data on the left, what came of it to the right."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from incasem_like.viewing.lineage_layout import Box, place_boxes

if TYPE_CHECKING:
    from incasem_like.tracking.lineage import Lineage, Link, Node

_FILLS = {
    "data": "#eceff1",
    "trainings": "#d6e9f8",
    "predictions": "#dcefd9",
    "segmentations": "#fdeccf",
    "evaluations": "#eadff2",
    "bootstrapping": "#f9dcdc",
}
_BAD_STATES = ("FAILED", "KILLED", "DAMAGED", "MISSING")
_FONT = "font-family='Helvetica, Arial, sans-serif'"
_TITLE_SIZE, _TEXT_SIZE, _LINE, _PADDING = 13, 11, 15, 9
# Width of a character over the font's size; a little more than the average, so that text stays inside its box.
_CHARACTER = 0.6
_LONGEST = 44
_LONGEST_LABEL = 26


def lineage_svg(lineage: Lineage, focus: str) -> str:
    """Draw a lineage.

    Args:
        lineage: What to draw; circles in it are drawn as they come.
        focus: Key of the node that was asked for; it is framed boldly.

    Returns:
        An SVG document that needs nothing but itself. Longer texts are cut with an ellipsis and shown in full by the
        browser when pointed at.
    """
    sizes = {key: _size(node) for key, node in lineage.nodes.items()}
    boxes, (width, height) = place_boxes(lineage, sizes)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:.0f}' height='{height:.0f}' "
        f"viewBox='0 0 {width:.0f} {height:.0f}' {_FONT}>",
        f"<title>{escape(f'Lineage of {lineage.nodes[focus].title}')}</title>",
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
        "<path d='M0,0 L8,4 L0,8 z' fill='#607d8b'/></marker></defs>",
        "<rect width='100%' height='100%' fill='white'/>",
        *(_line(boxes[link.source], boxes[link.target]) for link in lineage.links),
        *(_label(link, boxes[link.source], boxes[link.target]) for link in lineage.links if link.label),
        *(_box(node, boxes[key], key == focus) for key, node in lineage.nodes.items()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _size(node: Node) -> tuple[float, float]:
    widest = max(
        [
            len(_cut(node.title)) * _TITLE_SIZE * _CHARACTER,
            *(len(_cut(line)) * _TEXT_SIZE * _CHARACTER for line in node.lines),
        ]
    )
    return widest + 2 * _PADDING, _LINE * (1 + len(node.lines)) + 2 * _PADDING - 4


def _box(node: Node, box: Box, focus: bool) -> str:
    bad = node.status in _BAD_STATES
    stroke, width = ("#c62828" if bad else "#37474f"), (2.6 if focus else 1.0)
    dash = " stroke-dasharray='5 4'" if node.status in ("MISSING", "RUNNING") else ""
    whole = escape("\n".join([node.title, *node.lines, *node.details]))
    rect = (
        f"<rect x='{box.x:.1f}' y='{box.y:.1f}' width='{box.width:.1f}' height='{box.height:.1f}' rx='6' "
        f"fill='{_FILLS.get(node.kind, 'white')}' stroke='{stroke}' stroke-width='{width}'{dash}/>"
    )
    x, y = box.x + _PADDING, box.y + _PADDING + _TITLE_SIZE - 3
    texts = [
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{_TITLE_SIZE}' font-weight='bold'>{escape(_cut(node.title))}</text>"
    ]
    for number, line in enumerate(node.lines, 1):
        texts.append(
            f"<text x='{x:.1f}' y='{y + number * _LINE:.1f}' font-size='{_TEXT_SIZE}' fill='#455a64'>"
            f"{escape(_cut(line))}</text>"
        )
    return f"<g><title>{whole}</title>{rect}{''.join(texts)}</g>"


def _ends(source: Box, target: Box) -> tuple[float, float, float, float]:
    return source.x + source.width, source.y + source.height / 2, target.x, target.y + target.height / 2


def _line(source: Box, target: Box) -> str:
    x1, y1, x2, y2 = _ends(source, target)
    bend = max((x2 - x1) / 2, 30)
    return (
        f"<path d='M{x1:.1f},{y1:.1f} C{x1 + bend:.1f},{y1:.1f} {x2 - bend:.1f},{y2:.1f} {x2:.1f},{y2:.1f}' "
        "fill='none' stroke='#607d8b' stroke-width='1.2' marker-end='url(#tip)'/>"
    )


def _label(link: Link, source: Box, target: Box) -> str:
    """Write a link's label beside its target end, where lines of one source are apart."""
    x1, y1, x2, y2 = _ends(source, target)
    x, y = x1 + (x2 - x1) * 0.5, y1 + (y2 - y1) * 0.5 - 4
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='9.5' fill='#607d8b' text-anchor='middle' "
        f"paint-order='stroke' stroke='white' stroke-width='3'>{escape(_cut(link.label, _LONGEST_LABEL))}"
        f"<title>{escape(link.label)}</title></text>"
    )


def _cut(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
