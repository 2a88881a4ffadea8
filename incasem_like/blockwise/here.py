"""Blocks run in this process: one after another, or with prefetching and write-behind as in workers."""

from __future__ import annotations

from collections.abc import Callable, Generator
from queue import SimpleQueue

from incasem_like.blockwise.queue import BlockError, BlockQueue
from incasem_like.blockwise.stages import IN_FLIGHT, Read, Stages
from incasem_like.blockwise.worker import Worker

Outcome = tuple[int, BlockError | None]


def run_here(queue: BlockQueue, worker: Worker, done: Callable[[int], None]) -> Generator[Outcome, None, None]:
    """Run blocks until the queue is empty; the caller that iterates reports each outcome to the queue.

    Args:
        queue: The blocks to do.
        worker: Runs them.
        done: Called with each finished block as soon as it is written, in another thread, while the next is computed.

    Yields:
        A block's number, and its error or None.
    """
    if worker.task.staged:
        yield from _staged(queue, worker, done)
        return
    while queue:
        for number in queue.take(1):
            error = worker.run(number)
            if error is None:
                done(number)
            yield number, error


def _staged(queue: BlockQueue, worker: Worker, done: Callable[[int], None]) -> Generator[Outcome, None, None]:
    events: SimpleQueue[Read | Outcome | Exception] = SimpleQueue()

    def report(number: int, seconds: float, error: BlockError | None) -> None:
        try:
            if error is None:
                done(number)
            events.put((number, error))
        except Exception as failure:
            events.put(failure)

    with Stages(worker, events.put, report) as stages:
        flying = 0
        while queue:
            if taken := queue.take(IN_FLIGHT - flying):
                flying += len(taken)
                stages.add(taken)
            event = events.get()
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Read):
                stages.compute(event)
            else:
                flying -= 1
                yield event
