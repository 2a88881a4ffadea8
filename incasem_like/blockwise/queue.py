"""The queue of blocks: which are pending, to be retried, or failed for good; and the summary of a call."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import incasem_like.errors
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

DEATHS = 4  # workers that may die at a block before it counts as failed
# Errors that every other block would meet too, or that spoil the result of all: the whole call ends.
HOPELESS = (DiskFullError, CheckpointError, VoxelValueError)
LONGEST_SENTENCE, LONGEST_TRACE = 2000, 6000  # characters of an error that a worker sends


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

    def as_message(self) -> dict[str, str]:
        """Return the error as plain values; a long traceback is cut to its end."""
        sentence = str(self.error)[:LONGEST_SENTENCE]
        return {"kind": type(self.error).__name__, "message": sentence, "trace": self.trace[-LONGEST_TRACE:]}

    @classmethod
    def from_message(cls, message: Mapping[str, Any], worker: str) -> BlockError:
        """Restore an error that a worker sent; an unknown class becomes the most general one."""
        kind = getattr(incasem_like.errors, str(message["kind"]), None)
        if not (isinstance(kind, type) and issubclass(kind, IncasemError)):
            kind = IncasemError
        return cls(kind(str(message["message"])), str(message["trace"]), worker)


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
    """The blocks of one call that are neither done nor failed.

    Args:
        pending: Numbers of the blocks to do, in the order in which they are handed out.
        retries: How often a block is retried after an error.

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

        Args:
            task: The task that the blocks belong to.
            command: The command that retries them, if it is not this process's own. Input errors are not retried.
        """
        first = self.failed[0]
        kinds = {type(block.last.error) for block in self.failed}
        kind = kinds.pop() if len(kinds) == 1 else IncasemError
        if kind not in (DataError, InputError):
            kind = IncasemError
        place = task.name_of(first.number)
        said = str(first.last.error).rstrip(".")
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
