"""Block grids: a region cut into blocks that own whole chunks of the output, so that no two blocks write one chunk."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from incasem_like.errors import DataError, InputError
from incasem_like.volumes import Coordinate, Roi, Volume, describe_roi


@dataclass(frozen=True)
class BlockGrid:
    """The blocks of one output.

    Blocks start at multiples of ``step`` from the first voxel of the output and are clipped to ``roi``. A block keeps
    its number whatever has been done already.

    Attributes:
        origin: First voxel of the output, absolute.
        step: Size of an unclipped block in voxels, a multiple of the output's write chunks.
        context: Voxels that a block reads beyond what it writes, on each side of each axis.
        roi: What is to be written, in absolute voxels.
    """

    origin: Coordinate
    step: Coordinate
    context: Coordinate
    roi: Roi

    def __len__(self) -> int:
        return math.prod(self._counts())

    def _first(self) -> Coordinate:
        return Coordinate(
            (begin - start) // step for begin, start, step in zip(self.roi.begin, self.origin, self.step, strict=True)
        )

    def _counts(self) -> tuple[int, ...]:
        ends = zip(self.roi.end, self.origin, self.step, self._first(), strict=True)
        return tuple(-(-(end - start) // step) - first for end, start, step, first in ends)

    def __iter__(self) -> Iterator[tuple[int, Roi]]:
        """Yield each block's number and the region that it writes, in absolute voxels."""
        first = self._first()
        for number, position in enumerate(itertools.product(*(range(count) for count in self._counts()))):
            begin = self.origin + (first + Coordinate(position)) * self.step
            yield number, Roi(begin, self.step).intersect(self.roi)

    def read_roi(self, write_roi: Roi) -> Roi:
        """Return what a block reads: what it writes and the context around it, which may reach beyond the volume."""
        return write_roi.grow(self.context, self.context)


def block_grid(output: Volume, block_shape: Sequence[int], context: Sequence[int], roi: Roi | None) -> BlockGrid:
    """Make the grid of an output's blocks.

    Args:
        output: Its chunks (or shards) are what blocks are made of.
        block_shape: Wanted size (z, y, x) in voxels; rounded up to whole chunks.
        context: (z, y, x) in voxels, on each side.
        roi: What to write, in absolute voxels; None for all.

    Raises:
        InputError: Wrong number of axes, or sizes that are not positive.
        DataError: ``roi`` reaches outside the output or is empty.
    """
    axes = len(output.spatial_shape)
    if len(block_shape) != axes or len(context) != axes or min(block_shape) < 1 or min(context) < 0:
        raise InputError(
            f"{output.address} needs {axes} positive numbers for the block shape and {axes} for the context, "
            f"got {list(block_shape)} and {list(context)}."
        )
    whole = output.roi
    wanted = whole if roi is None else roi
    if wanted.empty or not whole.contains(wanted):
        raise DataError(f"{output.address} covers {describe_roi(whole)}, but {describe_roi(wanted)} is to be written.")
    chunks = output.write_chunk_shape[-axes:]
    step = Coordinate(-(-size // chunk) * chunk for size, chunk in zip(block_shape, chunks, strict=True))
    return BlockGrid(Coordinate(whole.begin), step, Coordinate(context), wanted)
