"""Running a task: in this process or on workers, resuming where an earlier call stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from incasem_like.blockwise.done_log import DoneLog
from incasem_like.blockwise.fleet import started_fleet
from incasem_like.blockwise.job import JobRecord
from incasem_like.blockwise.queue import HOPELESS, BlockError, BlockQueue, BlockSummary, FailedBlock
from incasem_like.blockwise.task import WorkTask
from incasem_like.blockwise.worker import Worker, run_here
from incasem_like.blockwise.workers_file import Workers, check_workers
from incasem_like.errors import IncasemError
from incasem_like.terminal import Progress

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
        summary = BlockSummary(len(task), 0, len(task))
        if pending:
            if workers is not None:
                check_workers(workers)
            call = Call(task, log, pending, description, command)
            with _ended_by_sigterm(), _recorded(call), call.progress:
                if workers is None and num_workers <= 1:
                    _run_here(call, prepared)
                else:
                    cores = len(os.sched_getaffinity(0))
                    _run_on(call, workers or Workers.local(min(num_workers, len(pending), max(2, cores))))
            summary = call.summary()
        if summary:
            task.mark_complete()
    return summary


class JobCancelled(KeyboardInterrupt):
    """The job was cancelled from elsewhere; it is handled like ctrl-C."""


class Call:
    """One call of a task: its queue of blocks, and the log, record and progress that receive their outcome.

    Args:
        task: The task.
        log: The log of its finished blocks.
        pending: Numbers of the blocks to do, at least one.
        description: Label of the progress bar; the task's name if None.
        command: The command that resumes the task, if it is not this process's own.

    Attributes:
        queue: The blocks that are neither done nor failed.
        record: The job's record.
        progress: Progress, shown for the duration of a ``with`` block.
    """

    def __init__(
        self, task: WorkTask, log: DoneLog, pending: Sequence[int], description: str | None, command: str | None
    ) -> None:
        self.task, self._log = task, log
        self._pending, self._voxels = len(pending), 0
        self.queue = BlockQueue(pending, task.retries)
        self.record = JobRecord(task, len(log.done), command)
        already = task.amount(sorted(log.done))
        self.progress = Progress(description or task.name, task.size, task.unit, already=already)
        self._noting = threading.Lock()  # blocks of this process are written and logged in another thread
        self._waits = True  # until the first worker has set up the task
        self._began = time.monotonic()
        self._begun: dict[int, int] = {}  # voxels of running blocks that progress already shows

    def summary(self) -> BlockSummary:
        """Return the outcome so far."""
        failed = tuple(sorted(self.queue.failed.values(), key=lambda block: block.number))
        total, done = len(self.task), self._pending - len(self.queue) - len(failed)
        return BlockSummary(total, done, total - self._pending, failed, self._voxels)

    def done(self, numbers: Sequence[int]) -> None:
        """Log finished blocks."""
        self.start_clock()
        with self._noting:
            self._log.record(*numbers)
            voxels = self.task.amount(numbers)
            self._voxels += voxels
            self.progress.advance(voxels - sum(self._begun.pop(number, 0) for number in numbers))

    def error(self, number: int, error: BlockError) -> FailedBlock | None:
        """Note a failed attempt at a block, which is retried, or has failed for good and is returned.

        Raises:
            IncasemError: Every other block would fail in the same way.
        """
        if isinstance(error.error, HOPELESS):
            raise error.error
        self.retract(number)
        failed = self.queue.error(number, error)
        if failed is not None:
            about: dict[str, Any] = {
                "error": str(error.error), "kind": type(error.error).__name__, "trace": error.trace[-6000:],
                "attempts": failed.attempts, "worker": error.worker, **self.task.place_of(number),
            }  # fmt: skip
            self._log.record_failed(number, about)
        return failed

    def advance(self, number: int, voxels: int) -> None:
        """Show progress within a block."""
        with self._noting:
            self._begun[number] = self._begun.get(number, 0) + voxels
            self.progress.advance(voxels)

    def retract(self, number: int) -> None:
        """Subtract the progress within a block that will be restarted."""
        with self._noting:
            self.progress.advance(-self._begun.pop(number, 0))

    def start_clock(self) -> None:
        """Measure rates from the first sign of work on, leaving out the start of workers."""
        if self._waits:
            self._waits = False
            self.record.start_clock()
            self.progress.start_clock()

    def look(self, workers: Sequence[dict[str, Any]] = (), dashboard: str = "") -> None:
        """Update the job's record when an update is due, and show where to look while no worker connects.

        Args:
            workers: The connected workers, see ``Job.workers``.
            dashboard: Address of Dask's pages, or nothing.

        Raises:
            JobCancelled: The job was cancelled.
        """
        if any(worker["block"] is not None for worker in workers):
            self.start_clock()
        if self.record.dashboard != dashboard:
            self.record.dashboard = dashboard
            print(f"Dashboard: {dashboard}", file=sys.stderr)
        missing = self._waits and not workers and time.monotonic() - self._began > SECONDS_UNTIL_TOLD
        note = f"no worker yet, incasem-like jobs show {self.record.id} tells more" if missing else ""
        if note != self.progress.note:
            self.progress.advance(0, note=note)
        if self.record.due:
            self.record.update(len(self._log.done), len(self.queue.failed), workers)
            if self.record.cancelled:
                raise JobCancelled


def _run_here(call: Call, prepared: Any) -> None:
    call.start_clock()

    def advance(number: int, voxels: int) -> None:
        call.advance(number, voxels)
        call.look()

    worker = Worker(call.task, "this process", prepared, advance)
    with contextlib.closing(run_here(call.queue, worker, lambda number: call.done([number]))) as outcomes:
        for number, error in outcomes:
            if error is None:
                call.queue.done(number)
            else:
                call.error(number, error)
            call.look()


def _run_on(call: Call, workers: Workers) -> None:
    # Workers are started before Dask is loaded here, so that they load it at the same time.
    with started_fleet(workers.groups, call.record.folder, len(call.queue)) as fleet:
        from incasem_like.blockwise.engine import run_on_workers

        run_on_workers(call, workers, fleet)


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
def _recorded(call: Call) -> Iterator[None]:
    """Note in the job's record how the work inside ended."""
    record = call.record
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
