"""Tiles: their read and write ROIs, spacing and alignment to the network's stride; orientations that are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch

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


NONE, MIRRORS, MIRRORS_AND_TRANSPOSES = "none", "mirrors", "mirrors_and_transposes"


@dataclass(frozen=True)
class Variant:
    """An orientation in which a tile is predicted: y and x exchanged or not, then mirrored along some axes.

    Attributes:
        flipped: Whether it is mirrored along z, y and x.
        transposed: Whether y and x are exchanged first.
    """

    flipped: tuple[bool, ...] = (False, False, False)
    transposed: bool = False

    def apply(self, volume: torch.Tensor) -> torch.Tensor:
        """Transform (..., z, y, x) into this orientation."""
        turned = volume.transpose(-2, -1) if self.transposed else volume
        return turned.flip(self._axes) if self._axes else turned

    def revert(self, values: torch.Tensor) -> torch.Tensor:
        """Transform (..., z, y, x) back."""
        straight = values.flip(self._axes) if self._axes else values
        return straight.transpose(-2, -1) if self.transposed else straight

    def place(
        self, begin: Sequence[int], size: Sequence[int], whole: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return begin and size of a part of a volume of size ``whole`` when the volume is in this orientation."""
        order = (0, 2, 1) if self.transposed else (0, 1, 2)
        turned = [(begin[axis], size[axis], whole[axis]) for axis in order]
        at = tuple(
            total - first - edge if flip else first
            for flip, (first, edge, total) in zip(self.flipped, turned, strict=True)
        )
        return at, tuple(edge for _, edge, _ in turned)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(axis - 3 for axis, flip in enumerate(self.flipped) if flip)


def variants_for(augmentation: str, geometry: NetworkGeometry) -> tuple[Variant, ...]:
    """Return the orientations of an augmentation, the original one first: 1, 8 or 16.

    Half as many for a 2-D network, since mirroring along z does not change its result.

    Raises:
        ConfigError: Transposing is requested for a network that does not treat y and x alike.
    """
    if augmentation == NONE:
        return (Variant(),)
    section_by_section = geometry.lost[0] == geometry.border[0] == 0 and geometry.stride[0] == 1
    along_z = (False,) if section_by_section else (False, True)
    flips = tuple(product(along_z, (False, True), (False, True)))
    if augmentation == MIRRORS:
        return tuple(Variant(flip) for flip in flips)
    of_axes = (geometry.smallest_input, geometry.stride, geometry.lost, geometry.border)
    if any(values[1] != values[2] for values in of_axes):
        raise ConfigError(
            f"prediction.test_time_augmentation={MIRRORS_AND_TRANSPOSES} exchanges y and x, but the network treats "
            f"them differently: set it to {MIRRORS}."
        )
    return tuple(Variant(flip, transposed) for transposed in (False, True) for flip in flips)


def geometry_for(augmentation: str, geometry: NetworkGeometry) -> NetworkGeometry:
    """Return the geometry of the averaged prediction.

    If the network crops an odd number of voxels, its output is shifted by one voxel when the tile is mirrored, so that
    the output is smaller at each side: by as many voxels as keep tiles at multiples of the stride.
    """
    if augmentation == NONE:
        return geometry
    border = tuple(
        border + (lost % 2) * stride
        for border, lost, stride in zip(geometry.border, geometry.lost, geometry.stride, strict=True)
    )
    return replace(geometry, border=border)
