"""A report: one self-contained HTML page of facts, figures, tables, commands and configuration."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from incasem_like import __version__
from incasem_like.errors import InputError
from incasem_like.tracking.files.layout import write_whole

TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Picture:
    """A figure of a report: its heading, what to see in it, and the PNG."""

    heading: str
    caption: str
    png: bytes

    @property
    def data_uri(self) -> str:
        """The PNG as text that stands in the page itself."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Table:
    """A table of a report; every row as long as the header."""

    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Command:
    """A command that was run and how long it took, in seconds."""

    text: str
    seconds: float | None = None


@dataclass(frozen=True)
class Report:
    """What a report says, in the order it says it."""

    title: str
    summary: str
    facts: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    commands: Sequence[Command] = ()
    configuration: str = ""
    links: Sequence[tuple[str, str]] = field(default=())


def write_report(report: Report, path: Path) -> Path:
    """Write the page whole, or not at all, and return where it is.

    Args:
        report: What to say.
        path: Where to write the HTML file; its folder is made.

    Raises:
        InputError: A folder, or a file that is no page, stands there.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(report=report, version=__version__)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the HTML file to write.")
    if path.exists() and not path.read_bytes().startswith(b"<!doctype html>"):
        raise InputError(f"{path} is no HTML page and would be replaced: name another file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(page.encode()))
    return path
