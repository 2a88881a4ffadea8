"""Copying an active run into MongoDB: a server that is away, slow or killed costs nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from incasem_like.tracking.liveness import Heartbeat
from incasem_like.tracking.run_folder import Journal, OpenedRun
from incasem_like.tracking.sessions import taken_over
from incasem_like.tracking.stores.base import RunStore
from incasem_like.tracking.stores.connection import reason_of
from incasem_like.tracking.stores.mongo import MongoStore
from incasem_like.tracking.stores.push import Delivery, Parcel, SessionLostError, to_document

log = logging.getLogger("incasem_like.tracking")
SECONDS_BETWEEN_ATTEMPTS = 10.0
FINAL_ATTEMPTS = 3
_ALWAYS = ("status", "heartbeat", "stop_time")  # somebody may have written that the run was dead
SECONDS_BETWEEN_FINAL_ATTEMPTS = 1.0
SECONDS_FOR_THE_END = 30.0


class Mirror:
    """Keeps the documents that Omniboard reads (runs, metrics, fs.files) equal to one run's folder.

    The run is written on this machine first; a thread of the mirror's own brings it to the server, so that no outage
    ever holds the run up. What could not be delivered by the end stays in the run's journal. Every write carries the
    session's token: who lost the run to another process learns it and stops.

    Attributes:
        lock: Held while the run's folder is written and while what is sent is put together.
        lost: Why this process may not write the run any more, or None.
    """

    def __init__(self, store: RunStore) -> None:
        assert isinstance(store, MongoStore)
        self.store = store
        self.lock = threading.RLock()
        self.lost: Exception | None = None
        self._entry: dict[str, Any] = {}
        self._changed: set[str] = set()
        self._pending: list[str] = []  # names of files
        self._whole = self._is_marked = False
        self._delivered_beat: datetime | None = None
        self._away = self._is_slow = False
        self._next_attempt = 0.0
        self._courier = Heartbeat(self._deliver, SECONDS_BETWEEN_ATTEMPTS, "delivery")

    def begin(self, run: OpenedRun, document: Mapping[str, Any]) -> None:
        """Write a run that this process has claimed into the database, and mirror it from then on.

        Raises ``StoreError`` if the server does not take it, or another process was quicker.
        """
        assert isinstance(run.folder, Journal)
        self._journal = run.folder
        run_id = run.folder.run_id
        with self.store.errors("written", f"Run {run_id}"):
            self._delivery = Delivery(self.store.database, self.store.files, run.folder, run.entry["session"])
            self._entry = to_document(document)
            self._delivery.publish(self._delivery.pack(self._entry, run.folder.log.table))
        self._courier.start()

    def update(self, fields: Mapping[str, Any]) -> None:
        """Note fields that the database should have, before they are written on this machine; needs the lock."""
        for key, value in to_document(fields).items():
            if key not in self._entry or self._entry[key] != value:
                self._entry[key] = value
                if key != "heartbeat":
                    self._changed.add(key)
                    self._mark()

    def add_artifact(self, name: str) -> None:
        """Note a file of the run's folder that the database should have; needs the lock."""
        self._pending.append(name)
        self._mark()

    def ask(self) -> None:
        """Push what is new soon, without waiting."""
        self._courier.ask()

    def settle(self, seconds: float) -> None:
        """Wait a moment for what was said to be delivered; not at all while the server is known to be slow or away."""
        if self._away or self._is_slow or self.lost is not None:
            return
        self._is_slow = not self._courier.wait(self._courier.ask(), seconds)

    def close(self) -> None:
        """End the thread."""
        self._courier.stop(seconds=1.0)

    @property
    def _lacks(self) -> bool:
        """Whether the server lacks more than a heartbeat, as far as that is not being sent."""
        return bool(self._whole or self._changed or self._pending)

    def _mark(self) -> None:
        """Note on this machine that the server lacks something."""
        if not self._is_marked:
            self._journal.mark(self.store.description)
            self._is_marked = True

    def _deliver(self) -> None:
        """Send what is new; called by the delivery's thread alone."""
        with self.lock:
            is_new = self._lacks or self._delivered_beat != self._entry.get("heartbeat")
            if self.lost is not None or not is_new or time.monotonic() < self._next_attempt:
                return
            changed = None if self._whole else {*self._changed, *_ALWAYS}
            files, self._pending = list(dict.fromkeys(self._pending)), []
            self._changed.clear()
            parcel = self._delivery.pack(self._entry, self._journal.log.table, files, changed)
        try:
            is_there = self._delivery.send(parcel)
        except SessionLostError:
            with self.lock:
                self.lost = taken_over(self._journal.run_id, self.store.description)
                self._journal.clear()
            log.warning("%s", self.lost)
        except Exception as error:
            with self.lock:
                if not self._away:
                    reason = reason_of(error, "the record")
                    message = "%s %s: the run goes on and its record is delivered later."
                    log.warning(message, self.store.description, reason)
                self._pending += files
                self._away = self._whole = True
                self._next_attempt = time.monotonic() + SECONDS_BETWEEN_ATTEMPTS
                self._mark()
        else:
            with self.lock:
                self._acknowledge(parcel, is_there)

    def _acknowledge(self, parcel: Parcel, is_there: bool) -> None:
        if not is_there:  # the server was restored from an older state: it gets all again
            self._pending += parcel.artifacts
            self._whole, self._next_attempt = True, 0.0
            self._mark()
            self._courier.ask()
            return
        for name in parcel.artifacts:
            if name not in self._pending:  # nor was it replaced meanwhile
                self._journal.artifact(name).unlink(missing_ok=True)
        self._delivered_beat = parcel.fields.get("heartbeat")
        self._whole &= not parcel.whole
        if not self._lacks:
            self._journal.unmark()
            self._is_marked = False
        if self._away:
            log.warning("%s answers again: the run's record is delivered.", self.store.description)
        self._away = self._is_slow = False
        self._next_attempt = 0.0

    def finish(self) -> None:
        """Deliver the whole run at its end, whatever befell the database meanwhile: a backup put back, a rollback."""
        with self.lock:
            if self.lost is not None:
                return
            self._whole = True
            self._mark()
        end = time.monotonic() + SECONDS_FOR_THE_END
        for attempt in range(FINAL_ATTEMPTS):
            if attempt:
                time.sleep(SECONDS_BETWEEN_FINAL_ATTEMPTS)
            self._next_attempt = 0.0
            self._courier.wait(self._courier.ask(), max(0.0, end - time.monotonic()))
            if not self._lacks:
                self._journal.clear()
            if not self._lacks or self.lost is not None:
                return
        log.warning(
            "%s did not come back: what it lacks of run %s is kept in %s, and 'incasem-like runs sync' delivers it.",
            self.store.description,
            self._journal.run_id,
            self._journal.folder,
        )
