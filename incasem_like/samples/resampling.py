"""Reading an array at the coordinates of a deformation: linearly for intensities, nearest for labels and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from incasem_like.samples.deformation import Box, Deformation, Floats, Size

VOXELS_AT_ONCE = 1 << 16


def resample_linearly(source: Floats, origin: Sequence[int], deformation: Deformation, box: Box) -> Floats:
    """Sample intensities by trilinear interpolation.

    Args:
        source: Intensities, float32 (z, y, x).
        origin: Position of the source's first voxel relative to the deformed block's begin, in voxels.
        deformation: Source coordinates of the block's voxels.
        box: The part of the block to compute.

    Returns:
        float32 array of the box's shape; coordinates beyond the source read its outermost voxel.
    """
    output = np.empty(_extent(box), dtype=np.float32)
    image = torch.from_numpy(contiguous(source))[None, None]
    # grid_sample expects -1 at the first and 1 at the last voxel, and the axes in the order x, y, z.
    scale = [2 / max(size - 1, 1) for size in source.shape]
    offset = [-1 - first * factor for first, factor in zip(origin, scale, strict=True)]
    normalised = deformation.rescaled(scale, offset)
    for part, coordinates in normalised.sections(box, _sections_at_once(output.shape)):
        grid = torch.from_numpy(coordinates).permute(1, 2, 3, 0).flip(3)[None]
        read = torch.nn.functional.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)
        output[part] = read[0, 0].numpy()
    return output


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array in memory order with positive strides, copied if necessary.

    ``numpy.ascontiguousarray`` keeps the negative stride of a mirrored axis of length one, which torch refuses.
    """
    return array.copy() if min(array.strides, default=1) < 0 else np.ascontiguousarray(array)


def resample_nearest(
    sources: Sequence[NDArray[Any]], origin: Sequence[int], deformation: Deformation, box: Box
) -> list[NDArray[Any]]:
    """Sample labels or masks at the nearest voxel; arrays of one shape and origin share the search.

    Args:
        sources: Arrays (z, y, x) of one shape.
        origin: Position of the sources' first voxel relative to the deformed block's begin, in voxels.
        deformation: Source coordinates of the block's voxels.
        box: The part of the block to compute.

    Returns:
        One array of the box's shape per source; coordinates beyond a source read its outermost voxel.
    """
    shape = sources[0].shape
    outputs = [np.empty(_extent(box), dtype=source.dtype) for source in sources]
    flat = [np.ascontiguousarray(source).reshape(-1) for source in sources]
    last = np.array(shape, dtype=np.int32)[:, None, None, None] - 1
    from_source = deformation.rescaled((1, 1, 1), [0.5 - first for first in origin])
    for part, coordinates in from_source.sections(box, _sections_at_once(outputs[0].shape)):
        nearest = np.clip(np.floor(coordinates, out=coordinates).astype(np.int32), 0, last)
        index = (nearest[0] * shape[1] + nearest[1]).astype(np.intp) * shape[2] + nearest[2]
        for output, source in zip(outputs, flat, strict=True):
            np.take(source, index, out=output[part], mode="clip")
    return outputs


def _extent(box: Box) -> Size:
    z, y, x = (part.stop - part.start for part in box)
    return z, y, x


def _sections_at_once(shape: Sequence[int]) -> int:
    """Return the number of sections whose working set fits into the processor's cache."""
    return max(1, VOXELS_AT_ONCE // max(shape[1] * shape[2], 1))
