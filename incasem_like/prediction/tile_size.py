"""The tile size that predicts a region with the least work within a bound on memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

from incasem_like.errors import ConfigError
from incasem_like.networks import NetworkGeometry
from incasem_like.prediction.tiles import axis_step, grid_phase
from incasem_like.volumes import Roi

# Bytes per input voxel and feature map of the finest level while a U-Net predicts: measured, and rounded up.
BYTES_PER_VOXEL_AND_MAP = 16
LARGEST_SAVING_LEFT = 1.05


def choose_input_size(
    geometry: NetworkGeometry, roi: Roi, origin: Sequence[int], feature_maps: int, memory: float
) -> tuple[int, ...]:
    """Choose the largest tile a region is predicted with.

    The work is taken as the number of input voxels of all tiles together: context is computed again for each tile,
    so that few large tiles are cheaper, until one tile covers the region. Of all sizes within the memory that cost at
    most 5 % more than the cheapest, the smallest is chosen.

    Args:
        geometry: The network's.
        roi: The region, in absolute voxels.
        origin: Where the raw volume begins, in absolute voxels.
        feature_maps: Of the network's finest level.
        memory: Bytes that the network's feature maps may take.

    Returns:
        A valid input size. The smallest usable one, if the memory suffices for none.
    """
    most_voxels = memory / (BYTES_PER_VOXEL_AND_MAP * feature_maps)
    axes = [
        _axis_choices(geometry, axis, roi.shape[axis], grid_phase(geometry, axis, roi, origin)) for axis in range(3)
    ]
    choices = [
        (
            prod(cost for _, cost in combination),
            prod(size for size, _ in combination),
            tuple(size for size, _ in combination),
        )
        for combination in product(*axes)
    ]
    possible = [choice for choice in choices if choice[1] <= most_voxels] or [
        min(choices, key=lambda choice: choice[1])
    ]
    cheapest = min(cost for cost, _, _ in possible)
    return min(
        (choice for choice in possible if choice[0] <= LARGEST_SAVING_LEFT * cheapest), key=lambda choice: choice[1]
    )[2]


def _axis_choices(geometry: NetworkGeometry, axis: int, length: int, phase: int) -> list[tuple[int, int]]:
    """List (input size, input voxels of all tiles) along an axis."""
    stride, lost = geometry.stride[axis], geometry.lost[axis] + 2 * geometry.border[axis]
    size, choices = geometry.smallest_input[axis], []
    while True:
        try:
            step = axis_step(geometry, axis, size, phase)
        except ConfigError:
            size += stride
            continue
        tiles = -(-length // step)
        last = length - (tiles - 1) * step
        choices.append((size, (tiles - 1) * size + last + phase + lost))
        if tiles == 1:
            return choices
        size += stride
