"""A report: one self-contained HTML page with metadata, figures, tables, commands and configuration."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from incasem_like import __version__
from incasem_like.disk import write_whole
from incasem_like.errors import InputError

TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Picture:
    """A figure of a report: heading, caption and image, PNG or SVG."""

    heading: str
    caption: str
    image: bytes

    @property
    def data_uri(self) -> str:
        """The image as a data URI, embedded in the page."""
        kind = "svg+xml" if self.image.lstrip().startswith(b"<svg") else "png"
        return f"data:image/{kind};base64," + base64.b64encode(self.image).decode("ascii")


@dataclass(frozen=True)
class Table:
    """A table of a report; every row has the length of the header."""

    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Command:
    """A command that was run and its duration in seconds."""

    text: str
    seconds: float | None = None


@dataclass(frozen=True)
class Report:
    """Contents of a report, in order."""

    title: str
    summary: str
    facts: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    commands: Sequence[Command] = ()
    commands_heading: str = "The commands that were run"
    methods: str = ""
    configuration: str = ""
    links: Sequence[tuple[str, str]] = field(default=())


def write_report(report: Report, path: Path) -> Path:
    """Write the page atomically and return its path.

    Args:
        report: Contents of the page.
        path: Path of the HTML file; its folder is created.

    Raises:
        InputError: The path is a folder, or a file that is not a report.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(report=report, version=__version__)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the HTML file to write.")
    if path.exists() and not path.read_bytes().startswith(b"<!doctype html>"):
        raise InputError(f"{path} is not an HTML page and would be replaced: name another file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(page.encode()))
    return path
