"""Bringing a run's record into the database, in writes that may be repeated and that carry the session's token."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gridfs.errors
import pymongo.errors
from bson import ObjectId

from incasem_like.tracking.journal import PendingArtifact
from incasem_like.tracking.series import BoundedSeries, MetricTable

if TYPE_CHECKING:
    import gridfs
    from pymongo.database import Database

_COLUMNS = ("steps", "values", "timestamps")


class SessionLostError(Exception):
    """Another process has the run now."""


@dataclass(frozen=True)
class Mark:
    """How much of a series the database has: stride, kept points, length of the full series."""

    stride: int
    points: int
    count: int


@dataclass(frozen=True)
class Parcel:
    """What goes to the database at once.

    Attributes:
        fields: Of the run's document, to be set.
        metrics: Of each metric the fields to be set in its document, and the mark once they are.
        artifacts: Files that it lacks.
        whole: Whether this is all there is, and not only what is new.
        version: Counts the states of the run, for the sender.
    """

    fields: dict[str, Any]
    metrics: dict[str, tuple[dict[str, Any], Mark]] = field(default_factory=dict)
    artifacts: Sequence[PendingArtifact] = ()
    whole: bool = False
    version: int = 0


class Delivery:
    """Writes one run for one session.

    Args:
        database: Where to.
        files: Its GridFS.
        run_id: The run.
        token: Of the session.
        metric_ids: Ids of the metrics documents there are, by name.
    """

    def __init__(
        self,
        database: Database[Any],
        files: gridfs.GridFS,
        run_id: int,
        token: str,
        metric_ids: Mapping[str, Any] | None = None,
    ) -> None:
        self.runs, self.metrics, self.files = database["runs"], database["metrics"], files
        self.run_id, self.token = run_id, token
        self._metric_ids = dict(metric_ids or {})

    def send(self, parcel: Parcel, artifacts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
        """Send a parcel.

        Args:
            parcel: What is to be sent.
            artifacts: The entries of the files that the run has in the database.

        Returns:
            The entries of its files then; None where the database has lost something, so that all is to be sent again.

        Raises:
            SessionLostError: Another process continued the run.
            pymongo.errors.PyMongoError: The server did not take it, or not all of it.
        """
        which = {"_id": self.run_id, "session": self.token}
        change: dict[str, Any] = {"$set": {**parcel.fields, "artifacts": [dict(entry) for entry in artifacts]}}
        if "stop_time" not in parcel.fields:
            change["$unset"] = {"stop_time": ""}  # somebody may have taken the run for dead
        try:
            outcome = self.runs.update_one(which, change, upsert=True)
        except pymongo.errors.DuplicateKeyError:
            raise SessionLostError from None
        if outcome.upserted_id is not None and not parcel.whole:
            return None
        if not all(self._send_metric(name, fields) for name, (fields, _) in parcel.metrics.items()):
            return None
        return self._send_artifacts(parcel.artifacts, artifacts)

    def link(self, name: str) -> dict[str, str]:
        """Give the entry of ``info.metrics`` by which Omniboard finds a metric."""
        return {"name": name, "id": str(self._metric_id(name))}

    def _metric_id(self, name: str) -> Any:
        """Give a metric's id: always the same for the same run and name, so that two writers never make two of it."""
        if name not in self._metric_ids:
            digest = hashlib.sha256(f"{self.run_id}\0{name}".encode()).digest()
            self._metric_ids[name] = ObjectId(digest[:12])
        return self._metric_ids[name]

    def _send_metric(self, name: str, fields: Mapping[str, Any]) -> bool:
        which = {"_id": self._metric_id(name), "session": self.token}
        is_whole = "steps" in fields
        try:
            outcome = self.metrics.update_one(which, {"$set": dict(fields)}, upsert=True)
        except pymongo.errors.DuplicateKeyError:
            if self.runs.find_one({"_id": self.run_id, "session": self.token}, {"_id": 1}) is None:
                raise SessionLostError from None
            self.metrics.delete_one({"_id": self._metric_id(name)})  # of a run of this id that was deleted
            return False
        return is_whole or outcome.upserted_id is None

    def _send_artifacts(
        self, pending: Sequence[PendingArtifact], present: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        entries = [dict(entry) for entry in present]
        for artifact in pending:
            file_id = ObjectId(artifact.id)
            self._put(artifact, file_id)
            before = [entry["file_id"] for entry in entries if entry["name"] == artifact.name]
            others = [entry for entry in entries if entry["name"] != artifact.name]
            entries = [*others, {"name": artifact.name, "file_id": file_id}]
            which = {"_id": self.run_id, "session": self.token}
            if self.runs.update_one(which, {"$set": {"artifacts": entries}}).matched_count == 0:
                raise SessionLostError
            for old in before:
                if old != file_id:
                    self.files.delete(old)
        return entries

    def _put(self, artifact: PendingArtifact, file_id: ObjectId) -> None:
        name = f"artifact://{self.runs.name}/{self.run_id}/{artifact.name}"
        for _ in range(2):
            try:
                with open(artifact.path, "rb") as content:
                    self.files.put(content, _id=file_id, filename=name, content_type=artifact.content_type)
                return
            except gridfs.errors.FileExists:  # an attempt that broke off may have left some of it
                if self.files.exists(file_id):
                    return
                self.files.delete(file_id)


def series_update(
    name: str, run_id: int, series: BoundedSeries, mark: Mark | None
) -> tuple[dict[str, Any], Mark] | None:
    """Find the fields by which a metrics document becomes equal to a series; None where it is.

    Positions are set one by one rather than appended to, so that a write that is repeated, because nobody knows whether
    it came through, does no harm.

    Args:
        name: Of the metric.
        run_id: Of the run.
        series: What the document should hold.
        mark: What it holds; None for all to be written.
    """
    new = Mark(series.stride, len(series.points), series.count)
    if new == mark:
        return None
    document = series.as_document()
    if mark is None or mark.stride != series.stride or mark.points > new.points or mark.points == 0:
        return {"name": name, "run_id": run_id, **document}, new
    fields = {"stride": series.stride, "count": series.count}
    for position in range(mark.points - 1, new.points):
        fields.update({f"{column}.{position}": document[column][position] for column in _COLUMNS})
    return fields, new


def whole_parcel(entry: Mapping[str, Any], table: MetricTable, artifacts: Sequence[PendingArtifact]) -> Parcel:
    """Make a parcel of all that is known of a run."""
    fields = {key: value for key, value in entry.items() if key not in ("_id", "artifacts")}
    updates = {name: series_update(name, entry["_id"], series, None) for name, series in table.series.items()}
    return Parcel(fields, {name: found for name, found in updates.items() if found}, artifacts, whole=True)
