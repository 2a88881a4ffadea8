"""Files of checkpoints that were fetched from elsewhere, cached on this machine by their hash."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from incasem_like.disk import exclusive, write_whole
from incasem_like.errors import CheckpointError, DiskFullError, StoreError
from incasem_like.terminal import Progress

_BYTES_AT_ONCE = 1 << 20
_SECONDS_WITHOUT_A_BYTE = 60
BYTES_WORTH_A_PROGRESS_BAR = 16 << 20
ENVIRONMENT_VARIABLE = "INCASEM_CACHE"
_IS_A_HASH = re.compile(r"[0-9a-f]{64}").fullmatch


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BYTES_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def transfer_progress(description: str, size: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of bytes transferred; a small file shows no progress."""
    if size < BYTES_WORTH_A_PROGRESS_BAR:
        yield lambda count: None
        return
    with Progress(description, size, "B") as progress:
        yield progress.advance


def cache_directory() -> Path:
    """Return ``$INCASEM_CACHE``, else ``$XDG_CACHE_HOME/incasem-like``, else ``~/.cache/incasem-like``.

    Whatever lies there may be deleted at any time; it is then fetched again.
    """
    if own := os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(own).expanduser().absolute()
    general = os.environ.get("XDG_CACHE_HOME")
    return (Path(general) if general else Path.home() / ".cache") / "incasem-like"


def cached_path(name: str, sha256: str) -> Path:
    """Return the path of a file in the cache, whether it exists or not; it ends with the file's own name."""
    return cache_directory() / "checkpoints" / sha256 / (name.strip(".") or "checkpoint")


def find_in_cache(name: str, sha256: str) -> Path | None:
    """Look a file up; one that does not have its hash any more is as good as not there."""
    path = cached_path(name, sha256)
    try:
        return path if file_sha256(path) == sha256 else None
    except OSError:
        return None


def fetch_into_cache(name: str, sha256: str, size: int, blocks: Callable[[], Iterable[bytes]], origin: str) -> Path:
    """Fetch a file unless it is in the cache; it appears there whole and right or not at all.

    Processes that want the same file at once wait for the one that fetches it. ``blocks`` starts the transfer and
    returns the content piece by piece; ``size`` serves the progress shown, ``origin`` messages.

    Raises:
        CheckpointError: What came does not have the hash, or the cache cannot be written (``DiskFullError``: is full).
    """
    if not _IS_A_HASH(sha256):
        raise CheckpointError(
            f"{name} is on record without a SHA-256, so it is not fetched: choose another checkpoint."
        )
    path = cached_path(name, sha256)

    def write(file: IO[bytes]) -> None:
        digest = hashlib.sha256()
        with transfer_progress(f"Fetching {name}", size) as advance:
            for block in blocks():
                digest.update(block)
                file.write(block)
                advance(len(block))
        if digest.hexdigest() != sha256:
            raise CheckpointError(
                f"The copy of {name} in {origin} is damaged (SHA-256 {digest.hexdigest()[:12]}…, not "
                f"{sha256[:12]}…): choose another checkpoint, or put the file back from the machine that made it."
            )

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.parent):
            found = find_in_cache(name, sha256)
            if found is not None:
                return found
            for abandoned in path.parent.glob(f".{path.name}.*"):
                abandoned.unlink(missing_ok=True)
            write_whole(path, write)
    except OSError as error:
        kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else CheckpointError
        raise kind(
            f"A checkpoint cannot be fetched into {path.parent} ({error.strerror or error}): free some space, or set "
            f"{ENVIRONMENT_VARIABLE} to a folder on another disk that can be written."
        ) from None
    return path


def download(url: str) -> Iterator[bytes]:
    """Yield the content of a file at a URL; ``StoreError`` if that cannot be read."""
    from urllib.request import urlopen  # takes 30 ms to import, which every command would pay

    try:
        with urlopen(url, timeout=_SECONDS_WITHOUT_A_BYTE) as answer:
            while block := answer.read(_BYTES_AT_ONCE):
                yield block
    except (OSError, ValueError) as error:
        raise StoreError(
            f"The checkpoint at {url} cannot be downloaded ({error}): check the network and the address."
        ) from None
