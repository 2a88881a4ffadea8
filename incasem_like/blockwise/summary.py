"""The outcome of a call: blocks done, skipped and failed; true only if all are done."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from incasem_like.blockwise.queue import FailedBlock
from incasem_like.blockwise.task import BlockTask, WorkTask
from incasem_like.errors import DataError, IncasemError, InputError


@dataclass(frozen=True)
class BlockSummary:
    """The outcome of a call. As a truth value it is true only if every block of the task is done.

    Attributes:
        total: Blocks of the task.
        done: Blocks done by this call.
        skipped: Blocks that earlier calls had done.
        failed: Blocks that failed, with their errors, by number.
        voxels: Voxels of one output that this call wrote.
    """

    total: int
    done: int
    skipped: int
    failed: tuple[FailedBlock, ...] = ()
    voxels: int = 0

    def __bool__(self) -> bool:
        return self.done + self.skipped == self.total

    @property
    def already_complete(self) -> bool:
        """Whether every block had been done before this call."""
        return bool(self) and self.done == 0

    def error(self, task: WorkTask, command: str | None = None) -> IncasemError:
        """Combine the errors of all failed blocks, in the class of the blocks' own errors if they agree.

        Args:
            task: The task that the blocks belong to.
            command: The command that retries them, if it is not this process's own. Input errors are not retried.
        """
        first = self.failed[0]
        kinds = {type(block.last.error) for block in self.failed}
        kind = kinds.pop() if len(kinds) == 1 else IncasemError
        if kind not in (DataError, InputError):
            kind = IncasemError
        place = task.name_of(first.number)
        said = str(first.last.error).rstrip(".")
        what = f"{len(self.failed)} of {self.total} blocks failed, the first one at {place}: {said}."
        if len(self.failed) < self.total:
            what += " The others are done."
        if kind is IncasemError:
            # --overwrite would delete the blocks that are done
            anew = "--overwrite" in sys.argv and isinstance(task, BlockTask)
            same = f"the same command {'without --overwrite' if anew else 'again'}"
            what += f" To retry the failed ones, run {same if command is None else f'`{command}`'}."
        summary = kind(what)
        summary.add_note(first.last.trace)  # notes are shown with --debug
        for block in self.failed[:20]:
            where = task.name_of(block.number)
            summary.add_note(f"Block {block.number} at {where}, tried {block.attempts} times: {block.last.error}")
        return summary
