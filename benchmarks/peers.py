"""Peers that cannot share our environment run in one of their own, made in the cache at the first call."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path


def python_with(module: str, requirement: str) -> str:
    """Return an interpreter that has a module: this one, or that of an environment in which ``requirement`` is."""
    if find_spec(module) is not None:
        return sys.executable
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "incasem-like"
    place = cache / f"bench-{requirement.partition('==')[0]}"
    if not (place / "bin/python").exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([place / "bin/pip", "install", "--quiet", requirement], check=True)
    return str(place / "bin/python")
