"""Atomic writing of files, and exclusive access to a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

_BYTES_AT_ONCE = 1 << 20


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically: to a temporary path beside it, which is then renamed."""
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
    """Copy a file atomically."""
    with open(source, "rb") as content:
        write_whole(target, lambda file: shutil.copyfileobj(content, file, _BYTES_AT_ONCE))


_NO_LOCKS_HERE = {errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


def lock(descriptor: int, *, wait: bool = True) -> bool:
    """Lock an open file or folder against other processes and threads that use this function, until it is closed.

    On a file system without locks nothing is locked, and True is returned.

    Returns:
        False if ``wait`` is false and somebody else holds the lock.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
    return True


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock an existing folder against other processes and threads that use this function; meant for short operations.

    On a file system without locks nothing is locked: then two simultaneous changes of one file overwrite each other.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)
