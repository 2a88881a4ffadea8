"""Atomic writing of files and folders, and locks on them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from incasem_like.errors import InputError

_BYTES_AT_ONCE = 1 << 20


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically: to a temporary path beside it, which is then renamed; errors name the file itself."""
    beside = _beside(path)
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == str(beside):
            error.filename, error.filename2 = str(path), None
        with contextlib.suppress(OSError):  # the folder may be a file
            beside.unlink(missing_ok=True)
        raise


def check_output_file(path: Path, *, overwrite: bool = True) -> None:
    """Check, before long work, that a file can be written at a path.

    Raises:
        InputError: A folder is there, or the folder to write it in does not exist; or, without ``overwrite``, a file.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file to write.")
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} for {path.name} does not exist: create it, or name another file.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already: add --overwrite to replace it, or choose another name.")
    check_writable(path, "name another file")


def nearest_folder(path: Path) -> Path:
    """Return the innermost of a path and its parents that exists; a file, if one stands where a folder is needed."""
    return next(there for there in [path, *path.absolute().parents] if os.path.exists(there))


def check_writable(path: Path, remedy: str) -> None:
    """Check that a file or folder can be written at a path, without writing anything.

    Raises:
        InputError: A file stands where a folder is needed, or permission is missing; ``remedy`` is the advice.
    """
    there = nearest_folder(path)
    if there != path and not there.is_dir():
        raise InputError(f"{there} is a file, but a folder is needed there for {path}: {remedy}.")
    if not os.access(there, os.W_OK):
        raise InputError(f"Not permitted to write into {there}: change its permissions, or {remedy}.")


def copy_whole(source: Path, target: Path, *, link: bool = False) -> None:
    """Copy a file atomically; as a hard link where that is asked for and the file system supports it."""
    beside = _beside(target)
    if link:
        try:
            beside.unlink(missing_ok=True)
            os.link(source, beside)
            os.replace(beside, target)
            return
        except OSError:
            pass  # the copy below reports what is wrong
        finally:
            beside.unlink(missing_ok=True)  # a rename onto another link of the same file leaves both
    with open(source, "rb") as content:
        write_whole(target, lambda file: shutil.copyfileobj(content, file, _BYTES_AT_ONCE))


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Make a folder atomically: yield a temporary one beside it, which is renamed when the block has filled it."""
    beside = _beside(folder)
    beside.mkdir()
    try:
        yield beside
        os.replace(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")


_LOCKED = (errno.EWOULDBLOCK, errno.EACCES)
_ATTEMPTS_TO_LOCK, _SECONDS_BETWEEN_ATTEMPTS = 5, 0.05


def lock(handle: int, *, wait: bool = True) -> bool:
    """Lock an open file or folder against all others that use this function, until it is closed.

    On a file system without locks nothing is locked: then two simultaneous changes of one file overwrite each other.

    Args:
        handle: File descriptor.
        wait: Whether to wait until the lock is free.

    Returns:
        False if another process or thread has the lock; never with ``wait``.
    """
    for _ in range(_ATTEMPTS_TO_LOCK):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _LOCKED:
                return True
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)  # another process may just be looking whether it is locked
        else:
            return True
    return False


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock an existing folder for a short operation; see ``lock``."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes off a folder, which is created, while several outputs in it are written one after the other.

    Args:
        folder: The folder; all who write it must use this function.

    Raises:
        InputError: Another process is writing it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".writer.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not lock(handle, wait=False):
            raise InputError(f"Another process is writing {folder}: wait for it or stop it first.")
        yield
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Return whether a process has a file locked now."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _LOCKED
    finally:
        os.close(file)
    return False
