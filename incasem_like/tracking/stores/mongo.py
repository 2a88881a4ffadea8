"""Runs kept in MongoDB, as Sacred and Omniboard read them; the database of a kind is ``incasem_<kind>``."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

import gridfs
import gridfs.errors
import pymongo
import pymongo.errors
from bson import ObjectId
from pymongo.database import Database

from incasem_like.errors import InputError, StoreError
from incasem_like.tracking.address import MongoAddress
from incasem_like.tracking.kinds import kind_named
from incasem_like.tracking.metrics_log import goes_on_from
from incasem_like.tracking.model.checkpoints import folder_size
from incasem_like.tracking.model.summaries import RunSummary
from incasem_like.tracking.run_folder import SHARED, Journal, Journals, RunFolder, Shared, from_document
from incasem_like.tracking.sessions import id_taken, new_token, tokens
from incasem_like.tracking.stores import push
from incasem_like.tracking.stores.base import DELETING, IMPORTING, MISSING, NOTHING, Freed, RunStore
from incasem_like.tracking.stores.connection import AUTHENTICATION_FAILED, connection_options, server_errors
from incasem_like.tracking.stores.gridfs import CheckpointFiles
from incasem_like.tracking.stores.index import REVISION, UNFINISHED, database_summaries
from incasem_like.tracking.stores.records import shared_files
from incasem_like.tracking.values import as_sequence, escape_key, naive_utc, now, plain, to_bson, without_credentials

log = logging.getLogger("incasem_like.tracking")
SECONDS_FOR_THE_INDEX = 10.0
COLUMNS = "omniboard.custom.columns"
_IN_SIGHT = {UNFINISHED: {"$exists": False}}
_OWNED = re.compile(r"(?:artifact|checkpoint)://[^/]+/(\d+)/")


def _stored_files(database: Database[Any], document: Mapping[str, Any], what: Shared) -> Iterator[tuple[str, Any]]:
    """Yield name, and id or None, of files that runs share; of a resource Sacred notes no id, but an MD5 or nothing."""
    for name, key in shared_files(document, what):
        if isinstance(key, str) or key is None:
            found = database["fs.files"].find_one({"filename": name}, {"_id": 1})
            key = None if found is None else found["_id"]
        yield name, key


def highest_id(database: Database[Any]) -> int:
    """Find the highest id that a database ever gave, to runs that were deleted since too."""
    last = database["runs"].find({"_id": {"$gte": 0}}, {"_id": 1}).sort("_id", pymongo.DESCENDING).limit(1)
    noted = database["counters"].find_one({"_id": "runs"}) or {}
    return max([0, int(noted.get("highest") or 0), *(int(run["_id"]) for run in last)])


def entries_of(artifacts: Any) -> list[Mapping[str, Any]]:
    """List the entries of a run's artifacts that can be read, whoever wrote them."""
    return [entry for entry in as_sequence(artifacts) if isinstance(entry, Mapping)]


class MongoStore(RunStore):
    """Runs in one database of pymongo's or mongomock's.

    ``server`` is its address without credentials, for messages. ``reconnect`` opens the same database through another
    connection, for uploads beside the run's own record. ``databases`` names the database of each kind; by default they
    differ in their last word alone. What a missing server does not take is kept below the runs directory.
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
            found = [run["_id"] for run in self.database["runs"].find(_IN_SIGHT, {"_id": 1})]
        return sorted(run_id for run_id in found if isinstance(run_id, int))

    def read_document(self, run_id: int) -> dict[str, Any] | None:  # noqa: D102
        with self.errors():
            found = self.database["runs"].find_one({"_id": run_id, **_IN_SIGHT})
        return None if found is None else from_document(found)

    def read_metric_documents(self, run_id: int) -> dict[str, dict[str, Any]]:  # noqa: D102
        with self.errors():
            found = list(self.database["metrics"].find({"run_id": run_id}))
        keys = ("steps", "values", "timestamps", "stride", "count")
        return {series["name"]: {key: series[key] for key in keys if key in series} for series in found}

    def read_stored(  # noqa: D102
        self, run_id: int, what: Literal["artifacts", "sources", "resources"], only: str | None = None
    ) -> Iterator[tuple[str, bytes | None]]:
        key = "experiment.sources" if what == "sources" else what
        with self.errors():
            document = self.database["runs"].find_one({"_id": run_id}, {key: 1}) or {}
            if what == "artifacts":
                found = [(str(one.get("name")), one.get("file_id")) for one in entries_of(document.get("artifacts"))]
            else:
                found = list(_stored_files(self.database, document, what))
            for name, file_id in found:
                if only in (None, name):
                    try:
                        yield name, bytes(self.files.get(file_id).read())
                    except gridfs.errors.NoFile:
                        yield name, None

    def metrics_log(self, run_id: int) -> Path | None:  # noqa: D102
        with self.errors():
            found = self.database["runs"].find_one({"_id": run_id}, {"info.sessions": 1}) or {}
        sessions = tokens(found.get("info"))
        journal = self.journals.find(run_id, sessions)
        is_whole = journal is not None and goes_on_from(journal.log_path, sessions, complete=True)
        return journal.log_path if journal is not None and is_whole else None

    @property
    def journals(self) -> Journals:  # noqa: D102
        return Journals(self.runs_directory, self.database.name)

    def run_folder(self, run_id: int, sessions: Sequence[str] = ()) -> Journal:  # noqa: D102
        return self.journals.find(run_id, list(sessions)) or self.journals.make(run_id)

    def reserve(self, wanted: int | None, id_above: int = 0, session: str | None = None) -> Journal:  # noqa: D102
        runs = self.database["runs"]
        mark = {UNFINISHED: IMPORTING, "status": "IMPORTING", "heartbeat": now()}
        mark |= {} if session is None else {"session": session}
        self._begin_columns()
        with self.errors("written"):
            while True:
                run_id = wanted if wanted is not None else max(highest_id(self.database), id_above) + 1
                try:
                    runs.insert_one({"_id": run_id, **mark})
                except pymongo.errors.DuplicateKeyError:
                    if wanted is not None:
                        raise id_taken(run_id, self.description) from None
                    continue
                except pymongo.errors.ConnectionFailure:  # perhaps only the answer was lost
                    if session is None or runs.find_one({"_id": run_id, "session": session}, {"_id": 1}) is None:
                        raise
                break
            self._note_id(run_id)
            self._index_metrics()
        return self.journals.make(run_id)

    def keep(self, what: Shared, name: str, path: Path) -> Any:  # noqa: D102
        # Sacred looks for files by an MD5 that today's GridFS does not keep, and so stores every source with every run.
        content, files = path.read_bytes(), self.database["fs.files"]
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        with self.errors("written"):
            found = files.find_one({"filename": name, "md5": md5}, {"_id": 1})
            renewed = {"kept": True, "uploadDate": now()}  # see ``_sweep``
            if found is not None and files.update_one({"_id": found["_id"]}, {"$set": renewed}).matched_count:
                return found["_id"]
            return self.files.put(content, filename=name, md5=md5, kept=True)

    def publish(self, folder: RunFolder, run: str) -> None:  # noqa: D102
        assert isinstance(folder, Journal)
        with self.errors("written", run):
            push.publish(self.database, self.files, folder)
        folder.clear()
        folder.remove_if_empty()

    def push(self, journal: RunFolder, limit: int | None = None) -> str | None:  # noqa: D102
        assert isinstance(journal, Journal)
        with self.errors("written"):
            return push.push(self.database, self.files, journal, self.description, limit)

    @property
    def checkpoint_files(self) -> CheckpointFiles:  # noqa: D102
        return CheckpointFiles(self.database, self.description, self._reconnect)

    def sibling(self, kind: str) -> Self:  # noqa: D102
        name, reopen = self._databases(kind), self._reconnect
        reconnect = None if reopen is None else lambda: reopen().client[name]
        database = self.database.client[name]
        return type(self)(database, kind, self.runs_directory, self.server, reconnect, self._databases)

    def summaries(  # noqa: D102
        self, config_keys: Sequence[str] = (), *, inputs: bool = False, metrics: Sequence[str] = ()
    ) -> list[RunSummary]:
        with self.errors():
            name = f"{self.server}/{self.database.name}"
            return database_summaries(self.database, name, self.kind, config_keys, inputs, metrics)

    def patch(self, run_id: int, changes: Mapping[str, Any], expect: Mapping[str, Any] = NOTHING) -> bool:  # noqa: D102
        change: dict[str, dict[str, Any]] = {"$set": {}, "$unset": {}}
        for key, value in changes.items():
            section, _, field = key.partition(".")
            if value is MISSING:
                change["$unset"][key] = ""
            else:
                written = naive_utc(value) if isinstance(value, datetime) else to_bson(plain(value))
                change["$set"][f"{section}.{escape_key(field)}" if field else key] = written
        if any(key.startswith("info.") for key in changes):
            change["$set"][REVISION] = new_token()
        with self.errors("written"):
            which = {"_id": run_id, **_IN_SIGHT, **expect}
            asked = {operator: fields for operator, fields in change.items() if fields}
            return bool(self.database["runs"].update_one(which, asked).matched_count)

    def hide(self, run_id: int, session: str | None) -> bool:  # noqa: D102
        with self.errors("written"):
            self._note_id(run_id)
        # Without its session nobody who looked at it before can claim it.
        return self.patch(run_id, {UNFINISHED: DELETING, "session": DELETING}, {"session": session})

    def unfinished(self, what: str) -> dict[int, float]:  # noqa: D102
        present = now()
        with self.errors():
            found = list(self.database["runs"].find({UNFINISHED: what}, {"heartbeat": 1}).sort("_id", 1))
        return {run["_id"]: (present - (naive_utc(run.get("heartbeat")) or present)).total_seconds() for run in found}

    def read_hidden(self, run_id: int) -> dict[str, Any] | None:  # noqa: D102
        with self.errors():
            found = self.database["runs"].find_one({"_id": run_id, UNFINISHED: DELETING})
        return None if found is None else from_document(found)

    def remove(self, run_id: int) -> Freed:  # noqa: D102
        database, checkpoints = self.database, self.checkpoint_files
        with self.errors("written"):
            document = database["runs"].find_one({"_id": run_id, UNFINISHED: {"$exists": True}})
            if document is None:
                return Freed()
            sessions = [*tokens(document.get("info")), str(document.get("session"))]
            database["metrics"].delete_many({"run_id": run_id})
            named = {entry.get("file_id") for entry in entries_of(document.get("artifacts"))} - {None}
            prefix = push.artifact_address(database, run_id, "")
            stored = database["fs.files"].find({"filename": {"$regex": f"^{prefix}"}}, {"_id": 1})
            freed = sum(map(self._free_file, named | {file["_id"] for file in stored}))
            freed += checkpoints.remove_run(run_id)
            shared = [file_id for what in SHARED for _, file_id in _stored_files(database, document, what)]
            database["runs"].delete_one({"_id": run_id})
            freed += self._sweep(shared)
        if journal := self.journals.find(run_id, sessions):
            freed += folder_size(journal.folder)
            shutil.rmtree(journal.folder)
        return Freed(freed)

    def _free_file(self, file_id: Any, only: Mapping[str, Any] = NOTHING) -> int:
        """Delete a file of GridFS, if it is as expected; return its bytes."""
        gone = self.database["fs.files"].find_one_and_delete({"_id": file_id, **only}) or {}
        if gone or not only:
            self.database["fs.chunks"].delete_many({"files_id": file_id})
        return int(gone.get("length") or 0)

    def _sweep(self, candidates: Sequence[Any]) -> int:
        """Delete sources and resources that no run names, unless a new run may need them; return their bytes.

        ``candidates`` are files that another program may have stored, beside those that ``keep`` stored.
        """
        runs = self.database["runs"].find({}, {"experiment.sources": 1, "resources": 1})
        named = {str(word) for run in runs for what in SHARED for pair in shared_files(run, what) for word in pair}
        old = {"uploadDate": {"$lt": now() - self.LONGEST_START}}
        which = {"$or": [{"kept": {"$exists": True}}, {"_id": {"$in": list(candidates)}}], **old}
        found = list(self.database["fs.files"].find(which, {"filename": 1}))
        unused = [file["_id"] for file in found if not {str(file["_id"]), str(file["filename"])} & named]
        return sum(self._free_file(file_id, old) for file_id in unused)

    def leftovers(self, settled: timedelta) -> list[Any]:
        """List artifacts and checkpoints of runs that are gone, replaced artifacts, and chunks without a file."""
        database, before = self.database, now() - settled
        live = {run.id for run in self.summaries() if run.status == "RUNNING"}
        with self.errors():
            # The files first: what a run stores meanwhile is not among them.
            files = {file["_id"]: file for file in database["fs.files"].find({}, {"filename": 1, "uploadDate": 1})}
            loose = set(database["fs.chunks"].distinct("files_id")) - files.keys()
            runs = {run["_id"]: run for run in database["runs"].find({}, {"artifacts": 1})}
        named = {entry.get("file_id") for run in runs.values() for entry in entries_of(run.get("artifacts"))}
        found = []
        for file_id, file in files.items():
            owner = _OWNED.match(str(file.get("filename")))
            if owner is None or int(owner[1]) in live or file["uploadDate"] >= before:
                continue
            if int(owner[1]) not in runs or (owner[0].startswith("artifact") and file_id not in named):
                found.append(file_id)
        for file_id in loose:
            owner, made = _OWNED.match(str(file_id)), naive_utc(getattr(file_id, "generation_time", None))
            if int(owner[1]) not in live if owner else (made is not None and made < before):
                found.append(file_id)
        return found

    def free(self, leftovers: Sequence[Any]) -> None:  # noqa: D102
        with self.errors("written"):
            for file_id in leftovers:
                self._free_file(file_id)

    def _begin_columns(self) -> None:
        """Write the columns that Omniboard's table begins with, before the first run; a removed one stays away."""
        columns, wanted = self.database[COLUMNS], kind_named(self.kind).omniboard_columns
        with contextlib.suppress(pymongo.errors.PyMongoError):
            if not wanted or self.database["runs"].find_one({}, {"_id": 1}) or columns.find_one({}, {"_id": 1}):
                return
            for name, path in wanted:
                # The same id for the same column, so that two first runs at once do not make it twice.
                which = {"_id": ObjectId(hashlib.sha256(name.encode()).digest()[:12])}
                columns.update_one(which, {"$setOnInsert": {"name": name, "config_path": path}}, upsert=True)

    def _note_id(self, run_id: int) -> None:
        self.database["counters"].update_one({"_id": "runs"}, {"$max": {"highest": run_id}}, upsert=True)

    def _index_metrics(self) -> None:
        """Create the index that finds the metrics of a run, which Sacred does not make; runs start without it too."""
        try:
            with pymongo.timeout(SECONDS_FOR_THE_INDEX):
                self.database["metrics"].create_index([("run_id", 1), ("name", 1)])
        except pymongo.errors.PyMongoError as error:
            if error.timeout:
                log.warning(
                    "Database %s has so many metrics that runs are found slowly in it: have its administrator call "
                    "db.metrics.createIndex({run_id: 1, name: 1}) once.",
                    self.database.name,
                )

    @contextlib.contextmanager
    def errors(self, doing: str = "read", run: str = "The record of a run") -> Iterator[None]:
        """Turn errors of the server into errors for users; ``run`` names what was to be written."""
        try:
            with server_errors(self.description, doing):
                yield
        except push.SessionLostError:
            raise StoreError(f"{run} was changed in {self.description} while it was written: try again.") from None
        except pymongo.errors.DocumentTooLarge:
            raise InputError(
                f"{run} is too large for a document of MongoDB (16 MiB), in {self.description}: keep it as files."
            ) from None


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
            f"{address.described} is not a valid MongoDB URL: check host and port, and percent-encode special "
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
