"""The tile size that predicts a region with the least work within a bound on memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from incasem_like.errors import ConfigError
from incasem_like.networks import NetworkGeometry
from incasem_like.prediction.tiles import axis_step, grid_phase
from incasem_like.volumes import Roi

Floats = npt.NDArray[np.float64]

# Bytes per input voxel and feature map of the finest level while a U-Net predicts: measured on CPU, and rounded up. The
# libraries compute in blocks of 8 maps, so that fewer take as much.
BYTES_PER_VOXEL_AND_MAP = 16
SMALLEST_BLOCK_OF_MAPS = 8
SHARE_OF_MEMORY = 0.5
# On a CPU, whose memory others use too, twice the work is preferred to this many bytes more.
COMFORTABLE_BYTES = 2**30


@dataclass(frozen=True)
class UsableMemory:
    """Memory that a network's feature maps may take.

    Attributes:
        limit: Bytes that must not be exceeded.
        comfortable: Bytes up to which a tile may grow readily: the work counts (1 + bytes / comfortable) times.
    """

    limit: float
    comfortable: float


def usable_memory(device: torch.device) -> UsableMemory:
    """Find out how much memory is free where the network computes, and how much of it a tile may take."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return UsableMemory(SHARE_OF_MEMORY * free, float("inf"))
    import psutil

    return UsableMemory(SHARE_OF_MEMORY * psutil.virtual_memory().available, COMFORTABLE_BYTES)


def choose_input_size(
    geometry: NetworkGeometry, roi: Roi, origin: Sequence[int], feature_maps: int, memory: UsableMemory
) -> tuple[int, ...]:
    """Choose the largest tile a region is predicted with.

    The work is taken as the number of input voxels of all tiles together: context is computed again for each tile, so
    that few large tiles are cheaper, until one tile covers the region. Of all sizes within the limit, that with the
    least work x (1 + bytes / comfortable) is chosen.

    Args:
        geometry: The network's.
        roi: The region, in absolute voxels.
        origin: Where the raw volume begins, in absolute voxels.
        feature_maps: Of the network's finest level.
        memory: What the feature maps may take.

    Returns:
        A valid input size; the smallest usable one if the limit suffices for none.
    """
    bytes_per_voxel = BYTES_PER_VOXEL_AND_MAP * max(feature_maps, SMALLEST_BLOCK_OF_MAPS)
    axes = [
        _axis_choices(geometry, axis, roi.shape[axis], grid_phase(geometry, axis, roi, origin)) for axis in range(3)
    ]
    used = _product_over_axes([sizes for sizes, _ in axes]) * bytes_per_voxel
    work = _product_over_axes([costs for _, costs in axes]) * (1 + used / memory.comfortable)
    rank = np.where(used > memory.limit, np.inf, work)
    best = np.unravel_index(np.argmin(rank if np.isfinite(rank).any() else used), rank.shape)
    return tuple(int(sizes[index]) for (sizes, _), index in zip(axes, best, strict=True))


def _axis_choices(geometry: NetworkGeometry, axis: int, length: int, phase: int) -> tuple[Floats, Floats]:
    """List tile sizes along an axis, and the input voxels that all tiles of that size read together."""
    stride, lost = geometry.stride[axis], geometry.lost[axis] + 2 * geometry.border[axis]
    sizes, costs = [], []
    size, tiles, fewest = geometry.smallest_input[axis], 0, 0
    while tiles != 1:
        try:
            step = axis_step(geometry, axis, size, phase)
        except ConfigError:
            size += stride
            continue
        tiles = -(-length // step)
        # A larger tile that still leaves as many of them reads no less.
        if tiles != fewest:
            sizes.append(size)
            costs.append((tiles - 1) * size + length - (tiles - 1) * step + phase + lost)
            fewest = tiles
        size += stride
    return np.array(sizes, dtype=float), np.array(costs, dtype=float)


def _product_over_axes(values: Sequence[Floats]) -> Floats:
    z, y, x = np.ix_(*values)
    return z * y * x
