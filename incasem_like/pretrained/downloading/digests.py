"""Digests of a file's content: those that a server announces, and those of a downloaded file."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

_BYTES_AT_ONCE = 1 << 20


def digests_in(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of the whole content from S3's headers, in hexadecimal by algorithm.

    S3 gives ``x-amz-checksum-sha256`` where the file was uploaded with one. Its ETag is the MD5 of a file that was
    uploaded in one part and not encrypted with a customer's key; for multipart uploads it is another number, with a
    hyphen in it. Other servers' ETags have no defined meaning.
    """
    found = {}
    checksum = headers.get("x-amz-checksum-sha256", "")
    if checksum and "-" not in checksum:
        with contextlib.suppress(binascii.Error, ValueError):
            found["sha256"] = base64.b64decode(checksum, validate=True).hex()
    plain = headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
    etag = headers.get("ETag", "").strip('"')
    if "x-amz-request-id" in headers and plain and re.fullmatch(r"[0-9a-f]{32}", etag):
        found["md5"] = etag
    return found


def digest_file(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """Compute digests of a file in one pass, in hexadecimal by algorithm."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with open(path, "rb") as file:
        while block := file.read(_BYTES_AT_ONCE):
            for digest in hashes.values():
                digest.update(block)
    return {name: digest.hexdigest() for name, digest in hashes.items()}
