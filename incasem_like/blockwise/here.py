"""Blocks run in this process: one after another, or with reading ahead and writing behind as workers do."""

from __future__ import annotations

from collections.abc import Callable, Generator
from queue import SimpleQueue

from incasem_like.blockwise.queue import BlockError, BlockQueue
from incasem_like.blockwise.stages import IN_FLIGHT, Read, Stages
from incasem_like.blockwise.worker import Worker

Outcome = tuple[int, BlockError | None]


def run_here(queue: BlockQueue, worker: Worker, done: Callable[[int], None]) -> Generator[Outcome, None, None]:
    """Run blocks until the queue is empty; who iterates tells the queue what came of each.

    Args:
        queue: What is to be done.
        worker: Runs it.
        done: Notes a finished block as soon as it is written, while another one is computed: in another thread.

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
