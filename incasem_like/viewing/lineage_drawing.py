"""Drawing of a lineage as SVG: data on the left, everything derived from it to the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from itertools import pairwise

from incasem_like.tracking.kinds import RUN_KINDS
from incasem_like.tracking.lineage import DATA, Lineage, Link, Node
from incasem_like.viewing.lineage_layout import Box, lay_out

_FILLS = {DATA: "#eceff1", **{kind.name: kind.color for kind in RUN_KINDS}}
_BAD_STATES = ("FAILED", "KILLED", "DAMAGED", "MISSING")
_FONT = "font-family='Helvetica, Arial, sans-serif'"
_TITLE_SIZE, _TEXT_SIZE, _LINE, _PADDING = 13, 11, 15, 9
# Width of a character relative to the font size; slightly above average, so that text stays inside its box.
_CHARACTER = 0.57
_LONGEST = 44
_LONGEST_LABEL, _MOST_LABEL_LINES = 26, 3
_LABEL_SIZE, _LABEL_LINE = 9.5, 11


def lineage_svg(lineage: Lineage, focus: str) -> str:
    """Draw a lineage.

    Args:
        lineage: The lineage; cycles in it are drawn, too.
        focus: Key of the requested node; it gets a bold frame.

    Returns:
        A self-contained SVG document. Longer texts are cut with an ellipsis and shown in full by the
        browser when pointed at.
    """
    lineage = with_shared_labels(lineage)
    sizes = {key: _size(node) for key, node in lineage.nodes.items()}
    layout = lay_out(lineage, sizes)
    size = f"{layout.width:.0f}", f"{layout.height:.0f}"
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{size[0]}' height='{size[1]}' "
        f"viewBox='0 0 {size[0]} {size[1]}' {_FONT}>",
        f"<title>{escape(f'Lineage of {lineage.nodes[focus].title}')}</title>",
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
        "<path d='M0,0 L8,4 L0,8 z' fill='#607d8b'/></marker></defs>",
        "<rect width='100%' height='100%' fill='white'/>",
        *(_line(route) for _, route in layout.routes),
        *(_box(node, layout.boxes[key], key == focus) for key, node in lineage.nodes.items()),
        *(_label(link, lineage, route) for link, route in layout.routes if link.label),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def with_shared_labels(lineage: Lineage) -> Lineage:
    """Move a label (the datasets read) that all links from a data node share into the box of the node."""
    nodes, links = dict(lineage.nodes), list(lineage.links)
    for key, node in lineage.nodes.items():
        labels = {link.label for link in lineage.targets(key)}
        if node.kind == DATA and len(labels) == 1 and "" not in labels:
            nodes[key] = replace(node, lines=(*node.lines, *_shortened(next(iter(labels)).split(", "))))
            links = [replace(link, label="") if link.source == key else link for link in links]
    return Lineage(nodes, links)


def _shortened(parts: Sequence[str]) -> list[str]:
    if len(parts) <= _MOST_LABEL_LINES:
        return list(parts)
    return [*parts[: _MOST_LABEL_LINES - 1], f"and {len(parts) - _MOST_LABEL_LINES + 1} more"]


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


def _curve(source: Box, target: Box) -> tuple[tuple[float, float], ...]:
    """Return the four points of a link's Bézier curve."""
    x1, y1, x2, y2 = source.x + source.width, source.middle, target.x, target.middle
    bend = max((x2 - x1) / 2, 30)
    return (x1, y1), (x1 + bend, y1), (x2 - bend, y2), (x2, y2)


def _line(route: Sequence[Box]) -> str:
    """Draw a link through the free lanes of its route."""
    words: list[str] = []
    for source, target in pairwise(route):
        start, *others = (f"{x:.1f},{y:.1f}" for x, y in _curve(source, target))
        # A lane is as wide as the boxes above it: straight on to its other side.
        words.append(f"{'L' if words else 'M'}{start} C{' '.join(others)}")
    return f"<path d='{' '.join(words)}' fill='none' stroke='#607d8b' stroke-width='1.2' marker-end='url(#tip)'/>"


def _label(link: Link, lineage: Lineage, route: Sequence[Box]) -> str:
    """Draw a link's label where links that share an end are apart, one line per part."""
    spread, gathered = len(lineage.targets(link.source)), len(lineage.sources(link.target))
    fans_out = spread >= gathered and spread > 1
    share = 0.66 if fans_out else 0.34 if gathered > 1 else 0.5
    ends = route[-2:] if fans_out else route[:2]
    weights = ((1 - share) ** 3, 3 * share * (1 - share) ** 2, 3 * share**2 * (1 - share), share**3)
    points = _curve(ends[0], ends[1])
    x, y = (sum(weight * point[axis] for weight, point in zip(weights, points, strict=True)) for axis in (0, 1))
    parts = _shortened(link.label.split(", "))
    top = y - _LABEL_LINE * (len(parts) - 1) / 2 + _LABEL_SIZE / 3
    lines = "".join(
        f"<tspan x='{x:.1f}' y='{top + number * _LABEL_LINE:.1f}'>{escape(_cut(part, _LONGEST_LABEL))}</tspan>"
        for number, part in enumerate(parts)
    )
    return (
        f"<text font-size='{_LABEL_SIZE}' fill='#546e7a' text-anchor='middle' paint-order='stroke' stroke='white' "
        f"stroke-width='4'><title>{escape(link.label)}</title>{lines}</text>"
    )


def _cut(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
