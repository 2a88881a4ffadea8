"""Sizes of blocks, and the parts in which a block is read: whole chunks of a volume, so that each is decoded once."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import product

from incasem_like.volumes import Coordinate, Roi, Volume

MOST_BLOCKS = 4096  # where each leaves a file


def aligned_parts(volume: Volume, roi: Roi, voxels: int) -> Iterator[Roi]:
    """Split a region into parts of whole chunks of a volume, so that every chunk is read by one part only.

    Args:
        volume: The volume whose chunk grid decides.
        roi: The region, within the volume, in absolute voxels.
        voxels: Parts grow from one chunk to about this many voxels.
    """
    part_shape, origin = Coordinate(_grown(volume, voxels)), volume.roi.begin
    first = (roi.begin - origin) // part_shape
    last = (roi.end - origin - 1) // part_shape
    for index in product(*(range(low, high + 1) for low, high in zip(first, last, strict=True))):
        yield Roi(origin + Coordinate(index) * part_shape, part_shape).intersect(roi)


def shuffled_parts(volume: Volume, roi: Roi, voxels: int) -> list[Roi]:
    """Return ``aligned_parts`` in a random order, always the same: what lies anywhere in a region is soon met."""
    parts = list(aligned_parts(volume, roi, voxels))
    random.Random(0).shuffle(parts)
    return parts


def grown_block(volume: Volume, roi: Roi, least_voxels: int, most_blocks: int = MOST_BLOCKS) -> tuple[int, ...]:
    """Choose blocks of whole chunks: large enough to be worth a start, and few enough to leave a file each.

    It follows from volume and region alone, not from the workers, so that any number of them may go on with the work.

    Args:
        volume: Whose chunks blocks are made of.
        roi: What is worked through.
        least_voxels: Blocks grow from one chunk to about this many voxels.
        most_blocks: They grow on until there are no more than about so many.

    Returns:
        (z, y, x) in voxels.
    """
    shape = list(_grown(volume, least_voxels))
    while roi.size > most_blocks * math.prod(shape):
        shape[shape.index(min(shape))] *= 2
    return tuple(shape)


def _grown(volume: Volume, voxels: int) -> tuple[int, ...]:
    """Double a chunk's shortest side as long as it has no more than so many voxels."""
    shape = [int(size) for size in volume.chunk_shape[-len(volume.spatial_shape) :]]
    while 2 * math.prod(shape) <= voxels:
        shape[shape.index(min(shape))] *= 2
    return tuple(shape)
