"""The documentation's pages, and the commands in them."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    *(REPOSITORY / folder / "README.md" for folder in (".", "benchmarks", "data", "models", "training_runs")),
    *sorted((REPOSITORY / "docs").glob("**/*.md")),
]
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Command:
    """A command as a reader would type it.

    Attributes:
        folder: Where a ``cd`` before it leads; otherwise the repository.
        program: A script in ``scripts/``, or ``incasem-like``.
        words: What stands behind the program.
    """

    folder: Path
    program: str
    words: tuple[str, ...]


def name_of(page: Path) -> str:
    """Return the path of a page below the repository."""
    return page.relative_to(REPOSITORY).as_posix()


def spans(page: Path) -> list[str]:
    """Return the pieces of code within sentences and tables."""
    return _SPAN.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def commands(page: Path) -> Iterator[Command]:
    """Yield the commands of the project in a page's blocks of code."""
    text = page.read_text(encoding="utf-8")
    blocks = [body for language, body in _FENCE.findall(text) if language in ("", "bash", "sh", "console")]
    indented = [line.strip() for line in _FENCE.sub("", text).splitlines() if line.startswith("    python ")]
    for block in [*blocks, *indented]:
        folder = REPOSITORY
        for line in block.replace("\\\n", " ").splitlines():
            if not re.match(r"\s*(cd|python|incasem-like|srun|torchrun) ", line):
                continue
            for part in line.split(" && "):
                words = ["1" if word == "ID" else word for word in shlex.split(part, comments=True)]
                if words[0] == "cd":
                    folder = folder / words[1]
                    continue
                command = as_command(words, folder)
                if command is not None:
                    yield command


def as_command(words: list[str], folder: Path = REPOSITORY) -> Command | None:
    """Return the command that words are, or None for another program's."""
    for position, word in enumerate(words):
        if word == "incasem-like" and position == 0:
            return Command(folder, word, tuple(words[1:]))
        if word.endswith(".py"):
            script = find_script(word, folder)
            return None if script is None else Command(folder, name_of(script), tuple(words[position + 1 :]))
    return None


def find_script(word: str, folder: Path = REPOSITORY) -> Path | None:
    """Return the script that a word names, from a folder or by its file name; None if it is not in ``scripts/``.

    Raises:
        AssertionError: There is no such script.
    """
    path = (folder / word).resolve()
    if path.is_file():
        return path if path.is_relative_to(REPOSITORY / "scripts") else None
    named = scripts().get(word, [])
    assert named or not word.startswith("scripts/"), f"{word} does not exist"
    return named[0] if len(named) == 1 else None


@cache
def scripts() -> dict[str, list[Path]]:
    """Return all scripts by file name."""
    found: dict[str, list[Path]] = {}
    for path in sorted((REPOSITORY / "scripts").glob("*/*.py")):
        found.setdefault(path.name, []).append(path)
    return found


@cache
def site_settings() -> ModuleType:
    """Return the settings of the documentation site, which print the help of all commands."""
    spec = importlib.util.spec_from_file_location("site_settings", REPOSITORY / "docs" / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
