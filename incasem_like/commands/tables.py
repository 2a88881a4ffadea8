"""Tables and trees: drawn with lines and colour at a terminal, plain text in a pipe or file."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from incasem_like.terminal import duration
from incasem_like.tracking.queries.fields import shown

NOTHING = "-"
_EXACT = 2**53
_KEPT_WHOLE, _BETWEEN = 18, 3
_COLOURS = {"RUNNING": "cyan", "COMPLETED": "green", "FAILED": "red", "KILLED": "red", "DAMAGED": "red"}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its heading.
        right: Whether its cells are aligned to the right, as numbers are.
    """

    title: str
    right: bool = False


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, whatever its width: no cell is cut off."""
    lines = [tuple(column.title for column in columns), *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    if not at_terminal():
        sides = zip(columns, widths, strict=True)
        form = "  ".join(f"%{'' if column.right else '-'}{width}s" for column, width in sides)
        print("\n".join((form % tuple(cells)).rstrip() for cells in lines))
        return
    from rich import box, console, table, text

    # long cells fold where the terminal is narrow, short ones stay in one piece
    grid = table.Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column, width in zip(columns, widths, strict=True):
        justify: Literal["left", "right"] = "right" if column.right else "left"
        grid.add_column(column.title, justify=justify, overflow="fold", min_width=min(width, _KEPT_WHOLE))
    for row in rows:
        grid.add_row(*(text.Text(cell, style=_COLOURS.get(cell, "dim" if cell == NOTHING else "")) for cell in row))
    screen = console.Console()
    least = sum(min(width, _KEPT_WHOLE) + _BETWEEN for width in widths)
    screen.width = max(screen.width, least)
    screen.print(grid)


def at_terminal() -> bool:
    """Return whether output goes to a terminal, as opposed to a program or file."""
    return sys.stdout.isatty()


def cell(value: Any, quantity: str = "plain") -> str:
    """Return a value as text: times in this machine's time zone, numbers to four digits; ``-`` for none.

    Args:
        value: Value of a field.
        quantity: Quantity that it measures, see ``Field``.
    """
    if isinstance(value, str):
        return " ".join(value.split()) or NOTHING
    if value is None or value == ():
        return NOTHING
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M")
    if quantity == "seconds":
        return duration(float(value))
    if quantity == "bytes":
        return size(int(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            return "undefined" if math.isnan(value) else str(value)
        return str(int(value)) if value.is_integer() and abs(value) < _EXACT else f"{value:.4g}"
    return str(value) if type(value) is int else " ".join(shown(value).split())


def size(count: int) -> str:
    """Return a number of bytes as text, ``1.2 GB``."""
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def is_number(value: Any) -> bool:
    """Return whether a value is aligned to the right."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
