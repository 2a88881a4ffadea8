"""A partially downloaded file: its bytes so far, their origin, and a lock against a second process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from incasem_like.errors import InputError


@dataclass(frozen=True)
class Origin:
    """The origin of the bytes of a partial file.

    Attributes:
        url: URL without credentials or query.
        validator: Strong ETag, else Last-Modified, of that version of the file; None if the server gives neither, so
            that the download cannot be resumed.
        total: Length of the whole file in bytes, or None.
        digests: The server's digests of the whole file: hexadecimal digest by algorithm.
    """

    url: str
    validator: str | None
    total: int | None
    digests: dict[str, str]


class PartialFile:
    """``<target>.part`` and, beside it, a note of its origin; both outlive the process, so that another can resume.

    Use it as a context manager; the lock is held inside.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")
        self._file: IO[bytes] | None = None
        self.origin: Origin | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open_locked()
        self.origin = self._read_note()
        if self.origin is None or self.origin.validator is None:
            self._cut()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def length(self) -> int:
        """Number of bytes received so far."""
        return os.fstat(self._opened.fileno()).st_size

    @property
    def is_whole(self) -> bool:
        """Whether all bytes were received."""
        return self.origin is not None and self.origin.total is not None and self.length == self.origin.total

    def begin(self, origin: Origin) -> None:
        """Start from the first byte."""
        self._cut()
        self._note.write_text(json.dumps(asdict(origin), indent=2), encoding="utf-8")
        self.origin = origin

    def restart(self) -> None:
        """Discard the bytes received so far, since the download cannot be resumed."""
        self._cut()
        self._note.unlink(missing_ok=True)
        self.origin = None

    def write(self, block: bytes) -> None:
        """Add bytes at the end; they are passed to the operating system when this returns."""
        self._opened.write(block)
        self._opened.flush()

    def discard(self) -> None:
        """Remove it and its note."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def move_into_place(self) -> None:
        """Rename the complete file to its final name."""
        os.fsync(self._opened.fileno())
        os.replace(self.path, self.target)
        self._note.unlink(missing_ok=True)

    @property
    def _opened(self) -> IO[bytes]:
        assert self._file is not None, "a partial file is used inside its context"
        return self._file

    def _cut(self) -> None:
        self._opened.truncate(0)
        self._opened.seek(0)

    def _open_locked(self) -> IO[bytes]:
        while True:
            file = open(self.path, "ab")  # noqa: SIM115 - stays open as long as the lock is held
            try:
                with _filesystems_without_locks():
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise InputError(
                    f"{self.target} is being downloaded by another process: wait until that is done."
                ) from None
            # The previous holder of the lock may have moved the file into place since it was opened here.
            if self._is_at_path(file):
                return file
            file.close()

    def _is_at_path(self, file: IO[bytes]) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _read_note(self) -> Origin | None:
        try:
            return Origin(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


@contextlib.contextmanager
def _filesystems_without_locks() -> Iterator[None]:
    """Continue without a lock if the file system has none."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
