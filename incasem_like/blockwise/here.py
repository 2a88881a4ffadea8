"""Blocks run in this process: one after another, or with reading ahead and writing behind as workers do."""

from __future__ import annotations

from collections.abc import Generator
from queue import SimpleQueue

from incasem_like.blockwise.queue import BlockError, BlockQueue
from incasem_like.blockwise.stages import IN_FLIGHT, Read, Stages
from incasem_like.blockwise.worker import Worker

Outcome = tuple[int, BlockError | None]


def run_here(queue: BlockQueue, worker: Worker) -> Generator[Outcome, None, None]:
    """Run blocks until the queue is empty; who iterates tells the queue what came of each.

    Args:
        queue: What is to be done.
        worker: Runs it.

    Yields:
        A block's number, and its error or None.
    """
    if worker.task.staged:
        yield from _staged(queue, worker)
        return
    while queue:
        for number in queue.take(1):
            yield number, worker.run(number)


def _staged(queue: BlockQueue, worker: Worker) -> Generator[Outcome, None, None]:
    events: SimpleQueue[Read | Outcome] = SimpleQueue()

    def report(number: int, seconds: float, error: BlockError | None) -> None:
        events.put((number, error))

    with Stages(worker, events.put, report) as stages:
        flying = 0
        while queue:
            taken = queue.take(IN_FLIGHT - flying)
            flying += len(taken)
            stages.add(taken)
            event = events.get()
            if isinstance(event, Read):
                stages.compute(event)
            else:
                flying -= 1
                yield event
