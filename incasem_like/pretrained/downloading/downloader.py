"""Downloading a published file: whole, of the right content, or not at all."""

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
    """What a file has to be.

    Attributes:
        words: With its article.
        check: Raises an ``IncasemError`` when a file is something else.
    """

    words: str
    check: Callable[[Path], object]


@dataclass(frozen=True)
class Downloaded:
    """A published file that is here.

    Attributes:
        path: Where.
        sha256: Of its content.
        how: ``fetched`` now; ``there`` already, as it was downloaded; ``found`` here without a record, now recorded.
        trust: What the hash was held against: the ``manifest``, an ``earlier`` download, the ``server``'s word, or
            nothing before (``first``).
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
        InputError: ``source`` is no address.
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
        """Download a file unless it is here.

        Args:
            published: What it is.
            target: Where it goes.
            content: What it has to be.

        Raises:
            NotThereError: The server has no such file.
            InputError: The server refuses to give it, or another process is downloading it.
            DownloadError: The server does not answer, or what it sent is not the file that was published or came
                before; nothing is left of that. Or the file that is here changed since it was downloaded.
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
    """Make sure that a file is a checkpoint of tensors and plain values.

    Raises:
        CheckpointError: It is not.
    """
    from incasem_like.pretrained.checkpoint_run import read_whole

    read_whole(path)


def check_archive(path: Path) -> None:
    """Make sure that a file begins as an archive of ``mongodump`` does.

    Raises:
        DataError: It does not.
    """
    from incasem_like.pretrained.dumps.archive import open_archive

    with open_archive(path) as archive:
        archive.prelude()


CHECKPOINT = Content("a checkpoint of tensors and plain values", check_checkpoint)
ARCHIVE = Content("an archive that mongodump wrote", check_archive)
