"""Small file systems of their own, to fill up or to lock."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def tmpfs(place: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs on a new folder, with options such as ``size=400k``; skips the test where that is not permitted."""
    if shutil.which("mount") is None:
        pytest.skip("needs mount")
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    told = subprocess.run(mounting, capture_output=True, text=True, check=False)
    if told.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {told.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
