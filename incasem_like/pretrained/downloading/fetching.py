"""Download of a file over HTTP: resumable, and never mixing parts of two different versions of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from incasem_like.errors import DownloadError, InputError
from incasem_like.pretrained.downloading.digests import digests_in
from incasem_like.pretrained.downloading.partial_file import Origin, PartialFile

if TYPE_CHECKING:
    from requests import Response, Session

ATTEMPTS_WITHOUT_PROGRESS = 5
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
SECONDS_TO_CONNECT, SECONDS_TO_WAIT = 15.0, 60.0
_BYTES_AT_ONCE = 1 << 16
_PASSING = (408, 425, 429, 500, 502, 503, 504)

Show = Callable[[int, int | None], None]


class NotThereError(InputError):
    """The server has no such file."""


class _PassingError(Exception):
    """A temporary error: its message, and in ``pause`` the seconds to wait that the server requests."""

    def __init__(self, words: str, pause: float | None = None) -> None:
        super().__init__(words)
        self.pause = pause


def open_session(proxy: str | None = None) -> Session:
    """Make a session; ``proxy`` is a URL, by default that of ``HTTPS_PROXY`` and similar variables."""
    import requests

    session = requests.Session()
    if proxy is not None:
        session.proxies = {"http": proxy, "https": proxy}
        session.trust_env = False  # NO_PROXY would override a requested proxy
    return session


def shown_url(url: str) -> str:
    """Return a URL without the parts that may be secret: user, password, query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


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
        NotThereError: The server has no such file.
        InputError: It refuses access, or the URL is invalid.
        DownloadError: It does not answer, or breaks off again and again.
    """
    furthest, failures = partial.length, 0
    while not (partial.is_whole and _is_of(partial, url)):
        try:
            _attempt(url, partial, session, show)
            if partial.origin is not None and partial.origin.total is None:
                return
        except _PassingError as problem:
            failures = 0 if partial.length > furthest else failures + 1
            furthest = max(furthest, partial.length)
            if failures >= ATTEMPTS_WITHOUT_PROGRESS:
                raise DownloadError(
                    f"{shown_url(url)} cannot be fetched ({problem}): check the network, or name a mirror with --url; "
                    "the same command resumes where this one stopped."
                ) from None
            time.sleep(min(problem.pause or FIRST_PAUSE * 2**failures, LONGEST_PAUSE))


def get_text(url: str, session: Session, params: Mapping[str, str], limit: int = 1 << 22) -> str | None:
    """Get a small page, or None if the server does not return one."""
    import requests

    try:
        with session.get(url, params=dict(params), stream=True, timeout=(SECONDS_TO_CONNECT, SECONDS_TO_WAIT)) as page:
            if page.status_code != 200:
                return None
            return b"".join(page.iter_content(_BYTES_AT_ONCE))[:limit].decode("utf-8", "replace")
    except requests.RequestException:
        return None


def _attempt(url: str, partial: PartialFile, session: Session, show: Show) -> None:
    import requests

    offset = partial.length if _is_of(partial, url) else 0
    headers = {"Accept-Encoding": "identity", "x-amz-checksum-mode": "ENABLED"}
    if offset and partial.origin is not None and partial.origin.validator is not None:
        headers |= {"Range": f"bytes={offset}-", "If-Range": partial.origin.validator}
    try:
        with session.get(url, headers=headers, stream=True, timeout=(SECONDS_TO_CONNECT, SECONDS_TO_WAIT)) as response:
            _check_status(response, url, partial)
            if response.status_code == 206:
                _check_range(response, partial, offset)
            else:
                partial.begin(_origin(response, url))
            _receive(response, partial, show)
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
        raise InputError(f"{shown_url(url)} is not a URL to download from: give http://… or https://….") from None
    except requests.exceptions.SSLError:
        raise DownloadError(f"{shown_url(url)} shows no certificate that can be trusted: check the address.") from None
    except requests.exceptions.ProxyError:
        raise _PassingError("the proxy does not let it through") from None
    except requests.exceptions.Timeout:
        raise _PassingError("the server does not answer in time") from None
    except requests.exceptions.RequestException:
        raise _PassingError("the connection breaks off" if partial.length else "no connection") from None


def _check_status(response: Response, url: str, partial: PartialFile) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    where = shown_url(url)
    if status in (404, 410):
        raise NotThereError(f"No file was found at {where} (HTTP {status}): check the address, or give another --url.")
    if status in (401, 403, 407):
        who = "the proxy" if status == 407 else "the server"
        raise InputError(f"{where} may not be read, {who} refuses it (HTTP {status}): check the address and rights.")
    if status == 416:  # the partial file is longer than the file is now
        partial.restart()
        raise _PassingError("the file changed while it was fetched", pause=0.01)
    if status in _PASSING:
        raise _PassingError(f"the server says HTTP {status}", _retry_after(response))
    raise DownloadError(f"{where} cannot be fetched (HTTP {status}): check the address, or name a mirror with --url.")


def _check_range(response: Response, partial: PartialFile, offset: int) -> None:
    """Check that the part begins where the last one ended and belongs to the same version of the file."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    known = partial.origin
    assert known is not None
    same = known.validator in (None, _validator(response)) and found is not None and int(found[1]) == offset
    if not same or (found is not None and found[2] != "*" and known.total not in (None, int(found[2]))):
        partial.restart()
        raise _PassingError("the file changed while it was fetched", pause=0.01)


def _receive(response: Response, partial: PartialFile, show: Show) -> None:
    assert partial.origin is not None
    total = partial.origin.total
    show(partial.length, total)
    for block in response.iter_content(_BYTES_AT_ONCE):
        partial.write(block)
        show(partial.length, total)
    if total is not None and partial.length < total:
        raise _PassingError("the connection breaks off")
    if total is not None and partial.length > total:
        partial.restart()
        raise _PassingError("the server sends more than it announced")


def _origin(response: Response, url: str) -> Origin:
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    length = response.headers.get("Content-Length", "")
    return Origin(
        shown_url(url),
        None if encoded else _validator(response),
        int(length) if length.isdigit() and not encoded else None,
        {} if encoded else digests_in(response.headers),
    )


def _validator(response: Response) -> str | None:
    etag = response.headers.get("ETag")
    if etag is not None and not etag.startswith("W/"):  # a weak one promises the same meaning, not the same bytes
        return str(etag)
    modified = response.headers.get("Last-Modified")
    return None if modified is None else str(modified)


def _is_of(partial: PartialFile, url: str) -> bool:
    return partial.origin is not None and partial.origin.url == shown_url(url)


def _retry_after(response: Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None
