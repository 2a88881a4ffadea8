"""Block grids: an ROI cut into blocks of whole chunks of the outputs, so that no two blocks write one chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from incasem_like.errors import DataError, InputError
from incasem_like.volumes import Coordinate, Roi, Volume, describe_roi


@dataclass(frozen=True)
class BlockGrid:
    """The blocks of one output, numbered along x first.

    Blocks start at multiples of ``step`` from the first voxel of the output and are clipped to ``roi``. A block keeps
    its number whatever has been done already.

    Attributes:
        origin: First voxel of the output, absolute.
        step: Size of an unclipped block in voxels, a multiple of the outputs' write chunks.
        context: Voxels that a block reads beyond what it writes, on each side of each axis.
        roi: What is to be written, in absolute voxels.
    """

    origin: Coordinate
    step: Coordinate
    context: Coordinate
    roi: Roi

    def __len__(self) -> int:
        return math.prod(self.counts)

    @cached_property
    def _edges(self) -> tuple[list[int], ...]:
        """The boundaries of blocks along each axis, in absolute voxels."""
        edges = []
        for begin, end, start, step in zip(self.roi.begin, self.roi.end, self.origin, self.step, strict=True):
            first = start + (begin - start) // step * step
            edges.append([int(begin), *range(first + step, end, step), int(end)])
        return tuple(edges)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Blocks along each axis."""
        return tuple(len(edges) - 1 for edges in self._edges)

    def layout(self) -> dict[str, Any]:
        """Describe the blocks for a task's fingerprint, JSON-serializable."""
        return {"roi": [list(self.roi.begin), list(self.roi.shape)], "block shape": list(self.step)}

    def write_roi(self, number: int) -> Roi:
        """Return the region that a block writes, in absolute voxels."""
        begin, shape = [], []
        for edges, count in zip(reversed(self._edges), reversed(self.counts), strict=True):
            number, index = divmod(number, count)
            begin.append(edges[index])
            shape.append(edges[index + 1] - edges[index])
        return Roi(begin[::-1], shape[::-1])

    def read_roi(self, write_roi: Roi) -> Roi:
        """Return what a block reads: what it writes and the context around it, which may reach beyond the volume."""
        return write_roi.grow(self.context, self.context)

    def voxels(self, numbers: Sequence[int]) -> int:
        """Count the voxels that some blocks write."""
        if not numbers:
            return 0
        positions = np.unravel_index(np.asarray(numbers, np.int64), self.counts)
        sizes = [np.diff(edges)[index] for edges, index in zip(self._edges, positions, strict=True)]
        return int(np.prod(sizes, axis=0, dtype=np.int64).sum())


def block_grid(
    outputs: Volume | Sequence[Volume], block_shape: Sequence[int], context: Sequence[int], roi: Roi | None
) -> BlockGrid:
    """Make the grid of an output's blocks, or of several outputs with the same shape and offset.

    Args:
        outputs: The outputs; blocks consist of whole chunks (or shards) of them.
        block_shape: Wanted size (z, y, x) in voxels; rounded up to whole chunks.
        context: (z, y, x) in voxels, on each side.
        roi: What to write, in absolute voxels; None for all.

    Raises:
        InputError: Wrong number of axes, sizes that are not positive, or outputs that cover different ROIs.
        DataError: ``roi`` reaches outside the output or is empty.
    """
    output, *others = [outputs] if isinstance(outputs, Volume) else outputs
    for other in others:
        if other.roi != output.roi:
            raise InputError(
                f"{other.address} covers {describe_roi(other.roi)}, but {output.address} {describe_roi(output.roi)}: "
                "outputs of one task must cover the same voxels."
            )
    return chunk_grid(output, [volume.write_chunk_shape for volume in (output, *others)], block_shape, context, roi)


def chunk_grid(
    volume: Volume,
    chunk_shapes: Sequence[Sequence[int]],
    block_shape: Sequence[int],
    context: Sequence[int],
    roi: Roi | None,
) -> BlockGrid:
    """Make the grid of a volume's blocks of whole chunks of all the given shapes; see ``block_grid``."""
    whole, axes = volume.roi, len(volume.spatial_shape)
    if len(block_shape) != axes or len(context) != axes or min(block_shape) < 1 or min(context) < 0:
        raise InputError(
            f"{volume.address} needs {axes} positive numbers for the block shape and {axes} for the context, "
            f"got {list(block_shape)} and {list(context)}."
        )
    wanted = whole if roi is None else roi
    if wanted.empty or not whole.contains(wanted):
        raise DataError(
            f"{volume.address} covers {describe_roi(whole)}, but {describe_roi(wanted)} is to be processed."
        )
    chunks = [math.lcm(*edges) for edges in zip(*(shape[-axes:] for shape in chunk_shapes), strict=True)]
    step = Coordinate(-(-size // chunk) * chunk for size, chunk in zip(block_shape, chunks, strict=True))
    return BlockGrid(Coordinate(whole.begin), step, Coordinate(context), wanted)
