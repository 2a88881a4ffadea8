"""Where tiles lie along an axis: how far apart, how large, and how the region lies to the network's stride."""

from __future__ import annotations

from collections.abc import Sequence

from incasem_like.errors import ConfigError
from incasem_like.networks import NetworkGeometry
from incasem_like.volumes import Roi


def axis_step(geometry: NetworkGeometry, axis: int, input_size: int, phase: int) -> int:
    """Give how far apart tiles of ``input_size`` can lie along an axis: a multiple of the stride.

    Args:
        geometry: The network's.
        axis: 0 for z.
        input_size: Size of the tile that is read.
        phase: Voxels from the last multiple of the stride to the first voxel that is written.

    Raises:
        ConfigError: Not even a stride.
    """
    stride, border = geometry.stride[axis], geometry.border[axis]
    step = (input_size - geometry.lost[axis] - 2 * border - phase) // stride * stride
    if step < stride:
        enough = geometry.input_for_output(
            [2 * stride - 1 + 2 * border for stride, border in zip(geometry.stride, geometry.border, strict=True)]
        )
        raise ConfigError(
            f"Tiles of {input_size} voxels along {'zyx'[axis]} are too small to be laid {stride} voxels "
            f"apart, as the network needs: set prediction.input_size_voxels to at least {list(enough)}, or to null."
        )
    return step


def axis_input(geometry: NetworkGeometry, axis: int, written: int, phase: int) -> int:
    """Give the size of the tile that is read along an axis so that ``written`` voxels can be written."""
    needed = written + phase + 2 * geometry.border[axis] + geometry.lost[axis]
    over = max(0, needed - geometry.smallest_input[axis])
    stride = geometry.stride[axis]
    return geometry.smallest_input[axis] + -(-over // stride) * stride


def grid_phase(geometry: NetworkGeometry, axis: int, roi: Roi, origin: Sequence[int]) -> int:
    """Give how many voxels a region begins behind the last multiple of the stride, counted from ``origin``."""
    phase: int = (roi.begin[axis] - origin[axis]) % geometry.stride[axis]
    return phase
