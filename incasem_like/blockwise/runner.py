"""Running a blockwise task: in this process or on workers, resuming where an earlier call stopped."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from incasem_like.blockwise.done_log import DoneLog
from incasem_like.blockwise.here import run_here
from incasem_like.blockwise.job import JobRecord
from incasem_like.blockwise.queue import HOPELESS, BlockQueue, FailedBlock
from incasem_like.blockwise.summary import BlockSummary
from incasem_like.blockwise.task import WorkTask
from incasem_like.blockwise.worker import Worker
from incasem_like.errors import IncasemError
from incasem_like.terminal import Progress

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

SECONDS_UNTIL_TOLD = 20.0  # without a worker; those on this machine take a few


def run_blockwise(
    task: WorkTask,
    *,
    num_workers: int = 1,
    workers: Workers | None = None,
    description: str | None = None,
    prepared: Any = None,
    command: str | None = None,
) -> BlockSummary:
    """Run a task over all blocks that are not done yet, then mark its outputs complete; blocks that fail are an error.

    Args:
        task: The task.
        num_workers: Processes on this machine; 0 or 1 runs in this process.
        workers: The workers of a workers file, instead of ``num_workers``.
        description: Label of the progress bar; the task's name if None.
        prepared: The result of the task's ``set_up``, if this process has it already; workers make their own.
        command: The command that resumes the task, if it is not this process's own.

    Raises:
        InputError: The output was begun with other parameters, inputs or layout, or another process is writing it.
        DiskFullError: No space is left; finished blocks are kept.
        IncasemError: Some blocks failed; all others are done, and a second call retries the failed ones. The class is
            that of the blocks' own errors if they agree.
    """
    summary = try_blockwise(
        task,
        num_workers=num_workers,
        workers=workers,
        description=description,
        prepared=prepared,
        command=command,
    )
    if not summary:
        raise summary.error(task, command)
    return summary


def try_blockwise(
    task: WorkTask,
    *,
    num_workers: int = 1,
    workers: Workers | None = None,
    description: str | None = None,
    prepared: Any = None,
    command: str | None = None,
) -> BlockSummary:
    """Do what ``run_blockwise`` does, but return also when blocks failed: the summary is true only if all are done.

    Raises:
        InputError, DiskFullError: As ``run_blockwise``.
        IncasemError: No worker can run blocks.
        KeyboardInterrupt: Interrupted, or cancelled from elsewhere.
    """
    with DoneLog(task.folder, task.fingerprint(), complete=task.complete) as log:
        pending = [number for number in range(len(task)) if number not in log.done]
        call = _Call(task, log, pending, command)
        if pending:
            with _ended_by_sigterm(), _recorded(call), call.shown(description or task.name):
                if workers is None and num_workers <= 1:
                    call.run_here(prepared)
                else:
                    cores = len(os.sched_getaffinity(0))
                    call.run_on(workers, min(num_workers, len(pending), max(2, cores)))
        summary = call.summary()
        if summary:
            task.mark_complete()
    return summary


class _Call:
    """One call: the queue, and the log, record and progress that receive the outcome of its blocks."""

    def __init__(self, task: WorkTask, log: DoneLog, pending: Sequence[int], command: str | None) -> None:
        self.task, self._log = task, log
        self._pending, self._voxels = len(pending), 0
        self.queue = BlockQueue(pending, task.retries)
        self.record = JobRecord(task, len(task), len(log.done), command) if pending else None
        self._progress: Progress | None = None
        self._noting = threading.Lock()  # blocks of this process are written and logged in another thread
        self._waits = True  # until the first worker has set up the task
        self._waits_until: float | None = time.monotonic() + SECONDS_UNTIL_TOLD  # None: one has connected
        self._begun: dict[int, int] = {}  # voxels of running blocks that progress already shows

    @contextlib.contextmanager
    def shown(self, description: str) -> Iterator[None]:
        """Show progress for the duration of a ``with`` block."""
        total = self.task.size
        already = self.task.amount(sorted(self._log.done))
        with Progress(description, total, self.task.unit, already=already) as self._progress:
            yield

    def run_here(self, prepared: Any) -> None:
        """Run all blocks in this process."""
        self._waits = False
        worker = Worker(self.task, "this process", prepared, self._advance_here)
        with contextlib.closing(run_here(self.queue, worker, lambda number: self.done([number]))) as outcomes:
            for number, error in outcomes:
                if error is None:
                    self.queue.done(number)
                elif isinstance(error.error, HOPELESS):
                    raise error.error
                else:
                    self.retract(number)
                    if failed := self.queue.error(number, error):
                        self.failed(failed)
                self.look([])

    def run_on(self, workers: Workers | None, count: int) -> None:
        """Run all blocks on workers, by default ``count`` of them on this machine."""
        from incasem_like.blockwise.engine import run_on_workers
        from incasem_like.blockwise.workers_file import Workers

        assert self.record is not None
        run_on_workers(self.task, self.queue, workers or Workers.local(count), self.record.folder, self)

    def summary(self) -> BlockSummary:
        """Return the outcome."""
        failed = tuple(sorted(self.queue.failed.values(), key=lambda block: block.number))
        total = len(self.task)
        done = self._pending - len(self.queue) - len(failed)
        return BlockSummary(total, done, total - self._pending, failed, self._voxels)

    def done(self, numbers: list[int]) -> None:
        """Note finished blocks."""
        self._start_clock()
        with self._noting:
            self._log.record(*numbers)
            voxels = self.task.amount(numbers)
            self._voxels += voxels
            self._show(voxels - sum(self._begun.pop(number, 0) for number in numbers))

    def advance(self, number: int, voxels: int) -> None:
        """Show progress within a block."""
        with self._noting:
            self._begun[number] = self._begun.get(number, 0) + voxels
            self._show(voxels)

    def retract(self, number: int) -> None:
        """Subtract the progress within a block that will be restarted."""
        with self._noting:
            self._show(-self._begun.pop(number, 0))

    def _advance_here(self, number: int, voxels: int) -> None:
        self.advance(number, voxels)
        self.look([])

    def _show(self, voxels: int) -> None:
        assert self._progress is not None
        self._progress.advance(voxels)

    def _start_clock(self) -> None:
        """Measure rates from the first sign of work on, leaving out the start of workers."""
        if self._waits and self.record is not None and self._progress is not None:
            self._waits = False
            self.record.start_clock()
            self._progress.start_clock()

    def failed(self, block: FailedBlock) -> None:
        """Note a block that failed for good."""
        about: dict[str, Any] = {
            "error": str(block.last.error), "kind": type(block.last.error).__name__, "trace": block.last.trace[-6000:],
            "attempts": block.attempts, "worker": block.last.worker, **self.task.place_of(block.number),
        }  # fmt: skip
        self._log.record_failed(block.number, about)

    def look(self, workers: Sequence[dict[str, Any]], dashboard: str = "") -> None:
        """Update the job's record when an update is due.

        Raises:
            KeyboardInterrupt: The job was cancelled.
        """
        if any(worker["block"] is not None for worker in workers):
            self._start_clock()
        if dashboard and self.record is not None and self.record.dashboard != dashboard:
            self.record.dashboard = dashboard
            print(f"Dashboard: {dashboard}", file=sys.stderr)
        self._report_waiting(bool(workers))
        if self.record is not None and self.record.due:
            self.record.update(len(self._log.done), len(self.queue.failed), workers)
            if self.record.cancelled:
                raise JobCancelled

    def _report_waiting(self, connected: bool) -> None:
        """Show beside the progress where to look while no worker connects, because of the queue or a firewall."""
        if self.record is None or self._progress is None or self._waits_until is None:
            return
        if connected or not self._waits:
            self._waits_until = None
            self._progress.note = ""
        elif time.monotonic() > self._waits_until:
            self._waits_until = math.inf
            self._progress.advance(0, note=f"no worker yet, incasem-like jobs show {self.record.id} tells more")


class JobCancelled(KeyboardInterrupt):
    """The job was cancelled from elsewhere; it is handled like ctrl-C."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM was received; it is handled like ctrl-C."""


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the work inside cleanly, jobs in queues included, and then this process with its usual effect."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def terminate(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except _Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _recorded(call: _Call) -> Iterator[None]:
    """Note in the job's record how the work inside ended."""
    record = call.record
    assert record is not None
    state, said = "failed", ""
    try:
        yield
        summary = call.summary()
        state, said = ("finished", "") if summary else ("failed", str(summary.error(call.task)))
    except JobCancelled:
        state = "cancelled"
        raise
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    except BaseException as error:
        said = str(error) if isinstance(error, IncasemError) else f"{type(error).__name__}: {error}"
        raise
    finally:
        summary = call.summary()
        record.update(summary.done + summary.skipped, len(summary.failed))
        record.end(state, said)
