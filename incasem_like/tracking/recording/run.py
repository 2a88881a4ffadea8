"""A run as the code inside it sees it, from its start until it is recorded as COMPLETED, INTERRUPTED or FAILED."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from incasem_like.errors import IncasemError
from incasem_like.tracking.liveness import SECONDS_BETWEEN_HEARTBEATS, Heartbeat
from incasem_like.tracking.metrics_log import not_saved
from incasem_like.tracking.mirror.checkpoints import CheckpointUploader
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import EARLIER_FOLDERS, CheckpointRecord, Places, StorePolicy, listed
from incasem_like.tracking.recording.output import OutputCapture
from incasem_like.tracking.recording.writer import RunWriter
from incasem_like.tracking.run_folder import OpenedRun
from incasem_like.tracking.sessions import Start
from incasem_like.tracking.stores.base import RunStore
from incasem_like.tracking.values import now, plain, without_credentials

log = logging.getLogger("incasem_like.tracking")
UNOBSERVED_ID = 0
ATTEMPTS_TO_SAVE, SECONDS_BETWEEN_ATTEMPTS = 10, 1.0
SECONDS_TO_DELIVER = 2.0  # once; not again before a delivery came through
SECONDS_FOR_UPLOADS = 1800.0
SECONDS_FOR_UPLOADS_WHEN_STOPPED = 15.0
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Run:
    """Records what a running experiment logs and notes; may be used from any thread.

    Metrics and info are written with the next heartbeat, every ten seconds; ``flush`` writes them now. ``tracked_run``
    makes it.

    Attributes:
        name: The name of the run.
        runs_directory: The folder that checkpoints and logs are in.
        config: The configuration on record.
    """

    def __init__(
        self,
        start: Start,
        name: str,
        runs_directory: Path,
        writer: RunWriter | None = None,
        observers: Sequence[Any] = (),
        run_id: int | None = None,
    ) -> None:
        self.name, self.runs_directory, self.config = name, runs_directory.absolute(), dict(start.config)
        self._start, self._id, self._writer = start, run_id, writer
        self._observers: list[Any] = [*([] if writer is None else [writer]), *observers]
        self._begun: list[Any] = []
        self._complained: set[tuple[int, str]] = set()
        self._lock = threading.RLock()
        self._points: defaultdict[str, list[tuple[int, float, datetime]]] = defaultdict(list)
        self._result: Any = None
        self._info: dict[str, Any] = {}
        self._heartbeat: Heartbeat | None = None
        self._uploader: CheckpointUploader | None = None
        self.set_info("runs_directory", self.runs_directory)

    @property
    def id(self) -> int:
        """The run's id in its store; 0 for a run without a record."""
        return UNOBSERVED_ID if self._id is None else self._id

    @property
    def info(self) -> dict[str, Any]:
        """A copy of what the run noted so far."""
        return dict(self._info)

    @property
    def result(self) -> Any:
        """What the run returns, as plain values; None until it is set."""
        return self._result

    @result.setter
    def result(self, value: Any) -> None:
        self._result = plain(value)

    def log_scalar(self, name: str, value: float, step: int) -> None:
        """Log one value of a metric at an iteration; it is written at the next heartbeat.

        Raises:
            StoreError: Another process resumed the run.
        """
        self._check_still_ours()
        point = (int(step), float(value), now())
        with self._lock:
            self._points[name].append(point)

    def set_info(self, key: str, value: Any) -> None:
        """Note a property of the run, such as its ``parent``; replaces what was noted under that key."""
        self.change_info(key, lambda before: value)

    def change_info(self, key: str, change: Callable[[Any], Any]) -> None:
        """Replace what was noted under a key (None at first) by what ``change`` returns for it."""
        with self._lock:
            noted = without_credentials(plain(change(self._info.get(key))))
            self._info = {**self._info, key: noted}

    def inputs(self, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Note which data the run reads: one mapping for each dataset, with its address and content hash."""
        self.set_info("inputs", list(datasets))

    def add_artifact(self, content: str | bytes | Path, name: str) -> None:
        """Store a file with the run.

        Args:
            content: A ``Path`` to the file, or the text or bytes themselves.
            name: Its name in the store; an earlier one of that name is replaced.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = content.absolute() if isinstance(content, Path) else Path(folder) / "artifact"
            if not isinstance(content, Path):
                path.write_bytes(content.encode() if isinstance(content, str) else content)
            event = {"name": name.replace("/", "_"), "filename": str(path), "metadata": None, "content_type": None}
            self._call_observers("artifact_event", **event)

    def register_checkpoint(
        self,
        path: Path,
        iteration: int,
        metrics: Mapping[str, float] | None = None,
        state: Path | None = None,
    ) -> None:
        """Note a checkpoint that is complete on disk, with its hashes, and write the record now.

        All that was logged up to here is on disk before: a killed run resumes from the checkpoint, and would not log
        again what is missing before it.

        Args:
            path: The file; noted relative to the runs directory if it lies inside. An earlier entry is replaced.
            iteration: Number of updates the network has seen.
            metrics: Validation metrics at that iteration; ``best`` is chosen by them.
            state: The file beside it that an exact continuation needs.

        Raises:
            DiskFullError, StoreError: As ``save``; the checkpoint is not noted then.
        """
        self.save()
        entry = {
            "iteration": int(iteration),
            **self._describe(path),
            "metrics": {name: float(value) for name, value in (metrics or {}).items()},
            "counts": {} if self._opened is None else self._opened.folder.log.table.counts(),
        }
        if state is not None:
            entry["state"] = self._describe(state)
        self._change_checkpoints(path, [entry])

    def forget_checkpoint(self, path: Path) -> None:
        """Remove a checkpoint from the record and write it now; call this before the file is deleted."""
        self._change_checkpoints(path, [])

    def _change_checkpoints(self, path: Path, new: list[dict[str, Any]]) -> None:
        shown = self._relative(path)
        self.change_info("checkpoints", lambda old: [*(one for one in old or [] if one["path"] != shown), *new])
        self._pass_to_uploader()
        self.flush()

    def _describe(self, path: Path) -> dict[str, Any]:
        return {"path": self._relative(path), "sha256": file_sha256(path), "bytes": path.stat().st_size}

    def _relative(self, path: Path) -> str:
        path, folder = Path(path).absolute(), self.runs_directory
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)

    @contextlib.contextmanager
    def uploading(self, store: RunStore | None) -> Iterator[None]:
        """Copy checkpoints into a store that keeps them, during a block; wait at its end for pending uploads.

        A run that was stopped or failed does not wait long. What is missing then is reported.
        """
        policy = StorePolicy.from_config(self.config)
        files = store.checkpoint_files if store is not None else None
        if files is None or "none" in policy.words:
            yield
            return
        self._uploader = CheckpointUploader(files, self.id, policy)
        self._pass_to_uploader()
        patience = SECONDS_FOR_UPLOADS_WHEN_STOPPED
        try:
            yield
            patience = SECONDS_FOR_UPLOADS
        finally:
            uploader, self._uploader = self._uploader, None
            if missing := uploader.finish(patience):
                print(
                    f"Checkpoints of iterations {listed(sorted(one.iteration for one in missing))} are not in "
                    f"{files.description} yet: 'incasem-like runs sync' on this machine uploads them.",
                    file=sys.stderr,
                    flush=True,
                )

    def _pass_to_uploader(self) -> None:
        """Pass the checkpoints to the uploader; a run without any, such as a prediction, starts no thread."""
        entries = self._info.get("checkpoints")
        if self._uploader is None or entries is None:
            return
        places = Places(self.id, [self.runs_directory], "", None, "")
        self._uploader.keep([CheckpointRecord.from_entry(entry, places) for entry in entries])

    def save(self) -> None:
        """Write metrics, info and output on this machine now.

        Raises:
            DiskFullError: The disk has no space for the metrics; or ``StoreError`` if something else is wrong with it.
        """
        for attempt in range(ATTEMPTS_TO_SAVE):
            if attempt:
                time.sleep(SECONDS_BETWEEN_ATTEMPTS)
            if self._heartbeat is not None:
                self._heartbeat.now()
            opened = self._opened
            if opened is None or opened.folder.log.refused is None:
                return
        assert opened is not None
        raise not_saved(opened.folder.log, self._id)

    def flush(self) -> None:
        """Save, and give a server a moment to receive everything.

        Raises:
            DiskFullError, StoreError: As ``save``; or another process resumed the run.
        """
        self.save()
        if self._writer is not None:
            self._writer.settle(SECONDS_TO_DELIVER)
        self._check_still_ours()

    @property
    def _opened(self) -> OpenedRun | None:
        return None if self._writer is None else self._writer.opened

    def _check_still_ours(self) -> None:
        if self._writer is not None and self._writer.lost is not None:
            raise self._writer.lost

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record a block as this run; its errors pass through.

        Unlike Sacred's own run this one does not reseed Python and NumPy, allows dots in keys, keeps the output of the
        last seconds before a failure, and calls an observer again after an error.
        """
        with OutputCapture() as self._capture:
            try:
                with _signals_held_back(deliver=True):
                    self._begin()
                yield
            except KeyboardInterrupt:
                self._end("interrupted_event", interrupt_time=now(), status="INTERRUPTED")
                raise
            except BaseException as error:
                trace = [str(without_credentials(line)) for line in traceback.format_exception(error)]
                self._end("failed_event", fail_time=now(), fail_trace=trace)
                raise
            self._end("completed_event", stop_time=now(), result=self.result)
            self._check_still_ours()

    def _begin(self) -> None:
        for observer in self._observers:
            run_id = observer.started_event(**vars(self._start), _id=self._id)
            self._begun.append(observer)
            self._id = run_id if self._id is None else self._id
        if (opened := self._opened) is not None:  # a resumed run has noted, printed and logged something already
            last, folders = opened.info.get("runs_directory"), opened.info.get(EARLIER_FOLDERS) or []
            self._info = {**opened.info, **self._info}
            if last not in (None, self._info["runs_directory"], *folders):  # older checkpoints are there
                self._info[EARLIER_FOLDERS] = [*folders, last]
            if len(opened.sessions) > 1:
                gap = "" if opened.output.endswith("\n") or not opened.output else "\n"
                iteration = opened.sessions[-1].get("from_iteration")
                self._capture.take(f"{opened.output}{gap}[continued from iteration {iteration}]\n")
        self._heartbeat = Heartbeat(self._beat, SECONDS_BETWEEN_HEARTBEATS)
        self._heartbeat.start()

    def _end(self, event: str, **arguments: Any) -> None:
        """Write the last state, undisturbed by ctrl-C: otherwise the run would be recorded as RUNNING for ever."""
        with _signals_held_back(deliver=False):
            if self._heartbeat is not None:
                self._heartbeat.stop()  # its last beat writes everything that was logged
                self._heartbeat = None
            self._call_observers(event, **arguments)
            self._call_observers("join")

    def _beat(self) -> None:
        """Send metrics, output and info to the observers; called by the heartbeat's thread alone."""
        with self._lock:
            points, self._points = self._points, defaultdict(list)
        metrics: dict[str, Any] = {}
        for name, rows in points.items():
            steps, values, moments = map(list, zip(*rows, strict=True))
            metrics[name] = {"name": name, "steps": steps, "values": values, "timestamps": moments}
        info, output = self.info, self._capture.text()
        self._call_observers("log_metrics", metrics_by_name=metrics, info=dict(info))
        self._call_observers("heartbeat_event", info=info, captured_out=output, beat_time=now(), result=self.result)

    def _call_observers(self, method: str, **arguments: Any) -> None:
        """Call all observers; one that fails is reported once and called again, for it may work later."""
        for observer in self._begun:
            try:
                getattr(observer, method)(**arguments)
            except Exception as error:
                if (id(observer), method) not in self._complained:
                    self._complained.add((id(observer), method))
                    reason = error if isinstance(error, (IncasemError, OSError)) else f"{type(error).__name__}: {error}"
                    log.warning(
                        "The record of run %s cannot be written now: %s", self._id, without_credentials(str(reason))
                    )


@contextlib.contextmanager
def handling_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle the signals that end a run, during a block, in the main thread.

    Signals that whoever started the process had ignored (``nohup``) stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = [number for number in ENDING_SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def _signals_held_back(*, deliver: bool) -> Iterator[None]:
    """Defer signals that end a run until a block is done; then raise the first that came, or drop it."""
    came: list[int] = []
    try:
        with handling_signals(lambda number, frame: came.append(number)):
            yield
    finally:
        if deliver and came:
            signal.raise_signal(came[0])
