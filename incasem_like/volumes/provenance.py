"""Where a dataset came from: tool, version, commit, parameters, run and inputs, as one JSON-able record; comparison."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import incasem_like
from incasem_like.terminal import shell_command
from incasem_like.volumes.chunk_files import digest
from incasem_like.volumes.volume import Volume

# Left out of the command that resumes interrupted work: with this flag it would start over.
OVERWRITE = MappingProxyType({"--overwrite": 0})
_HASH = re.compile(r"[0-9a-f]{32,}")
_PASSWORD = re.compile(r"(\w+://[^:/@\s]+):[^@\s]*@")


def make_provenance(
    tool: str, parameters: Mapping[str, Any], inputs: Sequence[Volume] = (), run_id: int | str | None = None
) -> dict[str, Any]:
    """Return the provenance of a dataset.

    Args:
        tool: Name of the script or function that makes it.
        parameters: Parameters of the call; must be JSON-able, paths are written as text.
        inputs: The volumes it is made from.
        run_id: Id of the tracked run that makes it, if any.

    Returns:
        ``run_id, tool, tool_version, git_commit, command, created, parameters, inputs``; each input has ``address``,
        ``content_hash`` and ``provenance_hash`` (of its own provenance, None when it has none).
    """
    return {
        "run_id": run_id,
        "tool": tool,
        "tool_version": incasem_like.__version__,
        "git_commit": git_commit(),
        "command": command_line(OVERWRITE),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": json.loads(json.dumps(dict(parameters), default=os.fspath)),
        "inputs": [
            {**volume.as_input(), "provenance_hash": digest(volume.provenance) if volume.provenance else None}
            for volume in inputs
        ],
    }


def command_line(leave_out: Mapping[str, int] = MappingProxyType({})) -> str:
    """Return the command that this process runs, as typed, passwords in URLs blanked.

    Args:
        leave_out: Flags to leave out, by name, and how many words belong to each as its value.
    """
    words = [] if sys.argv[:1] == [""] else list(sys.argv)
    return _PASSWORD.sub(r"\1:***@", shell_command("python", *_without(words, leave_out)))


def _without(words: Sequence[str], leave_out: Mapping[str, int]) -> list[str]:
    """Drop flags and their values from the words of a command; words after ``with`` are not flags."""
    flags_end = words.index("with") if "with" in words else len(words)
    kept: list[str] = []
    passed_over = 0
    for word in words[:flags_end]:
        name, joined, _ = word.partition("=")
        short = word[:2] if not word.startswith("--") else ""
        if passed_over:
            passed_over -= 1
        elif name in leave_out:
            passed_over = 0 if joined else leave_out[name]
        elif not leave_out.get(short):
            kept.append(word)
    return [*kept, *words[flags_end:]]


@cache
def git_commit() -> str | None:
    """Return the commit of the checkout this package runs from (``-dirty`` when modified), None outside one."""
    checkout = Path(incasem_like.__file__).parent.parent
    if not (checkout / ".git").exists():
        return None
    try:
        told = subprocess.run(
            ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None


def first_difference(before: Any, now: Any, name: str = "") -> str:
    """Return the first difference of two fingerprints (``parameters threshold 0.5, but now it is 0.7``), or ``""``."""
    if isinstance(before, dict) and isinstance(now, dict):
        if "content" in before and "content" in now:
            if before["content"] == now["content"]:
                return ""
            moved = before.get("address") != now.get("address")
            return f"{before.get('address')}, " + (
                f"but now it is {now.get('address')}" if moved else "which has changed since"
            )
        keys = dict.fromkeys([*before, *now])
        found = (first_difference(before.get(key), now.get(key), f"{name} {key}".strip()) for key in keys)
        return next(filter(None, found), "")
    lists = isinstance(before, list) and isinstance(now, list) and len(before) == len(now)
    if lists and any(isinstance(item, dict) for item in now):
        return next(filter(None, (first_difference(*pair, name) for pair in zip(before, now, strict=True))), "")
    if before == now:
        return ""
    if all(isinstance(value, str) and _HASH.fullmatch(value) for value in (before, now)):
        return f"{name.rpartition(' ')[2]} that changed since"
    return f"{name} {json.dumps(before)}, but now it is {json.dumps(now)}"
