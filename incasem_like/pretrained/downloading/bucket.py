"""Addresses in a bucket or on a mirror, and the bucket's listing."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from incasem_like.errors import InputError
from incasem_like.pretrained.downloading.fetching import get_text, shown_url

if TYPE_CHECKING:
    from requests import Session


def base_url(address: str) -> str:
    """Convert the source that a user names to the base URL of the keys.

    Args:
        address: ``https://…``, ``http://…``, or ``s3://bucket/prefix``, which is read anonymously.

    Raises:
        InputError: It has another form.
    """
    parts = urlsplit(address)
    if parts.scheme == "s3" and parts.netloc:
        # a dot in the bucket's name would not match the certificate of *.s3.amazonaws.com
        host = "https://s3.amazonaws.com/" + parts.netloc if "." in parts.netloc else None
        return (host or f"https://{parts.netloc}.s3.amazonaws.com") + parts.path.rstrip("/")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InputError(
            f"{shown_url(address)} is not a URL to download from: give https://…, http://… or s3://bucket."
        )
    return address.rstrip("/")


def file_url(base: str, key: str) -> str:
    """Return the URL of a file: below the base, unless the base already names that file."""
    name = key.rpartition("/")[2]
    parts = urlsplit(base)
    if parts.path.endswith(f"/{name}") or parts.query:
        return base
    return f"{base}/{quote(key)}"


def keys_with_prefix(base: str, prefix: str, session: Session) -> list[str]:
    """List a bucket's keys that begin with ``prefix``; empty if the server is not a bucket or does not list."""
    page = get_text(f"{base}/", session, {"list-type": "2", "prefix": prefix})
    if page is None or "<ListBucketResult" not in page:
        return []
    keys = [unescape(key) for key in re.findall(r"<Key>([^<]*)</Key>", page)]
    return [key for key in keys if key.startswith(prefix)]
