"""Download of published files: stored only whole and with the right content, their hashes recorded."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

from requests import RequestException, Session

from incasem_like.disk import exclusive, write_whole
from incasem_like.errors import DownloadError, IncasemError, InputError
from incasem_like.pretrained.fetching import TIMEOUTS, MissingFileError, PartialFile, Show, fetch, shown_url
from incasem_like.pretrained.manifest import CHECKPOINT_FOLDER, PublishedFile, PublishedModel, file_prefix

LOG_NAME = "downloads.json"
_BYTES_AT_ONCE = 1 << 20
Trust = Literal["manifest", "earlier", "server", "first"]


@dataclass(frozen=True)
class Content:
    """The content that a file must have.

    Attributes:
        words: Its name, with article.
        check: Raises an ``IncasemError`` if a file has other content.
    """

    words: str
    check: Callable[[Path], object]


@dataclass(frozen=True)
class Downloaded:
    """A published file on this machine.

    Attributes:
        path: Path of the file.
        sha256: SHA-256 of the file.
        how: ``fetched`` now; ``there`` already, as it was downloaded; ``found`` without a record, now recorded.
        trust: What the hash was compared with: the ``manifest``, an ``earlier`` download, the ``server``'s digest, or
            nothing (``first``).
    """

    path: Path
    sha256: str
    how: Literal["fetched", "there", "found"]
    trust: Trust


class Downloader:
    """Fetches published files into a models directory.

    Args:
        models_directory: ``models/``.
        source: The bucket's or a mirror's address; see ``base_url``.
        session: See ``open_session``.
        show: Returns, for the name of a file, the function that is called with the bytes received so far and the
            total, None if it is not known.

    Raises:
        InputError: ``source`` is not an address.
    """

    def __init__(
        self,
        models_directory: Path,
        source: str,
        session: Session,
        show: Callable[[str], Show] = lambda name: lambda received, total: None,
    ) -> None:
        self.models_directory = models_directory
        self.base = base_url(source)
        self.session = session
        self.show = show
        self.log = DownloadLog(models_directory)

    def model(self, model_id: int, model: PublishedModel) -> Downloaded:
        """Download a model's checkpoint, by its name or, if that is missing, by its id; errors as for ``file``."""
        folder = self.models_directory / CHECKPOINT_FOLDER
        try:
            return self.file(model, folder / model.file, CHECKPOINT)
        except MissingFileError:
            directory = model.key.rpartition("/")[0]
            found = keys_with_prefix(self.base, f"{directory}/{file_prefix(model_id)}".lstrip("/"), self.session)
            if len(found) != 1:
                raise
            renamed = model.model_copy(update={"key": found[0], "file": found[0].rpartition("/")[2]})
            return self.file(renamed, folder / renamed.file, CHECKPOINT)

    def database(self, database: PublishedFile) -> Downloaded:
        """Download the archive of the training runs; errors as for ``file``."""
        return self.file(database, self.models_directory / database.file, ARCHIVE)

    def file(self, published: PublishedFile, target: Path, content: Content) -> Downloaded:
        """Download a file unless it exists.

        Args:
            published: The published file.
            target: Path to store it at.
            content: The content that it must have.

        Raises:
            MissingFileError: The server has no such file.
            InputError: The server refuses access, or another process is downloading it.
            DownloadError: The server does not answer, or sent a file other than the published one or the one
                downloaded first, which is then removed. Or the existing file changed since it was downloaded.
        """
        if target.is_file():
            return self._check_present(published, target, content)
        url = file_url(self.base, published.key)
        with PartialFile(target) as partial:
            fetch(url, partial, self.session, self.show(target.name))
            try:
                sha256, trust = self._verify(published, partial, content)
            except IncasemError:
                partial.discard()
                raise
            partial.move_into_place()
        self.log.add(target, sha256, shown_url(url))
        return Downloaded(target, sha256, "fetched", trust)

    def _check_present(self, published: PublishedFile, target: Path, content: Content) -> Downloaded:
        sha256 = digest_file(target, ["sha256"])["sha256"]
        logged = self.log.get(target)
        known = published.sha256 or (logged.sha256 if logged else None)
        if known is not None and sha256 != known:
            expected = "published" if published.sha256 else "downloaded"
            raise DownloadError(
                f"{target} is not what was {expected} (SHA-256 {sha256[:12]}…, not {known[:12]}…): delete it and run "
                "the same command again."
            )
        if logged is not None:
            return Downloaded(target, sha256, "there", "manifest" if published.sha256 else "earlier")
        content.check(target)
        self.log.add(target, sha256, "")
        return Downloaded(target, sha256, "found", "manifest" if published.sha256 else "first")

    def _verify(self, published: PublishedFile, partial: PartialFile, content: Content) -> tuple[str, Trust]:
        """Compare a complete download with every known digest; return its SHA-256 and what it was compared with."""
        assert partial.origin is not None
        claimed, where = partial.origin.digests, partial.origin.url
        digests = digest_file(partial.path, {"sha256", *claimed})
        for name, value in claimed.items():
            if digests[name] != value:
                raise DownloadError(
                    f"What came from {where} was damaged on the way ({name.upper()} {digests[name][:12]}…, the server "
                    f"has {value[:12]}…): run the same command again."
                )
        sha256, logged = digests["sha256"], self.log.get(partial.target)
        if published.sha256 is not None and sha256 != published.sha256:
            raise DownloadError(
                f"{where} is not the published {partial.target.name} (SHA-256 {sha256[:12]}…, not "
                f"{published.sha256[:12]}…): name another source with --url."
            )
        if logged is not None and published.sha256 is None and sha256 != logged.sha256:
            raise DownloadError(
                f"{where} is not the file that came first, on {logged.time[:10]} (SHA-256 {sha256[:12]}…, not "
                f"{logged.sha256[:12]}…): name another source with --url, or accept the new one with --accept_changed."
            )
        try:
            content.check(partial.path)
        except IncasemError:
            raise DownloadError(
                f"What came from {where} is not {content.words}: name another source with --url."
            ) from None
        if published.sha256 is not None:
            return sha256, "manifest"
        return sha256, "earlier" if logged is not None else "server" if claimed else "first"


def _check_checkpoint(path: Path) -> None:
    from incasem_like.pretrained.checkpoint_run import read_whole

    read_whole(path)


def _check_archive(path: Path) -> None:
    from incasem_like.pretrained.mongodump import read_prelude

    read_prelude(path)


CHECKPOINT = Content("a checkpoint of tensors and plain values", _check_checkpoint)
ARCHIVE = Content("an archive that mongodump wrote", _check_archive)


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


@dataclass(frozen=True)
class LoggedFile:
    """The record of a downloaded file.

    Attributes:
        sha256: SHA-256 of the file at its first download.
        bytes: Its length.
        url: URL it came from, without credentials; empty for a file that was found on disk.
        time: Time of the download, UTC, ISO 8601.
    """

    sha256: str
    bytes: int
    url: str
    time: str


class DownloadLog:
    """``models/downloads.json``: the hash of each file at its first download, which later copies must match.

    Files are recorded by their path below the models directory.
    """

    def __init__(self, models_directory: Path) -> None:
        self.models_directory = models_directory
        self.path = models_directory / LOG_NAME

    def get(self, file: Path) -> LoggedFile | None:
        """Look a file up."""
        return self._read().get(self._name(file))

    def add(self, file: Path, sha256: str, url: str) -> None:
        """Record a file that exists now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._set(file, LoggedFile(sha256, file.stat().st_size, url, now))

    def forget(self, file: Path) -> None:
        """Remove the record of a file, so that the next copy is accepted whatever its content."""
        self._set(file, None)

    def _name(self, file: Path) -> str:
        return os.path.relpath(file, self.models_directory)

    def _read(self) -> dict[str, LoggedFile]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return {name: LoggedFile(**entry) for name, entry in content.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError):
            raise InputError(
                f"{self.path} is damaged: repair it, or delete it and trust the next copy of each model as the first."
            ) from None

    def _set(self, file: Path, record: LoggedFile | None) -> None:
        """Read, change and write the log, one process at a time, since another model may be downloaded at once."""
        self.models_directory.mkdir(parents=True, exist_ok=True)
        with exclusive(self.models_directory):
            entries = {**self._read(), self._name(file): record}
            kept = {name: asdict(entry) for name, entry in sorted(entries.items()) if entry is not None}
            write_whole(self.path, lambda opened: opened.write(json.dumps(kept, indent=2).encode() + b"\n"))
