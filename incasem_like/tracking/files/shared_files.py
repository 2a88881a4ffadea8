"""Sources and resources that runs kept as files share: each is kept once, and goes with the last run that names it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from incasem_like.tracking.deletion.freed import Freed
from incasem_like.tracking.files.exclusive import exclusive
from incasem_like.tracking.files.layout import copy_whole
from incasem_like.tracking.summaries import as_mapping, as_sequence

SHELVES = ("_sources", "_resources")


def keep(shelf: Path, source: Path) -> Path:
    """Keep one copy of a file for all runs, named by its content's MD5 as Sacred does; gives where it is."""
    with open(source, "rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    target = shelf / f"{source.stem}_{digest}{source.suffix}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_whole(source, target)
    return target


def named_by(document: Mapping[str, Any]) -> set[str]:
    """List the files that a run's document names, by their paths below the folder of the runs."""
    sources = as_mapping(document.get("experiment")).get("sources")
    pairs = [*as_sequence(sources), *as_sequence(document.get("resources"))]
    names = [pair[1] for pair in pairs if isinstance(pair, list) and len(pair) == 2]
    return {name for name in names if isinstance(name, str) and name.startswith(tuple(f"{each}/" for each in SHELVES))}


def unnamed(folder: Path, names: Iterable[str], near: int = 0) -> set[str]:
    """Find those of some files that no run names; none while a run is being begun or one cannot be read.

    Args:
        folder: The folder of the runs.
        names: Paths below it.
        near: Runs of neighbouring ids are asked first, for they share most.
    """
    left, runs = set(names), [path for path in folder.iterdir() if path.name.isdecimal()]
    for run in sorted(runs, key=lambda run: abs(int(run.name) - near)):
        if not left:
            break
        try:
            text = (run / "run.json").read_text(encoding="utf-8")
            json.loads(text)
        except (OSError, ValueError):
            return set()  # it has not said yet, or cannot say, which it needs
        left = {name for name in left if json.dumps(name) not in text}
    return left


def free_unnamed(folder: Path, names: Iterable[str], near: int = 0) -> Freed:
    """Delete those of some files that no run names; see ``unnamed``."""
    freed = Freed()
    with exclusive(folder):  # no run can begin meanwhile, which might find its sources kept here already
        for name in unnamed(folder, names, near):
            path = folder / name
            if path.is_file():
                freed += Freed(sources=1, bytes=path.stat().st_size)
                path.unlink()
    return freed
