"""Sacred's file storage, written so that a reader or a crash at any moment finds whole files."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from incasem_like.errors import InputError
from incasem_like.tracking.files.layout import METRICS_LOG, artifact_file_name, write_whole
from incasem_like.tracking.plain import plain
from incasem_like.tracking.recording.sacred_quietly import FileStorageObserver

_SHARE_OF_TIME_FOR_METRICS = 0.02


class FileObserver(FileStorageObserver):  # type: ignore[misc]
    """Writes one run in Sacred's layout below ``basedir/<id>/``.

    Beyond Sacred: every file appears whole; metrics are appended to ``metrics.jsonl`` at each heartbeat, so that their
    cost does not grow with the run, and Sacred's ``metrics.json`` is made from them at the end and now and then before.
    """

    def __init__(self, basedir: Path) -> None:
        super().__init__(basedir)
        self.files = Path(basedir)
        self._lock = threading.RLock()
        self._metrics: dict[str, dict[str, list[Any]]] = {}
        self._metrics_due = 0.0
        self._unwritten = ""
        self._log_length = 0
        self._written_info: Any = None
        self._written_output: str | None = None

    @property
    def run_directory(self) -> Path:
        """The folder of the run, once it has started."""
        return Path(str(self.dir))

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
        with self._lock:
            try:
                self._make_run_dir(_id)
            except FileExistsError:
                raise InputError(
                    f"There is a run {_id} in {self.files} already: choose another --id or leave it out."
                ) from None
            self.run_entry: dict[str, Any] = {
                "experiment": {**ex_info, "sources": self.save_sources(ex_info)},
                "command": command,
                "host": host_info,
                "start_time": start_time.isoformat(),
                "meta": meta_info,
                "status": "RUNNING",
                "resources": [],
                "artifacts": [],
                "heartbeat": None,
            }
            self.config, self.cout = config, ""
            self.save_cout()
            self.save_json(config, "config.json")
            self.save_json(self.run_entry, "run.json")  # last: a folder without it is no run yet
            return int(self.run_directory.name)

    def save_json(self, obj: Any, filename: str) -> None:  # noqa: D102
        text = json.dumps(plain(obj), sort_keys=filename != "config.json", indent=2)
        write_whole(self.run_directory / filename, lambda file: file.write(text.encode()))

    def save_file(self, filename: str, target_name: str | None = None) -> None:  # noqa: D102
        target = self.run_directory / artifact_file_name(target_name or Path(filename).name)
        with open(filename, "rb") as source:
            write_whole(target, lambda file: shutil.copyfileobj(source, file))

    def find_or_save(self, filename: str, store_dir: Path) -> Path:
        """Keep one copy of a source or resource for all runs, named by its content's hash."""
        from sacred.dependencies import get_digest

        source = Path(filename)
        target = Path(store_dir) / f"{source.stem}_{get_digest(filename)}{source.suffix}"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(source, "rb") as content:
                write_whole(target, lambda file: shutil.copyfileobj(content, file))
        return target

    def save_cout(self) -> None:  # noqa: D102
        if self.cout != self._written_output:
            content = self.cout
            write_whole(self.run_directory / "cout.txt", lambda file: file.write(content.encode("utf-8", "replace")))
            self._written_output = content

    def heartbeat_event(self, info: dict[str, Any], captured_out: str, beat_time: datetime, result: Any) -> None:  # noqa: D102
        with self._lock:
            if info and info != self._written_info:
                self.save_json(info, "info.json")
                self._written_info = plain(info)
            self.info, self.cout = info, captured_out
            self.save_cout()
            self.run_entry.update(heartbeat=beat_time.isoformat(), result=result)
            self.save_json(self.run_entry, "run.json")

    def artifact_event(  # noqa: D102
        self, name: str, filename: str, metadata: dict[str, Any] | None = None, content_type: str | None = None
    ) -> None:
        with self._lock:
            self.save_file(filename, name)
            if name not in self.run_entry["artifacts"]:
                self.run_entry["artifacts"].append(name)
            self.save_json(self.run_entry, "run.json")

    def log_metrics(self, metrics_by_name: dict[str, dict[str, Any]], info: dict[str, Any]) -> None:
        """Append new points to ``metrics.jsonl``; make ``metrics.json`` anew when that costs little."""
        if not metrics_by_name:
            return
        with self._lock:
            self._unwritten += "".join(_metric_lines(metrics_by_name))
            for name, points in metrics_by_name.items():
                kept = self._metrics.setdefault(name, {"steps": [], "values": [], "timestamps": []})
                kept["steps"] += points["steps"]
                kept["values"] += points["values"]
                kept["timestamps"] += [moment.isoformat() for moment in points["timestamps"]]
            self._append_to_log()
            if time.monotonic() >= self._metrics_due:
                self._save_metrics()

    def _append_to_log(self) -> None:
        """Append whole lines; what a full disk did not take is taken back and waits for the next beat."""
        if not self._unwritten:
            return
        path = self.run_directory / METRICS_LOG
        content = self._unwritten.encode()
        try:
            with open(path, "ab") as log:
                log.write(content)
        except OSError:
            os.truncate(path, self._log_length)
            raise
        self._unwritten, self._log_length = "", self._log_length + len(content)

    def _save_metrics(self) -> None:
        self._append_to_log()
        start = time.monotonic()
        self.save_json(self._metrics, "metrics.json")
        self._metrics_due = time.monotonic() + (time.monotonic() - start) / _SHARE_OF_TIME_FOR_METRICS

    def completed_event(self, stop_time: datetime, result: Any) -> None:  # noqa: D102
        with self._lock:
            self._save_metrics()
            super().completed_event(stop_time, result)

    def interrupted_event(self, interrupt_time: datetime, status: str) -> None:  # noqa: D102
        with self._lock:
            self._save_metrics()
            super().interrupted_event(interrupt_time, status)

    def failed_event(self, fail_time: datetime, fail_trace: list[str]) -> None:  # noqa: D102
        with self._lock:
            self._save_metrics()
            super().failed_event(fail_time, fail_trace)


def _metric_lines(metrics_by_name: dict[str, dict[str, Any]]) -> Iterable[str]:
    for name, points in metrics_by_name.items():
        for step, value, moment in zip(points["steps"], points["values"], points["timestamps"], strict=True):
            yield json.dumps({"name": name, "step": step, "value": value, "time": moment.isoformat()}) + "\n"
