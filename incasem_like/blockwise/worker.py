"""Work on blocks in any process: the task is opened once, then its blocks are read, computed and written."""

from __future__ import annotations

import dataclasses
import traceback
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from incasem_like.blockwise.queue import BlockError, BlockQueue
from incasem_like.blockwise.task import WorkItem, WorkTask
from incasem_like.errors import IncasemError
from incasem_like.terminal import as_known_error

LOST, TIMED_OUT, BROKEN = 3, 4, 6  # exit statuses of worker processes: why they ended
PREFETCHED = 2  # blocks in memory besides the one that is computed and the one that is written

Outcome = tuple[int, BlockError | None]


class Worker:
    """A task with its inputs opened, and set up, in this process. An error of a block is returned, never raised.

    Args:
        task: The task.
        name: Name of the worker, for errors.
        prepared: The result of the task's ``set_up``, if this process has it already.
        advance: Called with a block's number and voxels for progress within blocks.

    Raises:
        DataError: An input is missing or incomplete.
        Exception: Any error that the task's own ``set_up`` raises.
    """

    def __init__(
        self, task: WorkTask, name: str = "", prepared: Any = None, advance: Callable[[int, int], None] | None = None
    ) -> None:
        self.task, self.name, self._advance = task, name, advance
        self._inputs = task.open_inputs()
        self._prepared = task.set_up(task.parameters) if prepared is None and task.set_up is not None else prepared

    def run(self, number: int) -> BlockError | None:
        """Read, compute and write one block."""
        block, error = self.read(number)
        if block is None:
            return error
        result, error = self.compute(block)
        return error or self.write(block, result)

    def read(self, number: int) -> tuple[WorkItem | None, BlockError | None]:
        """Make the block, with its data if the task prefetches."""
        task = self.task
        try:
            block = task.make_item(
                number=number, folder=task.folder, inputs=self._inputs, prepared=self._prepared,
                **({} if self._advance is None else {"advance": partial(self._advance, number)}),
            )  # fmt: skip
            if task.read is not None:
                block = dataclasses.replace(block, data=task.read(block, task.parameters))
        except Exception as error:
            return None, describe_error(error, self.name)
        return block, None

    def compute(self, block: WorkItem) -> tuple[Any, BlockError | None]:
        """Call the task's function and return its result."""
        try:
            return self.task.function(block, self.task.parameters), None
        except Exception as error:
            return None, describe_error(error, self.name)

    def write(self, block: WorkItem, result: Any) -> BlockError | None:
        """Write the result, if the task writes in a separate step."""
        if self.task.write is None:
            return None
        try:
            self.task.write(block, result)
        except Exception as error:
            return describe_error(error, self.name)
        return None


def describe_error(error: Exception, worker: str) -> BlockError:
    """Convert an error to one of this package's classes, with its traceback."""
    known = as_known_error(error) or IncasemError(f"{type(error).__name__}: {error}")
    return BlockError(known, traceback.format_exc(), worker)


def run_here(queue: BlockQueue, worker: Worker, done: Callable[[int], None]) -> Generator[Outcome, None, None]:
    """Run blocks in this thread until the queue is empty; the caller reports each outcome to the queue.

    Blocks of a task that prefetches are read and written in two further threads.

    Args:
        queue: The blocks to do.
        worker: Runs them.
        done: Called with each finished block as soon as it is written, perhaps in another thread.

    Yields:
        A block's number, and its error or None.
    """

    def write(number: int, block: WorkItem, result: Any) -> Outcome:
        error = worker.write(block, result)
        if error is None:
            done(number)
        return number, error

    if not worker.task.staged:
        while queue:
            for number in queue.take(1):
                block, error = worker.read(number)
                result, error = (None, error) if block is None else worker.compute(block)
                yield (number, error) if error or block is None else write(number, block, result)
        return
    read: deque[tuple[int, Future[tuple[WorkItem | None, BlockError | None]]]] = deque()
    written: deque[Future[Outcome]] = deque()
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        try:
            while queue:
                for number in queue.take(1 + PREFETCHED - len(read)):
                    read.append((number, reader.submit(worker.read, number)))
                while written and (len(written) > 1 or written[0].done() or not read):
                    yield written.popleft().result()
                if not read:
                    continue
                number, future = read.popleft()
                block, error = future.result()
                result, error = (None, error) if block is None else worker.compute(block)
                if error or block is None:
                    yield number, error
                else:
                    written.append(writer.submit(write, number, block, result))
        finally:
            reader.shutdown(wait=False, cancel_futures=True)
