"""The queue of blocks: which are pending, which are to be retried, and which have failed for good."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import incasem_like.errors
from incasem_like.errors import CheckpointError, ConfigError, DiskFullError, IncasemError, VoxelValueError

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
        kind = getattr(incasem_like.errors, str(message["kind"]), IncasemError)
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
