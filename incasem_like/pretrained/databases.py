"""The trainings in incasem's databases: what ``mongodump`` wrote of Sacred's, and ``mock_db``.

An archive (``mongodump --archive``) has all collections interleaved in one stream of BSON documents: a magic number, a
header document, one metadata document per collection, a terminator; then segments, each a namespace header ``{db,
collection, EOF, CRC}``, documents and a terminator. A segment with ``EOF`` set ends its namespace and carries the
CRC-64 of all the namespace's documents. ``--gzip`` compresses the stream as a whole. A folder has one ``.bson`` or
``.bson.gz`` file of concatenated documents for each collection.

``mock_db`` is the folder of JSON configurations that incasem's branches without a database use: a ``ledger.json`` of
the form ``{"1841": "er_1841.json"}``, and the named files.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import logging
import re
import shutil
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import anycrc
import bson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion

from incasem_like.config.reading import parse_json, read_text
from incasem_like.errors import DataError, InputError
from incasem_like.pretrained.foreign import ORIGIN, ForeignRun, blank_document, origin, translated
from incasem_like.tracking.model.summaries import unpickled
from incasem_like.tracking.series import Metric
from incasem_like.tracking.values import as_mapping, plain, utc_moment, without_credentials

log = logging.getLogger("incasem_like.pretrained")
MAGIC = (0x8199E26D).to_bytes(4, "little")
TERMINATOR = b"\xff\xff\xff\xff"
RUNS, METRICS, FILES, CHUNKS = COLLECTIONS = ("runs", "metrics", "fs.files", "fs.chunks")
ORIGINAL_RECORD = "original_run.json"
LEDGER = "ledger.json"
# Dates beyond Python's range become the last date in range, so that no run is refused for them.
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_CLAMP)
_SIZES = range(5, 48 << 20)  # of documents; MongoDB's limit is 16 MiB, and three times that means damage
_NAME_AND_ID = re.compile(r"(?P<name>.*?)_?(?P<id>\d+)$")
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


def is_mock_db(path: Path) -> bool:
    """Return whether a path is a ``mock_db`` folder, its ledger, or one of its files."""
    return (path / LEDGER).is_file() or path.name == LEDGER or _id_in_name(path) is not None


@contextlib.contextmanager
def open_database(path: Path, database: str | None = None) -> Iterator[DumpedRuns | MockDb]:
    """Open a ``mock_db`` or a dump: an archive (perhaps compressed), or a folder of ``.bson`` or ``.bson.gz`` files.

    Without ``database`` the one that holds runs is taken.

    Raises:
        DataError: It is damaged, or not a dump.
        InputError: It holds no runs, or several databases with runs and none is named.
    """
    if is_mock_db(path):
        yield MockDb(path)
        return
    with tempfile.TemporaryDirectory(prefix="incasem-dump-") as temporary:
        folder = Path(temporary)
        if path.is_dir():
            found = {child.name: child for child in _database_folders(path)}
            name = _choose(path, found, database)
            for target in (folder / f"{collection}.bson" for collection in COLLECTIONS):
                plain_file, zipped = found[name] / target.name, found[name] / f"{target.name}.gz"
                if plain_file.is_file():
                    target.symlink_to(plain_file.absolute())
                elif zipped.is_file():
                    with _damage(str(zipped)), _decompressed(zipped) as stream, open(target, "wb") as file:
                        shutil.copyfileobj(stream, file)
        else:
            name = _unpack(path, database, folder)
        yield DumpedRuns(path, name, folder)


def check_archive(path: Path) -> None:
    """Check that a file begins as a whole archive does; ``DataError`` if it is none, or is damaged there."""
    with _decompressed(path) as stream, _damage(f"The archive {path}"):
        _prelude(_pieces(stream, path))


class DumpedRuns:
    """The runs of one dumped database, read one at a time; ``DataError`` if it is damaged.

    ``folder`` holds ``<collection>.bson``, not compressed; a missing collection is empty.
    """

    def __init__(self, source: Path, database: str, folder: Path) -> None:
        self.source, self.database, self.folder = source, database, folder
        self._offsets: dict[str, dict[Any, list[int]]] = {}  # of documents in the files of large collections

    def ids(self) -> list[int]:
        """Return the ids of the runs, sorted; runs with other than numeric ids are left out."""
        return sorted(run["_id"] for run, _ in self._documents(RUNS) if type(run.get("_id")) is int)

    def runs(self, wanted: Sequence[int] | None = None) -> Iterator[ForeignRun]:
        """Yield the runs; all if none are named."""
        numbered = (run for run, _ in self._documents(RUNS) if type(run.get("_id")) is int)
        return (self._translated(run) for run in numbered if wanted is None or run["_id"] in wanted)

    def _translated(self, run: Mapping[str, Any]) -> ForeignRun:
        run_id, status, heartbeat = int(run["_id"]), str(run.get("status")), utc_moment(run.get("heartbeat"))
        config, noted, problem = translated(
            run.get("config") or {}, f"in the configuration of run {run_id} of {self.source}"
        )
        meta, experiment, host, noted_there = (
            as_mapping(unpickled(run.get(key) or {})) for key in ("meta", "experiment", "host", "info")
        )
        artifacts, sources, missing = self._files_of(run)
        start = utc_moment(run.get("start_time"))
        # dumps made at different times contain the same run
        identity = f"sacred run {run_id} of {start.isoformat() if start else 'unknown time'}"
        info = {key: value for key, value in noted_there.items() if key != "metrics"}
        info |= noted | origin(identity, str(self.source), run_id)
        if missing:
            info[ORIGIN]["files_not_in_dump"] = missing
        ended = status not in ("RUNNING", "QUEUED", "None")  # a run in a dump is not active
        document = {
            "experiment": dict(experiment),
            "command": str(run.get("command") or "train"),
            "host": host,
            "meta": meta,
            "status": status if ended else "KILLED",
            "start_time": start,
            "stop_time": utc_moment(run.get("stop_time")) or (None if ended else heartbeat),
            "heartbeat": heartbeat,
            "result": unpickled(run.get("result")),
            "config": config,
            "info": info,
            "captured_out": str(run.get("captured_out") or ""),
            "fail_trace": [str(line) for line in run.get("fail_trace") or ()],
            "omniboard": run.get("omniboard"),
        }
        document = {key: v if isinstance(v, datetime) else without_credentials(plain(v)) for key, v in document.items()}
        metrics = {metric.name: metric for metric in map(_metric, self._find(METRICS, "run_id", run_id))}
        name = str((meta.get("options") or {}).get("--name") or experiment.get("name") or f"run {run_id}")
        return ForeignRun(run_id, name, identity, document, metrics, artifacts, sources, problem, tuple(missing))

    def _files_of(self, run: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, bytes], list[str]]:
        """Return a run's artifacts, including its original record, its sources, and the names of incomplete files."""
        entries = [entry for entry in run.get("artifacts") or () if isinstance(entry, Mapping) and "name" in entry]
        pairs = [pair for pair in (run.get("experiment") or {}).get("sources") or () if isinstance(pair, list)]
        artifacts, sources, missing = dict[str, bytes](), dict[str, bytes](), list[str]()
        # any name becomes that of a file in the run's own folder
        names = [re.sub(r"[/\\\x00-\x1f]", "_", str(entry["name"])).strip(".") or "file" for entry in entries]
        files = [(sources, str(pair[0]), pair[1]) for pair in pairs if len(pair) == 2]
        files += [(artifacts, name, entry.get("file_id")) for name, entry in zip(names, entries, strict=True)]
        for stored, name, file_id in files:
            if (content := self._content(file_id)) is None:
                missing.append(name)
            else:
                stored[name] = content
        record = json_util.dumps(without_credentials(dict(run)), json_options=json_util.RELAXED_JSON_OPTIONS, indent=2)
        return artifacts | {ORIGINAL_RECORD: record.encode()}, sources, missing

    def _content(self, file_id: Any) -> bytes | None:
        """Assemble a file of GridFS; None if it is incomplete in the database."""
        file = next(self._find(FILES, "_id", file_id), None)
        if file is None:
            return None
        chunks = sorted(self._find(CHUNKS, "files_id", file_id), key=lambda chunk: int(chunk["n"]))
        content = b"".join(bytes(chunk["data"]) for chunk in chunks)
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return content if file.get("length", len(content)) == len(content) and file.get("md5") in (None, md5) else None

    def _find(self, collection: str, key: str, value: Any) -> Iterator[dict[str, Any]]:
        """Yield the documents of a collection that have a value of a key, always the same key of one collection."""
        if collection not in self._offsets:
            found = self._offsets[collection] = defaultdict(list)
            for document, offset in self._documents(collection):
                found[document.get(key)].append(offset)
        if offsets := self._offsets[collection].get(value):
            with open(self.folder / f"{collection}.bson", "rb") as file:
                for offset in offsets:
                    file.seek(offset)
                    yield next(bson.decode_file_iter(file, CODEC))

    def _documents(self, collection: str) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the documents of a collection in the order of the dump, each with its first byte in the file."""
        path = self.folder / f"{collection}.bson"
        if not path.is_file():
            return
        with open(path, "rb") as file, _damage(f"The collection {collection} of {self.source}"):
            offset = 0
            for document in bson.decode_file_iter(file, CODEC):
                yield document, offset
                offset = file.tell()


def _unpack(path: Path, database: str | None, folder: Path) -> str:
    """Split an archive into one file per collection, in one pass with one document in memory; return the database."""
    with _decompressed(path) as stream, _damage(f"The archive {path}"), contextlib.ExitStack() as stack:
        pieces = _pieces(stream, path)
        name = _choose(path, {one for one, collection in _prelude(pieces) if collection == RUNS}, database)
        files = {(name, one): stack.enter_context(open(folder / f"{one}.bson", "wb")) for one in COLLECTIONS}
        checksum = anycrc.Model("CRC64-XZ")
        sums: dict[Namespace, int] = {}  # of the namespaces that have not ended
        for raw in pieces:
            namespace, header = _namespace(raw or b"")
            if header.get("EOF"):
                announced, found = header.get("CRC"), sums.pop(namespace, 0)
                if isinstance(announced, int) and announced and found != announced % 2**64:
                    raise ValueError(f"the checksum of {'.'.join(namespace)} is wrong")
            for document in iter(lambda: next(pieces), None):
                sums[namespace] = checksum.calc(document, sums.get(namespace))
                if namespace in files:
                    files[namespace].write(document)
        if sums:
            raise ValueError(f"it ends within {', '.join(sorted(map('.'.join, sums)))}")
    return name


def _pieces(stream: IO[bytes], path: Path) -> Iterator[bytes | None]:
    """Yield the documents of an archive, undecoded, and None for each terminator; ``ValueError`` if it breaks off."""
    if stream.read(4) != MAGIC:
        raise DataError(f"{path} is not an archive that mongodump wrote: name one made with mongodump --archive.")
    head = b""
    while piece := stream.read(4):
        head = piece
        if head == TERMINATOR:
            yield None
            continue
        length = int.from_bytes(head, "little", signed=True)
        if len(head) == 4 and length not in _SIZES:
            raise ValueError(f"it has a document of {length} bytes")
        rest = stream.read(length - 4) if len(head) == 4 else b""
        if len(rest) != length - 4:
            raise ValueError("it breaks off")
        yield head + rest
    if head != TERMINATOR:
        raise ValueError("it breaks off")


def _prelude(pieces: Iterator[bytes | None]) -> list[Namespace]:
    if next(pieces, None) is None:
        raise ValueError("it has no header")
    return [_namespace(raw)[0] for raw in iter(lambda: next(pieces), None)]


def _namespace(raw: bytes) -> tuple[Namespace, dict[str, Any]]:
    header = bson.decode(raw, CODEC)
    return (str(header.get("db", "")), str(header.get("collection", ""))), header


@contextlib.contextmanager
def _decompressed(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed if gzip wrote it."""
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with gzip.open(file) if compressed else contextlib.nullcontext(file) as stream:
            yield stream  # type: ignore[misc]


@contextlib.contextmanager
def _damage(what: str) -> Iterator[None]:
    """Raise the errors of BSON, gzip and archives as a ``DataError``."""
    try:
        yield
    except (bson.errors.BSONError, ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
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
    if database not in (None, *found):
        raise InputError(f"{path} has no runs in a database {database}: choose {known}.")
    return database or known


def _metric(document: Mapping[str, Any]) -> Metric:
    """Read a metric; points that are not numeric are left out."""
    rows = zip(*(document.get(key) or () for key in ("steps", "values", "timestamps")), strict=False)
    read = [(step, unpickled(value), utc_moment(moment)) for step, value, moment in rows]
    points = [
        (int(step), float(value), moment)
        for step, value, moment in read
        if isinstance(value, (int, float)) and isinstance(step, (int, float)) and moment is not None
    ]
    return Metric(str(document.get("name")), *(zip(*points, strict=True) if points else ((), (), ())))


class MockDb:
    """The JSON configurations of a ledger, or a single one: trainings and predictions, by id.

    Raises:
        InputError: It is not a ledger of runs.
    """

    def __init__(self, path: Path) -> None:
        if run_id := _id_in_name(path):
            self.files = {run_id: path}
            return
        ledger = path / LEDGER if path.is_dir() else path
        entries = parse_json(read_text(ledger, "The ledger"), str(ledger))
        if not isinstance(entries, Mapping) or not all(
            str(key).isdigit() and isinstance(name, str) and name for key, name in entries.items()
        ):
            raise InputError(f'{ledger} is not a ledger of runs: it must have the form {{"1841": "er_1841.json"}}.')
        self.files = {number: ledger.parent / entries[str(number)] for number in sorted(map(int, entries))}

    def ids(self) -> list[int]:
        """Return the ids of the files that are there."""
        return [run_id for run_id, path in self.files.items() if path.is_file()]

    def runs(self, wanted: Sequence[int] | None = None) -> Iterator[ForeignRun]:
        """Yield the trainings, of all ids if none are named; warn of predictions and missing files.

        Raises:
            InputError: A file is not the configuration of a training.
        """
        for run_id, path in self.files.items():
            if wanted is not None and run_id not in wanted:
                continue
            if not path.is_file():
                log.warning("Run %s is left out: its file %s is missing.", run_id, path.name)
                continue
            original = parse_json(read_text(path, "The run"), str(path))
            sections = [as_mapping(original).get(name) for name in ("prediction", "model", "training")]
            used = str(as_mapping(sections[0]).get("run_id_training"))
            if used.isdigit() and int(used) != run_id:  # those of trainings refer to themselves
                log.warning("Run %s is left out: it is a prediction with run %s.", run_id, used)
                continue
            if not all(isinstance(section, Mapping) for section in sections[1:]):
                raise InputError(
                    f"{path} is not a configuration of a training (no 'training' and 'model'): name another file."
                )
            yield _configured_run(original, path, run_id)


def _configured_run(original: Mapping[str, Any], path: Path, run_id: int) -> ForeignRun:
    config, noted, problem = translated(original, f"in {path}")
    found = _NAME_AND_ID.match(path.stem)
    name = str(original.get("name") or (found["name"] if found else "") or path.stem)
    digest = hashlib.sha256(json.dumps(original, sort_keys=True).encode()).hexdigest()
    identity = f"mock_db run {run_id} of sha256 {digest}"
    comment = f"configuration imported from incasem's {path.name}; metrics, times and state are not known"
    document = blank_document(run_id, name, comment, config, noted | origin(identity, str(path), run_id))
    return ForeignRun(run_id, name, identity, document, problem=problem)


def _id_in_name(path: Path) -> int | None:
    """Read the id of a run from the name of its JSON, ``er_1841.json``; None for any other file."""
    found = _NAME_AND_ID.match(path.stem)
    return int(found["id"]) if found is not None and path.suffix == ".json" else None
