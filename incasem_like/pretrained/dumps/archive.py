"""The archive that ``mongodump --archive`` writes: collections interleaved in one stream of BSON documents.

Layout: magic number, header document, one metadata document per collection, terminator; then segments, each a namespace
header ``{db, collection, EOF, CRC}``, documents and a terminator. A segment with ``EOF`` set ends its namespace and
carries the CRC-64 of all the namespace's documents. ``--gzip`` compresses the stream as a whole.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion

from incasem_like.errors import DataError
from incasem_like.pretrained.dumps.crc64 import Crc64

MAGIC = (0x8199E26D).to_bytes(4, "little")
TERMINATOR = b"\xff\xff\xff\xff"
GZIP_MAGIC = b"\x1f\x8b"
# Dates beyond Python's range become the last date in range, so that no run is refused for them.
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_CLAMP)
_LARGEST_DOCUMENT = 48 << 20  # MongoDB's limit is 16 MiB; a size beyond three times that means damage
_SMALLEST_DOCUMENT = 5


@dataclass(frozen=True)
class Namespace:
    """A collection of a database."""

    database: str
    collection: str


@dataclass(frozen=True)
class Prelude:
    """The header of an archive.

    Attributes:
        header: Format version, versions of server and tool.
        collections: The collections that it holds.
    """

    header: dict[str, Any]
    collections: tuple[Namespace, ...]


class Archive:
    """An archive being read, once from its beginning to its end: first ``prelude``, then ``documents``."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self.path = path
        self._stream = stream

    def prelude(self) -> Prelude:
        """Read the header.

        Raises:
            DataError: The file is not an archive, or is damaged.
        """
        if self._read(4) != MAGIC:
            raise DataError(
                f"{self.path} is not an archive that mongodump wrote: name one made with mongodump --archive."
            )
        header = self._document()
        if header is None:
            raise self._damaged("it has no header")
        collections = []
        while (raw := self._document()) is not None:
            collections.append(_namespace(decode(raw, self.path)))
        return Prelude(decode(header, self.path), tuple(collections))

    def documents(self) -> Iterator[tuple[Namespace, bytes]]:
        """Read all documents, undecoded, each with its namespace.

        Raises:
            DataError: The archive breaks off, or a checksum is wrong.
        """
        sums: dict[Namespace, Crc64] = {}
        open_ones: set[Namespace] = set()
        while (raw := self._document(at_end=True)) is not None:
            header = decode(raw, self.path)
            namespace = _namespace(header)
            if header.get("EOF"):
                self._check_sum(namespace, sums.pop(namespace, None), header.get("CRC"))
                open_ones.discard(namespace)
            open_ones |= set() if header.get("EOF") else {namespace}
            for document in iter(self._document, None):
                sums.setdefault(namespace, Crc64()).update(document)
                yield namespace, document
        if open_ones:
            names = ", ".join(sorted(f"{one.database}.{one.collection}" for one in open_ones))
            raise self._damaged(f"it ends within {names}")

    def _check_sum(self, namespace: Namespace, found: Crc64 | None, announced: Any) -> None:
        value = (found or Crc64()).value
        if isinstance(announced, int) and announced and value != announced % 2**64:
            raise self._damaged(f"the checksum of {namespace.database}.{namespace.collection} is wrong")

    def _document(self, at_end: bool = False) -> bytes | None:
        """Read a document; None at a terminator, or at the end of the file if ``at_end`` allows that."""
        head = self._read(4, at_end=at_end)
        if head in (TERMINATOR, b""):
            return None
        length = int.from_bytes(head, "little", signed=True)
        if not _SMALLEST_DOCUMENT <= length <= _LARGEST_DOCUMENT:
            raise self._damaged(f"it has a document of {length} bytes")
        return head + self._read(length - 4)

    def _read(self, count: int, at_end: bool = False) -> bytes:
        try:
            data = self._stream.read(count)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self._damaged(str(error).rstrip(".")) from None
        if len(data) < count and not (at_end and not data):
            raise self._damaged("it breaks off")
        return data

    def _damaged(self, how: str) -> DataError:
        return DataError(f"The archive {self.path} is damaged ({how}): fetch it again.")


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive, compressed or not."""
    with open_perhaps_compressed(path) as stream:
        yield Archive(stream, path)


def is_archive(path: Path) -> bool:
    """Return whether a file begins like an archive, compressed by gzip or not."""
    try:
        with open_perhaps_compressed(path) as stream:
            return stream.read(4) == MAGIC
    except (OSError, EOFError, zlib.error):
        return False


@contextlib.contextmanager
def open_perhaps_compressed(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed if gzip wrote it."""
    with open(path, "rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        if not compressed:
            yield file
            return
        with gzip.open(file) as stream:
            yield stream  # type: ignore[misc]


def decode(document: bytes, path: Path) -> dict[str, Any]:
    """Decode a BSON document of a file.

    Raises:
        DataError: It is not a valid document.
    """
    try:
        decoded: dict[str, Any] = bson.decode(document, CODEC)
    except (bson.errors.BSONError, ValueError) as error:
        raise DataError(f"{path} holds a damaged document ({str(error).rstrip('.')}): fetch it again.") from None
    return decoded


def _namespace(document: dict[str, Any]) -> Namespace:
    return Namespace(str(document.get("db", "")), str(document.get("collection", "")))
