"""One call of a task: its queue of blocks, which of them failed and why, and its outcome."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from incasem_like.blockwise.done_log import DoneLog
from incasem_like.blockwise.job import JobRecord
from incasem_like.blockwise.task import BlockTask, WorkTask
from incasem_like.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DiskFullError,
    IncasemError,
    InputError,
    VoxelValueError,
)
from incasem_like.terminal import Progress, as_known_error

SECONDS_UNTIL_TOLD = 20.0  # without a worker; those on this machine take a few
DEATHS = 4  # workers that may die at a block before it counts as failed
# Errors that every other block would meet too, or that spoil the result of all: the whole call ends.
HOPELESS = (DiskFullError, CheckpointError, VoxelValueError)
LONGEST_SENTENCE, LONGEST_TRACE = 2000, 6000  # characters of an error


@dataclass(frozen=True)
class BlockError:
    """Why one attempt at a block failed.

    Attributes:
        error: The error, one of this package's classes where its cause is known.
        trace: The traceback, for ``--debug``.
        worker: Name of the worker that tried.
        deaths: Number of workers that died, or hung, at this block.
    """

    error: IncasemError
    trace: str = ""
    worker: str = ""
    deaths: int = 0

    @classmethod
    def of(cls, error: Exception, worker: str) -> BlockError:
        """Describe the error that is being handled; a long traceback is cut to its end."""
        known = as_known_error(error) or IncasemError(f"{type(error).__name__}: {error}"[:LONGEST_SENTENCE])
        return cls(known, traceback.format_exc()[-LONGEST_TRACE:], worker)


@dataclass(frozen=True)
class FailedBlock:
    """A block that failed as often as it may.

    Attributes:
        number: Number of the block.
        last: Its last error.
        attempts: Number of attempts.
    """

    number: int
    last: BlockError
    attempts: int


class BlockQueue:
    """The blocks of one call that are neither done nor failed, in the order in which they are handed out.

    Attributes:
        failed: Blocks that failed for good, by number.
        suspects: Blocks one among which killed a worker; each then runs alone in its process, which shows which one.
    """

    def __init__(self, pending: Iterable[int], retries: int) -> None:
        self._waiting = deque(pending)
        self._left = set(self._waiting)
        self._retries = retries
        self._errors: dict[int, list[BlockError]] = {}
        self.failed: dict[int, FailedBlock] = {}
        self.suspects: set[int] = set()

    def __len__(self) -> int:
        return len(self._left)

    @property
    def waiting(self) -> int:
        """The approximate number of blocks that no worker has."""
        return len(self._waiting)

    def take(self, count: int) -> list[int]:
        """Return up to ``count`` blocks to run; a suspect one is returned alone."""
        taken: list[int] = []
        while self._waiting and len(taken) < count:
            if self._waiting[0] in self.suspects:
                if taken:
                    break
                count = 1
            number = self._waiting.popleft()
            if number in self._left:  # a worker thought lost may have finished it meanwhile
                taken.append(number)
        return taken

    def done(self, number: int) -> bool:
        """Note that a block is done, perhaps by a worker thought lost; return whether it was not known before."""
        news = number in self._left or self.failed.pop(number, None) is not None
        self._left.discard(number)
        self.suspects.discard(number)
        return news

    def put_back(self, numbers: Iterable[int]) -> None:
        """Return unstarted blocks to the front of the queue."""
        self._waiting.extendleft(reversed([number for number in numbers if number in self._left]))

    def error(self, number: int, error: BlockError) -> FailedBlock | None:
        """Note a failed attempt: the block is moved to the end, or has failed for good and is returned.

        Damaged data are retried too: a temporary failure of a file system or server looks the same.
        """
        if number not in self._left:
            return None
        errors = self._errors.setdefault(number, [])
        errors.append(error)
        ordinary = sum(not one.deaths for one in errors)
        hopeless = isinstance(error.error, ConfigError)
        if not hopeless and sum(one.deaths for one in errors) < DEATHS and ordinary <= self._retries:
            self._waiting.append(number)
            return None
        self._left.discard(number)
        self.suspects.discard(number)
        self.failed[number] = FailedBlock(number, error, len(errors))
        return self.failed[number]


@dataclass(frozen=True)
class BlockSummary:
    """The outcome of a call. As a truth value it is true only if every block of the task is done.

    Attributes:
        total: Blocks of the task.
        done: Blocks done by this call.
        skipped: Blocks that earlier calls had done.
        failed: Blocks that failed, with their errors, by number.
        voxels: Voxels of one output that this call wrote.
    """

    total: int
    done: int
    skipped: int
    failed: tuple[FailedBlock, ...] = ()
    voxels: int = 0

    def __bool__(self) -> bool:
        return self.done + self.skipped == self.total

    @property
    def already_complete(self) -> bool:
        """Whether every block had been done before this call."""
        return bool(self) and self.done == 0

    def error(self, task: WorkTask, command: str | None = None) -> IncasemError:
        """Combine the errors of all failed blocks, in the class of the blocks' own errors if they agree.

        ``command`` retries them, if it is not this process's own; input errors are not retried.
        """
        first = self.failed[0]
        kinds = {type(block.last.error) for block in self.failed}
        kind = kinds.pop() if len(kinds) == 1 else IncasemError
        if kind not in (DataError, InputError):
            kind = IncasemError
        place, said = task.name_of(first.number), str(first.last.error).rstrip(".")
        what = f"{len(self.failed)} of {self.total} blocks failed, the first one at {place}: {said}."
        if len(self.failed) < self.total:
            what += " The others are done."
        if kind is IncasemError:
            # --overwrite would delete the blocks that are done
            anew = "--overwrite" in sys.argv and isinstance(task, BlockTask)
            same = f"the same command {'without --overwrite' if anew else 'again'}"
            what += f" To retry the failed ones, run {same if command is None else f'`{command}`'}."
        summary = kind(what)
        summary.add_note(first.last.trace)  # notes are shown with --debug
        for block in self.failed[:20]:
            where = task.name_of(block.number)
            summary.add_note(f"Block {block.number} at {where}, tried {block.attempts} times: {block.last.error}")
        return summary


class JobCancelled(KeyboardInterrupt):
    """The job was cancelled from elsewhere; it is handled like ctrl-C."""


class Call(BlockQueue):
    """The blocks of one call, at least one, and the log, job record and progress that receive their outcome.

    For the duration of a ``with`` block progress is shown; the job's record then says how the work inside ended.
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
            roi = None if self.task.grid is None else self.task.grid.write_roi(number)
            about: dict[str, Any] = {
                "error": str(error.error), "kind": type(error.error).__name__, "trace": error.trace,
                "attempts": failed.attempts, "worker": error.worker,
                **({"name": self.task.name_of(number)} if roi is None else {"roi": [list(roi.begin), list(roi.shape)]}),
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
        if self.record.update(len(self._log.done), len(self.failed), workers) and self.record.cancelled:
            raise JobCancelled
