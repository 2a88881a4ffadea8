"""The trainings in a database of Sacred's MongoDB observer that ``mongodump`` wrote, to an archive or a folder.

An archive (``mongodump --archive``) has all collections interleaved in one stream of BSON documents: a magic number, a
header document, one metadata document per collection, a terminator; then segments, each a namespace header ``{db,
collection, EOF, CRC}``, documents and a terminator. A segment with ``EOF`` set ends its namespace and carries the
CRC-64 of all the namespace's documents. ``--gzip`` compresses the stream as a whole. A folder has one ``.bson`` or
``.bson.gz`` file of concatenated documents for each collection.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import anycrc
import bson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion

from incasem_like.errors import DataError, InputError
from incasem_like.pretrained.foreign import ORIGIN, ForeignRun, configuration, origin
from incasem_like.tracking.model.summaries import unpickled
from incasem_like.tracking.series import Metric
from incasem_like.tracking.values import plain, utc_moment, without_credentials

MAGIC = (0x8199E26D).to_bytes(4, "little")
TERMINATOR = b"\xff\xff\xff\xff"
GZIP_MAGIC = b"\x1f\x8b"
RUNS, METRICS, FILES, CHUNKS = COLLECTIONS = ("runs", "metrics", "fs.files", "fs.chunks")
ORIGINAL_RECORD = "original_run.json"
# Dates beyond Python's range become the last date in range, so that no run is refused for them.
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_CLAMP)
_SMALLEST_DOCUMENT = 5
_LARGEST_DOCUMENT = 48 << 20  # MongoDB's limit is 16 MiB; a size beyond three times that means damage
_NOT_IN_A_NAME = re.compile(r"[/\\\x00-\x1f]")
# A run in a dump is not active, whatever its last status was.
_NOT_ENDED = ("RUNNING", "QUEUED", "None")

Namespace = tuple[str, str]  # database, collection


def is_archive(path: Path) -> bool:
    """Return whether a file begins like an archive, compressed by gzip or not."""
    try:
        with _decompressed(path) as stream:
            return stream.read(4) == MAGIC
    except (OSError, EOFError, zlib.error):
        return False


def is_dump_folder(path: Path) -> bool:
    """Return whether a folder was written by ``mongodump`` without ``--archive``."""
    return path.is_dir() and bool(_database_folders(path))


def read_prelude(path: Path) -> list[Namespace]:
    """Return the collections that the header of an archive lists.

    Raises:
        DataError: The file is not an archive, or is damaged.
    """
    with _decompressed(path) as stream:
        return _Archive(stream, path).prelude()


@contextlib.contextmanager
def open_dump(path: Path, database: str | None = None) -> Iterator[DumpedRuns]:
    """Open a dump: an archive (perhaps compressed) or a folder of ``.bson`` or ``.bson.gz`` files.

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
            found = {child.name: child for child in _database_folders(path)}
            name = _choose(path, found, database)
            _expand(found[name], folder)
        else:
            name = _unpack(path, database, folder)
        yield DumpedRuns(path, name, folder)


class DumpedRuns:
    """The runs of one dumped database, read one at a time.

    Args:
        source: The archive or folder, for messages.
        database: Name of the dumped database.
        folder: Holds ``<collection>.bson``, not compressed; a missing collection is empty.
    """

    def __init__(self, source: Path, database: str, folder: Path) -> None:
        self.source, self.database, self.folder = source, database, folder

    def ids(self) -> list[int]:
        """Return the ids of the runs, sorted; runs with other than numeric ids are left out."""
        return sorted(run["_id"] for run, _ in self._documents(RUNS) if _is_id(run.get("_id")))

    def runs(self, wanted: Sequence[int] | None = None) -> Iterator[ForeignRun]:
        """Yield the runs; all if none are named.

        Raises:
            DataError: The dump is damaged.
        """
        for run, _ in self._documents(RUNS):
            if _is_id(run.get("_id")) and (wanted is None or run["_id"] in wanted):
                yield self._translated(run)

    def metrics(self, run_id: int) -> dict[str, Metric]:
        """Return the metrics of a run; points that are not numeric are left out."""
        found = map(_metric, self._read(METRICS, self._metric_offsets.get(run_id, ())))
        return {metric.name: metric for metric in found}

    def _translated(self, run: Mapping[str, Any]) -> ForeignRun:
        run_id = int(run["_id"])
        settings = configuration(run.get("config") or {}, f"in the configuration of run {run_id} of {self.source}")
        meta, experiment = unpickled(run.get("meta") or {}), dict(unpickled(run.get("experiment") or {}))
        name = str((meta.get("options") or {}).get("--name") or experiment.get("name") or f"run {run_id}")
        artifacts, sources, missing = self._files_of(run)
        start = utc_moment(run.get("start_time"))
        # dumps made at different times contain the same run
        identity = f"sacred run {run_id} of {start.isoformat() if start else 'unknown time'}"
        info = {key: value for key, value in unpickled(run.get("info") or {}).items() if key != "metrics"}
        info |= settings.info | origin(identity, str(self.source), run_id)
        if missing:
            info[ORIGIN]["files_not_in_dump"] = missing
        ended = str(run.get("status")) not in _NOT_ENDED
        document = {
            "experiment": experiment,
            "command": str(run.get("command") or "train"),
            "host": unpickled(run.get("host") or {}),
            "meta": meta,
            "status": str(run.get("status")) if ended else "KILLED",
            "start_time": start,
            "stop_time": utc_moment(run.get("stop_time") or (None if ended else run.get("heartbeat"))),
            "heartbeat": utc_moment(run.get("heartbeat")),
            "result": unpickled(run.get("result")),
            "config": settings.config,
            "info": info,
            "captured_out": str(run.get("captured_out") or ""),
            "fail_trace": [str(line) for line in run.get("fail_trace") or ()],
        }
        noted = run.get("omniboard") or {}
        return ForeignRun(
            run_id,
            name,
            identity,
            {key: v if isinstance(v, datetime) else without_credentials(plain(v)) for key, v in document.items()},
            self.metrics(run_id),
            artifacts,
            sources,
            tuple(tag for tag in noted.get("tags") or () if isinstance(tag, str)),
            str(noted.get("notes") or ""),
            settings.problem,
            tuple(missing),
        )

    def _files_of(self, run: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, bytes], list[str]]:
        """Return a run's artifacts, including its original record, its sources, and the names of incomplete files."""
        entries = [entry for entry in run.get("artifacts") or () if isinstance(entry, Mapping) and "name" in entry]
        pairs = [pair for pair in (run.get("experiment") or {}).get("sources") or () if isinstance(pair, list)]
        artifacts = {_file_name(str(entry["name"])): self._content(entry.get("file_id")) for entry in entries}
        sources = {str(pair[0]): self._content(pair[1]) for pair in pairs if len(pair) == 2}
        missing = [name for name, content in {**sources, **artifacts}.items() if content is None]
        record = json_util.dumps(without_credentials(dict(run)), json_options=json_util.RELAXED_JSON_OPTIONS, indent=2)
        return (
            {name: content for name, content in artifacts.items() if content is not None}
            | {ORIGINAL_RECORD: record.encode()},
            {name: content for name, content in sources.items() if content is not None},
            missing,
        )

    def _content(self, file_id: Any) -> bytes | None:
        """Assemble a file of GridFS; None if it is incomplete in the database."""
        file = self._files.get(file_id)
        if file is None:
            return None
        chunks = sorted(self._read(CHUNKS, self._chunk_offsets.get(file_id, ())), key=lambda chunk: int(chunk["n"]))
        content = b"".join(bytes(chunk["data"]) for chunk in chunks)
        md5 = file.get("md5")
        spoilt = isinstance(md5, str) and hashlib.md5(content, usedforsecurity=False).hexdigest() != md5
        return None if spoilt or len(content) != file.get("length", len(content)) else content

    @functools.cached_property
    def _files(self) -> dict[Any, dict[str, Any]]:
        return {file["_id"]: file for file, _ in self._documents(FILES)}

    @functools.cached_property
    def _metric_offsets(self) -> dict[Any, list[int]]:
        return self._offsets(METRICS, "run_id")

    @functools.cached_property
    def _chunk_offsets(self) -> dict[Any, list[int]]:
        return self._offsets(CHUNKS, "files_id")

    def _offsets(self, collection: str, key: str) -> dict[Any, list[int]]:
        """Return where the documents of a large collection begin in its file, by the value of a key."""
        found: dict[Any, list[int]] = {}
        for document, offset in self._documents(collection):
            found.setdefault(document.get(key), []).append(offset)
        return found

    def _documents(self, collection: str) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the documents of a collection in the order of the dump, each with its first byte in the file.

        Raises:
            DataError: The file is damaged.
        """
        path = self.folder / f"{collection}.bson"
        if not path.is_file():
            return
        with open(path, "rb") as file, _damage(f"The collection {collection} of {self.source}"):
            offset = 0
            for document in bson.decode_file_iter(file, CODEC):
                yield document, offset
                offset = file.tell()

    def _read(self, collection: str, offsets: Iterable[int]) -> Iterator[dict[str, Any]]:
        with open(self.folder / f"{collection}.bson", "rb") as file:
            for offset in offsets:
                file.seek(offset)
                yield next(bson.decode_file_iter(file, CODEC))


class _Archive:
    """An archive being read, once from its beginning to its end: first ``prelude``, then ``documents``."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream, self.path = stream, path

    def prelude(self) -> list[Namespace]:
        """Read the header; see ``read_prelude``."""
        if self._read(4) != MAGIC:
            raise DataError(
                f"{self.path} is not an archive that mongodump wrote: name one made with mongodump --archive."
            )
        if self._document() is None:
            raise self._damaged("it has no header")
        return [self._namespace(raw)[0] for raw in iter(self._document, None)]

    def documents(self) -> Iterator[tuple[Namespace, bytes]]:
        """Read all documents, undecoded, each with its namespace.

        Raises:
            DataError: The archive breaks off, or a checksum is wrong.
        """
        checksum = anycrc.Model("CRC64-XZ")
        sums: dict[Namespace, int] = {}  # of the namespaces that have not ended
        while (raw := self._document(at_end=True)) is not None:
            namespace, header = self._namespace(raw)
            if header.get("EOF"):
                announced, found = header.get("CRC"), sums.pop(namespace, 0)
                if isinstance(announced, int) and announced and found != announced % 2**64:
                    raise self._damaged(f"the checksum of {'.'.join(namespace)} is wrong")
            for document in iter(self._document, None):
                sums[namespace] = checksum.calc(document, sums.get(namespace))
                yield namespace, document
        if sums:
            raise self._damaged(f"it ends within {', '.join(sorted(map('.'.join, sums)))}")

    def _namespace(self, raw: bytes) -> tuple[Namespace, dict[str, Any]]:
        with _damage(f"The archive {self.path}"):
            header = bson.decode(raw, CODEC)
        return (str(header.get("db", "")), str(header.get("collection", ""))), header

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
def _decompressed(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed if gzip wrote it."""
    with open(path, "rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        if not compressed:
            yield file
            return
        with gzip.open(file) as stream:
            yield stream  # type: ignore[misc]


@contextlib.contextmanager
def _damage(what: str) -> Iterator[None]:
    """Raise BSON's errors as a ``DataError``."""
    try:
        yield
    except (bson.errors.BSONError, ValueError) as error:
        raise DataError(f"{what} is damaged ({str(error).rstrip('.')}): fetch it again.") from None


def _database_folders(path: Path) -> list[Path]:
    """Find the folders with a collection of runs: this one, or those in it."""
    candidates = [path, *sorted(child for child in path.iterdir() if child.is_dir())]
    return [folder for folder in candidates if any((folder / f"{RUNS}.bson{end}").is_file() for end in ("", ".gz"))]


def _choose(path: Path, found: Iterable[str], database: str | None) -> str:
    known = ", ".join(sorted(found))
    if not known:
        raise InputError(f"{path} holds no database with runs of Sacred (no collection {RUNS}): name another dump.")
    if database is None and "," in known:
        raise InputError(f"{path} holds runs in {known}: choose one with --database.")
    if database is not None and database not in found:
        raise InputError(f"{path} has no runs in a database {database}: choose {known}.")
    return database or known


def _expand(source: Path, folder: Path) -> None:
    """Copy a database's files into a folder: compressed ones decompressed, the others as links."""
    for name in COLLECTIONS:
        uncompressed, compressed = source / f"{name}.bson", source / f"{name}.bson.gz"
        target = folder / uncompressed.name
        if uncompressed.is_file():
            target.symlink_to(uncompressed.absolute())
        elif compressed.is_file():
            try:
                with _decompressed(compressed) as stream, open(target, "wb") as file:
                    shutil.copyfileobj(stream, file)
            except (EOFError, gzip.BadGzipFile, zlib.error):
                raise DataError(f"{compressed} is damaged: fetch it again.") from None


def _unpack(path: Path, database: str | None, folder: Path) -> str:
    """Split an archive into one file per collection, in one pass with one document in memory; return the database."""
    with _decompressed(path) as stream, contextlib.ExitStack() as stack:
        archive = _Archive(stream, path)
        name = _choose(path, {one for one, collection in archive.prelude() if collection == RUNS}, database)
        files = {(name, one): stack.enter_context(open(folder / f"{one}.bson", "wb")) for one in COLLECTIONS}
        for namespace, document in archive.documents():
            if namespace in files:
                files[namespace].write(document)
    return name


def _metric(document: Mapping[str, Any]) -> Metric:
    columns = (document.get("steps") or (), document.get("values") or (), document.get("timestamps") or ())
    points = []
    for step, value, moment in zip(*columns, strict=False):
        number, time = unpickled(value), utc_moment(moment)
        if isinstance(number, (int, float)) and isinstance(step, (int, float)) and time is not None:
            points.append((int(step), float(number), time))
    steps, values, moments = zip(*points, strict=True) if points else ((), (), ())
    return Metric(str(document.get("name")), tuple(steps), tuple(values), tuple(moments))


def _file_name(name: str) -> str:
    """Convert any name to that of a file in the run's own folder."""
    return _NOT_IN_A_NAME.sub("_", name).strip(".") or "file"


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
