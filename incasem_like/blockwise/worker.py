"""Work on blocks in any process: the task is opened once, then its blocks are read, computed and written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from incasem_like.blockwise.task import WorkItem, WorkTask

LOST, TIMED_OUT, BROKEN = 3, 4, 6  # exit statuses of worker processes: why they ended
PREFETCHED = 2  # blocks in memory besides the one that is computed and the one that is written


class Worker:
    """A task with its inputs opened, and set up unless that is ``prepared``, in this process.

    ``advance`` is called with a block's number and voxels for progress within blocks.

    Raises:
        DataError: An input is missing or incomplete.
        Exception: Any error that the task's own ``set_up`` raises.
    """

    def __init__(self, task: WorkTask, prepared: Any, advance: Callable[[int, int], None]) -> None:
        self.task, self._advance = task, advance
        self._inputs = task.open_inputs()
        self._prepared = task.set_up(task.parameters) if prepared is None and task.set_up is not None else prepared

    def read(self, number: int) -> WorkItem:
        """Make the block, with its data if the task prefetches."""
        task = self.task
        advance = partial(self._advance, number)
        block = task.make_item(
            number, folder=task.folder, inputs=self._inputs, prepared=self._prepared, advance=advance
        )
        return block if task.read is None else dataclasses.replace(block, data=task.read(block, task.parameters))

    def compute(self, block: WorkItem) -> Any:
        """Call the task's function and return its result."""
        return self.task.function(block, self.task.parameters)

    def write(self, block: WorkItem, result: Any) -> None:
        """Write the result, if the task writes in a separate step."""
        if self.task.write is not None:
            self.task.write(block, result)
