"""Which blocks are left, which are to be tried again, and which have failed for good; pure bookkeeping."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from incasem_like.errors import CheckpointError, ConfigError, DiskFullError, IncasemError, VoxelValueError

DEATHS = 5  # times that a block may be the one at which a worker died before it counts as failed
# What one block meets every other one will, or it spoils the result of all: the whole call ends.
HOPELESS = (DiskFullError, CheckpointError, VoxelValueError)


@dataclass(frozen=True)
class BlockError:
    """Why one attempt at a block failed.

    Attributes:
        error: One of ours where it could be told.
        trace: The traceback, for ``--debug``.
        worker: Who tried.
        death: Whether the worker died of it, or hung.
    """

    error: IncasemError
    trace: str = ""
    worker: str = ""
    death: bool = False


@dataclass(frozen=True)
class FailedBlock:
    """A block that failed as often as it may.

    Attributes:
        number: Of the block.
        last: Its last error.
        attempts: How often it was tried.
    """

    number: int
    last: BlockError
    attempts: int


class BlockQueue:
    """The blocks of one call that are neither done nor failed.

    Args:
        pending: Numbers of the blocks to do, in the order in which they are handed out.
        retries: How often a block is tried again after an error.
    """

    def __init__(self, pending: Iterable[int], retries: int) -> None:
        self._waiting = deque(pending)
        self._left = set(self._waiting)
        self._retries = retries
        self._errors: dict[int, list[BlockError]] = {}
        self.failed: dict[int, FailedBlock] = {}

    def __len__(self) -> int:
        return len(self._left)

    @property
    def waiting(self) -> int:
        """About how many blocks nobody works on."""
        return len(self._waiting)

    def take(self, count: int) -> list[int]:
        """Hand out up to ``count`` blocks."""
        taken: list[int] = []
        while self._waiting and len(taken) < count:
            number = self._waiting.popleft()
            if number in self._left:  # one that was put back may have been done meanwhile by who was thought lost
                taken.append(number)
        return taken

    def done(self, number: int) -> bool:
        """Note that a block is done, perhaps by a worker that was given up; tell whether that is news."""
        news = number in self._left or self.failed.pop(number, None) is not None
        self._left.discard(number)
        return news

    def put_back(self, numbers: Iterable[int]) -> None:
        """Take back blocks that were handed out and not begun; they are the next ones."""
        self._waiting.extendleft(reversed([number for number in numbers if number in self._left]))

    def error(self, number: int, error: BlockError) -> FailedBlock | None:
        """Note a failed attempt: the block goes to the end, or has failed for good and is returned.

        Damaged data are tried again too: a file system or server that failed for a moment looks no different.
        """
        if number not in self._left:
            return None
        errors = self._errors.setdefault(number, [])
        errors.append(error)
        deaths = sum(one.death for one in errors)
        hopeless = isinstance(error.error, ConfigError)
        if not hopeless and deaths < DEATHS and len(errors) - deaths <= self._retries:
            self._waiting.append(number)
            return None
        self._left.discard(number)
        self.failed[number] = FailedBlock(number, error, len(errors))
        return self.failed[number]
