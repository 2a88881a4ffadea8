"""Writing a run into MongoDB, in writes that may be repeated and that carry the session's token."""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gridfs
import pymongo.errors
from bson import ObjectId
from pymongo.database import Database

from incasem_like.tracking.metrics_log import read_table
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.run_folder import Journal, RunFolder
from incasem_like.tracking.series import MetricTable, max_points
from incasem_like.tracking.sessions import new_token, tokens
from incasem_like.tracking.stores.index import REVISION, UNFINISHED
from incasem_like.tracking.values import as_mapping, as_sequence, naive_utc, plain, to_bson

FORMAT = "MongoObserver-0.7.0"
_TIMES = ("start_time", "stop_time", "heartbeat")
_FILE_ID = re.compile("[0-9a-f]{24}")
_ATTEMPTS = 3
_SUPERSEDED = "the run was continued elsewhere since, and the database knows better"
_FOREIGN = "it belongs to a run of another server"


def to_document(run: Mapping[str, Any]) -> dict[str, Any]:
    """Make fields of a document from fields of a run, but for its artifacts, which have ids of their own there."""

    def with_ids(pairs: Any) -> list[Any]:  # which a folder holds as text
        found = [pair for pair in as_sequence(pairs) if isinstance(pair, (list, tuple)) and len(pair) == 2]
        return [[name, ObjectId(file) if _FILE_ID.fullmatch(str(file)) else file] for name, file in found]

    document: dict[str, Any] = {}
    for key, value in run.items():
        if key in _TIMES:
            document[key] = naive_utc(value)
        elif key == "experiment" and isinstance(value, Mapping):
            document[key] = {**to_bson(plain({**value, "sources": None})), "sources": with_ids(value.get("sources"))}
        elif key == "resources":
            document[key] = with_ids(value)
        elif key != "artifacts":
            document[key] = to_bson(plain(value))
    return document


def metric_id(run_id: int, name: str) -> ObjectId:
    """Return a metric's id: always the same for the same run and name, so that two writers never make two of it."""
    return ObjectId(hashlib.sha256(f"{run_id}\0{name}".encode()).digest()[:12])


class Mark(NamedTuple):
    """How much of a series the database has: stride, kept points, length of the full series."""

    stride: int
    points: int
    length: int


def artifact_address(database: Database[Any], run_id: int, name: str) -> str:
    """Return the file name of an artifact in GridFS, as Sacred and Omniboard have it."""
    return f"artifact://{database['runs'].name}/{run_id}/{name}"


class SessionLostError(Exception):
    """Another process has the run now."""


@dataclass(frozen=True)
class Parcel:
    """What goes to the database at once: all there is (``whole``), or what is new.

    ``fields`` are set in the run's document, those of each metric in its own; then the marks hold. ``artifacts`` are
    names of files that it lacks.
    """

    fields: dict[str, Any]
    metrics: dict[str, tuple[dict[str, Any], Mark]]
    artifacts: Collection[str]
    whole: bool


class Delivery:
    """Writes one run, which is in a folder on this machine, for one session; raises pymongo's errors.

    A run of another program has no token. ``artifacts`` are the entries of the files that the run has in the database.
    """

    def __init__(self, database: Database[Any], files: gridfs.GridFS, folder: RunFolder, token: str | None) -> None:
        self._runs, self._metrics, self._files = database["runs"], database["metrics"], files
        self._folder, self.run_id = folder, folder.run_id
        self._owner = {} if token is None else {"session": token}
        self._mine = {"_id": self.run_id, **self._owner}
        self._marks: dict[str, Mark] = {}
        found = self._runs.find_one(self._mine, {"artifacts": 1}) or {}
        self.artifacts: list[dict[str, Any]] = list(found.get("artifacts") or ())

    def pack(
        self,
        entry: Mapping[str, Any],
        table: MetricTable,
        artifacts: Collection[str] = (),
        changed: Collection[str] | None = None,
    ) -> Parcel:
        """Make a parcel of what is known of a run: of all of it, or of the fields that ``changed`` and the new points.

        ``artifacts`` are the names of the files that the database lacks.
        """
        fields = {key: value for key, value in entry.items() if changed is None or key in changed}
        if changed is None:
            fields["format"] = FORMAT
        if changed is None or "info" in fields:  # Omniboard finds the metrics by these links
            links = [{"name": name, "id": str(metric_id(self.run_id, name))} for name in table.series]
            fields["info"] = {**(fields.get("info") or {}), "metrics": links}
        marks = self._marks if changed is not None else {}
        metrics: dict[str, tuple[dict[str, Any], Mark]] = {}
        for name, series in table.series.items():
            old, new = marks.get(name), Mark(series.stride, len(series.points), series.count)
            if new == old:
                continue
            update = series.as_document()
            if old is None or old.stride != new.stride or not 0 < old.points <= new.points:
                update |= {"name": name, "run_id": self.run_id}
            else:
                # Positions are set one by one rather than appended to, so that a write that is repeated, because nobody
                # knows whether it came through, does no harm.
                columns = {column: update.pop(column) for column in ("steps", "values", "timestamps")}
                for at in range(old.points - 1, new.points):
                    update |= {f"{column}.{at}": points[at] for column, points in columns.items()}
            metrics[name] = update, new
        return Parcel(fields, metrics, artifacts, changed is None)

    def publish(self, parcel: Parcel) -> None:
        """Write a run that this session has just reserved or claimed, and bring it into sight.

        Raises:
            SessionLostError: Another process claimed the run.
        """
        if self._runs.find_one(self._mine, {"_id": 1}) is None:
            raise SessionLostError
        if self._owner:  # what an earlier session wrote is replaced
            self._metrics.update_many({"run_id": self.run_id}, {"$set": self._owner})
        self.send(replace(parcel, fields={}))
        gone = dict.fromkeys({UNFINISHED, "status", "heartbeat", "stop_time"} - parcel.fields.keys(), "")
        if not self._runs.update_one(self._mine, {"$set": parcel.fields, "$unset": gone}).matched_count:
            raise SessionLostError

    def send(self, parcel: Parcel) -> bool:
        """Send a parcel; return False where the database has lost something, so that all is to be sent again.

        Raises:
            SessionLostError: Another process continued the run.
        """
        change: dict[str, Any] = {"$set": {**parcel.fields, "artifacts": self.artifacts}}
        if "stop_time" not in parcel.fields:
            change["$unset"] = {"stop_time": ""}  # somebody may have taken the run for dead
        try:
            outcome = self._runs.update_one(self._mine, change, upsert=True)
        except pymongo.errors.DuplicateKeyError:
            raise SessionLostError from None
        if outcome.upserted_id is not None and not parcel.whole:
            return False
        if not all(self._send_metric(name, fields) for name, (fields, _) in parcel.metrics.items()):
            return False
        if parcel.whole:  # other metrics of the run were withdrawn, or another program gave them ids of its own
            kept = [metric_id(self.run_id, name) for name in parcel.metrics]
            self._metrics.delete_many({"run_id": self.run_id, "_id": {"$nin": kept}})
        for name in parcel.artifacts:
            self._send_artifact(name)
        self._marks.update({name: mark for name, (_, mark) in parcel.metrics.items()})
        return True

    def _send_metric(self, name: str, fields: Mapping[str, Any]) -> bool:
        which = {"_id": metric_id(self.run_id, name), **self._owner}
        try:
            outcome = self._metrics.update_one(which, {"$set": dict(fields)}, upsert=True)
        except pymongo.errors.DuplicateKeyError:
            if self._runs.find_one(self._mine, {"_id": 1}) is None:
                raise SessionLostError from None
            self._metrics.delete_one({"_id": metric_id(self.run_id, name)})  # of a run of this id that was deleted
            return False
        return "steps" in fields or outcome.upserted_id is None

    def _send_artifact(self, name: str) -> None:
        """Store a file under an id made of its content, so that it is never stored twice, and enter it."""
        path = self._folder.artifact(name)
        digest = hashlib.sha256(f"{self.run_id}\0{name}\0{file_sha256(path)}".encode()).hexdigest()
        file_id = ObjectId(digest[:24])
        if not self._files.exists(file_id):
            self._files.delete(file_id)  # an attempt that broke off may have left some of it
            address = artifact_address(self._runs.database, self.run_id, name)
            with open(path, "rb") as content:
                self._files.put(content, _id=file_id, filename=address, content_type=mimetypes.guess_type(name)[0])
        replaced = [entry["file_id"] for entry in self.artifacts if entry["name"] == name]
        others = [entry for entry in self.artifacts if entry["name"] != name]
        self.artifacts = [*others, {"name": name, "file_id": file_id}]
        if self._runs.update_one(self._mine, {"$set": {"artifacts": self.artifacts}}).matched_count == 0:
            raise SessionLostError
        for old in replaced:
            if old != file_id:
                self._files.delete(old)


def publish(database: Database[Any], files: gridfs.GridFS, journal: Journal) -> None:
    """Bring a run into sight that was reserved and is whole in its journal."""
    run = journal.read_document() or {}
    if not run.get("omniboard"):
        run.pop("omniboard", None)
    table = MetricTable.from_documents(journal.read("metrics.json"), max_points(as_mapping(run.get("config"))))
    delivery = Delivery(database, files, journal, run.get("session"))
    entry = {**to_document(run), REVISION: new_token()}
    delivery.publish(delivery.pack(entry, table, journal.pending_artifacts()))


def push(
    database: Database[Any], files: gridfs.GridFS, journal: Journal, description: str, limit: int | None = None
) -> str | None:
    """Write what a journal holds into its database; return why it does not belong there and stays, or None.

    The run has no process. ``limit`` is the number of points of each metric; None for what its configuration says.
    """
    journal.upgrade()
    run = journal.read_document() if journal.is_undelivered else None
    if run is None:
        return None
    run_id, entry = journal.run_id, to_document({key: value for key, value in run.items() if key != "omniboard"})
    present = database["runs"].find_one({"_id": run_id}, {"session": 1, "info.sessions": 1, "artifacts": 1})
    if present is None and journal.database != description:
        return f"{journal.folder} stays: {_FOREIGN}"
    if present is not None and present.get("session") != entry["session"]:
        is_older = entry["session"] in tokens(present.get("info"))
        return f"{journal.folder} stays: {_SUPERSEDED if is_older else _FOREIGN}"
    if entry.get("status") == "RUNNING":
        entry.update(status="KILLED", stop_time=entry.get("heartbeat") or entry.get("start_time"))
    entry[REVISION] = new_token()
    delivery = Delivery(database, files, journal, entry["session"])
    table = read_table(journal.log_path, limit or max_points(entry.get("config") or {}))
    # The run's document may not name the last of its files, or be lost.
    prefix = artifact_address(database, run_id, "")
    stored = database["fs.files"].find({"filename": {"$regex": f"^{prefix}"}}, {"filename": 1}).sort("uploadDate", 1)
    ids = {str(file["filename"]).removeprefix(prefix): file["_id"] for file in stored}
    ids |= {entry["name"]: entry["file_id"] for entry in (present or {}).get("artifacts") or ()}
    delivery.artifacts = [{"name": name, "file_id": file_id} for name, file_id in ids.items()]
    parcel = delivery.pack(entry, table, journal.pending_artifacts())
    try:
        if any(delivery.send(parcel) for _ in range(_ATTEMPTS)):
            journal.clear()
            return None
    except SessionLostError:
        return f"{journal.folder} stays: {_SUPERSEDED}"
    raise pymongo.errors.OperationFailure("The run is deleted while it is written.")
