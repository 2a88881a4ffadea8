"""Runs kept in MongoDB, as Sacred and Omniboard read them; the database of a kind is ``incasem_<kind>``."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mimetypes
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import gridfs
import gridfs.errors
import pymongo
import pymongo.errors

from incasem_like.errors import InputError, StoreError
from incasem_like.tracking.documents import FORMAT, from_document, metric_id, series_update, to_document
from incasem_like.tracking.kinds import singular
from incasem_like.tracking.run_folder import Journals, PortableRun, RenewedIds
from incasem_like.tracking.series import BoundedSeries, Metric, max_points
from incasem_like.tracking.sessions import new_token, tokens
from incasem_like.tracking.stores.base import NOTHING, Freed, RunRecord, RunStore
from incasem_like.tracking.stores.connection import AUTHENTICATION_FAILED, connection_options, no_answer, refusal
from incasem_like.tracking.stores.index import REVISION, UNFINISHED, DatabaseIndex
from incasem_like.tracking.values import (
    as_sequence,
    as_utc,
    escape_key,
    naive_utc,
    plain,
    to_bson,
    without_credentials,
)

if TYPE_CHECKING:
    from pymongo.database import Database

    from incasem_like.tracking.address import MongoAddress
    from incasem_like.tracking.model.summaries import RunSummary
    from incasem_like.tracking.stores.gridfs import CheckpointFiles


def _read_stored(store: MongoStore, document: Mapping[str, Any]) -> Iterator[tuple[str, bytes | None]]:
    """Read the sources or resources that a document names: name, content or None."""
    for stored in stored_files(store.database, document):
        try:
            yield stored.name, bytes(store.files.get(stored.file_id).read())
        except gridfs.errors.NoFile:
            yield stored.name, None


def _half_received(database: Database[Any]) -> dict[int, float]:
    """List the runs that are marked as being taken in: id, seconds since that began."""
    now = _now()
    found = database["runs"].find({UNFINISHED: IMPORTING}, {"heartbeat": 1})
    return {run["_id"]: (now - (run.get("heartbeat") or now)).total_seconds() for run in found}


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


_DOOMED = "doomed"  # of a file in fs.files
_ATTEMPTS_TO_NAME = 5


class StoredWithRuns(NamedTuple):
    """A source or resource: its name, what runs name it by, and the id of its file, None where that is missing."""

    name: str
    key: Any
    file_id: Any


def keep(database: Database[Any], files: gridfs.GridFS, filename: str, md5: str, read: Callable[[], bytes]) -> Any:
    """Store a file unless it is there, known by its path and content; return its id.

    Sacred looks for files by an MD5 that today's GridFS does not keep, and so stores every source with every run.
    """
    unmarked = {"filename": filename, "md5": md5, _DOOMED: {"$exists": False}}
    found = database["fs.files"].find_one(unmarked, {"_id": 1})
    return files.put(read(), filename=filename, md5=md5) if found is None else found["_id"]


def name_in_run(
    database: Database[Any], run_id: int, named: Mapping[str, list[Any]], keep_again: Callable[[], dict[str, list[Any]]]
) -> Mapping[str, list[Any]]:
    """Check that the files a run has just named will stay, and name those that had to be stored again.

    Args:
        database: Of the run.
        run_id: The run, whose document names the files already.
        named: Pairs of name and file id, by field of the document.
        keep_again: Keeps those files again, and gives what to name now.

    Returns:
        What the document names in the end.
    """
    for _ in range(_ATTEMPTS_TO_NAME):
        ids = [key for pairs in named.values() for _, key in pairs if not isinstance(key, str)]
        safe = database["fs.files"].count_documents({"_id": {"$in": ids}, _DOOMED: {"$exists": False}})
        if safe == len(set(ids)):
            break
        named = keep_again()
        database["runs"].update_one({"_id": run_id}, {"$set": dict(named)})
    return named


def stored_files(database: Database[Any], document: Mapping[str, Any]) -> Iterator[StoredWithRuns]:
    """Find the files of a run's sources and resources, which runs may share.

    Of a resource Sacred notes path and MD5, or no MD5 at all, rather than the file's id.
    """
    for name, key in named_pairs(document):
        if isinstance(key, str) or key is None:
            found = database["fs.files"].find_one({"filename": name}, {"_id": 1})
            yield StoredWithRuns(str(name), name, None if found is None else found["_id"])
        else:
            yield StoredWithRuns(str(name), key, key)


def free_files(database: Database[Any], files: gridfs.GridFS, file_ids: Iterable[Any]) -> Freed:
    """Delete files of GridFS; what is gone already is passed over."""
    freed = Freed()
    for file_id in set(file_ids) - {None}:
        entry = database["fs.files"].find_one({"_id": file_id}, {"length": 1})
        files.delete(file_id)
        if entry is not None:
            freed += Freed(artifacts=1, bytes=int(entry.get("length") or 0))
    return freed


def free_unnamed(
    database: Database[Any], files: gridfs.GridFS, shared: Mapping[Any, Any], apart_from: int | None = None
) -> Freed:
    """Delete those of some shared files that no run names.

    Args:
        database: Of the runs.
        files: Its GridFS.
        shared: What runs name each file by, by its id.
        apart_from: The run whose word does not count.
    """
    database["fs.files"].update_many({"_id": {"$in": list(shared)}}, {"$set": {_DOOMED: True}})
    needed = named_by_runs(database, shared.values(), apart_from)
    spared = [file_id for file_id, key in shared.items() if key in needed]
    database["fs.files"].update_many({"_id": {"$in": spared}}, {"$unset": {_DOOMED: ""}})
    return free_files(database, files, shared.keys() - set(spared))


def named_by_runs(database: Database[Any], keys: Iterable[Any], apart_from: int | None = None) -> set[Any]:
    """Find those of some sources and resources, by id or path, that runs name.

    Each question asks for all that are left: runs share most of their sources, and no index answers it.
    """
    left, found, asked = set(keys), set(), [apart_from]
    while left:
        among = {"$elemMatch": {"$elemMatch": {"$in": list(left)}}}
        query = {"$or": [{"experiment.sources": among}, {"resources": among}], "_id": {"$nin": asked}}
        run = database["runs"].find_one(query, {"experiment.sources": 1, "resources": 1})
        if run is None:
            break
        asked.append(run["_id"])
        words = [word for pair in named_pairs(run) for word in pair]
        named = {key for key in left if key in words}
        found |= named
        left -= named
    return found


def named_pairs(document: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield name and id, or path, of a run's sources and resources."""
    experiment = document.get("experiment")
    sources = experiment.get("sources") if isinstance(experiment, Mapping) else None
    for pair in (*as_sequence(sources), *as_sequence(document.get("resources"))):
        if isinstance(pair, (list, tuple)) and len(pair) == 2:
            yield pair[0], pair[1]


log = logging.getLogger("incasem_like.tracking")
SECONDS_FOR_THE_INDEX = 10.0


def highest_id(database: Database[Any]) -> int:
    """Find the highest id that a database ever gave, to runs that were deleted since too."""
    last = database["runs"].find({"_id": {"$gte": 0}}, {"_id": 1}).sort("_id", pymongo.DESCENDING).limit(1)
    noted = database["counters"].find_one({"_id": "runs"}) or {}
    return max([0, int(noted.get("highest") or 0), *(int(run["_id"]) for run in last)])


def note_id(database: Database[Any], run_id: int) -> None:
    """Note that an id is used, whatever becomes of its run."""
    database["counters"].update_one({"_id": "runs"}, {"$max": {"highest": run_id}}, upsert=True)


def clear_metrics(database: Database[Any], run_id: int) -> None:
    """Delete metrics that another run of a new run's id left, and create the index that finds metrics.

    Sacred makes no index. Where a database is so large that making it takes long, the run starts without: a person can
    make it at leisure, and ids are not given twice as a rule.
    """
    metrics = database["metrics"]
    try:
        with pymongo.timeout(SECONDS_FOR_THE_INDEX):
            with contextlib.suppress(pymongo.errors.OperationFailure):
                metrics.create_index([("run_id", 1), ("name", 1)])
            metrics.delete_many({"run_id": run_id})
    except pymongo.errors.PyMongoError as error:
        if not error.timeout:
            raise
        log.warning(
            "Database %s has so many metrics that runs are found slowly in it: have its administrator call "
            "db.metrics.createIndex({run_id: 1, name: 1}) once.",
            database.name,
        )


def _insert(database: Database[Any], entry: Mapping[str, Any], wanted: int | None, id_above: int) -> int:
    while True:
        run_id = wanted if wanted is not None else max(highest_id(database), id_above) + 1
        try:
            database["runs"].insert_one({"_id": run_id, **entry})
        except pymongo.errors.DuplicateKeyError:
            if wanted is not None:
                raise
            continue
        except pymongo.errors.ConnectionFailure:  # perhaps only the answer was lost
            if database["runs"].find_one({"_id": run_id, "session": entry["session"]}, {"_id": 1}) is None:
                raise
        note_id(database, run_id)
        return run_id


DELETING, IMPORTING = "deleting", "importing"


def half_deleted(database: Database[Any]) -> list[int]:
    """List the ids of runs that were taken from sight and are not gone yet."""
    return sorted(run["_id"] for run in database["runs"].find({UNFINISHED: DELETING}, {"_id": 1}))


def free_run(database: Database[Any], files: gridfs.GridFS, checkpoints: CheckpointFiles, run_id: int) -> Freed:
    """Delete a run that was taken from sight: metrics and files first, its document last; may be called again."""
    document = database["runs"].find_one({"_id": run_id}) or {}
    metrics = database["metrics"].delete_many({"run_id": run_id}).deleted_count
    artifacts = free_files(database, files, artifact_ids(database, document))
    stored = len(checkpoints.of_run(run_id))
    stored_bytes = checkpoints.remove_run(run_id)
    shared = {stored.file_id: stored.key for stored in stored_files(database, document)}
    sources = free_unnamed(database, files, shared, apart_from=run_id)
    database["runs"].delete_one({"_id": run_id})
    return Freed(
        runs=1,
        metrics=metrics,
        artifacts=artifacts.artifacts,
        sources=sources.artifacts,
        stored_checkpoints=stored,
        bytes=artifacts.bytes + sources.bytes + stored_bytes,
    )


def artifact_address(database: Database[Any], run_id: int, name: str) -> str:
    """Return the file name of an artifact in GridFS, as Sacred and Omniboard have it."""
    return f"artifact://{database['runs'].name}/{run_id}/{name}"


def artifact_ids(database: Database[Any], document: Mapping[str, Any]) -> set[Any]:
    """Find the files of a run's artifacts: those it names, and those stored for it that it does not name (yet)."""
    named = {entry.get("file_id") for entry in as_sequence(document.get("artifacts")) if isinstance(entry, Mapping)}
    prefix = artifact_address(database, int(document.get("_id") or 0), "")
    stored = database["fs.files"].find({"filename": {"$regex": f"^{prefix}"}}, {"_id": 1})
    return {file_id for file_id in named if file_id is not None} | {file["_id"] for file in stored}


_WHOLE = {UNFINISHED: {"$exists": False}}  # not one that is half deleted


def receive_into_database(
    store: MongoStore,
    portable: PortableRun,
    wanted: int | None,
    id_above: int,
    renew: Callable[[int], RenewedIds],
) -> int:
    """Write an exported run into the database; until all of it is there, its document is marked as unfinished."""
    run_id = _reserve(store, portable, wanted, id_above)
    try:
        _fill(store, portable, run_id, renew(run_id))
    except BaseException as error:
        with contextlib.suppress(pymongo.errors.PyMongoError, StoreError):
            store.free_record(run_id)
        if isinstance(error, pymongo.errors.DocumentTooLarge):
            raise InputError(
                f"{singular(portable.kind).capitalize()} run {portable.id} of {portable.origin} is too large for a "
                "document of MongoDB (16 MiB): keep it as files."
            ) from None
        raise
    return run_id


def _reserve(store: MongoStore, portable: PortableRun, wanted: int | None, id_above: int) -> int:
    runs = store.database["runs"]
    while True:
        run_id = max(highest_id(store.database), id_above) + 1 if wanted is None else wanted
        mark = {"_id": run_id, UNFINISHED: IMPORTING, "status": "IMPORTING", "heartbeat": _now()}
        try:
            runs.insert_one(mark)
        except pymongo.errors.DuplicateKeyError:
            if wanted is not None:
                raise InputError(f"There is a run {wanted} in {store.description} already: import it anew.") from None
            continue
        note_id(store.database, run_id)
        clear_metrics(store.database, run_id)
        return run_id


def _fill(store: MongoStore, portable: PortableRun, run_id: int, renewed: RenewedIds) -> None:
    document = to_document(portable.document)
    kept = _keep_stored(store, portable)
    links = _write_metrics(store, portable, run_id, str(document.get("session") or ""))
    document.update(
        _id=run_id,
        format=document.get("format") or FORMAT,
        experiment={**(document.get("experiment") or {}), "sources": kept["experiment.sources"]},
        resources=kept["resources"],
        artifacts=[_put_artifact(store, run_id, *each) for each in portable.artifacts()],
        config=to_bson(plain(portable.config)),
        info={**to_bson(plain(renewed.info)), "metrics": links},
        result=to_bson(plain(renewed.result)),
        captured_out=portable.output,
    )
    document[REVISION] = new_token()
    if portable.annotations:
        document["omniboard"] = to_bson(plain(portable.annotations))
    if portable.log_path.is_file():
        _keep_log(store, run_id, tokens(renewed.info), portable.log_path)
    store.database["runs"].replace_one({"_id": run_id, UNFINISHED: IMPORTING}, document)
    name_in_run(store.database, run_id, kept, partial(_keep_stored, store, portable))


def _write_metrics(store: MongoStore, portable: PortableRun, run_id: int, session: str) -> list[dict[str, str]]:
    """Write the metrics, at most as many points of each as the run's configuration says; return the links to them."""
    limit = max_points(portable.config)
    links = []
    for name, points in portable.metrics.items():
        update = series_update(name, run_id, BoundedSeries.from_document(points, limit), None)
        assert update is not None
        owner = {"session": session} if session else {}
        store.database["metrics"].insert_one({"_id": metric_id(run_id, name), **update[0], **owner})
        links.append({"name": name, "id": str(metric_id(run_id, name))})
    return links


def _keep_stored(store: MongoStore, portable: PortableRun) -> dict[str, list[Any]]:
    """Store the run's sources and resources; return their entries in its document, by field."""
    base = str((portable.document.get("experiment") or {}).get("base_dir") or "")
    return {
        "experiment.sources": [_keep(store, base, *each) for each in portable.stored("sources")],
        "resources": [_keep(store, base, *each) for each in portable.stored("resources")],
    }


def _keep(store: MongoStore, base: str, name: str, path: Path | None, noted: str) -> list[Any]:
    if path is None:
        return [name, noted]
    content = path.read_bytes()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return [name, keep(store.database, store.files, str(Path(base) / name), md5, lambda: content)]


def _put_artifact(store: MongoStore, run_id: int, name: str, path: Path) -> dict[str, Any]:
    address = artifact_address(store.database, run_id, name)
    with open(path, "rb") as content:
        file_id = store.files.put(content, filename=address, content_type=mimetypes.guess_type(name)[0])
    return {"name": name, "file_id": file_id}


def _keep_log(store: MongoStore, run_id: int, sessions: list[str], log: Path) -> None:
    """Copy the log of all metrics to where the store looks for it on this machine, unless it is there."""
    if store.journals.complete_log(run_id, sessions) is None:
        shutil.copyfile(log, store.journals.make(run_id).log.path)


class MongoStore(RunStore):
    """Runs in one database.

    Args:
        database: pymongo's (or mongomock's) database.
        kind: trainings, predictions, segmentations or evaluations.
        runs_directory: See ``RunStore``; what a missing server does not take is kept below it.
        server: The server's address without credentials, for messages.
        reconnect: Opens the same database through another connection, for uploads beside the run's own record.
        databases: Names the database of each kind; by default they differ in their last word alone.
    """

    def __init__(
        self,
        database: Database[Any],
        kind: str,
        runs_directory: Path,
        server: str = "MongoDB",
        reconnect: Callable[[], Database[Any]] | None = None,
        databases: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(
            kind, runs_directory, description=f"MongoDB database {database.name} at {without_credentials(server)}"
        )
        self.database, self._reconnect = database, reconnect
        self.files, self.server = gridfs.GridFS(database), str(without_credentials(server))
        prefix = database.name.removesuffix(f"_{kind}")
        self._databases = databases or (lambda other: f"{prefix}_{other}")

    def ids(self) -> list[int]:  # noqa: D102
        with self.errors():
            found = [run["_id"] for run in self.database["runs"].find(_WHOLE, {"_id": 1})]
        return sorted(run_id for run_id in found if isinstance(run_id, int))

    def read_document(self, run_id: int) -> dict[str, Any] | None:  # noqa: D102
        with self.errors():
            found = self.database["runs"].find_one({"_id": run_id, **_WHOLE})
        return None if found is None else from_document(found)

    def read_metrics(self, run_id: int) -> dict[str, Metric]:  # noqa: D102
        with self.errors():
            found = list(self.database["metrics"].find({"run_id": run_id}))
        return {
            series["name"]: Metric(
                series["name"],
                tuple(series["steps"]),
                tuple(series["values"]),
                tuple(map(as_utc, series["timestamps"])),
            )
            for series in found
        }

    def read_metric_documents(self, run_id: int) -> dict[str, dict[str, Any]]:  # noqa: D102
        with self.errors():
            found = list(self.database["metrics"].find({"run_id": run_id}))
        keys = ("steps", "values", "timestamps", "stride", "count")
        return {series["name"]: {key: series[key] for key in keys if key in series} for series in found}

    def read_stored(self, run_id: int, what: Literal["sources", "resources"]) -> Iterator[tuple[str, bytes | None]]:  # noqa: D102
        document = self.read_document(run_id) or {}
        key = "resources" if what == "resources" else "experiment"
        with self.errors():
            yield from _read_stored(self, {key: document.get(key)})

    def is_free(self, run_id: int) -> bool:  # noqa: D102
        with self.errors():
            return self.database["runs"].find_one({"_id": run_id}, {"_id": 1}) is None

    def put(  # noqa: D102
        self, portable: PortableRun, wanted: int | None, id_above: int, renew: Callable[[int], RenewedIds]
    ) -> int:
        with self.errors("written"):
            return receive_into_database(self, portable, wanted, id_above, renew)

    def half_received(self) -> dict[int, float]:  # noqa: D102
        with self.errors():
            return _half_received(self.database)

    def free_half_received(self, run_id: int) -> None:  # noqa: D102
        with self.errors("written"):
            if self.database["runs"].find_one({"_id": run_id, UNFINISHED: IMPORTING}, {"_id": 1}) is not None:
                self.free_record(run_id)

    def read_artifact(self, run_id: int, name: str) -> bytes:  # noqa: D102
        with self.errors():
            run = self.database["runs"].find_one({"_id": run_id}, {"artifacts": 1}) or {}
            file_id = next(entry["file_id"] for entry in run["artifacts"] if entry["name"] == name)
            return bytes(self.files.get(file_id).read())

    @property
    def checkpoint_files(self) -> CheckpointFiles:  # noqa: D102
        from incasem_like.tracking.stores.gridfs import CheckpointFiles

        return CheckpointFiles(self.database, self.description, self._reconnect)

    def sibling(self, kind: str) -> MongoStore:  # noqa: D102
        name, reopen = self._databases(kind), self._reconnect
        reconnect = None if reopen is None else lambda: reopen().client[name]
        database = self.database.client[name]
        return MongoStore(database, kind, self.runs_directory, self.server, reconnect, self._databases)

    def summaries(  # noqa: D102
        self, config_keys: Sequence[str] = (), *, inputs: bool = False, metrics: Sequence[str] = ()
    ) -> list[RunSummary]:
        with self.errors():
            index = DatabaseIndex(self.database, f"{self.server}/{self.database.name}")
            return index.summaries(self.kind, config_keys, inputs, metrics)

    def patch(self, run_id: int, changes: Mapping[str, Any], expect: Mapping[str, Any] = NOTHING) -> bool:  # noqa: D102
        change: dict[str, dict[str, Any]] = {"$set": {}, "$unset": {}}
        for key, value in changes.items():
            section, _, field = key.partition(".")
            if value is None:
                change["$unset"][key] = ""
            else:
                written = naive_utc(value) if isinstance(value, datetime) else to_bson(plain(value))
                change["$set"][f"{section}.{escape_key(field)}" if field else key] = written
        if any(key.startswith("info.") for key in changes):
            change["$set"][REVISION] = new_token()
        with self.errors("written"):
            which = {"_id": run_id, **_WHOLE, **expect}
            asked = {operator: fields for operator, fields in change.items() if fields}
            return bool(self.database["runs"].update_one(which, asked).matched_count)

    def tombstone(self, run_id: int, session: str | None) -> bool:  # noqa: D102
        with self.errors("written"):
            note_id(self.database, run_id)
        # Without its session nobody who looked at it before can claim it.
        return self.patch(run_id, {UNFINISHED: DELETING, "session": DELETING}, {"session": session})

    def half_deleted(self) -> list[int]:  # noqa: D102
        with self.errors():
            return half_deleted(self.database)

    def read_half_deleted(self, run_id: int) -> RunRecord | None:  # noqa: D102
        with self.errors():
            found = self.database["runs"].find_one({"_id": run_id, UNFINISHED: DELETING})
        return None if found is None else RunRecord(self, run_id, from_document(found))

    def free_record(self, run_id: int) -> Freed:  # noqa: D102
        sessions = self._sessions(run_id)
        with self.errors("written"):
            freed = free_run(self.database, self.files, self.checkpoint_files, run_id)
        return freed + Freed(bytes=self.journals.remove(run_id, sessions))

    @property
    def journals(self) -> Journals:
        """What this machine keeps of the runs in this database."""
        return Journals(self.runs_directory, self.database.name)

    def metrics_log(self, run_id: int) -> Path | None:  # noqa: D102
        return self.journals.complete_log(run_id, self._sessions(run_id))

    def _sessions(self, run_id: int) -> list[str]:
        with self.errors():
            found = self.database["runs"].find_one({"_id": run_id}, {"info.sessions": 1}) or {}
        return tokens(found.get("info"))

    @contextlib.contextmanager
    def errors(self, doing: str = "read") -> Iterator[None]:
        """Turn errors of the server into ``StoreError``; ``doing`` is what it was to be: ``read`` or ``written``."""
        try:
            yield
        except pymongo.errors.DocumentTooLarge:
            raise InputError(
                f"The record of a run is too large for a document of {self.description} (16 MiB): keep the run as "
                "files."
            ) from None
        except gridfs.errors.NoFile:
            raise StoreError(f"A file of a run is missing in {self.description}: restore it from a backup.") from None
        except pymongo.errors.ConnectionFailure:
            raise no_answer(self.description) from None
        except pymongo.errors.OperationFailure as error:
            raise refusal(self.description, doing, error) from None


def connect(address: MongoAddress, kind: str, runs_directory: Path) -> MongoStore:
    """Connect to a server and make sure that it answers.

    Raises:
        InputError: The URL is malformed or the server refuses the credentials.
        StoreError: No server answers within a few seconds.
    """
    options = connection_options(address.url)
    try:
        client: pymongo.MongoClient[Any] = pymongo.MongoClient(address.url, **options)
        client.admin.command("ping")
    except (pymongo.errors.ConfigurationError, ValueError, TypeError):  # pymongo's own words may quote the password
        raise InputError(
            f"{address.described} is no MongoDB URL that can be used: check host and port, and percent-encode special "
            "characters in the user name and password."
        ) from None
    except pymongo.errors.OperationFailure as error:
        if error.code == AUTHENTICATION_FAILED:
            raise InputError(
                f"{address.described} refuses the user name or password: correct them in the URL."
            ) from None
        raise StoreError(
            f"{address.described} refuses to answer (code {error.code}): check the server's log."
        ) from None
    except pymongo.errors.PyMongoError:
        raise StoreError(
            f"No MongoDB server answers at {address.described}: start it, correct the address, or give --offline to a "
            "training or prediction, which keeps the run on this machine until 'incasem-like runs sync' delivers it."
        ) from None

    def reconnect() -> Database[Any]:
        return pymongo.MongoClient(address.url, **options, maxPoolSize=1)[address.database(kind)]

    return MongoStore(
        client[address.database(kind)], kind, runs_directory, address.described, reconnect, address.database
    )
