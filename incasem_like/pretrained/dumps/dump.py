"""A database dumped by ``mongodump``, to an archive or a folder: its collections as files of BSON documents."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from incasem_like.errors import DataError, InputError
from incasem_like.pretrained.dumps.archive import Namespace, decode, open_archive, open_perhaps_compressed

RUNS, METRICS, FILES, CHUNKS = "runs", "metrics", "fs.files", "fs.chunks"


@dataclass(frozen=True)
class Place:
    """The position of a document in a collection's file: its first byte and its length."""

    start: int
    length: int


class Collection:
    """The documents of one collection, in the order of the dump.

    Args:
        path: A file of concatenated BSON documents, not compressed; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for document, _ in self.places():
            yield document

    def places(self) -> Iterator[tuple[dict[str, Any], Place]]:
        """Yield each document with its position.

        Raises:
            DataError: The file is damaged.
        """
        if not self.path.is_file():
            return
        with open(self.path, "rb") as file:
            while head := file.read(4):
                start, length = file.tell() - len(head), int.from_bytes(head, "little", signed=True)
                content = head + (file.read(length - 4) if length > 4 else b"")
                if len(content) != length:
                    raise DataError(f"{self.path} breaks off in the middle of a document: fetch it again.")
                yield decode(content, self.path), Place(start, length)

    def read(self, place: Place) -> dict[str, Any]:
        """Read one document."""
        with open(self.path, "rb") as file:
            file.seek(place.start)
            return decode(file.read(place.length), self.path)


@dataclass(frozen=True)
class Dump:
    """One database of a dump.

    Attributes:
        source: The archive or folder, for messages.
        database: Name of the dumped database.
        folder: Holds ``<collection>.bson``.
    """

    source: Path
    database: str
    folder: Path

    def collection(self, name: str) -> Collection:
        """Return a collection; one that is missing from the dump is empty."""
        return Collection(self.folder / f"{name}.bson")


@contextlib.contextmanager
def open_dump(path: Path, database: str | None = None) -> Iterator[Dump]:
    """Open a dump, an archive (perhaps compressed) or a folder of ``.bson`` or ``.bson.gz`` files.

    Args:
        path: The archive; or the folder of the dump or of one database of it.
        database: Which database; by default the one that holds runs.

    Raises:
        DataError: It is damaged, or not a dump.
        InputError: It holds no runs, or several databases with runs and none is named.
    """
    with tempfile.TemporaryDirectory(prefix="incasem-dump-") as temporary:
        folder = Path(temporary)
        if path.is_dir():
            name, source = _choose(path, {child.name: child for child in _database_folders(path)}, database)
            _expand(source, folder)
        else:
            name = _unpack(path, database, folder)
        yield Dump(path, name, folder)


def is_dump_folder(path: Path) -> bool:
    """Return whether a folder was written by ``mongodump`` without ``--archive``."""
    return path.is_dir() and bool(_database_folders(path))


def _database_folders(path: Path) -> list[Path]:
    """Find the folders with a collection of runs: this one, or those in it."""
    candidates = [path, *sorted(child for child in path.iterdir() if child.is_dir())]
    return [folder for folder in candidates if any((folder / f"{RUNS}.bson{end}").is_file() for end in ("", ".gz"))]


def _choose(path: Path, found: dict[str, Any], database: str | None) -> tuple[str, Any]:
    if not found:
        raise InputError(f"{path} holds no database with runs of Sacred (no collection {RUNS}): name another dump.")
    if database is None and len(found) > 1:
        raise InputError(f"{path} holds runs in {', '.join(sorted(found))}: choose one with --database.")
    name = database or next(iter(found))
    if name not in found:
        raise InputError(f"{path} has no runs in a database {name}: choose {', '.join(sorted(found))}.")
    return name, found[name]


def _expand(source: Path, folder: Path) -> None:
    """Copy a database's files into a folder: compressed ones decompressed, the others as links."""
    for name in (RUNS, METRICS, FILES, CHUNKS):
        plain, compressed = source / f"{name}.bson", source / f"{name}.bson.gz"
        target = folder / plain.name
        if plain.is_file():
            target.symlink_to(plain.absolute())
        elif compressed.is_file():
            try:
                with open_perhaps_compressed(compressed) as stream, open(target, "wb") as file:
                    shutil.copyfileobj(stream, file)
            except (EOFError, gzip.BadGzipFile, zlib.error):
                raise DataError(f"{compressed} is damaged: fetch it again.") from None


def _unpack(path: Path, database: str | None, folder: Path) -> str:
    """Split an archive into one file per collection, in one pass with one document in memory."""
    with open_archive(path) as archive:
        holding = {one.database: one.database for one in archive.prelude().collections if one.collection == RUNS}
        name, _ = _choose(path, holding, database)
        wanted = {Namespace(name, one): folder / f"{one}.bson" for one in (RUNS, METRICS, FILES, CHUNKS)}
        with contextlib.ExitStack() as stack:
            files: dict[Namespace, IO[bytes]] = {}
            for namespace, document in archive.documents():
                if namespace in wanted:
                    if namespace not in files:
                        files[namespace] = stack.enter_context(open(wanted[namespace], "wb"))
                    files[namespace].write(document)
    return name
