"""What a blockwise task is: a function, its parameters, its inputs, and the output that it fills block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from incasem_like.blockwise.grid import BlockGrid, block_grid
from incasem_like.volumes import Roi, Volume, open_volume


@dataclass(frozen=True)
class Block:
    """One block, as the task's function receives it.

    Attributes:
        number: Of the block in its grid.
        write_roi: What the function must write, in absolute voxels.
        read_roi: ``write_roi`` and the context around it; may reach beyond the volume.
        output: Opened for writing in the process that runs the function.
        inputs: Opened in that process, in the order of the task's ``inputs``.
    """

    number: int
    write_roi: Roi
    read_roi: Roi
    output: Volume
    inputs: tuple[Volume, ...]


@dataclass(frozen=True)
class BlockTask:
    """A function over blocks.

    Attributes:
        name: What is done, in a word or two; part of the fingerprint.
        output: Opened for writing. Further outputs may be written by the function; they must have the same chunk grid.
        inputs: Addresses of the volumes read.
        function: Top-level function ``(block, parameters) -> None``; it must write ``block.write_roi`` and nothing
            else, and give the same voxels whenever it is called with the same inputs.
        parameters: JSON-able; handed to the function, part of the fingerprint.
        block_shape: Wanted block size (z, y, x) in voxels; rounded up to whole chunks of the output.
        context: Voxels read around a block on each side (z, y, x).
        roi: What to write, in absolute voxels; None for the whole output.
    """

    name: str
    output: Volume
    inputs: tuple[str, ...]
    function: Callable[[Block, Mapping[str, Any]], None]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    block_shape: tuple[int, ...] = (128, 128, 128)
    context: tuple[int, ...] = (0, 0, 0)
    roi: Roi | None = None

    @cached_property
    def grid(self) -> BlockGrid:
        """The blocks.

        Raises:
            InputError, DataError: Sizes or region do not fit the output.
        """
        return block_grid(self.output, self.block_shape, self.context, self.roi)

    def open_inputs(self) -> tuple[Volume, ...]:
        """Open the inputs in this process.

        Raises:
            DataError: One is missing or incomplete.
        """
        return tuple(open_volume(address) for address in self.inputs)

    def fingerprint(self) -> dict[str, Any]:
        """Describe everything that the output's voxels depend on, JSON-able.

        Inputs count by what they hold, not by where they lie, so that a folder may be moved between two calls.
        """
        grid = self.grid
        return {
            "task": self.name,
            "function": f"{self.function.__module__}.{self.function.__qualname__}",
            "parameters": dict(self.parameters),
            "inputs": [
                {"address": str(volume.address), "content": volume.content_hash} for volume in self.open_inputs()
            ],
            "layout": {
                "shape": list(self.output.shape),
                "dtype": self.output.dtype.str,
                "voxel size": list(self.output.voxel_size),
                "offset": list(self.output.offset),
                "roi": [list(grid.roi.begin), list(grid.roi.shape)],
                "block shape": list(grid.step),
                "context": list(grid.context),
            },
        }
