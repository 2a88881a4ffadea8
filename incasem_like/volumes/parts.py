"""Parts of an ROI that consist of whole chunks of a volume, so that no chunk is read twice."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import product

from incasem_like.volumes.geometry import Coordinate, Roi
from incasem_like.volumes.volume import Volume

MOST_BLOCKS = 4096  # where each writes a file


def aligned_parts(volume: Volume, roi: Roi, voxels: int) -> Iterator[Roi]:
    """Split an ROI into parts of whole chunks of a volume, so that every chunk is read by one part only.

    Args:
        volume: The volume whose chunk grid is used.
        roi: The ROI, within the volume, in absolute voxels.
        voxels: Parts grow from one chunk to about this many voxels.
    """
    part_shape, origin = Coordinate(_grown(volume, voxels)), volume.roi.begin
    first = (roi.begin - origin) // part_shape
    last = (roi.end - origin - 1) // part_shape
    for index in product(*(range(low, high + 1) for low, high in zip(first, last, strict=True))):
        yield Roi(origin + Coordinate(index) * part_shape, part_shape).intersect(roi)


def shuffled_parts(volume: Volume, roi: Roi, voxels: int) -> list[Roi]:
    """Return ``aligned_parts`` in a fixed random order, so that all parts of the ROI are sampled early."""
    parts = list(aligned_parts(volume, roi, voxels))
    random.Random(0).shuffle(parts)
    return parts


def grown_block(volume: Volume, roi: Roi, least_voxels: int, most_blocks: int = MOST_BLOCKS) -> tuple[int, ...]:
    """Choose blocks of whole chunks: large enough to outweigh the overhead, and few enough to write a file each.

    The choice depends on volume and ROI only, not on the workers, so that any number of them may resume the work.

    Args:
        volume: The volume whose chunks the blocks consist of.
        roi: The ROI to work through, in absolute voxels.
        least_voxels: Blocks grow from one chunk to about this many voxels.
        most_blocks: They keep growing until their number is about this or smaller.

    Returns:
        (z, y, x) in voxels.
    """
    shape = list(_grown(volume, least_voxels))
    while roi.size > most_blocks * math.prod(shape):
        shape[shape.index(min(shape))] *= 2
    return tuple(shape)


def _grown(volume: Volume, voxels: int) -> tuple[int, ...]:
    """Double a chunk's shortest side while it has at most ``voxels`` voxels."""
    shape = [int(size) for size in volume.chunk_shape[-len(volume.spatial_shape) :]]
    while 2 * math.prod(shape) <= voxels:
        shape[shape.index(min(shape))] *= 2
    return tuple(shape)
