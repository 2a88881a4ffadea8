"""The hash that files of checkpoints are known by."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BYTES_AT_ONCE = 1 << 20


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BYTES_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()
