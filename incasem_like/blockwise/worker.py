"""What runs blocks, in whichever process: the task, opened once, and the blocks that come in.

The fork server loads this module before it forks, so it must import nothing that starts threads; TensorStore is loaded
when the first volume is opened, which is after the fork.
"""

from __future__ import annotations

import traceback

from incasem_like.blockwise.queue import BlockError
from incasem_like.blockwise.task import Block, BlockTask
from incasem_like.errors import IncasemError
from incasem_like.terminal import as_known_error


class Worker:
    """A task with its inputs opened, and set up, in this process.

    Args:
        task: The task.
        name: Who this is, for errors.

    Raises:
        DataError: An input is missing or incomplete.
        Exception: Whatever the task's own ``set_up`` raises.
    """

    def __init__(self, task: BlockTask, name: str = "") -> None:
        self.task, self.name = task, name
        self._inputs = task.open_inputs()
        self._prepared = task.set_up(task.parameters) if task.set_up is not None else None

    def run(self, number: int) -> BlockError | None:
        """Run the task's function on one block; an error is returned, not raised."""
        task = self.task
        try:
            write_roi = task.grid.write_roi(number)
            read_roi = task.grid.read_roi(write_roi)
            block = Block(number, write_roi, read_roi, task.output, self._inputs, task.outputs, self._prepared)
            task.function(block, task.parameters)
        except Exception as error:
            return describe_error(error, self.name)
        return None


def describe_error(error: Exception, worker: str) -> BlockError:
    """Keep an error as one of ours, with its traceback."""
    known = as_known_error(error) or IncasemError(f"{type(error).__name__}: {error}")
    return BlockError(known, traceback.format_exc(), worker)
