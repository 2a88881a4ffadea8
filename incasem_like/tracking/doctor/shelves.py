"""What a store of files keeps beside its runs: sources and resources that no run names, and half-written files."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.tracking.doctor.finding import Finding

if TYPE_CHECKING:
    from incasem_like.tracking.files.store import FileStore

_SHELVES = ("_sources", "_resources")
_HALF_WRITTEN = re.compile(r"\..+\.\d+\.\d+")  # see ``layout.write_whole``


def check_shelves(store: FileStore, settled: timedelta) -> Iterator[Finding]:
    """Check what lies beside the runs of a store."""
    if not store.folder.is_dir():
        return
    half = [path for path in store.folder.glob("*/.*") if _HALF_WRITTEN.fullmatch(path.name) and _age(path) > settled]
    if half:
        problem = f"{len(half)} files in {store.folder} were being written when their process died."
        yield Finding(store.description, problem, "Delete them.", partial(_delete, half))
    stored = {f"{shelf}/{path.name}" for shelf in _SHELVES for path in (store.folder / shelf).glob("*")}
    old = {name for name in stored if _age(store.folder / name) > settled}
    unnamed = unnamed_files(store, old)
    if unnamed:
        problem = f"{len(unnamed)} source files in {store.folder} are named by no run."
        yield Finding(store.description, problem, "Delete them.", partial(_delete_unnamed, store, unnamed))


def unnamed_files(store: FileStore, names: set[str]) -> set[str]:
    """Find those of some stored files that no run names; none while a run is being begun or cannot be read."""
    if store.half_received() or store.half_deleted():
        return set()
    for run_id in reversed(store.ids()):
        if not names:
            break
        try:
            text = (store.folder / str(run_id) / "run.json").read_text(encoding="utf-8")
            json.loads(text)
        except (OSError, ValueError):
            return set()
        names = {name for name in names if json.dumps(name) not in text}
    return names


def _delete_unnamed(store: FileStore, names: set[str]) -> None:
    _delete([store.folder / name for name in unnamed_files(store, names)])


def _delete(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _age(path: Path) -> timedelta:
    try:
        return timedelta(seconds=time.time() - path.stat().st_mtime)
    except OSError:
        return timedelta(0)
