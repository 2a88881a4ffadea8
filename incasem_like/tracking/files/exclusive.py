"""Taking turns at a folder of runs: for what reads a file, changes it and writes it again."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_NO_LOCKS_HERE = {errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder, which must exist, against other processes and threads that ask for it so; for moments only.

    A file system without locks lets everybody through: then two who change the same thing at once overwrite each other.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
        yield
    finally:
        os.close(handle)
