"""The geometry of tiles: their read and write ROIs, their spacing, and their alignment to the network's stride."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from incasem_like.errors import ConfigError
from incasem_like.networks import NetworkGeometry
from incasem_like.volumes import Roi


@dataclass(frozen=True)
class Tile:
    """A part of a region that the network predicts at once.

    Attributes:
        read_roi: The ROI that the network reads, in absolute voxels; it may extend beyond the volume.
        write_roi: The ROI of the result that is written, in absolute voxels.
        origin: Where the volume begins, in absolute voxels: tiles are read at multiples of the stride from there.
    """

    read_roi: Roi
    write_roi: Roi
    origin: Sequence[int] = (0, 0, 0)


def axis_step(geometry: NetworkGeometry, axis: int, input_size: int, phase: int) -> int:
    """Return the spacing of tiles of ``input_size`` along an axis: a multiple of the stride.

    Args:
        geometry: The network's.
        axis: 0 for z.
        input_size: Size of the tile that is read.
        phase: Voxels from the last multiple of the stride to the first voxel that is written.

    Raises:
        ConfigError: The tiles are too small for a spacing of one stride.
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
    """Return the size of the tile that is read along an axis so that ``written`` voxels can be written."""
    needed = written + phase + 2 * geometry.border[axis] + geometry.lost[axis]
    over = max(0, needed - geometry.smallest_input[axis])
    stride = geometry.stride[axis]
    return geometry.smallest_input[axis] + -(-over // stride) * stride


def grid_phase(geometry: NetworkGeometry, axis: int, roi: Roi, origin: Sequence[int]) -> int:
    """Return how many voxels after a multiple of the stride, counted from ``origin``, a region begins."""
    phase: int = (roi.begin[axis] - origin[axis]) % geometry.stride[axis]
    return phase


def tile_that_writes(geometry: NetworkGeometry, write_roi: Roi, origin: Sequence[int]) -> Tile:
    """Return the tile that writes ``write_roi``, in absolute voxels, of a volume that begins at ``origin``.

    It is read at a multiple of the stride from ``origin``, and goes beyond the volume at its edges.
    """
    begin, shape = [], []
    for axis in range(3):
        phase = grid_phase(geometry, axis, write_roi, origin)
        begin.append(write_roi.begin[axis] - phase - geometry.border[axis] - geometry.context[axis])
        shape.append(axis_input(geometry, axis, write_roi.shape[axis], phase))
    return Tile(Roi(begin, shape), write_roi, origin)
