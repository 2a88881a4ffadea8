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
from incasem_like.terminal import Progress

SECONDS_UNTIL_TOLD = 20.0  # without a worker; those on this machine take a few


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
