"""EM-like neural tissue: touching neurites with membranes, mitochondria and vesicles, as a function of position.

Neurites run roughly along z. In each section they are the cells of a power diagram of sites on a jittered hexagonal
lattice, whose positions and weights change smoothly with z, in coordinates that are bent by smooth fields. Every site
lies in its own cell at every z, so that each neurite is one connected object that never ends within the volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from incasem_like.synthetic.fields import Array32, Array64, SmoothField, normal_section, spline, uniform

Ints = npt.NDArray[np.int64]
CYTOPLASM, MEMBRANE, MITOCHONDRION, VESICLE = range(4)
CLASS_NAMES = ("cytoplasm", "membrane", "mitochondrion", "vesicle")
TILE = 128  # rows and columns computed at once; small, so that intermediate results stay in the processor's cache
NUMBERS = 256  # most sites near to a part, a power of 2
PART = 1.2  # side of the parts of a tile in which nearest sites are searched, in units of their distance

# In units of the distance of neighbouring sites. Sites move by at most WANDER along each axis, so that two are at least
# 1 - 2 WANDER apart, and the difference of two weights stays below the square of that: no site leaves its cell.
WANDER, WEIGHT = 0.25, 0.24
BENDS = ((0.8, (6.0, 3.0, 3.0)), (0.22, (2.5, 1.1, 1.1)))  # amplitude, lattice steps; slopes stay below 1: no folds
REACH = 5  # sites that may be first or second nearest lie within so many lattice steps
VESICLE_STEP, VESICLE_RADIUS = 70.0, 19.0  # nm
GREY = {"cytoplasm": 165.0, "membrane": 60.0, "mitochondrion": 105.0, "cristae": 80.0, "vesicle": 95.0}


class TissueParameters(BaseModel):
    """What the tissue and its images look like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    neurite_diameter: float = Field(350.0, gt=0, description="typical distance of neighbouring neurites, nm")
    membrane: float = Field(24.0, gt=0, description="thickness of the two membranes between neurites, nm")
    mitochondria: float = Field(0.3, ge=0, le=1, description="share of a neurite's length with a mitochondrion")
    vesicles: float = Field(0.15, ge=0, le=1, description="share of neurites' length filled with vesicles")
    noise: float = Field(14.0, ge=0, description="standard deviation of the noise, grey values")
    brightness: float = Field(3.0, ge=0, description="standard deviation of a section's brightness, grey values")
    misalignment: float = Field(0.0, ge=0, description="standard deviation of a section's shift, voxels")
    missing_sections: float = Field(0.0, ge=0, lt=1, description="share of sections that are missing, grey value 0")


@dataclass(frozen=True)
class Tissue:
    """A volume of tissue; its voxels depend on these attributes alone.

    Attributes:
        parameters: What it looks like.
        seed: Seed of everything random.
        shape: Shape in voxels, (z, y, x).
        voxel_size: (z, y, x) in nm.

    Example:
        >>> tissue = Tissue(TissueParameters(), seed=1, shape=(4, 64, 64), voxel_size=(40, 8, 8))
        >>> raw, neurites, classes = tissue.block((0, 0, 0), (4, 64, 64))
        >>> raw.dtype, neurites.dtype, classes.dtype
        (dtype('uint8'), dtype('uint32'), dtype('uint8'))
        >>> part = tissue.block((2, 10, 20), (1, 30, 9))
        >>> bool((part[0] == raw[2:3, 10:40, 20:29]).all())
        True
    """

    parameters: TissueParameters
    seed: int
    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]

    @property
    def pitch(self) -> float:
        """Distance of neighbouring sites, nm."""
        return self.parameters.neurite_diameter

    @property
    def margin(self) -> int:
        """Largest shift of a section, voxels."""
        return int(np.ceil(3 * self.parameters.misalignment))

    def lattice(self, begin: Any, end: Any) -> tuple[Ints, Ints]:
        """Return the first site and the number of sites, (y, x), that can matter between two positions in nm."""
        bend = sum(amplitude for amplitude, _ in BENDS)
        first = np.floor(np.asarray(begin) / self.pitch - bend).astype(np.int64) - REACH
        last = np.ceil(np.asarray(end) / self.pitch + bend).astype(np.int64) + REACH
        return first, last - first

    def number_of(self, y: Ints, x: Ints) -> Ints:
        """Return the instance ids of sites, from 1."""
        reach = np.array(self.shape[1:]) + self.margin
        first, count = self.lattice(-self.margin * np.array(self.voxel_size[1:]), reach * self.voxel_size[1:])
        return np.asarray(1 + (y - first[0])[:, None] * count[1] + (x - first[1]), np.int64)

    @property
    def label_dtype(self) -> np.dtype[Any]:
        """Type of the instance labels."""
        reach = np.array(self.shape[1:]) + self.margin
        _, count = self.lattice(-self.margin * np.array(self.voxel_size[1:]), reach * self.voxel_size[1:])
        return np.dtype(np.uint32 if count.prod() < 2**32 else np.uint64)

    def is_missing(self, z: int) -> bool:
        """Return whether a section is missing."""
        return bool(uniform(self.seed, 90, z) < self.parameters.missing_sections)

    def shift(self, z: int) -> tuple[int, int]:
        """Return the shift of a section along y and x in voxels."""
        line = normal_section(self.seed, 91, z, np.arange(1), np.arange(2))[0] * self.parameters.misalignment
        y, x = (int(value) for value in np.rint(line).clip(-self.margin, self.margin))
        return y, x

    def block(self, begin: tuple[int, int, int], shape: tuple[int, int, int]) -> tuple[npt.NDArray[Any], ...]:
        """Compute a part of the volume.

        Args:
            begin, shape: The part, voxels (z, y, x).

        Returns:
            Raw uint8, instances of neurites, and classes uint8 (``CLASS_NAMES``).
        """
        types = (np.dtype(np.uint8), self.label_dtype, np.dtype(np.uint8))
        arrays = tuple(np.empty(shape, dtype) for dtype in types)
        sections = range(begin[0], begin[0] + shape[0])
        for rows in _tiles(begin[1], shape[1]):
            for columns in _tiles(begin[2], shape[2]):
                tile = _Tile(self, sections, rows, columns)
                into = (
                    slice(rows.start - begin[1], rows.stop - begin[1]),
                    slice(columns.start - begin[2], columns.stop - begin[2]),
                )
                for index in range(len(sections)):
                    for array, values in zip(arrays, tile.section(index), strict=True):
                        array[(index, *into)] = values
        return arrays


def _tiles(begin: int, size: int) -> Iterator[range]:
    """Cut a range at multiples of ``TILE``, so that a voxel belongs to the same tile whatever part is computed."""
    edges = [begin, *range(begin // TILE * TILE + TILE, begin + size, TILE), begin + size]
    return (range(first, last) for first, last in pairwise(edges) if first < last)


@dataclass(frozen=True)
class _Sites:
    """The sites near a tile in one section, each array with one entry per site; positions relative to the tile, nm."""

    y: Array64
    x: Array64
    weight: Array64
    numbers: Ints
    grey: Array64
    mito_y: Array64
    mito_x: Array64
    mito_radius: Array64
    filled: npt.NDArray[np.bool_]
    cristae: Array64


class _Tile:
    """Some rows and columns of a tissue; computes one section after the other."""

    def __init__(self, tissue: Tissue, sections: range, rows: range, columns: range) -> None:
        self.tissue, self.sections, self.rows, self.columns = tissue, sections, rows, columns
        size, pitch, seed = tissue.voxel_size, tissue.pitch, tissue.seed
        margin = tissue.margin
        z = np.asarray((np.arange(sections.start, sections.stop) + 0.5) * size[0], np.float64)
        wide = [np.arange(line.start - margin, line.stop + margin) for line in (rows, columns)]
        y, x = (np.asarray((line + 0.5) * nm, np.float64) for line, nm in zip(wide, size[1:], strict=True))
        # Positions are relative to the tile, so that float32 is exact to a hundredth of a nanometre everywhere.
        self.origin = np.array(
            [line.start // TILE * TILE * nm for line, nm in zip((rows, columns), size[1:], strict=True)]
        )
        self.z = z
        self.y, self.x = (np.asarray(line - at, np.float32) for line, at in zip((y, x), self.origin, strict=True))
        farthest = (TILE + margin) * np.array(size[1:]) + sum(amplitude for amplitude, _ in BENDS) * pitch
        self.part = int(np.clip(2 ** round(np.log2(PART * pitch / max(size[1:]))), 4, 64))
        self.lift = float((farthest**2).sum()) + WEIGHT * pitch**2
        self.bends: list[list[SmoothField]] = []
        for level, (amplitude, steps) in enumerate(BENDS):
            lattice = (steps[0] * pitch, steps[1] * pitch, steps[2] * pitch)
            self.bends.append(
                [SmoothField(seed, 10 * level + axis, (z, y, x), lattice, amplitude * pitch) for axis in (0, 1)]
            )
        texture = (max(30.0, 2 * size[0]), max(18.0, 2 * size[1]), max(18.0, 2 * size[2]))
        self.texture = SmoothField(seed, 40, (z, y, x), texture, 9.0)
        first, count = tissue.lattice((y[0], x[0]), (y[-1], x[-1]))
        self.site_y, self.site_x = (np.arange(low, low + many) for low, many in zip(first, count, strict=True))
        self.numbers = tissue.number_of(self.site_y, self.site_x).ravel()
        self._drawn: dict[tuple[int, ...], Array64] = {}

    def section(self, index: int) -> tuple[npt.NDArray[Any], ...]:
        """Return raw, neurites and classes of a section, by its index in ``sections``."""
        tissue, settings = self.tissue, self.tissue.parameters
        number, margin = self.sections[index], tissue.margin
        shift = tissue.shift(number)
        rows, columns = (
            slice(margin + step, margin + step + len(line))
            for step, line in zip(shift, (self.rows, self.columns), strict=True)
        )
        u, v = (sum_of(fields, index, rows, columns) for fields in zip(*self.bends, strict=True))
        u += self.y[rows, None]
        v += self.x[columns]
        sites = self._sites(float(self.z[index]))
        owner, wall = _nearest_two(sites, u, v, self.lift, self.part)
        half = np.float32(settings.membrane / 2)
        classes = (wall < half).astype(np.uint8)  # MEMBRANE is 1
        grey = self.texture.section(index, rows, columns)
        grey += np.take(sites.grey.astype(np.float32), owner)
        if sites.mito_radius.any():
            _draw_mitochondria(sites, owner, u, v, wall - half, grey, classes)
        if sites.filled.any():
            self._draw_vesicles(sites, owner, u, v, float(self.z[index]), wall - half, grey, classes)
        # Membranes are darkest in the middle and fade over 12 nm, as in a section that is not infinitely thin.
        dark = (half + np.float32(6) - wall) * np.float32(1 / 12)
        np.clip(dark, 0, 1, out=dark)
        grey += (np.float32(GREY["membrane"]) - grey) * dark
        if settings.noise:
            noise = normal_section(tissue.seed, 92, number, np.arange(self.rows.start, self.rows.stop), self._columns)
            noise *= np.float32(settings.noise)
            grey += noise
        if settings.brightness:
            grey += normal_section(tissue.seed, 93, number, np.arange(1), np.arange(1)) * settings.brightness
        raw = np.zeros(grey.shape, np.uint8) if tissue.is_missing(number) else grey.clip(0, 255).astype(np.uint8)
        return raw, np.take(sites.numbers.astype(tissue.label_dtype), owner), classes

    @property
    def _columns(self) -> Ints:
        return np.arange(self.columns.start, self.columns.stop)

    def _uniform(self, stream: int, *layer: int) -> Array64:
        """Return a number per site, remembered: neighbouring sections need the same."""
        key = (stream, *layer)
        if key not in self._drawn:
            self._drawn[key] = uniform(self.tissue.seed, stream, *layer, self.site_y[:, None], self.site_x).ravel()
        return self._drawn[key]

    def _smooth(self, stream: int, z: float) -> Array64:
        """Return a number from 0 to 1 per site that changes over a unit of z; often near 0 or 1."""
        first, weights = spline(np.array([z]))
        mean = sum(weight[0] * self._uniform(stream, first[0] + tap) for tap, weight in enumerate(weights))
        return np.asarray(np.clip(2.2 * mean - 0.6, 0, 1))

    def _sites(self, z: float) -> _Sites:
        """Return the sites of a section."""
        pitch, settings = self.tissue.pitch, self.tissue.parameters
        y, x = (axis.ravel() for axis in np.meshgrid(self.site_y, self.site_x, indexing="ij"))
        wander = [(2 * self._smooth(20 + axis, z / (4 * pitch)) - 1) * WANDER for axis in (0, 1)]
        place_y = (y + 0.5 + wander[0]) * pitch - self.origin[0]
        place_x = (x + 0.5 + 0.5 * (y % 2) + wander[1]) * pitch - self.origin[1]
        # One mitochondrion at most in every interval of z.
        interval, within = divmod(z / (4 * pitch), 1)
        drawn = [self._uniform(stream, int(interval)) for stream in range(30, 36)]
        half = 0.3 + 0.2 * drawn[1]
        along = (within - half - drawn[2] * (1 - 2 * half)) / half
        radius = pitch * (0.2 + 0.15 * drawn[3]) * np.sqrt(np.clip(1 - along**4, 0, 1))
        aside = [pitch * 0.12 * (2 * number - 1) for number in drawn[3:5]]
        return _Sites(
            y=place_y,
            x=place_x,
            weight=self._smooth(22, z / (6 * pitch)) * WEIGHT * pitch**2,
            numbers=self.numbers,
            grey=GREY["cytoplasm"] + 24 * (self._uniform(37) - 0.5),
            mito_y=place_y + aside[0],
            mito_x=place_x + aside[1],
            mito_radius=np.where(drawn[0] < settings.mitochondria / 0.8, radius, 0),
            filled=self._smooth(36, z / (2.5 * pitch)) > 1 - settings.vesicles,
            cristae=2 * np.pi * drawn[5],
        )

    def _draw_vesicles(
        self,
        sites: _Sites,
        owner: npt.NDArray[np.int32],
        u: Array32,
        v: Array32,
        z: float,
        inside: Array32,
        grey: Array32,
        classes: npt.NDArray[np.uint8],
    ) -> None:
        """Draw dark circles in the neurites that are filled with vesicles, at most one in every cell of a lattice."""
        there = np.nonzero(np.take(sites.filled, owner) & (classes == CYTOPLASM) & (inside > np.float32(8)))
        if not len(there[0]):
            return
        u, v = u[there], v[there]
        row, column = (np.floor(line * np.float32(1 / VESICLE_STEP)).astype(np.int32) for line in (u, v))
        low = int(row.min()), int(column.min())
        layer = int(np.floor(z / VESICLE_STEP))
        # Cells are numbered from the tile's origin; the hash makes them independent of those of other tiles.
        cells = np.ix_(np.arange(low[0], row.max() + 1), np.arange(low[1], column.max() + 1))
        tile = [int(number) for number in (self.rows.start // TILE, self.columns.start // TILE)]
        seed, free = self.tissue.seed, VESICLE_STEP - 2 * VESICLE_RADIUS
        place = [VESICLE_RADIUS + free * uniform(seed, 50 + axis, layer, tile[0], tile[1], *cells) for axis in range(3)]
        height = z - (layer * VESICLE_STEP + place[0])
        radius = np.clip(VESICLE_RADIUS**2 - height**2, 0, None).astype(np.float32).ravel()
        index = (row - low[0]) * np.int32(len(cells[1][0])) + (column - low[1])
        middle = [
            np.asarray(number * VESICLE_STEP + offset, np.float32).ravel()
            for number, offset in zip(cells, place[1:], strict=True)
        ]
        far = (u - middle[0][index]) ** 2 + (v - middle[1][index]) ** 2
        limit = radius[index]
        drawn = far < limit
        light = far[drawn] < np.float32(0.35) * limit[drawn]
        where = there[0][drawn], there[1][drawn]
        classes[where] = VESICLE
        grey[where] = np.where(light, np.float32(150), np.float32(GREY["vesicle"]))


def sum_of(fields: Sequence[SmoothField], index: int, rows: slice, columns: slice) -> Array32:
    """Return the sum of fields in a section, see ``SmoothField.section``."""
    total = fields[0].section(index, rows, columns)
    for field in fields[1:]:
        total += field.section(index, rows, columns)
    return total


def _candidates(sites: _Sites, u: Array32, v: Array32, side: int) -> list[tuple[tuple[slice, slice], Ints]]:
    """Return the parts of a tile, each with the sites that can be first or second nearest there, in a fixed order."""
    rows, columns = (range(0, size, side) for size in u.shape)
    parts = [(slice(row, row + side), slice(column, column + side)) for row in rows for column in columns]
    least, most = np.zeros((2, len(parts), len(sites.y)))
    for place, line in ((sites.y, u), (sites.x, v)):
        low, high = (
            extreme.reduceat(extreme.reduceat(line, rows, 0), columns, 1).astype(float).reshape(-1, 1)
            for extreme in (np.minimum, np.maximum)
        )
        least += np.maximum(0, np.maximum(low - place, place - high)) ** 2
        most += np.maximum(high - place, place - low) ** 2
    bound = np.partition(most - sites.weight, 1, axis=1)[:, 1:2]
    return [
        (part, np.flatnonzero(possible))
        for part, possible in zip(parts, least - sites.weight <= bound * 1.01, strict=True)  # scores are rounded
    ]


def _nearest_two(
    sites: _Sites, u: Array32, v: Array32, lift: float, side: int
) -> tuple[npt.NDArray[np.int32], Array32]:
    """Return the nearest site of each position and the distance to the next cell in nm.

    A score is a squared distance less what is the same for all sites, which leaves a linear function of the position.
    ``side`` is that of the parts in voxels. ``lift`` makes all scores positive; then floats are in the order of their
    bits, and the lowest bits can carry the number of the site.
    """
    nearest, wall = np.empty(u.shape, np.int32), np.empty(u.shape, np.float32)
    slopes = [(-2 * line).astype(np.float32)[:, None] for line in (sites.y, sites.x)]
    constant = (sites.y**2 + sites.x**2 - sites.weight + lift).astype(np.float32)[:, None]
    for part, near in _candidates(sites, u, v, side):
        score = u[part].ravel() * slopes[0][near]
        score += v[part].ravel() * slopes[1][near]
        score += constant[near]
        bits = score.view(np.int32)
        bits &= np.int32(-NUMBERS)
        bits |= np.arange(len(near), dtype=np.int32)[:, None]
        first = bits.min(0)
        owner = first & np.int32(NUMBERS - 1)
        bits[owner, np.arange(len(first))] = np.iinfo(np.int32).max
        second = bits.min(0)
        other = second & np.int32(NUMBERS - 1)
        apart = np.hypot(*(np.subtract.outer(line[near], line[near]) for line in (sites.y, sites.x)))
        np.fill_diagonal(apart, 1)
        difference = (second ^ other).view(np.float32) - (first ^ owner).view(np.float32)
        difference *= np.take((0.5 / apart).astype(np.float32).ravel(), owner * np.int32(len(near)) + other)
        shape = nearest[part].shape
        nearest[part], wall[part] = np.take(near.astype(np.int32), owner).reshape(shape), difference.reshape(shape)
    return nearest, wall


def _draw_mitochondria(
    sites: _Sites,
    owner: npt.NDArray[np.int32],
    u: Array32,
    v: Array32,
    inside: Array32,
    grey: Array32,
    classes: npt.NDArray[np.uint8],
) -> None:
    """Draw the mitochondrion of each neurite that has one here: dark, with darker cristae and a dark border."""
    there = np.nonzero(np.take(sites.mito_radius > 0, owner) & (inside > np.float32(6)))
    which = owner[there]
    du, dv = (line[there] - place.astype(np.float32)[which] for line, place in ((u, sites.mito_y), (v, sites.mito_x)))
    depth = sites.mito_radius.astype(np.float32)[which] - np.sqrt(du * du + dv * dv)
    drawn = depth > 0
    where = there[0][drawn], there[1][drawn]
    du, dv, which = du[drawn], dv[drawn], which[drawn]
    depth = np.minimum(depth[drawn], inside[where] - np.float32(6))
    along = du * np.cos(sites.cristae).astype(np.float32)[which] + dv * np.sin(sites.cristae).astype(np.float32)[which]
    phase = along * np.float32(1 / 55)
    stripe = np.abs(phase - np.rint(phase)) < np.float32(0.2)
    shade = np.where(stripe, np.float32(GREY["cristae"]), np.float32(GREY["mitochondrion"]))
    grey[where] = np.where(depth < np.float32(14), np.float32(GREY["cristae"] - 10), shade)
    classes[where] = MITOCHONDRION
