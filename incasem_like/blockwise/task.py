"""What a blockwise task is: a function, its parameters, its inputs, and the outputs that it fills block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from incasem_like.blockwise.grid import BlockGrid, block_grid
from incasem_like.volumes import Roi, Volume, describe_roi, open_volume

HOUR = 3600.0


def _unheard(voxels: int) -> None:
    """Leave progress within a block to itself."""


@dataclass(frozen=True)
class Block:
    """One block, as the task's function receives it.

    Attributes:
        number: Of the block in its grid.
        write_roi: What the function must write, in absolute voxels.
        read_roi: ``write_roi`` and the context around it; may reach beyond the volume.
        output: Opened for writing in the process that runs the function.
        inputs: Opened in that process, in the order of the task's ``inputs``.
        outputs: ``output`` and the task's ``further_outputs`` behind it.
        prepared: What the task's ``set_up`` returned in this process; None without one.
        data: What the task's ``read`` returned for this block; None without one.
        advance: Takes how many more voxels of the block are done, for progress within a block that takes long; heard
            where the blocks run in the process that was called.
    """

    number: int
    write_roi: Roi
    read_roi: Roi
    output: Volume
    inputs: tuple[Volume, ...]
    outputs: tuple[Volume, ...] = ()
    prepared: Any = None
    data: Any = None
    advance: Callable[[int], None] = _unheard


@dataclass(frozen=True)
class BlockTask:
    """A function over blocks.

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
        names: What blocks are called in errors, by number; empty: by the voxels that they write.
        unit: What progress counts, where a voxel of the output stands for something else.
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
    names: tuple[str, ...] = ()
    unit: str = "voxels"

    @cached_property
    def grid(self) -> BlockGrid:
        """The blocks.

        Raises:
            InputError, DataError: Sizes or region do not fit the outputs.
        """
        return block_grid(self.outputs, self.block_shape, self.context, self.roi)

    def name_of(self, number: int) -> str:
        """Say which block a number means: by its name, else by the voxels that it writes."""
        return self.names[number] if self.names else describe_roi(self.grid.write_roi(number))

    @property
    def staged(self) -> bool:
        """Whether workers read ahead or write behind."""
        return self.threads and (self.read is not None or self.write is not None)

    @property
    def outputs(self) -> tuple[Volume, ...]:
        """All volumes written."""
        return (self.output, *self.further_outputs)

    def open_inputs(self) -> tuple[Volume, ...]:
        """Open the inputs in this process.

        Raises:
            DataError: One is missing or incomplete.
        """
        return tuple(open_volume(address) for address in self.inputs)

    def fingerprint(self) -> dict[str, Any]:
        """Describe everything that the outputs' voxels depend on, JSON-able.

        Inputs count by what they hold, not by where they lie, so that a folder may be moved between two calls.
        """
        grid = self.grid
        fingerprint: dict[str, Any] = {
            "task": self.name,
            "function": f"{self.function.__module__}.{self.function.__qualname__}",
            "parameters": dict(self.parameters),
            "inputs": [
                {"address": str(volume.address), "content": volume.content_hash} for volume in self.open_inputs()
            ],
            "layout": {
                **_layout(self.output),
                "roi": [list(grid.roi.begin), list(grid.roi.shape)],
                "block shape": list(grid.step),
                "context": list(grid.context),
            },
        }
        if self.model_hash is not None:
            fingerprint["model"] = self.model_hash
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
