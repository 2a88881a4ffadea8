"""What is worked on: a list of items, and a function of one item; blocks that fill volumes are one kind of items."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from incasem_like.blockwise.done_log import refuse_remote
from incasem_like.blockwise.grid import BlockGrid, block_grid
from incasem_like.volumes import Roi, Volume, describe_roi, open_volume

HOUR = 3600.0


def _ignore(_amount: int) -> None:
    """Do not count progress within an item."""


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """One item, as the task's function receives it.

    Attributes:
        number: Of the item in its task.
        folder: Where the log of finished items lies.
        inputs: Opened in this process, in the order of the task's ``inputs``.
        prepared: What the task's ``set_up`` returned in this process; None without one.
        data: What the task's ``read`` returned for this item; None without one.
        advance: Takes how many more voxels of the item are done, for progress within one that takes long.
    """

    number: int
    folder: Path
    inputs: tuple[Volume, ...] = ()
    prepared: Any = None
    data: Any = None
    advance: Callable[[int], None] = _ignore


@dataclass(frozen=True, kw_only=True)
class Block(WorkItem):
    """One block of a volume.

    Attributes:
        write_roi: What the function must write, in absolute voxels.
        read_roi: ``write_roi`` and the context around it; may reach beyond the volume.
        outputs: The task's ``output`` and its ``further_outputs`` behind it, opened for writing in this process.
    """

    write_roi: Roi
    read_roi: Roi
    outputs: tuple[Volume, ...] = ()

    @property
    def output(self) -> Volume:
        """The first output."""
        return self.outputs[0]


class WorkTask(ABC):
    """A list of items, and what is to be done with each; see ``BlockTask`` for what the attributes mean."""

    name: str
    inputs: tuple[str, ...]
    function: Callable[[Any, Mapping[str, Any]], Any]
    parameters: Mapping[str, Any]
    set_up: Callable[[Mapping[str, Any]], Any] | None = None
    read: Callable[[Any, Mapping[str, Any]], Any] | None = None
    write: Callable[[Any, Any], None] | None = None
    threads: bool = True
    model_hash: str | None = None
    retries: int = 2
    time_limit: float = HOUR
    unit: str = "voxels"
    grid: BlockGrid | None = None  # where the items are blocks of a volume

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Folder of the log of finished items."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of items."""

    @abstractmethod
    def layout(self) -> dict[str, Any]:
        """Describe the list of items for the fingerprint, JSON-able."""

    @abstractmethod
    def make_item(self, **known: Any) -> WorkItem:
        """Make an item out of the attributes that all items have."""

    def name_of(self, number: int) -> str:
        """Return what an item is called in errors."""
        assert self.grid is not None
        return describe_roi(self.grid.write_roi(number))

    def place_of(self, number: int) -> dict[str, Any]:
        """Describe where an item is, JSON-able: ``roi`` (begin and shape) of a block, ``name`` of another item."""
        if self.grid is None:
            return {"name": self.name_of(number)}
        roi = self.grid.write_roi(number)
        return {"roi": [list(roi.begin), list(roi.shape)]}

    @property
    def size(self) -> int:
        """Amount of all items."""
        return len(self) if self.grid is None else self.grid.roi.size

    @property
    def complete(self) -> bool:
        """Whether the results are marked complete, whoever made them."""
        return False

    def amount(self, numbers: Sequence[int]) -> int:
        """Return how much some items count in progress, in the task's unit."""
        return len(numbers) if self.grid is None else self.grid.voxels(numbers)

    def mark_complete(self) -> None:  # noqa: B027
        """Note that every item is done."""

    @property
    def staged(self) -> bool:
        """Whether workers prefetch or write behind."""
        return self.threads and (self.read is not None or self.write is not None)

    def open_inputs(self) -> tuple[Volume, ...]:
        """Open the inputs in this process.

        Raises:
            DataError: One is missing or incomplete.
        """
        return tuple(open_volume(address) for address in self.inputs)

    def fingerprint(self) -> dict[str, Any]:
        """Describe everything that the results depend on, JSON-able.

        Inputs count by what they hold, not by where they lie, so that a folder may be moved between two calls.
        """
        fingerprint: dict[str, Any] = {
            "task": self.name,
            "function": f"{self.function.__module__}.{self.function.__qualname__}",
            "parameters": dict(self.parameters),
            "inputs": [
                {"address": str(volume.address), "content": volume.content_hash} for volume in self.open_inputs()
            ],
            "layout": self.layout(),
        }
        if self.model_hash is not None:
            fingerprint["model"] = self.model_hash
        return fingerprint


@dataclass(frozen=True)
class BlockTask(WorkTask):
    """A function over the blocks of volumes that it fills.

    Attributes:
        name: What is done, in a word or two; part of the fingerprint.
        output: Opened for writing. Beside it lies the log of finished blocks.
        inputs: Addresses of the volumes read.
        function: Top-level function ``(block, parameters)``; it must write ``block.write_roi`` and nothing else, and
            give the same voxels whenever it is called with the same inputs. With ``write``, it returns the result.
        parameters: JSON-able; handed to the function, part of the fingerprint.
        block_shape: Wanted block size (z, y, x) in voxels; rounded up to whole chunks (or shards) of all outputs.
        context: Voxels read around a block on each side (z, y, x).
        roi: What to write, in absolute voxels; None for the whole output.
        further_outputs: Written by the same blocks; of the same voxels as ``output``, chunks may differ.
        set_up: Top-level function ``(parameters) -> anything``, called once in each worker before its first block; what
            it returns is ``block.prepared``. For what is dear to make and serves many blocks: a loaded network.
        read: Top-level function ``(block, parameters) -> anything``, called in a thread while earlier blocks are
            computed; what it returns is ``block.data``.
        write: Top-level function ``(block, result)``, called in another thread with what ``function`` returned, while
            later blocks are computed; it must be done with the voxels when it returns.
        threads: Whether ``read`` and ``write`` run in threads of their own; else all happens one after another.
        model_hash: SHA-256 of the checkpoint that the voxels depend on, part of the fingerprint.
        retries: How often a block is tried again after an error.
        time_limit: Seconds that one block may take; a worker process that takes longer is replaced.
    """

    name: str
    output: Volume
    inputs: tuple[str, ...]
    function: Callable[[Block, Mapping[str, Any]], Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    block_shape: tuple[int, ...] = (128, 128, 128)
    context: tuple[int, ...] = (0, 0, 0)
    roi: Roi | None = None
    further_outputs: tuple[Volume, ...] = ()
    set_up: Callable[[Mapping[str, Any]], Any] | None = None
    read: Callable[[Block, Mapping[str, Any]], Any] | None = None
    write: Callable[[Block, Any], None] | None = None
    threads: bool = True
    model_hash: str | None = None
    retries: int = 2
    time_limit: float = HOUR

    @cached_property
    def grid(self) -> BlockGrid:  # type: ignore[override]
        """The blocks.

        Raises:
            InputError, DataError: Sizes or region do not fit the outputs.
        """
        return block_grid(self.outputs, self.block_shape, self.context, self.roi)

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self.grid)

    @property
    def folder(self) -> Path:
        """Folder of the first output, where the log lies.

        Raises:
            InputError: It is remote.
        """
        refuse_remote(self.output.address)
        return Path(str(self.output.address))

    @property
    def complete(self) -> bool:
        """Whether the output is complete."""
        return self.output.complete

    @property
    def outputs(self) -> tuple[Volume, ...]:
        """All volumes written."""
        return (self.output, *self.further_outputs)

    def make_item(self, **known: Any) -> Block:
        """Make a block, see ``WorkTask.make_item``."""
        write_roi = self.grid.write_roi(known["number"])
        return Block(write_roi=write_roi, read_roi=self.grid.read_roi(write_roi), outputs=self.outputs, **known)

    def layout(self) -> dict[str, Any]:
        """Describe the outputs and their blocks."""
        grid = self.grid
        return {
            **_layout(self.output),
            "roi": [list(grid.roi.begin), list(grid.roi.shape)],
            "block shape": list(grid.step),
            "context": list(grid.context),
        }

    def fingerprint(self) -> dict[str, Any]:
        """Describe everything that the outputs' voxels depend on, see ``WorkTask.fingerprint``."""
        fingerprint = super().fingerprint()
        if self.further_outputs:
            fingerprint["further outputs"] = [
                {"dataset": volume.dataset, **_layout(volume)} for volume in self.further_outputs
            ]
        return fingerprint

    def mark_complete(self) -> None:
        """Say that every block is written; of several outputs the first one last, since the log belongs to it."""
        for volume in reversed(self.outputs):
            if not volume.complete:
                volume.mark_complete()


def _layout(volume: Volume) -> dict[str, Any]:
    return {
        "shape": list(volume.shape),
        "dtype": volume.dtype.str,
        "voxel size": None if volume.voxel_size is None else list(volume.voxel_size),
        "offset": list(volume.offset),
    }
