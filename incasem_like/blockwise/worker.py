"""What runs in a worker process: the task, opened once, and the blocks that come in.

The fork server loads this module before it forks, so it must import nothing that starts threads; TensorStore is loaded
when the first volume is opened, which is after the fork.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from incasem_like.blockwise.task import Block, BlockTask
from incasem_like.errors import IncasemError
from incasem_like.terminal import as_known_error
from incasem_like.volumes import Roi


@dataclass(frozen=True)
class BlockResult:
    """How a block went.

    Attributes:
        number: Of the block.
        write_roi: Of the block.
        error: What went wrong, one of ours where it could be told; None when the block is done.
        trace: The traceback, for ``--debug``.
    """

    number: int
    write_roi: Roi
    error: IncasemError | None = None
    trace: str = ""


class Worker:
    """A task with its inputs opened in this process."""

    def __init__(self, task: BlockTask) -> None:
        self._task = task
        self._inputs = task.open_inputs()

    def run(self, number: int, write_roi: Roi) -> BlockResult:
        """Run the task's function on one block; an error is kept in the result, not raised."""
        task = self._task
        block = Block(number, write_roi, task.grid.read_roi(write_roi), task.output, self._inputs)
        try:
            task.function(block, task.parameters)
        except Exception as error:
            known = as_known_error(error) or IncasemError(f"{type(error).__name__}: {error}")
            return BlockResult(number, write_roi, known, traceback.format_exc())
        return BlockResult(number, write_roi)


_worker: list[Worker] = []


def start_worker(task: BlockTask) -> None:
    """Prepare a worker process."""
    _worker[:] = [Worker(task)]


def run_in_worker(number: int, write_roi: Roi) -> BlockResult:
    """Run one block in a prepared worker process."""
    return _worker[0].run(number, write_roi)
