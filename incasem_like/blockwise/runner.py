"""Running a blockwise task on this machine: in this process or in several, going on where an earlier call stopped."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass

from incasem_like.blockwise.done_log import DoneLog
from incasem_like.blockwise.processes import process_pool
from incasem_like.blockwise.task import BlockTask
from incasem_like.blockwise.worker import BlockResult, Worker, run_in_worker, start_worker
from incasem_like.errors import DataError, DiskFullError, IncasemError, InputError
from incasem_like.terminal import Progress
from incasem_like.volumes import Roi, describe_roi

Pending = list[tuple[int, Roi]]


@dataclass(frozen=True)
class BlockSummary:
    """What a call of ``run_blockwise`` did.

    Attributes:
        total: Blocks of the task.
        done: Blocks done by this call.
        skipped: Blocks that earlier calls had done.
    """

    total: int
    done: int
    skipped: int

    @property
    def already_complete(self) -> bool:
        """Whether there was nothing left to do."""
        return self.done == 0


def run_blockwise(task: BlockTask, *, num_workers: int = 1, description: str | None = None) -> BlockSummary:
    """Run a task over all blocks that are not done yet, then mark its output complete.

    Args:
        task: What to do.
        num_workers: Processes; 0 or 1 runs in this process.
        description: For the progress bar; the task's name if None.

    Raises:
        InputError: The output was begun with other parameters, inputs or layout, or another process works on it.
        DiskFullError: No space is left; blocks done are kept.
        IncasemError: Some blocks failed; all others are done, a second call tries those again. Of the class of the
            blocks' own errors where they agree.
    """
    with DoneLog(task.output, task.fingerprint()) as log:
        blocks = list(task.grid)
        pending = [(number, roi) for number, roi in blocks if number not in log.done]
        skipped = len(blocks) - len(pending)
        failed = _run_pending(
            task, pending, log, num_workers, description or task.name, sum(roi.size for _, roi in blocks)
        )
        if failed:
            raise _summarised(failed, len(blocks))
        if not task.output.complete:
            task.output.mark_complete()
    return BlockSummary(len(blocks), len(pending), skipped)


def _run_pending(
    task: BlockTask, pending: Pending, log: DoneLog, num_workers: int, description: str, total: int
) -> list[BlockResult]:
    """Run blocks, record those done, and return those that failed."""
    failed: list[BlockResult] = []
    if not pending:
        return failed
    workers = min(num_workers, len(pending))
    results = _in_processes(task, pending, workers) if workers > 1 else _in_this_process(task, pending)
    # Closed at once when an error ends the loop: its workers must not live on until the generator is collected.
    with closing(results), Progress(description, total, "voxels") as progress:
        progress.advance(total - sum(roi.size for _, roi in pending))
        for result in results:
            if result.error is None:
                log.record(result.number)
                progress.advance(result.write_roi.size)
                continue
            if isinstance(result.error, DiskFullError):
                raise result.error
            failed.append(result)
    return failed


def _in_this_process(task: BlockTask, pending: Pending) -> Generator[BlockResult, None, None]:
    worker = Worker(task)
    for number, roi in pending:
        yield worker.run(number, roi)


def _in_processes(task: BlockTask, pending: Pending, num_workers: int) -> Generator[BlockResult, None, None]:
    """Run blocks in processes started by the fork server, a few more in flight than there are workers.

    Raises:
        IncasemError: A process died, most often for want of memory.
    """
    waiting = iter(pending)
    flying: set[Future[BlockResult]] = set()
    try:
        with process_pool(num_workers, start_worker, (task,)) as pool:
            while True:
                while len(flying) < 2 * num_workers and (block := next(waiting, None)) is not None:
                    flying.add(pool.submit(run_in_worker, *block))
                if not flying:
                    break
                landed, flying = wait(flying, return_when=FIRST_COMPLETED)
                for future in landed:
                    yield future.result()
    except BrokenProcessPool as error:
        raise IncasemError(
            f"A worker process of {task.name} died, perhaps for want of memory: run the same command with fewer "
            "workers; blocks already done are kept."
        ) from error


def _summarised(failed: list[BlockResult], total: int) -> IncasemError:
    first = min(failed, key=lambda result: result.number)
    kinds = {type(result.error) for result in failed}
    kind = kinds.pop() if len(kinds) == 1 else IncasemError
    if kind not in (DataError, InputError):
        kind = IncasemError
    summary = kind(
        f"{len(failed)} of {total} blocks failed, the first one at {describe_roi(first.write_roi)}: {first.error} "
        "The others are done; the same command tries the failed ones again."
    )
    summary.add_note(first.trace)  # shown with --debug
    return summary
