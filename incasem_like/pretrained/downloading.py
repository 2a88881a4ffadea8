"""Download of published files: stored only if complete and with the right content, their hashes recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from requests import Session

from incasem_like.errors import DownloadError, IncasemError
from incasem_like.pretrained.checkpoint_run import read_imported
from incasem_like.pretrained.databases import check_archive
from incasem_like.pretrained.fetching import MissingFileError, base_url, fetched, file_url, list_objects, shown_url
from incasem_like.pretrained.manifest import CHECKPOINT_FOLDER, DownloadLog, PublishedFile, PublishedModel, file_prefix
from incasem_like.tracking.model.cache import file_sha256

Check = Callable[[Path], object]
Trust = Literal["manifest", "earlier", "server", "first"]


@dataclass(frozen=True)
class Downloaded:
    """A published file on this machine.

    ``trust`` says what it was compared with: the hash in the ``manifest``, that of an ``earlier`` download, the
    ``server``'s MD5, or nothing (``first``).
    """

    path: Path
    sha256: str
    is_new: bool
    trust: Trust


class Downloader:
    """Fetches published files into a models directory, ``models/``.

    ``source`` is the bucket's or a mirror's address, see ``base_url``; for the session see ``open_session``.
    """

    def __init__(self, models_directory: Path, source: str, session: Session) -> None:
        self.models_directory, self.base, self.session = models_directory, base_url(source), session
        self.log = DownloadLog(models_directory)

    def model(self, model_id: int, model: PublishedModel) -> Downloaded:
        """Download a model's checkpoint, by its name or, if that is missing, by its id; errors as for ``file``."""
        folder = self.models_directory / CHECKPOINT_FOLDER
        try:
            return self.file(model, folder / model.file, read_imported)
        except MissingFileError as missing:
            prefix = f"{model.key.rpartition('/')[0]}/{file_prefix(model_id)}".lstrip("/")
            try:
                (found,) = list_objects(self.base, prefix, self.session)
            except (DownloadError, ValueError):  # no listing; or none, or several of that id
                raise missing from None
            renamed = model.model_copy(update={"key": found.key, "file": found.key.rpartition("/")[2]})
            return self.file(renamed, folder / renamed.file, read_imported)

    def database(self, database: PublishedFile) -> Downloaded:
        """Download the archive of the training runs; errors as for ``file``."""
        return self.file(database, self.models_directory / database.file, check_archive)

    def file(self, published: PublishedFile, target: Path, check: Check) -> Downloaded:
        """Download a file unless it exists; ``check`` raises an ``IncasemError`` if one cannot be used.

        Raises:
            MissingFileError: The server has no such file.
            InputError: The server refuses access, or another process is downloading it.
            DownloadError: The server does not answer, or sent a file other than the published one or the one
                downloaded first, which is then removed. Or the existing file changed since it was downloaded.
        """
        logged = self.log.get(target)
        known = published.sha256 or (logged.sha256 if logged else "")
        trust: Trust = "manifest" if published.sha256 else "earlier" if logged else "first"
        if target.is_file():
            sha256 = file_sha256(target)
            if known and sha256 != known:
                expected = "published" if published.sha256 else "downloaded"
                raise DownloadError(
                    f"{target} is not what was {expected} (SHA-256 {sha256[:12]}…, not {known[:12]}…): delete it and "
                    "run the same command again."
                )
            if logged is None:
                check(target)
                self.log.add(target, sha256, "")
            return Downloaded(target, sha256, False, trust)
        url = file_url(self.base, published.key)
        where = shown_url(url)
        with fetched(url, target, self.session) as (part, origin):
            sha256 = file_sha256(part)
            if known and sha256 != known:
                expected, remedy = f"the published {target.name}", "name another source with --url"
                if logged and not published.sha256:
                    expected = f"the file that came first, on {logged.time[:10]}"
                    remedy += ", or accept the new one with --accept_changed"
                raise DownloadError(f"{where} is not {expected} (SHA-256 {sha256[:12]}…, not {known[:12]}…): {remedy}.")
            try:
                check(part)
            except IncasemError:
                raise DownloadError(
                    f"{where} sent something else than {target.name}, which cannot be read: name another source with "
                    "--url."
                ) from None
        self.log.add(target, sha256, where)
        return Downloaded(target, sha256, True, "server" if trust == "first" and origin.md5 else trust)
