"""The log of a run's metrics at full resolution: lines of JSON that are only ever appended to.

A line is a point, ``{"name": …, "step": …, "value": …, "time": …}``, or says something of those before it:
``{"session": TOKEN}``: a process began to write; ``{"withdrawn_after": STEP}``: the points of later steps up to here do
not count, since the run was continued from there; ``{"base": {NAME: …}}``: in place of all before it, what was known of
the run, which went on on another machine in between.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

START_OF_A_POINT = b'{"name"'
_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_ATTEMPTS_TO_LOCK, _SECONDS_BETWEEN_ATTEMPTS = 5, 0.05
_UNDEFINED = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


class AlreadyWrittenError(Exception):
    """Another process holds the log, since its run goes on."""


class MetricsLog:
    """Appends to a run's log and holds it against every other process for as long as it is open.

    Args:
        path: Of the file; made when opened.

    Attributes:
        refused: Why the file did not take what waits to be written, or None.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refused: OSError | None = None
        self._file: int | None = None
        self._pending: list[str] = []
        self._length = 0

    def open(self) -> None:
        """Open and lock the log; half a line that a killed process left at its end is cut off.

        Raises:
            AlreadyWrittenError: Another process holds it.
        """
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        if not _lock(file):
            os.close(file)
            raise AlreadyWrittenError
        self._file, self._length = file, _length_of_whole_lines(self.path)
        os.ftruncate(file, self._length)

    def add_points(self, name: str, points: Iterable[tuple[int, float, datetime]]) -> None:
        """Take points of a metric; ``save`` writes them."""
        start = f'{START_OF_A_POINT.decode()}: {json.dumps(name)}, "step": '
        for step, value, moment in points:
            number = repr(value)
            number = _UNDEFINED.get(number, number)
            self._pending.append(f'{start}{step}, "value": {number}, "time": "{moment.isoformat()}"}}\n')

    def add_marker(self, **content: Any) -> None:
        """Take a line that says something of those before it; ``save`` writes it."""
        self._pending.append(json.dumps(content) + "\n")

    def save(self) -> None:
        """Append what was taken; what a full disk does not take is taken back and waits for the next time."""
        if not self._pending or self._file is None:
            return
        content = "".join(self._pending).encode()
        try:
            written = 0
            while written < len(content):
                written += os.write(self._file, content[written:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._length)
            self.refused = error
            raise
        self._pending.clear()
        self.refused = None
        self._length += len(content)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in the log yet."""
        return self._length == 0 and not self._pending

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Take back what a block wrote that breaks off."""
        before = self._length
        try:
            yield
        except BaseException:
            self._pending.clear()
            if self._file is not None:
                os.ftruncate(self._file, before)
                self._length = before
            raise

    def close(self) -> None:
        """Let go of the log; another process may hold it now."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _lock(file: int) -> bool:
    """Lock a file for as long as it is open; on a file system without locks, what the run says of itself has to do."""
    for _ in range(_ATTEMPTS_TO_LOCK):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _HELD:
                return True
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)  # somebody may just be looking whether it is held
        else:
            return True
    return False


def is_held(path: Path) -> bool:
    """Find out whether a process holds a log now."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _HELD
    finally:
        os.close(file)
    return False


def _length_of_whole_lines(path: Path) -> int:
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 4096)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0
