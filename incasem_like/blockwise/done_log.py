"""The log of finished blocks: one file beside the output's chunks, appended and synced, readable after any crash.

The first line holds the fingerprint of the task, each following one the number of a finished block. It lies inside the
array's folder under a hidden name: readers of Zarr and N5 pass over it, and it goes when the array is replaced.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from incasem_like.errors import InputError
from incasem_like.volumes import Volume

LOG_NAME = ".blocks.jsonl"


class DoneLog:
    """The finished blocks of one output, held by one process at a time.

    Args:
        output: A local volume.
        fingerprint: Of the task, JSON-able.

    Raises:
        InputError: The output is remote; another process works on it; it was begun by a task of another fingerprint;
            or it is complete and no log says by which task.
    """

    def __init__(self, output: Volume, fingerprint: dict[str, Any]) -> None:
        if not output.address.is_local:
            raise InputError(
                f"{output.address} is remote, but blockwise outputs must be local: choose a local path, then copy it."
            )
        self._output = output
        self.path = Path(str(output.address)) / LOG_NAME
        self._known = json.loads(json.dumps(fingerprint))
        if output.complete and not self.path.exists():
            raise InputError(
                f"{output.address} exists already and was not made by this task: add --overwrite to replace it."
            )
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock()
            self.done = self._read()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> DoneLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"Another process is writing {self._output.address}: wait for it or stop it first."
            ) from error
        except OSError:
            pass  # a file system without locks; the log itself is safe all the same, blocks are only done twice

    def _read(self) -> set[int]:
        """Return the finished blocks; a line that a crash cut short is dropped from the file."""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.ftruncate(self._file, len(whole))
        lines = whole.splitlines()
        if not lines:
            self._append(self._known)
            return set()
        difference = first_difference(json.loads(lines[0]), self._known)
        if difference:
            raise InputError(
                f"{self._output.address} was begun with {difference}: repeat what it was begun with to go on, "
                "or add --overwrite to start again."
            )
        return {int(json.loads(line)["done"]) for line in lines[1:]}

    def record(self, number: int) -> None:
        """Note that a block is finished; on return the note is on the disk."""
        self._append({"done": number})
        self.done.add(number)

    def _append(self, entry: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")
        os.fsync(self._file)


def first_difference(before: Any, now: Any, name: str = "") -> str:
    """Say what differs first between two fingerprints (``parameters threshold 0.5, but now it is 0.7``), or nothing."""
    if isinstance(before, dict) and isinstance(now, dict):
        if "content" in before and "content" in now:
            changed = before["content"] != now["content"]
            return (
                f"{before.get('address')}, but now it is {now.get('address')} or has changed since" if changed else ""
            )
        for key in dict.fromkeys([*before, *now]):
            told = first_difference(before.get(key), now.get(key), f"{name} {key}".strip())
            if told:
                return told
        return ""
    if (
        isinstance(before, list)
        and isinstance(now, list)
        and len(before) == len(now)
        and any(isinstance(item, dict) for item in now)
    ):
        return next(filter(None, (first_difference(*pair, name) for pair in zip(before, now, strict=True))), "")
    return "" if before == now else f"{name} {json.dumps(before)}, but now it is {json.dumps(now)}"
