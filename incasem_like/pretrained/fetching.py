"""Files from HTTP servers and public S3 buckets: resumable, never mixing parts of two versions of a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit, urlunsplit

from requests import Response, Session, exceptions
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from incasem_like.disk import lock
from incasem_like.errors import DownloadError, IncasemError, InputError
from incasem_like.tracking.model.cache import transfer_progress

ATTEMPTS_WITHOUT_PROGRESS = 5
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts
TIMEOUTS = (15.0, 60.0)  # seconds to connect, and to wait for data
_BYTES_AT_ONCE = 1 << 16
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_MD5 = re.compile(r"[0-9a-f]{32}")


class MissingFileError(InputError):
    """The server has no such file."""


def open_session(proxy: str | None = None) -> Session:
    """Make a session that retries requests which a server cannot answer now, for as long as the server asks for.

    Without ``proxy``, a URL, that of ``HTTPS_PROXY`` and similar variables is used.
    """
    session = Session()
    retry = Retry(
        ATTEMPTS_WITHOUT_PROGRESS, backoff_factor=FIRST_PAUSE, status_forcelist=_TEMPORARY, raise_on_status=False
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    if proxy is not None:
        session.proxies = {"http": proxy, "https": proxy}
        session.trust_env = False  # NO_PROXY would override a requested proxy
    return session


def shown_url(url: str) -> str:
    """Return a URL without the parts that may be secret: user, password, query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def base_url(address: str) -> str:
    """Convert the source that a user names to the base URL of the keys.

    ``s3://bucket/prefix`` is read anonymously over HTTPS; ``https://…`` and ``http://…`` remain.

    Example:
        >>> base_url("s3://asem-project")
        'https://asem-project.s3.amazonaws.com'
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
    parts = urlsplit(base)
    if parts.path.endswith(f"/{key.rpartition('/')[2]}") or parts.query:
        return base
    return f"{base}/{quote(key)}"


@dataclass(frozen=True)
class StoredObject:
    """An object of a bucket: its size in bytes, and its MD5 unless it was uploaded in several parts."""

    key: str
    size: int
    md5: str | None


def list_objects(base: str, prefix: str, session: Session) -> list[StoredObject]:
    """List the objects of a public bucket whose keys begin with ``prefix``, page by page.

    Raises:
        DownloadError: The bucket cannot be reached, or does not list its objects.
    """
    found: list[StoredObject] = []
    query = {"list-type": "2", "prefix": prefix}
    while True:
        try:
            page = session.get(f"{base}/", params=query, timeout=TIMEOUTS)
            root = ElementTree.fromstring(page.content if page.status_code == 200 else b"")
        except (exceptions.RequestException, ElementTree.ParseError) as error:
            raise DownloadError(
                f"{shown_url(base)} does not list its objects ({type(error).__name__}): check the network, or name a "
                "mirror with --url."
            ) from None
        for element in root.iterfind("{*}Contents"):
            tag = element.findtext("{*}ETag", "").strip('"')
            key, size = element.findtext("{*}Key", ""), int(element.findtext("{*}Size", "0"))
            found.append(StoredObject(key, size, tag if _MD5.fullmatch(tag) else None))
        if root.findtext("{*}IsTruncated") != "true":
            return found
        query["continuation-token"] = root.findtext("{*}NextContinuationToken", "")


@dataclass(frozen=True)
class Origin:
    """The origin of the bytes of a partial file.

    Attributes:
        url: URL without credentials or query.
        version: Strong ETag, else date, of that version of the file; None if the download cannot be resumed, since the
            server gives neither, or no length.
        total: Length of the whole file in bytes, or None.
        md5: MD5 of the whole file, in hexadecimal, if the server gives it.
    """

    url: str
    version: str | None
    total: int | None
    md5: str | None


@contextlib.contextmanager
def fetched(
    url: str, target: Path, session: Session, listed: StoredObject | None = None
) -> Iterator[tuple[Path, Origin]]:
    """Fetch a file beside its final path, for a block that verifies it; then rename it.

    ``<target>.part`` and a note of its origin outlive the process. After a broken connection, or in another process,
    the download resumes where it stopped, if the server supports that and shows by ETag or date that the file is
    unchanged; otherwise it starts again. A file whose length or MD5 differs from the server's, or that the block
    rejects with an ``IncasemError``, is deleted. Of one of many files, its entry in the bucket's listing is ``listed``,
    and no progress is shown. Yields the complete file, not yet in place, and its origin.

    Raises:
        MissingFileError: The server has no such file.
        InputError: It refuses access, the URL is invalid, or another process is downloading the file.
        DownloadError: The server does not answer, or breaks off again and again; or the file was damaged on the way.
    """
    part, note = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "ab") as file:  # locked while it is open
        # A process that had the lock before may have moved this file into place since it was opened here.
        locked = lock(file.fileno(), wait=False)
        if not locked or not part.exists() or not os.path.samestat(os.fstat(file.fileno()), os.stat(part)):
            raise InputError(f"{target} is being downloaded by another process: wait until that is done.")
        origin = _fetch(url, file, note, session, None if listed else target.name)
        try:
            md5 = listed.md5 if listed is not None and listed.md5 else origin.md5
            if not holds(part, StoredObject("", listed.size if listed else part.stat().st_size, md5)):
                raise DownloadError(
                    f"{shown_url(url)} was damaged on the way (its size or MD5 is not the server's): run the same "
                    "command again."
                )
            yield part, origin
        except IncasemError:
            part.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
            raise
        os.fsync(file.fileno())
        os.replace(part, target)
        note.unlink(missing_ok=True)


def holds(path: Path, listed: StoredObject) -> bool:
    """Return whether a file has the length and the MD5 of an object in a listing."""
    if not path.is_file() or path.stat().st_size != listed.size:
        return False
    with open(path, "rb") as file:
        md5 = listed.md5 and hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return md5 == listed.md5


def _fetch(url: str, file: IO[bytes], note: Path, session: Session, name: str | None) -> Origin:
    """Fetch the missing part of a file, with retries; its progress is shown under a name, if that is given."""
    origin: Origin | None = None
    with contextlib.suppress(OSError, ValueError, TypeError):
        origin = Origin(**json.loads(note.read_text(encoding="utf-8")))
    failures, furthest, pause = -1, 0, 0.0
    while True:
        if origin is None or origin.version is None or origin.url != shown_url(url):
            file.truncate(0)
            origin = None
        reached = os.fstat(file.fileno()).st_size
        if origin is not None and reached == origin.total:
            return origin
        failures, furthest = (0, reached) if reached > furthest else (failures + 1, furthest)
        if failures >= ATTEMPTS_WITHOUT_PROGRESS:
            raise DownloadError(
                f"{shown_url(url)} cannot be fetched (the connection breaks off): check the network, or name a mirror "
                "with --url; the same command resumes where this one stopped."
            )
        time.sleep(pause)
        pause = min(FIRST_PAUSE * 2**failures, LONGEST_PAUSE)
        headers = {"Accept-Encoding": "identity"}
        if reached and origin is not None:
            headers |= {"Range": f"bytes={reached}-", "If-Range": str(origin.version)}
        with _requested(url, session, headers) as response, contextlib.suppress(exceptions.RequestException):
            if response.status_code == 200:
                file.truncate(0)
                origin = _origin(response, url)
                note.write_text(json.dumps(asdict(origin), indent=2), encoding="utf-8")
            elif origin is None or not _continues(response, origin, reached):
                origin = None  # the file changed while it was fetched
                continue
            missing = (origin.total or 0) - os.fstat(file.fileno()).st_size
            with transfer_progress(f"Downloading {name}", missing if name is not None else 0) as advance:
                for block in response.iter_content(_BYTES_AT_ONCE):
                    file.write(block)
                    file.flush()
                    advance(len(block))
            if origin.total in (None, os.fstat(file.fileno()).st_size):
                return origin


@contextlib.contextmanager
def _requested(url: str, session: Session, headers: dict[str, str]) -> Iterator[Response]:
    """Request a file or its missing part; yield the response if it carries it, or says that the file has changed."""
    where = shown_url(url)
    try:
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUTS)
    except exceptions.RequestException as error:
        if isinstance(error, ValueError):
            raise InputError(f"{where} is not a URL to download from: give http://… or https://….") from None
        reason = "no certificate that can be trusted" if isinstance(error, exceptions.SSLError) else "no connection"
        raise DownloadError(
            f"{where} cannot be fetched ({reason}): check the network and the address, or name a mirror with --url; "
            "the same command resumes where this one stopped."
        ) from None
    with response:
        status = response.status_code
        if status in (404, 410):
            raise MissingFileError(
                f"No file was found at {where} (HTTP {status}): check the address, or give another --url."
            )
        if status in (401, 403, 407):
            raise InputError(f"{where} refuses access (HTTP {status}): check address, rights and proxy.")
        if status not in (200, 206, 416):
            raise DownloadError(
                f"{where} cannot be fetched (HTTP {status}): check the address, or name a mirror with --url."
            )
        yield response


def _origin(response: Response, url: str) -> Origin:
    """Read the origin of a file from the headers of a response that carries the whole of it.

    S3's ETag is the MD5 of a file that was uploaded in one part; other servers' ETags have no defined meaning.
    """
    headers = response.headers
    length = headers.get("Content-Length", "")
    if not length.isdigit() or headers.get("Content-Encoding", "identity") != "identity":
        return Origin(shown_url(url), None, None, None)
    tag = headers.get("ETag", "").strip('"') if "x-amz-request-id" in headers else ""
    return Origin(shown_url(url), _version(headers), int(length), tag if _MD5.fullmatch(tag) else None)


def _version(headers: Mapping[str, str]) -> str | None:
    """Return what identifies a version of a file: its strong ETag, else its date, else None."""
    etag = headers.get("ETag")
    # a weak one promises the same meaning, not the same bytes
    return headers.get("Last-Modified") if etag is None or etag.startswith("W/") else etag


def _continues(response: Response, origin: Origin, length: int) -> bool:
    """Return whether a part begins where the last one ended and belongs to the same version of the file."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    is_next = found is not None and int(found[1]) == length and found[2] in ("*", str(origin.total))
    return is_next and origin.version == _version(response.headers)
