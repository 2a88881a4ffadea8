"""Running a task: in this process or on workers, resuming where an earlier call stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from incasem_like.blockwise.call import Call, JobCancelled
from incasem_like.blockwise.done_log import DoneLog
from incasem_like.blockwise.fleet import started_fleet
from incasem_like.blockwise.queue import BlockSummary
from incasem_like.blockwise.task import WorkTask
from incasem_like.blockwise.worker import Worker, run_here
from incasem_like.blockwise.workers_file import Workers, check_workers
from incasem_like.errors import IncasemError


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
            with _ended_by_sigterm(), _recorded(call), call.progress:
                if workers is None and num_workers <= 1:
                    _run_here(call, prepared)
                else:
                    cores = len(os.sched_getaffinity(0))
                    _run_on(call, workers or Workers.local(min(num_workers, len(pending), max(2, cores))))
            summary = call.summary()
        if summary:
            task.mark_complete()
    return summary


def _run_here(call: Call, prepared: Any) -> None:
    call.start_clock()

    def advance(number: int, voxels: int) -> None:
        call.advance(number, voxels)
        call.look()

    worker = Worker(call.task, "this process", prepared, advance)
    with contextlib.closing(run_here(call.queue, worker, lambda number: call.done([number]))) as outcomes:
        for number, error in outcomes:
            if error is None:
                call.queue.done(number)
            else:
                call.error(number, error)
            call.look()


def _run_on(call: Call, workers: Workers) -> None:
    # Workers are started before Dask is loaded here, so that they load it at the same time.
    with started_fleet(workers.groups, call.record.folder, len(call.queue)) as fleet:
        from incasem_like.blockwise.engine import run_on_workers

        run_on_workers(call, workers, fleet)


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


@contextlib.contextmanager
def _recorded(call: Call) -> Iterator[None]:
    """Note in the job's record how the work inside ended."""
    record = call.record
    state, said = "failed", ""
    try:
        yield
        summary = call.summary()
        state, said = ("finished", "") if summary else ("failed", str(summary.error(call.task)))
    except JobCancelled:
        state = "cancelled"
        raise
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    except BaseException as error:
        said = str(error) if isinstance(error, IncasemError) else f"{type(error).__name__}: {error}"
        raise
    finally:
        summary = call.summary()
        record.update(summary.done + summary.skipped, len(summary.failed))
        record.end(state, said)
