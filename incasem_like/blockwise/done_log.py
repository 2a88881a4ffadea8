"""The log of finished blocks: one file beside the output's chunks, appended, readable after any crash.

The first line holds the fingerprint of the task, each following one the number of a finished block, or the error of
one that failed; the last line about a block counts. The log lies inside the array's folder under a hidden name:
readers of Zarr and N5 ignore it, and it is removed when the array is replaced.

A block's voxels are on the disk before its line is written. If a crash of the machine loses a line, its
block is computed again, nothing worse; so lines are synced to disk at intervals rather than one by one.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incasem_like.disk import lock
from incasem_like.errors import InputError
from incasem_like.terminal import as_known_error
from incasem_like.volumes import Address
from incasem_like.volumes.provenance import first_difference

LOG_NAME = ".blocks.jsonl"
SECONDS_BETWEEN_SYNCS = 1.0
CLOSED = -1


class DoneLog:
    """The finished blocks of one output, held by one process at a time.

    Args:
        folder: Folder of the array that is filled, or another existing folder.
        fingerprint: Fingerprint of the task, JSON-serializable.
        complete: Whether the results are marked complete.

    Attributes:
        done: Numbers of the finished blocks.
        failed: Records of the blocks that failed in this or an earlier call and are not done since, by number.

    Raises:
        InputError: Another process is writing it; it was begun by a task with another fingerprint; or it is complete
            but has no log that identifies the task.
    """

    def __init__(self, folder: Path, fingerprint: dict[str, Any], *, complete: bool = False) -> None:
        self.path, self._known = folder / LOG_NAME, json.loads(json.dumps(fingerprint))
        if complete and not self.path.exists():
            raise InputError(f"{folder} exists already and was not made by this task: add --overwrite to replace it.")
        self._synced, self._writing = time.monotonic(), threading.Lock()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            _lock(self._file, self.path.parent)
            content = self._read()
        except BaseException:
            os.close(self._file)
            raise
        self.done, self.failed = content.done, content.failed

    def __enter__(self) -> DoneLog:
        return self

    def __exit__(self, *_error: object) -> None:
        # A thread that is still writing a block when a call is interrupted must not write to another file that was
        # since opened under the same descriptor.
        with self._writing:
            descriptor, self._file = self._file, CLOSED
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read(self) -> LogContent:
        """Return what the log holds; an incomplete last line, left by a crash, is cut off."""
        content, whole = _parsed(self.path.read_bytes())
        os.ftruncate(self._file, whole)
        if content is None:
            self._append([self._known], sync=True)
            return LogContent(self._known, set(), {})
        if difference := first_difference(content.fingerprint, self._known):
            raise InputError(
                f"{self.path.parent} was begun with {difference}: repeat the original command to resume, "
                "or add --overwrite to start again."
            )
        return content

    def record(self, *numbers: int) -> None:
        """Note that blocks are finished."""
        self._append([{"done": number} for number in numbers])
        self.done.update(numbers)
        for number in numbers:
            self.failed.pop(number, None)

    def record_failed(self, number: int, about: dict[str, Any]) -> None:
        """Note that a block failed for good, with its details (JSON-serializable)."""
        self._append([{"failed": number, **about}], sync=True)
        self.failed[number] = about

    def _append(self, entries: list[dict[str, Any]], *, sync: bool = False) -> None:
        """Append lines whole or not at all.

        Raises:
            DiskFullError: No space is left.
            ValueError: The log is closed.
        """
        lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
        with self._writing:
            if self._file == CLOSED:
                raise ValueError(f"{self.path} is closed")
            before = os.fstat(self._file).st_size
            try:
                written = os.write(self._file, lines)
                if written < len(lines):
                    os.write(self._file, lines[written:])  # raises the disk's error
                if sync or time.monotonic() - self._synced > SECONDS_BETWEEN_SYNCS:
                    os.fsync(self._file)
                    self._synced = time.monotonic()
            except OSError as error:
                os.ftruncate(self._file, before)
                raise as_known_error(error) or error from error


def refuse_remote(address: Address) -> None:
    """Check that an output is local, before an existing one is replaced.

    Raises:
        InputError: It is remote.
    """
    if not address.is_local:
        raise InputError(
            f"{address} is remote, but blockwise outputs must be local: choose a local path, then copy it."
        )


def _lock(log: int, output: Path) -> None:
    """Lock an output by its log, or raise InputError: it is being written, or was replaced since the log was opened."""
    if not lock(log, wait=False):  # on a file system without locks, blocks are merely done twice
        raise InputError(f"Another process is writing {output}: wait for it or stop it first.")
    if os.fstat(log).st_nlink == 0:
        raise InputError(f"Another process has just replaced {output}: look what it does, then run this again.")


@contextlib.contextmanager
def held(output: str | Path) -> Iterator[None]:
    """Keep other processes off an output while it is replaced.

    Args:
        output: Folder of its array; without it, or without a log in it, nothing is locked.

    Raises:
        InputError: Another process is writing it.
    """
    try:
        log = os.open(Path(output) / LOG_NAME, os.O_RDWR)
    except OSError:
        yield
        return
    try:
        _lock(log, Path(output))
        yield
    finally:
        os.close(log)


@dataclass(frozen=True)
class LogContent:
    """The content of a log: the fingerprint of the task, and numbers of blocks.

    Those that failed and are not done since have ``error``, ``kind`` (class of the error), ``trace``, ``attempts``,
    ``worker``, and ``roi`` (begin and shape, absolute voxels) or ``name``.
    """

    fingerprint: Mapping[str, Any]
    done: set[int]
    failed: dict[int, dict[str, Any]]


def read_log(output: str | Path) -> LogContent | None:
    """Read the log of an output without locking it, given the folder of its array; None where none was begun."""
    try:
        return _parsed((Path(output) / LOG_NAME).read_bytes())[0]
    except FileNotFoundError:
        return None


def _parsed(log: bytes) -> tuple[LogContent | None, int]:
    """Parse a log up to its first incomplete line; also return the bytes up to there."""
    content, whole = None, 0
    for line in log.splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(entry, dict):
            break
        whole += len(line)
        if content is None:
            content = LogContent(entry, set(), {})
        elif "done" in entry:
            content.done.add(int(entry["done"]))
            content.failed.pop(int(entry["done"]), None)
        elif "failed" in entry:
            content.failed[int(entry.pop("failed"))] = entry
    return content, whole
