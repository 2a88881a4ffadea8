"""Sacred's MongoDB observer, extended so that a server that is away for a while loses nothing."""

from __future__ import annotations

import contextlib
import logging
import mimetypes
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymongo.errors

from incasem_like.errors import InputError, StoreError
from incasem_like.tracking.plain import plain, to_bson
from incasem_like.tracking.recording.sacred_quietly import MongoObserver

if TYPE_CHECKING:
    import gridfs
    from pymongo.database import Database

log = logging.getLogger("incasem_like.tracking")

SECONDS_BETWEEN_ATTEMPTS = 10.0
FINAL_ATTEMPTS = 3


class MongoRunObserver(MongoObserver):  # type: ignore[misc]
    """Writes one run into the collections that Omniboard reads: runs, metrics, fs.files.

    Beyond Sacred: a heartbeat sends only what changed; what a missing server did not take is kept and sent when it is
    back, and spooled into ``failure_dir`` when it is not back by the end; sources are stored once, not once per run.

    Args:
        database: The database of this kind of run.
        files: Its GridFS.
        failure_dir: Folder for what could not be delivered.
        description: Of the database, for messages, without credentials.
    """

    def __init__(self, database: Database[Any], files: gridfs.GridFS, failure_dir: Path, description: str) -> None:
        self.initialize(database["runs"], files, metrics_collection=database["metrics"], failure_dir=failure_dir)
        self.database, self.description = database, description
        self._lock = threading.RLock()
        self._changed: set[str] = set()
        self._series: dict[str, dict[str, list[Any]]] = {}
        self._sent: dict[str, int] = {}
        self._metric_links: dict[str, str] = {}
        self._artifacts: list[tuple[str, bytes, str | None]] = []
        self._next_attempt = 0.0
        self._away = False

    def started_event(  # noqa: D102
        self,
        ex_info: dict[str, Any],
        command: str,
        host_info: dict[str, Any],
        start_time: datetime,
        config: dict[str, Any],
        meta_info: dict[str, Any],
        _id: int | None,
    ) -> int:
        with self._lock, _errors_of_a_start(self.description, _id):
            self.run_entry = {
                "_id": _id,
                "experiment": {**to_bson(plain(ex_info)), "sources": self.save_sources(ex_info)},
                "format": self.VERSION,
                "command": command,
                "host": to_bson(plain(host_info)),
                "start_time": start_time,
                "config": to_bson(plain(config)),
                "meta": to_bson(plain(meta_info)),
                "status": "RUNNING",
                "resources": [],
                "artifacts": [],
                "captured_out": "",
                "info": {},
                "heartbeat": None,
            }
            self.insert()
            return int(self.run_entry["_id"])

    def save_sources(self, ex_info: dict[str, Any]) -> list[list[Any]]:
        """Store the sources that the database does not have yet.

        Sacred looks for them by an MD5 that today's GridFS does not keep, and so stores every source with every run.
        """
        paths = {name: str(Path(ex_info["base_dir"]) / name) for name, _ in ex_info["sources"]}
        query = {"filename": {"$in": list(paths.values())}, "md5": {"$exists": True}}
        stored = {(file["filename"], file["md5"]): file["_id"] for file in self.database["fs.files"].find(query)}
        entries = []
        for name, md5 in ex_info["sources"]:
            file_id = stored.get((paths[name], md5))
            if file_id is None:
                file_id = self.fs.put(Path(paths[name]).read_bytes(), filename=paths[name], md5=md5)
            entries.append([name, file_id])
        return entries

    def heartbeat_event(self, info: dict[str, Any], captured_out: str, beat_time: datetime, result: Any) -> None:  # noqa: D102
        with self._lock:
            self._change(
                info=to_bson(plain(info)), captured_out=captured_out, heartbeat=beat_time, result=to_bson(plain(result))
            )
            self._deliver()

    def log_metrics(self, metrics_by_name: dict[str, dict[str, Any]], info: dict[str, Any]) -> None:
        """Take new points; they leave with the next delivery."""
        with self._lock:
            for name, points in metrics_by_name.items():
                series = self._series.setdefault(name, {"steps": [], "values": [], "timestamps": []})
                for key, values in series.items():
                    values += points[key]

    def artifact_event(  # noqa: D102
        self, name: str, filename: str, metadata: dict[str, Any] | None = None, content_type: str | None = None
    ) -> None:
        with self._lock:
            content_type = content_type or mimetypes.guess_type(name)[0]
            self._artifacts.append((name, Path(filename).read_bytes(), content_type))
            self._deliver()

    def completed_event(self, stop_time: datetime, result: Any) -> None:  # noqa: D102
        self._finish(stop_time=stop_time, result=to_bson(plain(result)), status="COMPLETED")

    def interrupted_event(self, interrupt_time: datetime, status: str) -> None:  # noqa: D102
        self._finish(stop_time=interrupt_time, status=status)

    def failed_event(self, fail_time: datetime, fail_trace: list[str]) -> None:  # noqa: D102
        self._finish(stop_time=fail_time, fail_trace=fail_trace, status="FAILED")

    def _change(self, **fields: Any) -> None:
        for key, value in fields.items():
            if key not in self.run_entry or self.run_entry[key] != value:
                self.run_entry[key] = value
                self._changed.add(key)

    def _deliver(self, *, final: bool = False) -> bool:
        """Send what waits; while the server is away, try again only at intervals, so that a run is not held up."""
        if not final and time.monotonic() < self._next_attempt:
            return False
        try:
            self._send_artifacts()
            self._send_metrics()
            self._send_changes()
        except pymongo.errors.ConnectionFailure:
            if not self._away:
                log.warning("%s does not answer: the run goes on and its record is delivered later.", self.description)
            self._away, self._next_attempt = True, time.monotonic() + SECONDS_BETWEEN_ATTEMPTS
            return False
        if self._away:
            log.warning("%s answers again: the run's record is delivered.", self.description)
        self._away, self._next_attempt = False, 0.0
        return True

    def _send_artifacts(self) -> None:
        while self._artifacts:
            name, content, content_type = self._artifacts[0]
            address = f"artifact://{self.runs.name}/{self.run_entry['_id']}/{name}"
            file_id = self.fs.put(content, filename=address, content_type=content_type)
            others = [entry for entry in self.run_entry["artifacts"] if entry["name"] != name]
            self._change(artifacts=[*others, {"name": name, "file_id": file_id}])
            self._artifacts.pop(0)

    def _send_metrics(self) -> None:
        """Append new points; after an outage write the whole series, for what the server took before is not certain."""
        for name, series in self._series.items():
            length, sent = len(series["steps"]), self._sent.get(name, 0)
            if self._away or sent == 0:
                update: dict[str, Any] = {"$set": series}
            elif sent < length:
                update = {"$push": {key: {"$each": values[sent:]} for key, values in series.items()}}
            else:
                continue
            query = {"run_id": self.run_entry["_id"], "name": name}
            outcome = self.metrics.update_one(query, update, upsert=True)
            self._sent[name] = length
            if name not in self._metric_links:
                found = outcome.upserted_id or self.metrics.find_one(query, {"_id": 1})["_id"]
                self._metric_links[name] = str(found)

    def _send_changes(self) -> None:
        fields = {key: value for key, value in self.run_entry.items() if key != "_id"}
        if not self._away:
            fields = {key: fields[key] for key in self._changed}
        # Omniboard finds the metrics of a run by these links
        links = [{"name": name, "id": found} for name, found in self._metric_links.items()]
        fields["info"] = {**self.run_entry["info"], "metrics": links}
        self.runs.update_one({"_id": self.run_entry["_id"]}, {"$set": fields}, upsert=True)
        self._changed.clear()

    def _finish(self, **fields: Any) -> None:
        with self._lock:
            if self.run_entry is None or self.run_entry.get("_id") is None:
                return
            self._change(**fields)
            for attempt in range(FINAL_ATTEMPTS):
                if attempt:
                    time.sleep(1)
                if self._deliver(final=True):
                    return
            self._spool()

    def _spool(self) -> None:
        """Write what was not delivered as MongoDB's extended JSON."""
        from bson import json_util

        from incasem_like.tracking.files.layout import write_whole

        folder = Path(self.failure_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.database.name}_{self.run_entry['_id']}.json"
        artifacts = [
            {"name": name, "content": content, "content_type": kind} for name, content, kind in self._artifacts
        ]
        content = {"run": self.run_entry, "metrics": self._series, "artifacts": artifacts}
        text = json_util.dumps(content)
        write_whole(path, lambda file: file.write(text.encode()))
        log.warning(
            "%s did not come back: the rest of run %s is kept in %s.", self.description, self.run_entry["_id"], path
        )


@contextlib.contextmanager
def _errors_of_a_start(description: str, run_id: int | None) -> Iterator[None]:
    try:
        yield
    except pymongo.errors.DuplicateKeyError:
        raise InputError(
            f"There is a run {run_id} in {description} already: choose another --id or leave it out."
        ) from None
    except pymongo.errors.ConnectionFailure:
        raise StoreError(f"{description} stopped answering: start the server and run the same command again.") from None
    except pymongo.errors.OperationFailure as error:
        raise StoreError(
            f"{description} does not take a new run (code {error.code}): check that the user may write there."
        ) from None
