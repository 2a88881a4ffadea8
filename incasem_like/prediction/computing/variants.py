"""Test-time augmentation: a tile is predicted in mirrored and transposed positions too, and results are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch

from incasem_like.errors import ConfigError
from incasem_like.networks import NetworkGeometry

NONE, MIRRORS, MIRRORS_AND_TRANSPOSES = "none", "mirrors", "mirrors_and_transposes"


@dataclass(frozen=True)
class Variant:
    """A position in which a tile is predicted: y and x exchanged or not, then mirrored along some axes.

    Attributes:
        flipped: For z, y and x whether it is mirrored along that axis.
        transposed: Whether y and x are exchanged before.
    """

    flipped: tuple[bool, ...] = (False, False, False)
    transposed: bool = False

    def apply(self, volume: torch.Tensor) -> torch.Tensor:
        """Transform (..., z, y, x) into this position."""
        turned = volume.transpose(-2, -1) if self.transposed else volume
        return turned.flip(self._axes) if self._axes else turned

    def revert(self, values: torch.Tensor) -> torch.Tensor:
        """Transform (..., z, y, x) back."""
        straight = values.flip(self._axes) if self._axes else values
        return straight.transpose(-2, -1) if self.transposed else straight

    def place(
        self, begin: Sequence[int], size: Sequence[int], whole: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return begin and size of a part of a volume of size ``whole`` when the volume is in this position."""
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
    """List the positions of an augmentation, that of the tile itself first: 1, 8 or 16.

    Half as many where the network sees each section by itself: mirrored along z the result is the same.

    Raises:
        ConfigError: Transposing, with a network that does not treat y and x alike.
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

    Where the network takes off an odd number of voxels, its output lies one voxel aside when the tile is mirrored, so
    that some voxels are missing at each side: as many as keep tiles at multiples of the stride.
    """
    if augmentation == NONE:
        return geometry
    border = tuple(
        border + (lost % 2) * stride
        for border, lost, stride in zip(geometry.border, geometry.lost, geometry.stride, strict=True)
    )
    return replace(geometry, border=border)
