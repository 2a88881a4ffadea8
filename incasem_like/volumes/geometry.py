"""World units: voxel grids in nanometres, and ROIs in absolute voxels or nanometres.

Absolute voxel position = offset in nanometres / voxel size + index. Nanometre values are decimal numbers such as 4.6
that binary floats only approximate, so the arithmetic is done on exact fractions of what was written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from funlib.geometry import Coordinate, Roi

from incasem_like.errors import InputError

__all__ = ["Coordinate", "NanometreRoi", "Roi", "describe_roi", "nanometres", "voxel_position"]

# Attributes of other tools carry float noise (32.199999999999996 for 7 x 4.6); this close to a voxel counts as on it.
GRID_TOLERANCE = Fraction(1, 1000)


@lru_cache(4096)
def exact(value: float) -> Fraction:
    """Return a number as the fraction that it was written as: 4.6 is 23/5, not the nearest binary float."""
    return Fraction(repr(float(value)))


def nanometres(voxels: Sequence[int], voxel_size: Sequence[float]) -> tuple[float, ...]:
    """Multiply voxel counts by a voxel size in nm without accumulating float error.

    Example:
        >>> nanometres((1, 7), (50, 4.6))
        (50.0, 32.2)
        >>> 7 * 4.6
        32.199999999999996
    """
    return tuple(float(exact(size) * int(count)) for count, size in zip(voxels, voxel_size, strict=True))


def voxel_position(position: Sequence[float], voxel_size: Sequence[float]) -> Coordinate:
    """Convert a position in nm to absolute voxels; a position between voxels goes to the nearest, halves upwards.

    Example:
        >>> voxel_position((100, 32.2, 7), (50, 4.6, 4.6))
        (2, 7, 2)
    """
    quotients = (exact(nm) / exact(size) for nm, size in zip(position, voxel_size, strict=True))
    return Coordinate([math.floor(quotient + Fraction(1, 2)) for quotient in quotients])


def on_grid(position: Sequence[float], voxel_size: Sequence[float]) -> bool:
    """Return whether a position in nm is a whole number of voxels on every axis."""
    quotients = [exact(nm) / exact(size) for nm, size in zip(position, voxel_size, strict=True)]
    return all(abs(quotient - round(quotient)) <= GRID_TOLERANCE for quotient in quotients)


@dataclass(frozen=True)
class NanometreRoi:
    """An ROI in world units.

    Attributes:
        offset: First corner (z, y, x) in nm.
        shape: Extent (z, y, x) in nm.

    Example:
        >>> NanometreRoi((0, 4.6, 5), (50, 9.2, 4.6)).to_voxels((50, 4.6, 4.6))
        [0:1, 1:3, 1:3] (1, 2, 2)
    """

    offset: tuple[float, ...]
    shape: tuple[float, ...]

    def to_voxels(self, voxel_size: Sequence[float]) -> Roi:
        """Return the smallest ROI in absolute voxels that covers this one.

        Args:
            voxel_size: Size of a voxel (z, y, x) in nm.

        Raises:
            InputError: When the number of axes differs.
        """
        if not len(self.offset) == len(self.shape) == len(voxel_size):
            raise InputError(
                f"A region in nanometres needs {len(voxel_size)} numbers for offset and shape, "
                f"got {list(self.offset)} and {list(self.shape)}: give one for each axis."
            )
        begins, ends = [], []
        for begin, length, size in zip(self.offset, self.shape, voxel_size, strict=True):
            first, last = exact(begin) / exact(size), (exact(begin) + exact(length)) / exact(size)
            begins.append(math.floor(first + GRID_TOLERANCE))
            ends.append(math.ceil(last - GRID_TOLERANCE))
        return Roi(begins, [end - begin for begin, end in zip(begins, ends, strict=True)])


def describe_roi(roi: Roi) -> str:
    """Return an ROI as text for messages: the first and last voxel along each axis.

    Example:
        >>> describe_roi(Roi((0, 10, 0), (500, 10, 100)))
        'z 0-499, y 10-19, x 0-99'
    """
    names = "zyx"[-roi.dims :] if roi.dims <= 3 else "?" * roi.dims
    parts = zip(names, roi.begin, roi.end, strict=True)
    return ", ".join(f"{name} {begin}-{end - 1}" if end > begin else f"{name} (nothing)" for name, begin, end in parts)
