"""One call of a task: its queue of blocks, and the log, record and progress that receive their outcome."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from incasem_like.blockwise.done_log import DoneLog
from incasem_like.blockwise.job import JobRecord
from incasem_like.blockwise.queue import HOPELESS, BlockError, BlockQueue, BlockSummary, FailedBlock
from incasem_like.blockwise.task import WorkTask
from incasem_like.errors import IncasemError
from incasem_like.terminal import Progress

SECONDS_UNTIL_TOLD = 20.0  # without a worker; those on this machine take a few


class JobCancelled(KeyboardInterrupt):
    """The job was cancelled from elsewhere; it is handled like ctrl-C."""


class Call(BlockQueue):
    """The blocks of one call, and the log, record and progress that receive their outcome.

    For the duration of a ``with`` block progress is shown; the job's record then says how the work inside ended.

    Args:
        task: The task.
        log: The log of its finished blocks.
        pending: Numbers of the blocks to do, at least one.
        description: Label of the progress bar; the task's name if None.
        command: The command that resumes the task, if it is not this process's own.

    Attributes:
        record: The job's record.
    """

    def __init__(
        self, task: WorkTask, log: DoneLog, pending: Sequence[int], description: str | None, command: str | None
    ) -> None:
        super().__init__(pending, task.retries)
        self.task, self._log = task, log
        self._pending, self._voxels = len(pending), 0
        self.record = JobRecord(task, len(log.done), command)
        already = task.amount(sorted(log.done))
        self._progress = Progress(description or task.name, task.size, task.unit, already=already)
        self._noting = threading.Lock()  # blocks of this process are written and logged in another thread
        self._waits = True  # until the first worker has set up the task
        self._began = time.monotonic()
        self._begun: dict[int, int] = {}  # voxels of running blocks that progress already shows

    def __enter__(self) -> Call:
        self._progress.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._progress.__exit__(kind, error, trace)  # type: ignore[arg-type]
        summary, state, said = self.summary(), "failed", ""
        if isinstance(error, KeyboardInterrupt):
            state = "cancelled" if isinstance(error, JobCancelled) else "interrupted"
        elif error is not None:
            said = str(error) if isinstance(error, IncasemError) else f"{type(error).__name__}: {error}"
        elif summary:
            state = "finished"
        else:
            said = str(summary.error(self.task))
        self.record.update(summary.done + summary.skipped, len(summary.failed))
        self.record.end(state, said)

    def summary(self) -> BlockSummary:
        """Return the outcome so far."""
        failed = tuple(sorted(self.failed.values(), key=lambda block: block.number))
        total, done = len(self.task), self._pending - len(self) - len(failed)
        return BlockSummary(total, done, total - self._pending, failed, self._voxels)

    def finish(self, numbers: Sequence[int]) -> None:
        """Log finished blocks; those that another worker had finished before are known already."""
        self.start_clock()
        with self._noting:
            if news := [number for number in numbers if self.done(number)]:
                self._log.record(*news)
                voxels = self.task.amount(news)
                self._voxels += voxels
                self._progress.advance(voxels - sum(self._begun.pop(number, 0) for number in news))

    def error(self, number: int, error: BlockError) -> FailedBlock | None:
        """Note a failed attempt at a block, see ``BlockQueue.error``; a block that failed for good is logged.

        Raises:
            IncasemError: Every other block would fail in the same way.
        """
        if isinstance(error.error, HOPELESS):
            raise error.error
        self.retract(number)
        failed = super().error(number, error)
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
            self._progress.advance(voxels)

    def retract(self, number: int) -> None:
        """Subtract the progress within a block that will be restarted."""
        with self._noting:
            self._progress.advance(-self._begun.pop(number, 0))

    def start_clock(self) -> None:
        """Measure rates from the first sign of work on, leaving out the start of workers."""
        if self._waits:
            self._waits = False
            self.record.start_clock()
            self._progress.start_clock()

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
        if note != self._progress.note:
            self._progress.advance(0, note=note)
        if self.record.due:
            self.record.update(len(self._log.done), len(self.failed), workers)
            if self.record.cancelled:
                raise JobCancelled
