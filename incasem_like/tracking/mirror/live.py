"""An observer for MongoDB, extended so that a server that is away, slow or killed costs nothing."""

from __future__ import annotations

import logging
import mimetypes
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pymongo.errors
from bson import ObjectId

from incasem_like.tracking.background import Heartbeat
from incasem_like.tracking.mirror.push import Delivery, Mark, Parcel, SessionLostError, series_update, whole_parcel
from incasem_like.tracking.run_folder import Journal
from incasem_like.tracking.sacred_parts import RunObserver
from incasem_like.tracking.series import MAX_POINTS
from incasem_like.tracking.sessions import OpenedRun, Start, taken_over
from incasem_like.tracking.stores.mongo import Begun, Place
from incasem_like.tracking.values import plain, to_bson

log = logging.getLogger("incasem_like.tracking")
SECONDS_BETWEEN_ATTEMPTS = 10.0
FINAL_ATTEMPTS = 3
_ALWAYS = ("status", "heartbeat", "stop_time")  # somebody may have written that the run was dead
SECONDS_BETWEEN_FINAL_ATTEMPTS = 1.0
SECONDS_FOR_THE_END = 30.0


Claim = Callable[[Start, int | None, int], Begun]


class MongoRunObserver(RunObserver):  # type: ignore[misc]
    """Writes one run into the collections that Omniboard reads: runs, metrics, fs.files.

    What the run says is written on this machine first, by the thread that says it; a thread of its own brings it to the
    server, so that no outage ever holds the run up. What could not be delivered by the end stays in the run's journal.
    Every write carries the session's token: who lost the run to another process learns it and stops.

    Args:
        place: The database, its GridFS and its journals.
        claim: Enters the run, or takes it to continue it, for what Sacred says at the start, a wanted id and a number
            of points.
        is_continued: Whether the run is continued.

    Attributes:
        max_points: Points of each metric in the database.
        opened: The run, once it has started.
        lost: Why this process may not write the run any more, or None.
    """

    def __init__(self, place: Place, claim: Claim, *, is_continued: bool = False) -> None:
        self.place, self.is_continued, self._claim = place, is_continued, claim
        self.max_points = MAX_POINTS
        self.opened: OpenedRun | None = None
        self.lost: Exception | None = None
        self._lock = threading.RLock()
        self._entry: dict[str, Any] = {}
        self._changed: set[str] = set()
        self._marks: dict[str, Mark] = {}
        self._whole = False
        self._version = self._delivered = 0
        self._delivered_beat: datetime | None = None
        self._away = self._is_slow = False
        self._next_attempt = 0.0
        self._courier = Heartbeat(self._deliver, SECONDS_BETWEEN_ATTEMPTS, "delivery")

    def started_event(self, _id: int | None, **event: Any) -> int:  # noqa: D102
        start = Start(**event)
        with self._lock:
            begun = self._claim(start, _id, self.max_points)
            self.opened, self._journal, self._entry = begun.run, begun.journal, dict(begun.run.entry)
            run_id, token = int(self._entry["_id"]), str(self._entry["session"])
            self._delivery = Delivery(self.place.database, self.place.files, run_id, token, begun.metric_ids)
            self._pending = self._journal.artifacts()
            self._artifacts = list(self._entry.get("artifacts") or ())
            if self.is_continued:
                self._changed |= {"config", "meta", "host"}
                self._change(info=self._complete_info(begun.run.info), captured_out=begun.run.output)
                self._write_ahead()
        self._courier.start()
        return run_id

    @property
    def journal(self) -> Journal:
        """The run's journal, once it has started."""
        return self._journal

    def heartbeat_event(self, info: dict[str, Any], captured_out: str, beat_time: datetime, result: Any) -> None:  # noqa: D102
        with self._lock:
            if self.lost is not None:
                return
            self._change(info=self._complete_info(info), captured_out=captured_out, result=to_bson(plain(result)))
            self._entry["heartbeat"] = beat_time
            self._write_ahead()
        self._courier.ask()

    def log_metrics(self, metrics_by_name: dict[str, dict[str, Any]], info: dict[str, Any]) -> None:
        """Append new points to the journal's log; they leave with the heartbeat that follows."""
        with self._lock:
            if self.lost is None and self.opened is not None:
                self.opened.metrics.take(metrics_by_name)

    def artifact_event(  # noqa: D102
        self, name: str, filename: str, metadata: dict[str, Any] | None = None, content_type: str | None = None
    ) -> None:
        with self._lock:
            if self.lost is not None:
                return
            kind = content_type or mimetypes.guess_type(name)[0]
            self._pending.append(self._journal.add_artifact(str(ObjectId()), name, Path(filename), kind))
            self._version += 1
            self._write_ahead()
        self._courier.ask()

    def completed_event(self, stop_time: datetime, result: Any) -> None:  # noqa: D102
        self._finish(stop_time=stop_time, result=to_bson(plain(result)), status="COMPLETED")

    def interrupted_event(self, interrupt_time: datetime, status: str) -> None:  # noqa: D102
        self._finish(stop_time=interrupt_time, status=status)

    def failed_event(self, fail_time: datetime, fail_trace: list[str]) -> None:  # noqa: D102
        self._finish(stop_time=fail_time, fail_trace=fail_trace, status="FAILED")

    def settle(self, seconds: float) -> None:
        """Wait a moment for what was said to be delivered; not at all while the server is known to be slow or away."""
        if self._away or self._is_slow or self.lost is not None:
            return
        self._is_slow = not self._courier.wait(self._courier.ask(), seconds)

    def join(self) -> None:
        """Let go of the run."""
        self._courier.stop(seconds=1.0)
        if self.opened is not None:
            self.opened.metrics.log.close()

    def _complete_info(self, info: Mapping[str, Any]) -> Any:
        """Put together what the run noted and what is known of it: sessions, summary, and where its metrics are."""
        assert self.opened is not None
        table = self.opened.metrics.table
        noted = {**info, "sessions": self.opened.sessions, "summary": table.summary}
        links = [self._delivery.link(name) for name in table.series]  # Omniboard finds the metrics by these
        return {**to_bson(plain(noted)), "metrics": links}

    def _change(self, **fields: Any) -> None:
        for key, value in fields.items():
            if key not in self._entry or self._entry[key] != value:
                self._entry[key] = value
                self._changed.add(key)
                self._version += 1

    def _write_ahead(self) -> None:
        """Note on this machine what the server is about to be told, if it is more than that the run goes on."""
        if self._delivered != self._version:
            self._journal.write({**self._entry, "artifacts": self._artifacts}, self.place.description)

    def _deliver(self) -> None:
        """Send what is new; called by the delivery's thread alone."""
        with self._lock:
            beat = self._entry.get("heartbeat")
            is_new = self._whole or self._delivered != self._version or self._delivered_beat != beat
            if self.lost is not None or not is_new or time.monotonic() < self._next_attempt:
                return
            parcel = self._pack()
        try:
            artifacts = self._delivery.send(parcel, self._artifacts)
        except SessionLostError:
            self._lose()
        except Exception as error:
            self._wait_for_the_server(error)
        else:
            with self._lock:
                self._acknowledge(parcel, artifacts)

    def _pack(self) -> Parcel:
        assert self.opened is not None
        table = self.opened.metrics.table
        if self._whole:
            whole = whole_parcel(self._entry, table, list(self._pending))
            return Parcel(whole.fields, whole.metrics, whole.artifacts, whole=True, version=self._version)
        fields = {key: self._entry[key] for key in {*self._changed, *_ALWAYS} if key in self._entry}
        updates = {
            name: series_update(name, self._entry["_id"], series, self._marks.get(name))
            for name, series in table.series.items()
        }
        news = {name: update for name, update in updates.items() if update is not None}
        self._changed.clear()
        return Parcel(fields, news, list(self._pending), version=self._version)

    def _acknowledge(self, parcel: Parcel, artifacts: list[dict[str, Any]] | None) -> None:
        if artifacts is None:  # the server was restored from an older state: it gets all again
            self._whole, self._next_attempt = True, 0.0
            self._courier.ask()
            return
        self._artifacts = artifacts
        self._marks.update({name: mark for name, (_, mark) in parcel.metrics.items()})
        for artifact in parcel.artifacts:
            self._pending.remove(artifact)
            self._journal.drop_artifact(artifact)
        self._delivered, self._delivered_beat = parcel.version, parcel.fields.get("heartbeat")
        if self._delivered == self._version:
            self._journal.clear()
        if self._away:
            log.warning("%s answers again: the run's record is delivered.", self.place.description)
        self._whole &= not parcel.whole
        self._away = self._is_slow = False
        self._next_attempt = 0.0

    def _wait_for_the_server(self, error: Exception) -> None:
        with self._lock:
            if not self._away:
                log.warning(
                    "%s %s: the run goes on and its record is delivered later.", self.place.description, _reason(error)
                )
            self._away = self._whole = True
            self._next_attempt = time.monotonic() + SECONDS_BETWEEN_ATTEMPTS

    def _lose(self) -> None:
        with self._lock:
            self.lost = taken_over(int(self._entry["_id"]), self.place.description)
            self._journal.clear()
        log.warning("%s", self.lost)

    def _finish(self, **fields: Any) -> None:
        with self._lock:
            if self.opened is None or self.lost is not None:
                return
            self._change(**fields)
            self._whole = True  # once, whatever befell the database meanwhile: a backup put back, a rollback
            self._write_ahead()
        end = time.monotonic() + SECONDS_FOR_THE_END
        for attempt in range(FINAL_ATTEMPTS):
            if attempt:
                time.sleep(SECONDS_BETWEEN_FINAL_ATTEMPTS)
            self._next_attempt = 0.0
            self._courier.wait(self._courier.ask(), max(0.0, end - time.monotonic()))
            if self._delivered == self._version or self.lost is not None:
                return
        log.warning(
            "%s did not come back: what it lacks of run %s is kept in %s, and 'incasem-like runs sync' delivers it.",
            self.place.description,
            self._entry["_id"],
            self._journal.folder,
        )


def _reason(error: Exception) -> str:
    """Say why the server did not take something; in words that quote neither addresses nor values."""
    if isinstance(error, pymongo.errors.ConnectionFailure):
        return "does not answer"
    if isinstance(error, pymongo.errors.WTimeoutError):
        return "cannot bring the record to most members of its replica set"
    if isinstance(error, pymongo.errors.OperationFailure):
        return f"refuses the record (code {error.code})"
    return f"cannot be given the record ({type(error).__name__})"
