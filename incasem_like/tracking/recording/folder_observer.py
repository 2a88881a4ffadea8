"""Sacred's file storage, written so that a reader or a crash at any moment finds whole files."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.disk import copy_whole, write_whole
from incasem_like.tracking.metrics_log import RunMetrics
from incasem_like.tracking.recording.claim import claim_folder, open_new_folder
from incasem_like.tracking.run_folder import artifact_file_name
from incasem_like.tracking.sacred_parts import FileStorageObserver
from incasem_like.tracking.series import MAX_POINTS
from incasem_like.tracking.sessions import Continuation, OpenedRun, Start, taken_over
from incasem_like.tracking.stores.files import keep, make_run_folder
from incasem_like.tracking.values import plain

if TYPE_CHECKING:
    pass

_SHARE_OF_TIME_FOR_METRICS = 0.02


class FileObserver(FileStorageObserver):  # type: ignore[misc]
    """Writes one run in Sacred's layout below ``basedir/<id>/``.

    Beyond Sacred: every file appears whole; metrics are appended to ``metrics.jsonl`` at each heartbeat, so that their
    cost does not grow with the run, and ``metrics.json`` holds a bounded part of them; a run can be continued, by one
    process at a time, which holds the log's lock for as long as it lives.

    Args:
        basedir: The store's folder.
        continues: The run to go on with; None for a new one.
        id_above: The id of a new run is above this.

    Attributes:
        max_points: Points of each metric in ``metrics.json``.
        opened: The run, once it has started.
        lost: Why this process may not write the run any more, or None.
    """

    def __init__(self, basedir: Path, *, continues: Continuation | None = None, id_above: int = 0) -> None:
        super().__init__(basedir)
        self.files, self.continues, self.id_above = Path(basedir), continues, id_above
        self.max_points = MAX_POINTS
        self.opened: OpenedRun | None = None
        self.lost: Exception | None = None
        self._lock = threading.RLock()
        self._metrics_due = 0.0
        self._written_info: Any = None
        self._written_output: str | None = None
        self._written_as: tuple[int, int] | None = None

    @property
    def run_directory(self) -> Path:
        """The folder of the run, once it has started."""
        return Path(str(self.dir))

    def started_event(self, _id: int | None, **event: Any) -> int:  # noqa: D102
        start = Start(**event)
        with self._lock:
            if self.continues is None:
                self.dir = str(make_run_folder(self.files, _id, self.id_above))
                start.ex_info["sources"] = self.save_sources(start.ex_info)
                self.opened = open_new_folder(self.run_directory, start, self.max_points)
            else:
                self.dir = str(self.files / str(self.continues.run_id))
                self.opened = claim_folder(self.run_directory, start, self.continues, self.max_points)
            self.run_entry: dict[str, Any] = self.opened.entry
            self.config, self.info, self.cout = start.config, self.opened.info, self.opened.output
            self.save_cout()
            self.save_json(start.config, "config.json")
            self._save_info()
            self._save_run()  # last: a folder without it is no run yet
            return int(self.run_directory.name)

    def save_json(self, obj: Any, filename: str) -> None:
        """Write a file of the run whole; the run's own entry only as long as the run is this process's."""
        if self.lost is not None:
            return
        path = self.run_directory / filename
        text = json.dumps(plain(obj), sort_keys=filename != "config.json", indent=2)
        if filename == "run.json" and self._written_as is not None:
            self._check_ours()
        write_whole(path, lambda file: file.write(text.encode()))
        if filename == "run.json":
            self._written_as = _stamp(path)

    def save_file(self, filename: str, target_name: str | None = None) -> None:  # noqa: D102
        target = self.run_directory / artifact_file_name(target_name or Path(filename).name)
        copy_whole(Path(filename), target)

    def find_or_save(self, filename: str, store_dir: Path) -> Path:
        """Keep one copy of a source or resource for all runs, named by its content's hash."""
        return keep(Path(store_dir), Path(filename))

    def save_cout(self) -> None:  # noqa: D102
        if self.cout != self._written_output:
            content = self.cout
            write_whole(self.run_directory / "cout.txt", lambda file: file.write(content.encode("utf-8", "replace")))
            self._written_output = content

    def heartbeat_event(self, info: dict[str, Any], captured_out: str, beat_time: datetime, result: Any) -> None:  # noqa: D102
        with self._lock:
            if self.lost is not None:
                return
            self.run_entry.update(heartbeat=beat_time.isoformat(), result=result)
            self._save_run()
            self.info, self.cout = info, captured_out
            self._save_info()
            self.save_cout()

    def artifact_event(  # noqa: D102
        self, name: str, filename: str, metadata: dict[str, Any] | None = None, content_type: str | None = None
    ) -> None:
        with self._lock:
            if self.lost is not None:
                return
            self.save_file(filename, name)
            if name not in self.run_entry["artifacts"]:
                self.run_entry["artifacts"].append(name)
            self._save_run()

    def log_metrics(self, metrics_by_name: dict[str, dict[str, Any]], info: dict[str, Any]) -> None:
        """Append new points to ``metrics.jsonl``; make ``metrics.json`` anew when that costs little."""
        with self._lock:
            if self.lost is not None:
                return
            self._check_ours()
            self._metrics.take(metrics_by_name)
            if metrics_by_name and time.monotonic() >= self._metrics_due:
                self._save_metrics()

    def completed_event(self, stop_time: datetime, result: Any) -> None:  # noqa: D102
        with self._ending():
            super().completed_event(stop_time, result)

    def interrupted_event(self, interrupt_time: datetime, status: str) -> None:  # noqa: D102
        with self._ending():
            super().interrupted_event(interrupt_time, status)

    def failed_event(self, fail_time: datetime, fail_trace: list[str]) -> None:  # noqa: D102
        with self._ending():
            super().failed_event(fail_time, fail_trace)

    def join(self) -> None:
        """Let go of the run."""
        with self._lock:
            self._metrics.log.close()

    @property
    def _metrics(self) -> RunMetrics:
        assert self.opened is not None
        return self.opened.metrics

    def _save_run(self) -> None:
        self.save_json(self.run_entry, "run.json")

    def _save_info(self) -> None:
        assert self.opened is not None
        info = {**self.info, "sessions": self.opened.sessions, "summary": self._metrics.table.summary}
        if info != self._written_info:
            self.save_json(info, "info.json")
            self._written_info = plain(info)

    def _save_metrics(self) -> None:
        """Write what Sacred's own readers, and stores that runs are moved to, take the metrics from."""
        self._metrics.take({})
        start = time.monotonic()
        self.save_json(self._metrics.table.as_documents(), "metrics.json")
        self._metrics_due = time.monotonic() + (time.monotonic() - start) / _SHARE_OF_TIME_FOR_METRICS

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """Write the metrics before a block that writes how the run ended; a disk too full for them may take that."""
        with self._lock:
            try:
                self._save_metrics()
            finally:
                yield

    def _check_ours(self) -> None:
        """Make sure that nobody continued the run: its entry is as it was written last, or of the same session."""
        path = self.run_directory / "run.json"
        try:
            if _stamp(path) == self._written_as:
                return
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return  # it is about to be written anew; a file system that fails for a moment must not cost metrics
        if found.get("session") != self.run_entry["session"]:
            self.lost = taken_over(int(self.run_directory.name), str(self.files))
            raise self.lost


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns
