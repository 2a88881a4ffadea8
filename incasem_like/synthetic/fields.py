"""Random numbers and smooth random fields as functions of a position alone, so that any part can be computed alone.

Nothing here depends on the part that is asked for: numbers are hashes of integers, and all arithmetic on voxels is
elementwise, which no block shape or number of processes changes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

Array32 = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]
_GOLDEN, _MIX_1, _MIX_2 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def hashed(seed: int, stream: int, *positions: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Return 64 random bits for each integer position, by the mixing function of SplitMix64.

    Args:
        seed: Seed, 0 or more.
        stream: What the numbers are for; streams are independent.
        *positions: Integers, one array per axis, broadcast against each other.

    Example:
        >>> whole, part = hashed(1, 0, np.arange(5)), hashed(1, 0, [3, 4])
        >>> bool((whole[3:] == part).all())
        True
    """
    with np.errstate(over="ignore"):
        state = _mixed(np.uint64(seed) * _GOLDEN + np.uint64(stream + 1))
        for position in positions:
            state = _mixed(state * _GOLDEN + np.asarray(position, np.int64).astype(np.uint64))
    return np.asarray(state, np.uint64)


def _mixed(bits: Any) -> Any:
    bits = bits + _GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))


def uniform(seed: int, stream: int, *positions: npt.ArrayLike) -> Array64:
    """Return a number from 0 up to 1 for each integer position, see ``hashed``."""
    return np.asarray((hashed(seed, stream, *positions) >> np.uint64(11)) * 2.0**-53)


def spline(position: Array64) -> tuple[npt.NDArray[np.int64], tuple[Array64, Array64, Array64]]:
    """Return the first of three lattice points and their weights for positions in lattice steps: a quadratic B-spline.

    The weights add up to 1, so that a field never leaves the range of its lattice values; its slope is continuous.

    Example:
        >>> first, weights = spline(np.array([2.0]))
        >>> first, [weight.item() for weight in weights]
        (array([1]), [0.125, 0.75, 0.125])
    """
    nearest = np.floor(position + 0.5)
    left = position - nearest
    weights = 0.5 * (0.5 - left) ** 2, 0.75 - left**2, 0.5 * (0.5 + left) ** 2
    return nearest.astype(np.int64) - 1, weights


class SmoothField:
    """A smooth random field from ``-amplitude`` to ``amplitude`` in a box, one section at a time.

    Args:
        seed, stream: As for ``hashed``.
        positions: Positions of sections, rows and columns in world units, each ascending.
        step: Distance of the lattice's points along each axis, in the same unit.
        amplitude: Largest value.

    Example:
        >>> line = np.arange(0, 100, 4.0)
        >>> whole = SmoothField(1, 0, (line, line, line), (50, 30, 30)).section(7, slice(0, 25), slice(0, 25))
        >>> part = SmoothField(1, 0, (line[7:8], line[9:], line), (50, 30, 30)).section(0, slice(0, 16), slice(0, 25))
        >>> bool((whole[9:] == part).all())
        True
    """

    def __init__(
        self,
        seed: int,
        stream: int,
        positions: tuple[Array64, Array64, Array64],
        step: tuple[float, float, float],
        amplitude: float = 1.0,
    ) -> None:
        splines = [spline(line / distance) for line, distance in zip(positions, step, strict=True)]
        lattice = [np.arange(first[0], first[-1] + 3) for first, _ in splines]
        self._first = [first - points[0] for (first, _), points in zip(splines, lattice, strict=True)]
        self._weights = [np.asarray(weights, np.float32) for _, weights in splines]
        z, y, x = np.ix_(*lattice)
        self._lattice = (amplitude * (2 * uniform(seed, stream, z, y, x) - 1)).astype(np.float32)

    def section(self, z: int, rows: slice, columns: slice) -> Array32:
        """Return the field at some rows and columns of section ``z``, by their numbers in ``positions``."""
        first, weights = self._first, self._weights
        plane = _weighted(self._lattice, first[0][z], weights[0][:, z])
        narrow = _weighted(plane.T, first[2][columns], weights[2][:, columns, None]).T
        # Whole rows are copied, which is several times faster than picking columns.
        return _weighted(np.ascontiguousarray(narrow), first[1][rows], weights[1][:, rows, None])


def _weighted(lattice: Array32, first: Any, weights: Array32) -> Array32:
    """Return the weighted sum of three successive entries of a lattice for each first one."""
    result = lattice[first] * weights[0]
    result += lattice[first + 1] * weights[1]
    result += lattice[first + 2] * weights[2]
    return np.asarray(result)


def normal_section(seed: int, stream: int, z: int, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]) -> Array32:
    """Return standard normal numbers for the voxels of a section, independent of each other.

    The mixing function has 32 bits, enough for noise that is only looked at; values end at 3.7 standard deviations.

    Args:
        seed, stream: As for ``hashed``.
        z: Number of the section.
        y, x: Numbers of rows and columns.

    Returns:
        Array (rows, columns).
    """
    row = (hashed(seed, stream, z, y) >> np.uint64(32)).astype(np.uint32)
    bits = row[:, None] ^ (x.astype(np.uint32) * np.uint32(0x9E3779B1))
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(factor)
    return np.take(_normal_quantiles(), (bits >> np.uint32(20)).view(np.int32), mode="clip")


@cache
def _normal_quantiles() -> Array32:
    return np.asarray(ndtri((np.arange(2**12) + 0.5) / 2**12), np.float32)
