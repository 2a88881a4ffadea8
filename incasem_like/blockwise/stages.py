"""Prefetching and write-behind: threads beside the one that computes, so that a device does not wait for disks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Full, Queue
from types import TracebackType
from typing import Any

from incasem_like.blockwise.queue import BlockError
from incasem_like.blockwise.task import WorkItem
from incasem_like.blockwise.worker import Worker

READ_AHEAD = 2  # blocks read into memory; one more is being computed, one written, one waits to be written
IN_FLIGHT = READ_AHEAD + 3
SECONDS_TO_END = 10.0

Report = Callable[[int, float, BlockError | None], None]
Began = Callable[[int, int], None]
READING, COMPUTING, WRITING = range(3)
NOTHING = -1


def _ignore(_stage: int, _number: int) -> None:
    """Ignore which block a stage is working on."""


@dataclass(frozen=True)
class Read:
    """A block with its data in memory, or the error that reading them raised."""

    number: int
    block: WorkItem | None
    error: BlockError | None


class Stages:
    """The reading, computing and writing of one worker's blocks.

    Args:
        worker: Runs the three stages.
        deliver: Called in the reading thread with each block that was read; the computing thread calls ``compute``.
        report: Called when a block is written or has failed, with its number and the seconds that computing took.
        began: Called with a stage and the number of the block that it begins, and with ``NOTHING`` at its end.

    The end of a ``with`` ends the threads.
    """

    def __init__(self, worker: Worker, deliver: Callable[[Read], None], report: Report, began: Began = _ignore) -> None:
        self._worker, self._deliver, self._report, self._began = worker, deliver, report, began
        self._waiting: deque[int] = deque()
        self._more = threading.Semaphore(0)
        self._room = threading.Semaphore(READ_AHEAD)
        self._computed: Queue[tuple[int, WorkItem, Any, float] | None] = Queue(1)
        self._ended = False
        self._threads = [
            threading.Thread(target=stage, name=stage.__name__.strip("_"), daemon=True)
            for stage in (self._read_all, self._write_all)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Stages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads."""
        self._ended = True
        self._room.release()
        self._more.release()
        with contextlib.suppress(Full):  # then something else wakes the writer
            self._computed.put_nowait(None)
        # A process that ends while one of its threads is inside TensorStore would abort; one block does not take long.
        deadline = time.monotonic() + SECONDS_TO_END
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def add(self, numbers: list[int]) -> None:
        """Have blocks read."""
        self._waiting.extend(numbers)
        self._more.release(len(numbers))

    def take_back(self) -> list[int]:
        """Remove and return the blocks whose reading has not begun."""
        taken: list[int] = []
        while self._more.acquire(blocking=False):
            taken.append(self._waiting.popleft())
        return taken

    def compute(self, read: Read) -> None:
        """Compute a block in the calling thread, and queue it for writing."""
        began = time.monotonic()
        self._room.release()
        error, result = read.error, None
        if read.block is not None:
            self._began(COMPUTING, read.number)
            result, error = self._worker.compute(read.block)
            self._began(COMPUTING, NOTHING)
        if error is not None or read.block is None:
            self._report(read.number, time.monotonic() - began, error)
        else:
            self._computed.put((read.number, read.block, result, time.monotonic() - began))

    def _read_all(self) -> None:
        while True:
            self._room.acquire()
            self._more.acquire()
            if self._ended:
                return
            number = self._waiting.popleft()
            self._began(READING, number)
            block, error = self._worker.read(number)
            self._began(READING, NOTHING)
            self._deliver(Read(number, block, error))

    def _write_all(self) -> None:
        while True:
            computed = self._computed.get()
            if computed is None or self._ended:
                return
            number, block, result, seconds = computed
            self._began(WRITING, number)
            error = self._worker.write(block, result)
            self._began(WRITING, NOTHING)
            self._report(number, seconds, error)
