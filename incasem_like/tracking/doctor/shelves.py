"""What a store of files keeps beside its runs: sources and resources that no run names, and half-written files."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.tracking.doctor.finding import Finding
from incasem_like.tracking.files.shared_files import SHELVES, free_unnamed, unnamed

if TYPE_CHECKING:
    from incasem_like.tracking.files.store import FileStore

_HALF_WRITTEN = re.compile(r"\..+\.\d+\.\d+")  # see ``layout.write_whole``


def check_shelves(store: FileStore, settled: timedelta) -> Iterator[Finding]:
    """Check what lies beside the runs of a store."""
    if not store.folder.is_dir():
        return
    half = [path for path in store.folder.glob("*/.*") if _HALF_WRITTEN.fullmatch(path.name) and _age(path) > settled]
    if half:
        problem = f"{len(half)} files in {store.folder} were being written when their process died."
        yield Finding(store.description, problem, "Delete them.", partial(_delete, half))
    stored = {f"{shelf}/{path.name}" for shelf in SHELVES for path in (store.folder / shelf).glob("*")}
    old = {name for name in stored if _age(store.folder / name) > settled}
    if found := unnamed(store.folder, old):
        problem = f"{len(found)} source files in {store.folder} are named by no run."
        yield Finding(store.description, problem, "Delete them.", partial(free_unnamed, store.folder, found))


def _delete(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _age(path: Path) -> timedelta:
    try:
        return timedelta(seconds=time.time() - path.stat().st_mtime)
    except OSError:
        return timedelta(0)
