"""Sacred's run, with its life cycle kept whole: no reseeding, no lost output or metrics, no observer given up."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

from incasem_like.errors import IncasemError
from incasem_like.tracking.background import SECONDS_BETWEEN_HEARTBEATS, Heartbeat
from incasem_like.tracking.metrics_log import MetricsLog, not_saved
from incasem_like.tracking.model.checkpoints import EARLIER_FOLDERS
from incasem_like.tracking.recording.output import OutputCapture
from incasem_like.tracking.sacred_parts import RunObserver, SacredInterrupt, SacredRunBase
from incasem_like.tracking.values import without_credentials

MOST_POINTS = 20_000


class MetricBuffer:
    """Takes points from any thread at little cost.

    Args:
        overflow: Called when more points wait than memory should hold; must not wait for anything.
    """

    def __init__(self, overflow: Callable[[], object]) -> None:
        self._overflow = overflow
        self._lock = threading.Lock()
        self._points: list[tuple[str, int, float, datetime]] = []
        self._counts: Counter[str] = Counter()

    def start_from(self, counts: Mapping[str, int]) -> None:
        """Count on from what a continued run has logged before."""
        with self._lock:
            self._counts.update(counts)

    def add(self, name: str, value: float, step: int) -> None:
        """Add a point."""
        moment = datetime.now(UTC).replace(tzinfo=None)
        with self._lock:
            self._points.append((name, step, value, moment))
            self._counts[name] += 1
            full = len(self._points) % MOST_POINTS == 0
        if full:
            self._overflow()

    def counts(self) -> dict[str, int]:
        """Return the number of points of each metric over the whole run."""
        with self._lock:
            return dict(self._counts)

    def take(self) -> dict[str, dict[str, Any]]:
        """Hand over the points since the last call, in the form in which Sacred gives them to observers."""
        with self._lock:
            points, self._points = self._points, []
        found: dict[str, dict[str, Any]] = {}
        for name, step, value, moment in points:
            columns = found.get(name)
            if columns is None:
                columns = found[name] = {"name": name, "steps": [], "values": [], "timestamps": []}
            columns["steps"].append(step)
            columns["values"].append(value)
            columns["timestamps"].append(moment)
        return found


log = logging.getLogger("incasem_like.tracking")
ATTEMPTS_TO_SAVE, SECONDS_BETWEEN_ATTEMPTS = 10, 1.0
SECONDS_TO_DELIVER = 2.0  # once; not again before a delivery came through


class TrackedSacredRun(SacredRunBase):  # type: ignore[misc]
    """A run of Sacred on a configuration that is resolved already.

    Sacred would add a seed to the configuration and reseed Python and NumPy with it, forbid dots in its keys, give an
    observer up for good at its first error, and drop the output of the seconds before a failure.

    Args:
        command: Name of what is run, ``train``.
        config: The resolved configuration, plain.
        observers: Sacred's observers, the one that gives the id first.
        experiment_info: Sacred's ``experiment`` entry.
        host_info: Sacred's ``host`` entry.
        meta_info: Options and comment.
        run_id: The id that it is to have; None for the store's next one.
    """

    def __init__(
        self,
        command: str,
        config: dict[str, Any],
        observers: list[RunObserver],
        experiment_info: dict[str, Any],
        host_info: dict[str, Any],
        meta_info: dict[str, Any],
        run_id: int | None,
    ) -> None:
        described = SimpleNamespace(prefix=None, signature=SimpleNamespace(name=command))
        logger = logging.getLogger("incasem_like.tracking.sacred")
        logger.setLevel(logging.CRITICAL)  # our own sentences say what Sacred's would
        super().__init__(config, None, described, observers, logger, logger, experiment_info, host_info, [], [])
        self._id = run_id
        self._heartbeat: Heartbeat | None = None
        self.meta_info = meta_info
        self.beat_interval = SECONDS_BETWEEN_HEARTBEATS
        self._capture: OutputCapture | None = None
        self._begun: list[RunObserver] = []
        self._complained: set[tuple[int, str]] = set()
        self.buffer = MetricBuffer(self._beat_soon)

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record a block until COMPLETED, INTERRUPTED or FAILED; its errors pass through."""
        with OutputCapture() as self._capture:
            try:
                with _signals_held_back(deliver=True):
                    self._emit_started()
                self._start_heartbeat()
                yield
                self._stop_time()
                self._stop_heartbeat()
            except (SacredInterrupt, KeyboardInterrupt) as interrupt:
                status = getattr(interrupt, "STATUS", "INTERRUPTED")
                self._end(partial(self._emit_interrupted, status))
                raise
            except BaseException as error:
                self._end(partial(self._emit_failed, type(error), error, error.__traceback__))
                raise
            self._end(partial(self._emit_completed, self.result))
            self.check_still_ours()

    def _emit_started(self) -> None:
        self.status, self.start_time = "RUNNING", datetime.now(UTC).replace(tzinfo=None)
        for observer in self.observers:
            run_id = observer.started_event(
                ex_info=self.experiment_info,
                command=self.main_function.signature.name,
                host_info=self.host_info,
                start_time=self.start_time,
                config=self.config,
                meta_info=self.meta_info,
                _id=self._id,
            )
            self._begun.append(observer)
            if self._id is None:
                self._id = run_id
                self._take_up(observer)

    def _take_up(self, observer: RunObserver) -> None:
        """Restore what a resumed run has noted, printed and logged already."""
        opened = getattr(observer, "opened", None)
        if opened is None:
            return
        self.info: dict[str, Any] = {**opened.info, **self.info, **_folders_before(opened.info, self.info)}
        self.buffer.start_from(opened.metrics.table.counts())
        if len(opened.sessions) > 1 and self._capture is not None:
            iteration = opened.sessions[-1].get("from_iteration")
            gap = "" if opened.output.endswith("\n") or not opened.output else "\n"
            self._capture.take(f"{opened.output}{gap}[continued from iteration {iteration}]\n")

    def _start_heartbeat(self) -> None:
        self._heartbeat = Heartbeat(self._emit_heartbeat, self.beat_interval)
        self._heartbeat.start()

    def _stop_heartbeat(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()  # its last beat takes all that was logged
            self._heartbeat = None

    def log_scalar(self, metric_name: str, value: float, step: int) -> None:
        """Add a point; it is written at the next heartbeat."""
        self.check_still_ours()
        self.buffer.add(metric_name, value, step)

    def save(self) -> None:
        """Write metrics, output and info on this machine now.

        Raises:
            DiskFullError: There is no space for the metrics.
            StoreError: They cannot be written for another reason.
        """
        for attempt in range(ATTEMPTS_TO_SAVE):
            if attempt:
                time.sleep(SECONDS_BETWEEN_ATTEMPTS)
            if self._heartbeat is not None:
                self._heartbeat.now()
            refusing = self._refusing_logs()
            if not refusing:
                return
        raise not_saved(refusing[0], self._id)

    def flush(self) -> None:
        """Save all, and give a server a moment to take it.

        Raises:
            DiskFullError: There is no space for the metrics.
            StoreError: They cannot be written for another reason, or another process continued the run.
        """
        self.save()
        for observer in self._begun:
            if hasattr(observer, "settle"):
                observer.settle(SECONDS_TO_DELIVER)
        self.check_still_ours()

    def _refusing_logs(self) -> list[MetricsLog]:
        opened = [found for observer in self._begun if (found := getattr(observer, "opened", None)) is not None]
        return [run.metrics.log for run in opened if run.metrics.log.refused is not None]

    def check_still_ours(self) -> None:
        """Check that this process still has the run.

        Raises:
            StoreError: Another process continued it.
        """
        for observer in self._begun:
            if getattr(observer, "lost", None) is not None:
                raise observer.lost

    def _beat_soon(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.ask()

    def _end(self, emit: Callable[[], None]) -> None:
        """Write the last state; ctrl-C does not come between, since a run would then say RUNNING for ever."""
        with _signals_held_back(deliver=False):
            self._stop_heartbeat()
            emit()
            for observer in self._begun:
                self._safe_call(observer, "join")

    def _emit_heartbeat(self) -> None:
        """Send metrics, output and info; called by the heartbeat's thread alone."""
        self._get_captured_output()
        metrics = self.buffer.take()
        now = datetime.now(UTC).replace(tzinfo=None)
        info = self.info
        for observer in self._begun:
            self._safe_call(observer, "log_metrics", metrics_by_name=metrics, info=dict(info))
            self._safe_call(
                observer,
                "heartbeat_event",
                info=info,
                captured_out=self.captured_out,
                beat_time=now,
                result=self.result,
            )

    def _get_captured_output(self) -> None:
        if self._capture is not None:
            self.captured_out = self._capture.text()

    def _emit_failed(self, exc_type: type[BaseException], exc_value: BaseException, trace: Any) -> None:
        self.status = "FAILED"
        self._stop_time()
        lines = traceback.format_exception(exc_type, exc_value, trace)
        self.fail_trace = [str(without_credentials(line)) for line in lines]
        for observer in self._begun:
            self._final_call(observer, "failed_event", fail_time=self.stop_time, fail_trace=self.fail_trace)

    def _safe_call(self, obs: RunObserver, method: str, **arguments: Any) -> None:
        """Call an observer; should it fail, say so once and go on calling it, for what fails now may work later."""
        try:
            getattr(obs, method)(**arguments)
        except Exception as error:
            if (id(obs), method) not in self._complained:
                self._complained.add((id(obs), method))
                reason = error if isinstance(error, (IncasemError, OSError)) else f"{type(error).__name__}: {error}"
                log.warning(
                    "The record of run %s cannot be written for now: %s", self._id, without_credentials(str(reason))
                )

    def _final_call(self, observer: RunObserver, method: str, **arguments: Any) -> None:
        if observer in self._begun:
            self._safe_call(observer, method, **arguments)


def _folders_before(noted: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the folders that a run wrote to before it was resumed with another: older checkpoints are there."""
    last = noted.get("runs_directory")
    folders = noted.get(EARLIER_FOLDERS) or []
    if last in (None, now.get("runs_directory")) or last in folders:
        return {}
    return {EARLIER_FOLDERS: [*folders, last]}


@contextlib.contextmanager
def _signals_held_back(*, deliver: bool) -> Iterator[None]:
    """Defer signals that end a run until a block is done; then raise the first that came, or drop it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if deliver and came:
            signal.raise_signal(came[0])
