"""Fetching a file over HTTP: resumable, never mixing parts of two different versions of it."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from requests import Response, Session, exceptions

from incasem_like.disk import lock
from incasem_like.errors import DownloadError, InputError

ATTEMPTS_WITHOUT_PROGRESS = 5
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts
TIMEOUTS = (15.0, 60.0)  # seconds to connect, and to wait for data
_BYTES_AT_ONCE = 1 << 16
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)

Show = Callable[[int, int | None], None]


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


class PartialFile:
    """``<target>.part`` and, beside it, a note of its origin; both outlive the process, so that another can resume.

    Use it as a context manager; the lock is held inside.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")
        self.origin: Origin | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab")  # stays open as long as the lock is held
        # A process that had the lock before may have moved this file into place since it was opened here.
        if not lock(self._file.fileno(), wait=False) or not self._is_at_path():
            self._file.close()
            raise InputError(f"{self.target} is being downloaded by another process: wait until that is done.")
        with contextlib.suppress(OSError, ValueError, TypeError):
            self.origin = Origin(**json.loads(self._note.read_text(encoding="utf-8")))
        if self.origin is None or self.origin.validator is None:
            self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def length(self) -> int:
        """Number of bytes received so far."""
        return os.fstat(self._file.fileno()).st_size

    def is_complete(self, url: str) -> bool:
        """Return whether all bytes of a URL were received."""
        return self.is_of(url) and self.origin is not None and self.length == self.origin.total

    def is_of(self, url: str) -> bool:
        """Return whether the bytes are those of a URL."""
        return self.origin is not None and self.origin.url == shown_url(url)

    def begin(self, origin: Origin) -> None:
        """Start from the first byte."""
        self.restart()
        self._note.write_text(json.dumps(asdict(origin), indent=2), encoding="utf-8")
        self.origin = origin

    def restart(self) -> None:
        """Discard the bytes received so far, since the download cannot be resumed."""
        self._file.truncate(0)
        self._note.unlink(missing_ok=True)
        self.origin = None

    def write(self, block: bytes) -> None:
        """Add bytes at the end; they are passed to the operating system when this returns."""
        self._file.write(block)
        self._file.flush()

    def discard(self) -> None:
        """Remove it and its note."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def move_into_place(self) -> None:
        """Rename the complete file to its final name."""
        os.fsync(self._file.fileno())
        os.replace(self.path, self.target)
        self._note.unlink(missing_ok=True)

    def _is_at_path(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False


def fetch(url: str, partial: PartialFile, session: Session, show: Show = lambda received, total: None) -> None:
    """Fetch the missing part of a file.

    After a broken connection the download resumes where it stopped, if the server supports that and shows by ETag or
    date that the file is unchanged; otherwise the file is fetched from its first byte.

    Args:
        url: URL of the file.
        partial: The partial file to fill; complete when this returns.
        session: See ``open_session``.
        show: Called with the bytes received so far and the total, None if it is not known.

    Raises:
        MissingFileError: The server has no such file.
        InputError: It refuses access, or the URL is invalid.
        DownloadError: It does not answer, or breaks off again and again.
    """
    furthest, failures = partial.length, 0
    while not partial.is_complete(url):
        try:
            _attempt(url, partial, session, show)
            if partial.origin is not None and partial.origin.total is None:
                return
        except _TemporaryError as problem:
            failures = 0 if partial.length > furthest else failures + 1
            furthest = max(furthest, partial.length)
            if failures >= ATTEMPTS_WITHOUT_PROGRESS:
                raise DownloadError(
                    f"{shown_url(url)} cannot be fetched ({problem}): check the network, or name a mirror with --url; "
                    "the same command resumes where this one stopped."
                ) from None
            time.sleep(min(problem.pause or FIRST_PAUSE * 2**failures, LONGEST_PAUSE))


def _attempt(url: str, partial: PartialFile, session: Session, show: Show) -> None:
    """Request the missing part once, and write what comes.

    Raises:
        _TemporaryError: The part did not come, or not to its end; retry.
    """
    offset = partial.length if partial.is_of(url) else 0
    headers = {"Accept-Encoding": "identity", "x-amz-checksum-mode": "ENABLED"}
    if offset and partial.origin is not None and partial.origin.validator is not None:
        headers |= {"Range": f"bytes={offset}-", "If-Range": partial.origin.validator}
    try:
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as response:
            _check_status(response, url, partial)
            if response.status_code == 206:
                _check_range(response, partial, offset)
            else:
                partial.begin(Origin.of(response, url))
            _receive(response, partial, show)
    except (exceptions.InvalidURL, exceptions.InvalidSchema, exceptions.MissingSchema):
        raise InputError(f"{shown_url(url)} is not a URL to download from: give http://… or https://….") from None
    except exceptions.SSLError:
        raise DownloadError(f"{shown_url(url)} shows no certificate that can be trusted: check the address.") from None
    except exceptions.ProxyError:
        raise _TemporaryError("the proxy does not let it through") from None
    except exceptions.Timeout:
        raise _TemporaryError("the server does not answer in time") from None
    except exceptions.RequestException:
        raise _TemporaryError("the connection breaks off" if partial.length else "no connection") from None


def _check_status(response: Response, url: str, partial: PartialFile) -> None:
    status, where = response.status_code, shown_url(url)
    if status in (200, 206):
        return
    if status in (404, 410):
        raise MissingFileError(
            f"No file was found at {where} (HTTP {status}): check the address, or give another --url."
        )
    if status in (401, 403, 407):
        who = "the proxy" if status == 407 else "the server"
        raise InputError(f"{where} may not be read, {who} refuses it (HTTP {status}): check the address and rights.")
    if status == 416:  # the partial file is longer than the file is now
        raise _changed(partial)
    if status in _TEMPORARY:
        pause = response.headers.get("Retry-After", "")
        raise _TemporaryError(f"the server answers HTTP {status}", float(pause) if pause.isdigit() else None)
    raise DownloadError(f"{where} cannot be fetched (HTTP {status}): check the address, or name a mirror with --url.")


def _check_range(response: Response, partial: PartialFile, offset: int) -> None:
    """Check that the part begins where the last one ended and belongs to the same version of the file."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    known = partial.origin
    assert known is not None
    if found is None or int(found[1]) != offset or known.validator not in (None, validator(response.headers)):
        raise _changed(partial)
    if found[2] != "*" and known.total not in (None, int(found[2])):
        raise _changed(partial)


def _receive(response: Response, partial: PartialFile, show: Show) -> None:
    assert partial.origin is not None
    total = partial.origin.total
    show(partial.length, total)
    for block in response.iter_content(_BYTES_AT_ONCE):
        partial.write(block)
        show(partial.length, total)
    if total is not None and partial.length < total:
        raise _TemporaryError("the connection breaks off")
    if total is not None and partial.length > total:
        raise _changed(partial)


def _changed(partial: PartialFile) -> _TemporaryError:
    partial.restart()
    return _TemporaryError("the file changed while it was fetched", pause=0.01)


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
