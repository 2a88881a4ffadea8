"""Download of published files: stored only if complete and with the right content, their hashes recorded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

from requests import RequestException, Session

from incasem_like.errors import DownloadError, IncasemError, InputError
from incasem_like.pretrained.checkpoint_run import read_whole
from incasem_like.pretrained.fetching import TIMEOUTS, MissingFileError, Origin, fetched, shown_url
from incasem_like.pretrained.manifest import CHECKPOINT_FOLDER, DownloadLog, PublishedFile, PublishedModel, file_prefix
from incasem_like.pretrained.mongodump import read_prelude

_BYTES_AT_ONCE = 1 << 20
Check = Callable[[Path], object]
Trust = Literal["manifest", "earlier", "server", "first"]


@dataclass(frozen=True)
class Downloaded:
    """A published file on this machine.

    Attributes:
        path: Path of the file.
        sha256: SHA-256 of the file.
        is_new: Whether it was fetched now.
        trust: What the hash was compared with: the ``manifest``, an ``earlier`` download, the ``server``'s digest, or
            nothing (``first``).
    """

    path: Path
    sha256: str
    is_new: bool
    trust: Trust


class Downloader:
    """Fetches published files into a models directory.

    Args:
        models_directory: ``models/``.
        source: The bucket's or a mirror's address; see ``base_url``.
        session: See ``open_session``.

    Raises:
        InputError: ``source`` is not an address.
    """

    def __init__(self, models_directory: Path, source: str, session: Session) -> None:
        self.models_directory, self.base, self.session = models_directory, base_url(source), session
        self.log = DownloadLog(models_directory)

    def model(self, model_id: int, model: PublishedModel) -> Downloaded:
        """Download a model's checkpoint, by its name or, if that is missing, by its id; errors as for ``file``."""
        folder = self.models_directory / CHECKPOINT_FOLDER
        try:
            return self.file(model, folder / model.file, read_whole)
        except MissingFileError:
            directory = model.key.rpartition("/")[0]
            found = keys_with_prefix(self.base, f"{directory}/{file_prefix(model_id)}".lstrip("/"), self.session)
            if len(found) != 1:
                raise
            renamed = model.model_copy(update={"key": found[0], "file": found[0].rpartition("/")[2]})
            return self.file(renamed, folder / renamed.file, read_whole)

    def database(self, database: PublishedFile) -> Downloaded:
        """Download the archive of the training runs; errors as for ``file``."""
        return self.file(database, self.models_directory / database.file, read_prelude)

    def file(self, published: PublishedFile, target: Path, check: Check) -> Downloaded:
        """Download a file unless it exists.

        Args:
            published: The published file.
            target: Path to store it at.
            check: Raises an ``IncasemError`` if a file cannot be used.

        Raises:
            MissingFileError: The server has no such file.
            InputError: The server refuses access, or another process is downloading it.
            DownloadError: The server does not answer, or sent a file other than the published one or the one
                downloaded first, which is then removed. Or the existing file changed since it was downloaded.
        """
        if target.is_file():
            return self._check_present(published, target, check)
        url = file_url(self.base, published.key)
        with fetched(url, target, self.session) as (part, origin):
            sha256, trust = self._verify(published, target, part, origin, check)
        self.log.add(target, sha256, shown_url(url))
        return Downloaded(target, sha256, True, trust)

    def _check_present(self, published: PublishedFile, target: Path, check: Check) -> Downloaded:
        sha256, logged = digest_file(target, ["sha256"])["sha256"], self.log.get(target)
        known = published.sha256 or (logged.sha256 if logged else None)
        if known is not None and sha256 != known:
            expected = "published" if published.sha256 else "downloaded"
            raise DownloadError(
                f"{target} is not what was {expected} (SHA-256 {sha256[:12]}…, not {known[:12]}…): delete it and run "
                "the same command again."
            )
        if logged is None:
            check(target)
            self.log.add(target, sha256, "")
        return Downloaded(target, sha256, False, "manifest" if published.sha256 else "earlier" if logged else "first")

    def _verify(
        self, published: PublishedFile, target: Path, part: Path, origin: Origin, check: Check
    ) -> tuple[str, Trust]:
        """Compare a complete download with every known digest; return its SHA-256 and what it was compared with."""
        claimed, where = origin.digests, origin.url
        digests, logged = digest_file(part, {"sha256", *claimed}), self.log.get(target)
        sha256 = digests["sha256"]
        for name, value in claimed.items():
            if digests[name] != value:
                raise DownloadError(
                    f"What came from {where} was damaged on the way ({name.upper()} {digests[name][:12]}…, the server "
                    f"has {value[:12]}…): run the same command again."
                )
        if published.sha256 is not None and sha256 != published.sha256:
            raise DownloadError(
                f"{where} is not the published {target.name} (SHA-256 {sha256[:12]}…, not "
                f"{published.sha256[:12]}…): name another source with --url."
            )
        if logged is not None and published.sha256 is None and sha256 != logged.sha256:
            raise DownloadError(
                f"{where} is not the file that came first, on {logged.time[:10]} (SHA-256 {sha256[:12]}…, not "
                f"{logged.sha256[:12]}…): name another source with --url, or accept the new one with --accept_changed."
            )
        try:
            check(part)
        except IncasemError:
            raise DownloadError(
                f"{where} sent something else than {target.name}, which cannot be read: name another source with --url."
            ) from None
        if published.sha256 is not None:
            return sha256, "manifest"
        return sha256, "earlier" if logged is not None else "server" if claimed else "first"


def base_url(address: str) -> str:
    """Convert the source that a user names to the base URL of the keys.

    Args:
        address: ``https://…``, ``http://…``, or ``s3://bucket/prefix``, which is read anonymously over HTTPS.

    Raises:
        InputError: It has another form.

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


def keys_with_prefix(base: str, prefix: str, session: Session) -> list[str]:
    """List a bucket's keys that begin with ``prefix``; empty if the server is not a bucket or does not list."""
    try:
        page = session.get(f"{base}/", params={"list-type": "2", "prefix": prefix}, timeout=TIMEOUTS)
    except RequestException:
        return []
    if page.status_code != 200 or "<ListBucketResult" not in page.text:
        return []
    keys = [unescape(key) for key in re.findall(r"<Key>([^<]*)</Key>", page.text)]
    return [key for key in keys if key.startswith(prefix)]


def digest_file(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """Compute digests of a file in one pass, in hexadecimal by algorithm."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with open(path, "rb") as file:
        while block := file.read(_BYTES_AT_ONCE):
            for digest in hashes.values():
                digest.update(block)
    return {name: digest.hexdigest() for name, digest in hashes.items()}
