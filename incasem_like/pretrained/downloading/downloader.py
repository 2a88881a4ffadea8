"""Download of a published file: stored only if it is complete and has the right content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from incasem_like.errors import DownloadError, IncasemError
from incasem_like.pretrained.downloading.bucket import base_url, file_url, keys_with_prefix
from incasem_like.pretrained.downloading.digests import digest_file
from incasem_like.pretrained.downloading.fetching import NotThereError, Show, fetch, shown_url
from incasem_like.pretrained.downloading.log import DownloadLog
from incasem_like.pretrained.downloading.partial_file import PartialFile
from incasem_like.pretrained.manifest import CHECKPOINT_FOLDER, PublishedFile, PublishedModel, file_prefix

if TYPE_CHECKING:
    from requests import Session


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
    trust: Literal["manifest", "earlier", "server", "first"]


class Downloader:
    """Fetches published files into a models directory.

    Args:
        models_directory: ``models/``.
        source: The bucket's or a mirror's address; see ``base_url``.
        session: See ``open_session``.
        show: See ``fetch``.

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
        """Download a model's checkpoint; errors as for ``file``."""
        folder = self.models_directory / CHECKPOINT_FOLDER
        try:
            return self.file(model, folder / model.file, CHECKPOINT)
        except NotThereError:
            directory = model.key.rpartition("/")[0]
            prefix = f"{directory}/{file_prefix(model_id)}".lstrip("/")
            found = keys_with_prefix(self.base, prefix, self.session)
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
            NotThereError: The server has no such file.
            InputError: The server refuses access, or another process is downloading it.
            DownloadError: The server does not answer, or sent a file other than the published one or the one
                downloaded first, which is then removed. Or the existing file changed since it was downloaded.
        """
        if target.is_file():
            return self._file_here(published, target, content)
        url = file_url(self.base, published.key)
        with PartialFile(target) as partial:
            fetch(url, partial, self.session, self.show(target.name))
            try:
                sha256, trust = self._verify(published, target, partial, content)
            except IncasemError:
                partial.discard()
                raise
            partial.move_into_place()
        self.log.add(target, sha256, shown_url(url))
        return Downloaded(target, sha256, "fetched", trust)

    def _file_here(self, published: PublishedFile, target: Path, content: Content) -> Downloaded:
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

    def _verify(
        self, published: PublishedFile, target: Path, partial: PartialFile, content: Content
    ) -> tuple[str, Literal["manifest", "earlier", "server", "first"]]:
        assert partial.origin is not None
        claimed, where = partial.origin.digests, partial.origin.url
        digests = digest_file(partial.path, {"sha256", *claimed})
        for name, value in claimed.items():
            if digests[name] != value:
                raise DownloadError(
                    f"What came from {where} was damaged on the way ({name.upper()} {digests[name][:12]}…, the server "
                    f"has {value[:12]}…): run the same command again."
                )
        sha256, logged = digests["sha256"], self.log.get(target)
        if published.sha256 is not None and sha256 != published.sha256:
            raise DownloadError(
                f"{where} is not the published {target.name} (SHA-256 {sha256[:12]}…, not {published.sha256[:12]}…): "
                "name another source with --url."
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


def check_checkpoint(path: Path) -> None:
    """Check that a file is a checkpoint of tensors and plain values.

    Raises:
        CheckpointError: It is not.
    """
    from incasem_like.pretrained.checkpoint_run import read_whole

    read_whole(path)


def check_archive(path: Path) -> None:
    """Check that a file begins like an archive of ``mongodump``.

    Raises:
        DataError: It does not.
    """
    from incasem_like.pretrained.dumps.archive import open_archive

    with open_archive(path) as archive:
        archive.prelude()


CHECKPOINT = Content("a checkpoint of tensors and plain values", check_checkpoint)
ARCHIVE = Content("an archive that mongodump wrote", check_archive)
