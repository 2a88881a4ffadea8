"""Fetching a file over HTTP: resumable, never mixing parts of two different versions of it."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit, urlunsplit

from requests import Response, Session, exceptions

from incasem_like.disk import lock
from incasem_like.errors import DownloadError, IncasemError, InputError
from incasem_like.tracking.model.cache import transfer_progress

ATTEMPTS_WITHOUT_PROGRESS = 5
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts
TIMEOUTS = (15.0, 60.0)  # seconds to connect, and to wait for data
_BYTES_AT_ONCE = 1 << 16
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)


class MissingFileError(InputError):
    """The server has no such file."""


class _TemporaryError(Exception):
    """An error after which the download is retried; ``pause``: seconds to wait, if the server requests any."""

    def __init__(self, words: str, pause: float | None = None) -> None:
        super().__init__(words)
        self.pause = pause


def open_session(proxy: str | None = None) -> Session:
    """Make a session; ``proxy`` is a URL, by default that of ``HTTPS_PROXY`` and similar variables."""
    session = Session()
    if proxy is not None:
        session.proxies = {"http": proxy, "https": proxy}
        session.trust_env = False  # NO_PROXY would override a requested proxy
    return session


def shown_url(url: str) -> str:
    """Return a URL without the parts that may be secret: user, password, query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


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

    @classmethod
    def of(cls, response: Response, url: str) -> Origin:
        """Read the origin from the headers of a response that carries the whole file."""
        headers = response.headers
        if headers.get("Content-Encoding", "identity") != "identity":
            return cls(shown_url(url), None, None, {})
        length = headers.get("Content-Length", "")
        return cls(shown_url(url), validator(headers), int(length) if length.isdigit() else None, digests_in(headers))


@contextlib.contextmanager
def fetched(url: str, target: Path, session: Session, *, show: bool = True) -> Iterator[tuple[Path, Origin]]:
    """Fetch a file beside its final path, for a block that verifies it; then rename it.

    ``<target>.part`` and a note of its origin outlive the process. After a broken connection, or in another process,
    the download resumes where it stopped, if the server supports that and shows by ETag or date that the file is
    unchanged; otherwise it starts again. What the block rejects with an ``IncasemError`` is deleted.

    Args:
        url: URL of the file.
        target: Its final path.
        session: See ``open_session``.
        show: Whether to show the progress of a large file; not if it is one of many.

    Yields:
        The complete file, not yet in place, and its origin.

    Raises:
        MissingFileError: The server has no such file.
        InputError: It refuses access, the URL is invalid, or another process is downloading the file.
        DownloadError: The server does not answer, or breaks off again and again.
    """
    part, note = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "ab") as file:  # locked while it is open
        # A process that had the lock before may have moved this file into place since it was opened here.
        locked = lock(file.fileno(), wait=False)
        if not locked or not part.exists() or not os.path.samestat(os.fstat(file.fileno()), os.stat(part)):
            raise InputError(f"{target} is being downloaded by another process: wait until that is done.")
        origin = _fetch(url, file, note, session, show)
        try:
            yield part, origin
        except IncasemError:
            part.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
            raise
        os.fsync(file.fileno())
        os.replace(part, target)
        note.unlink(missing_ok=True)


def _fetch(url: str, file: IO[bytes], note: Path, session: Session, show: bool) -> Origin:
    """Fetch the missing part of a file, with retries."""
    origin: Origin | None = None
    with contextlib.suppress(OSError, ValueError, TypeError):
        origin = Origin(**json.loads(note.read_text(encoding="utf-8")))
    failures, furthest = 0, 0
    while True:
        if origin is None or origin.validator is None or origin.url != shown_url(url):
            file.truncate(0)
            origin = None
        length = os.fstat(file.fileno()).st_size
        if origin is not None and length == origin.total:
            return origin
        furthest = max(furthest, length)
        try:
            with _requested(url, session, origin, length) as response:
                if response.status_code == 200:
                    file.truncate(0)
                    origin = Origin.of(response, url)
                    note.write_text(json.dumps(asdict(origin), indent=2), encoding="utf-8")
                elif not _continues(response, origin, length):
                    origin = None
                    raise _TemporaryError("the file changed while it was fetched", pause=0.01)
                assert origin is not None
                _receive(response, file, origin, note.name.removesuffix(".part.json") if show else None)
            if origin.total is None:
                return origin
            problem = _TemporaryError("the connection breaks off")
        except _TemporaryError as error:
            problem = error
        except exceptions.RequestException:
            problem = _TemporaryError("the connection breaks off" if length else "no connection")
        reached = os.fstat(file.fileno()).st_size
        if origin is not None and reached == origin.total:
            return origin
        failures = 0 if reached > furthest else failures + 1
        if failures >= ATTEMPTS_WITHOUT_PROGRESS:
            raise DownloadError(
                f"{shown_url(url)} cannot be fetched ({problem}): check the network, or name a mirror with --url; "
                "the same command resumes where this one stopped."
            )
        time.sleep(min(problem.pause if problem.pause is not None else FIRST_PAUSE * 2**failures, LONGEST_PAUSE))


@contextlib.contextmanager
def _requested(url: str, session: Session, origin: Origin | None, length: int) -> Iterator[Response]:
    """Request the missing part of a file; yield the response if it carries it, or says that the file has changed.

    Raises:
        _TemporaryError, requests.RequestException: Retry.
    """
    where, headers = shown_url(url), {"Accept-Encoding": "identity", "x-amz-checksum-mode": "ENABLED"}
    if length and origin is not None and origin.validator is not None:
        headers |= {"Range": f"bytes={length}-", "If-Range": origin.validator}
    try:
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as response:
            status = response.status_code
            if status in (404, 410):
                raise MissingFileError(
                    f"No file was found at {where} (HTTP {status}): check the address, or give another --url."
                )
            if status in (401, 403, 407):
                raise InputError(f"{where} refuses access (HTTP {status}): check address, rights and proxy.")
            if status in _TEMPORARY:
                pause = response.headers.get("Retry-After", "")
                raise _TemporaryError(f"the server answers HTTP {status}", float(pause) if pause.isdigit() else None)
            if status not in (200, 206, 416):
                raise DownloadError(
                    f"{where} cannot be fetched (HTTP {status}): check the address, or name a mirror with --url."
                )
            yield response
    except (exceptions.InvalidURL, exceptions.InvalidSchema, exceptions.MissingSchema):
        raise InputError(f"{where} is not a URL to download from: give http://… or https://….") from None
    except exceptions.SSLError:
        raise DownloadError(f"{where} shows no certificate that can be trusted: check the address.") from None


def _continues(response: Response, origin: Origin | None, length: int) -> bool:
    """Return whether a part begins where the last one ended and belongs to the same version of the file."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None or origin is None or int(found[1]) != length or origin.validator != validator(response.headers):
        return False
    return found[2] == "*" or origin.total in (None, int(found[2]))


def _receive(response: Response, file: IO[bytes], origin: Origin, name: str | None) -> None:
    """Append what comes; its progress is shown under a name, if that is given."""
    missing = (origin.total or 0) - os.fstat(file.fileno()).st_size
    with transfer_progress(f"Downloading {name}", missing if name is not None else 0) as advance:
        for block in response.iter_content(_BYTES_AT_ONCE):
            file.write(block)
            file.flush()
            advance(len(block))


def validator(headers: Mapping[str, str]) -> str | None:
    """Return what identifies a version of a file: its strong ETag, else its date, else None."""
    etag = headers.get("ETag")
    if etag is not None and not etag.startswith("W/"):  # a weak one promises the same meaning, not the same bytes
        return str(etag)
    return headers.get("Last-Modified")


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
