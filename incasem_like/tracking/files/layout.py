"""How a run lies in its folder: the names of its files, and writing them so that each is seen whole or not at all."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

METRICS_LOG = "metrics.jsonl"
ANNOTATIONS = "annotations.json"
_BYTES_AT_ONCE = 1 << 20
OWN_FILES = frozenset({"run.json", "config.json", "info.json", "metrics.json", METRICS_LOG, "cout.txt", ANNOTATIONS})


def artifact_file_name(name: str) -> str:
    """Name the file that holds an artifact: its own name, unless that is one of the run's own files."""
    return f"artifact_{name}" if name in OWN_FILES or name.startswith("artifact_") else name


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside its place, then move it there, so that it is seen whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file so that it is seen whole or not at all."""
    with open(source, "rb") as content:
        write_whole(target, lambda file: shutil.copyfileobj(content, file, _BYTES_AT_ONCE))
