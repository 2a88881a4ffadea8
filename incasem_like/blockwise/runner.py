"""Running a task: in this process or on workers, resuming where an earlier call stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from incasem_like.blockwise.call import BlockError, BlockSummary, Call
from incasem_like.blockwise.done_log import DoneLog
from incasem_like.blockwise.fleet import started_fleet
from incasem_like.blockwise.task import WorkItem, WorkTask
from incasem_like.blockwise.worker import PREFETCHED, Worker
from incasem_like.blockwise.workers_file import Workers, check_workers


def run_blockwise(
    task: WorkTask,
    *,
    num_workers: int = 1,
    workers: Workers | None = None,
    description: str | None = None,
    prepared: Any = None,
    command: str | None = None,
) -> BlockSummary:
    """Run a task over all blocks that are not done yet, then mark its outputs complete; blocks that fail are an error.

    Args:
        task: The task.
        num_workers: Processes on this machine; 0 or 1 runs in this process.
        workers: The workers of a workers file, instead of ``num_workers``.
        description: Label of the progress bar; the task's name if None.
        prepared: The result of the task's ``set_up``, if this process has it already; workers make their own.
        command: The command that resumes the task, if it is not this process's own.

    Raises:
        InputError: The output was begun with other parameters, inputs or layout, or another process is writing it.
        DiskFullError: No space is left; finished blocks are kept.
        IncasemError: Some blocks failed; all others are done, and a second call retries the failed ones. The class is
            that of the blocks' own errors if they agree.
    """
    summary = try_blockwise(
        task,
        num_workers=num_workers,
        workers=workers,
        description=description,
        prepared=prepared,
        command=command,
    )
    if not summary:
        raise summary.error(task, command)
    return summary


def try_blockwise(
    task: WorkTask,
    *,
    num_workers: int = 1,
    workers: Workers | None = None,
    description: str | None = None,
    prepared: Any = None,
    command: str | None = None,
) -> BlockSummary:
    """Do what ``run_blockwise`` does, but return also when blocks failed: the summary is true only if all are done.

    Raises:
        InputError, DiskFullError: As ``run_blockwise``.
        IncasemError: No worker can run blocks.
        KeyboardInterrupt: Interrupted, or cancelled from elsewhere.
    """
    with DoneLog(task.folder, task.fingerprint(), complete=task.complete) as log:
        pending = [number for number in range(len(task)) if number not in log.done]
        summary = BlockSummary(len(task), 0, len(task))
        if pending:
            if workers is not None:
                check_workers(workers)
            call = Call(task, log, pending, description, command)
            with _ended_by_sigterm(), call:
                if workers is None and num_workers <= 1:
                    _run_here(call, prepared)
                else:
                    cores = len(os.sched_getaffinity(0))
                    workers = workers or Workers.local(min(num_workers, len(pending), max(2, cores)))
                    # Workers are started before Dask is loaded here, so that they load it at the same time.
                    with started_fleet(workers.groups, call.record.folder, len(call)) as fleet:
                        from incasem_like.blockwise.engine import run_on_workers

                        run_on_workers(call, workers, fleet)
            summary = call.summary()
        if summary:
            task.mark_complete()
    return summary


def _run_here(call: Call, prepared: Any) -> None:
    """Run all blocks in this thread; those of a task that prefetches are read and written in two further threads."""

    def advance(number: int, voxels: int) -> None:
        call.advance(number, voxels)
        call.look()

    def take(number: int, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:
            call.error(number, BlockError.of(error, "this process"))
        call.look()

    def write(block: WorkItem, result: Any) -> None:
        worker.write(block, result)
        call.finish([block.number])

    def run(number: int) -> None:
        block = worker.read(number)
        write(block, worker.compute(block))

    def compute(read: Future[WorkItem]) -> None:
        block = read.result()
        writing.append((block.number, writer.submit(write, block, worker.compute(block))))

    call.start_clock()
    worker = Worker(call.task, prepared, advance)
    while call and not call.task.staged:
        for number in call.take(1):
            take(number, partial(run, number))
    reading: deque[tuple[int, Future[WorkItem]]] = deque()
    writing: deque[tuple[int, Future[None]]] = deque()
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        try:
            while call or writing:
                for number in call.take(1 + PREFETCHED - len(reading)):
                    reading.append((number, reader.submit(worker.read, number)))
                while writing and (len(writing) > 1 or writing[0][1].done() or not reading):
                    number, written = writing.popleft()
                    take(number, written.result)
                if reading:
                    number, read = reading.popleft()
                    take(number, partial(compute, read))
        finally:
            reader.shutdown(wait=False, cancel_futures=True)


class _Terminated(KeyboardInterrupt):
    """SIGTERM was received; it is handled like ctrl-C."""


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the work inside cleanly, jobs in queues included, and then this process with its usual effect."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def terminate(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except _Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
