"""A report: one HTML page with metadata, figures, tables, commands and configuration; as a file it stands alone."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from incasem_like import __version__
from incasem_like.disk import write_whole
from incasem_like.errors import InputError


@dataclass(frozen=True)
class Picture:
    """A figure of a report: heading, caption and image, PNG or SVG, or the address that a server has it at."""

    heading: str
    caption: str
    image: bytes | str

    @property
    def source(self) -> str:
        """The address of the image; a data URI where it is embedded in the page."""
        if isinstance(self.image, str):
            return self.image
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
    """Contents of a report, in order; ``side_pictures`` stand in columns after the tables."""

    title: str
    summary: str
    facts: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    side_pictures: Sequence[Picture] = ()
    commands: Sequence[Command] = ()
    commands_heading: str = "The commands that were run"
    methods: str = ""
    configuration: str = ""
    links: Sequence[tuple[str, str]] = field(default=())


def render_page(template: str, **values: Any) -> bytes:
    """Return an HTML page made of a template of this folder; ``page.css`` is part of it.

    Args:
        template: Name of the file.
        **values: What the template refers to.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(version=__version__, **values).encode()


def write_report(report: Report, path: Path) -> Path:
    """Write the page atomically and return its path.

    Args:
        report: Contents of the page.
        path: Path of the HTML file; its folder is created.

    Raises:
        InputError: The path is a folder, or a file that is not a report.
    """
    page = render_page("report.html", report=report, menu=())
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the HTML file to write.")
    if path.exists() and not path.read_bytes().startswith(b"<!doctype html>"):
        raise InputError(f"{path} is not an HTML page and would be replaced: name another file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(page))
    return path
