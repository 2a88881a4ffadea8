"""The observer that writes one run into its folder, so that a reader or a crash at any moment finds whole files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.disk import copy_whole
from incasem_like.tracking.run_folder import OpenedRun
from incasem_like.tracking.sessions import Start, taken_over
from incasem_like.tracking.values import plain

if TYPE_CHECKING:
    from incasem_like.tracking.mirror.live import Mirror

_SHARE_OF_TIME_FOR_METRICS = 0.02
Claim = Callable[[Start, int | None], AbstractContextManager[OpenedRun]]


class RunWriter:
    """Writes one run in Sacred's layout, at the events that Sacred's observers take.

    Beyond Sacred: every file appears whole; metrics are appended to ``metrics.jsonl`` at each heartbeat, so that their
    cost does not grow with the run, and ``metrics.json`` holds a bounded part of them; a run can be continued, by one
    process at a time, which holds the log's lock for as long as it lives.

    Args:
        claim: Begins the run or claims it, for what Sacred reports at the start and a wanted id.
        mirror: Copies the run into a database; None for a run that is kept as files.
    """

    def __init__(self, claim: Claim, mirror: Mirror | None = None) -> None:
        self._claim, self._mirror = claim, mirror
        self.opened: OpenedRun | None = None
        self._lost: Exception | None = None
        self._lock = mirror.lock if mirror is not None else threading.RLock()
        self._metrics_due = 0.0
        self._written: dict[str, Any] = {}

    @property
    def lost(self) -> Exception | None:
        """Why this process may not write the run any more, or None."""
        return self._lost if self._mirror is None else self._mirror.lost

    def started_event(self, _id: int | None, **event: Any) -> int:  # noqa: D102
        start = Start(**event)
        with self._lock:
            with self._claim(start, _id) as opened:
                self.opened, self._run = opened, opened.folder
                self._entry, self._sessions = opened.entry, opened.sessions
                parts = {"info": self._info(opened.info), "captured_out": opened.output}
                document = {**opened.entry, "config": start.config, **parts}
                if self._mirror is not None:
                    self._mirror.begin(opened, document)
            self._run.write_document(document)
            self._written = plain(parts)
            return self._run.run_id

    def heartbeat_event(self, info: dict[str, Any], captured_out: str, beat_time: datetime, result: Any) -> None:  # noqa: D102
        with self._lock:
            if self.lost is None:
                self._write_record(heartbeat=beat_time.isoformat(), result=result)
                parts = {"info": self._info(info), "captured_out": captured_out}
                changed = {key: part for key, part in parts.items() if part != self._written[key]}
                if self._mirror is not None:
                    self._mirror.update(changed)
                    self._mirror.ask()  # which waits for the lock
                if "info" in changed:
                    self._run.write("info.json", changed["info"])
                if "captured_out" in changed:
                    self._run.write_output(captured_out)
                self._written |= plain(changed)

    def artifact_event(  # noqa: D102
        self, name: str, filename: str, metadata: dict[str, Any] | None = None, content_type: str | None = None
    ) -> None:
        with self._lock:
            if self.lost is None:
                copy_whole(Path(filename), self._run.artifact(name))
                if self._mirror is not None:
                    self._mirror.add_artifact(name)
                    self._mirror.ask()
                self._write_record(artifacts=list(dict.fromkeys([*self._entry["artifacts"], name])))

    def log_metrics(self, metrics_by_name: dict[str, dict[str, Any]], info: dict[str, Any]) -> None:
        """Append new points to ``metrics.jsonl``; make ``metrics.json`` anew when that costs little."""
        with self._lock:
            if self.lost is None:
                self._check_ours()
                self._run.log.take(metrics_by_name)
                if metrics_by_name and time.monotonic() >= self._metrics_due:
                    self._write_metrics()

    def completed_event(self, stop_time: datetime, result: Any) -> None:  # noqa: D102
        self._end(stop_time, status="COMPLETED", result=result)

    def interrupted_event(self, interrupt_time: datetime, status: str) -> None:  # noqa: D102
        self._end(interrupt_time, status=status)

    def failed_event(self, fail_time: datetime, fail_trace: list[str]) -> None:  # noqa: D102
        self._end(fail_time, status="FAILED", fail_trace=fail_trace)

    def join(self) -> None:
        """Release the run."""
        if self._mirror is not None:
            self._mirror.close()
        with self._lock:
            if self.opened is not None:
                self._run.log.close()

    def settle(self, seconds: float) -> None:
        """Wait a moment for a database to take what is new."""
        if self._mirror is not None:
            self._mirror.settle(seconds)

    def _end(self, stop_time: datetime, **fields: Any) -> None:
        """Write how the run ended, after its metrics; a disk that is too full for those may take it."""
        with self._lock:
            if self.lost is None:
                try:
                    self._write_metrics()
                finally:
                    self._write_record(stop_time=stop_time.isoformat(), **fields)
        if self._mirror is not None:
            self._mirror.finish()

    def _write_record(self, **fields: Any) -> None:
        """Write the run's own entry, only as long as the run is this process's."""
        self._entry.update(fields)
        if self._mirror is not None:
            self._mirror.update(fields)
        else:
            self._check_ours()
        self._run.write("run.json", self._entry)

    def _info(self, noted: dict[str, Any]) -> dict[str, Any]:
        return {**noted, "sessions": self._sessions, "summary": self._run.log.table.summary}

    def _write_metrics(self) -> None:
        """Write what Sacred's own readers, and stores that runs are moved to, take the metrics from."""
        self._run.log.save()
        if self._mirror is not None:
            return  # its database holds the bounded part, and the log makes it anew
        start = time.monotonic()
        self._run.write("metrics.json", self._run.log.table.as_documents())
        self._metrics_due = time.monotonic() + (time.monotonic() - start) / _SHARE_OF_TIME_FOR_METRICS

    def _check_ours(self) -> None:
        """Check that no other process resumed the run; a file system that fails for a moment must not cost metrics."""
        if self._mirror is not None:
            return  # the database says so
        found = self._run.read_leniently("run.json")
        if found and found.get("session") != self._entry["session"]:
            self._lost = taken_over(self._run.run_id, str(self._run.folder.parent))
            raise self._lost
