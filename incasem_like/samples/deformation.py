"""Elastic deformation: the source coordinates of each voxel of a deformed block.

The displacement is a cubic spline through randomly displaced control points, evaluated on a grid coarser by
``subsample`` and interpolated linearly between its nodes, plus a rotation about z and shifts of whole sections, as
gunpowder's ``ElasticAugment`` computes through ``augment-nd``. The spline is separable, so it is evaluated here by one
small matrix per axis, and the linear interpolation plane by plane, without coordinates of the whole block in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Box = tuple[slice, slice, slice]
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Deformation:
    """The source coordinates of a block's voxels.

    Attributes:
        shape: Extent of the deformed block in voxels, z, y, x.
        nodes: Source coordinates at the nodes of the coarse grid, (3, mz, my, mx), in voxels relative to the block's
            first voxel. The nodes run from the first to the last voxel of the block along each axis.
        section_shifts: Shift added to the source coordinates of each section in y and x, (shape z, 2), whole voxels.
    """

    shape: Size
    nodes: Floats
    section_shifts: Floats

    def bounds(self, box: Box) -> tuple[Size, Size]:
        """Return the smallest and largest source coordinate (z, y, x) of a box of the block, rounded outwards.

        Between nodes coordinates are convex combinations of those at the nodes, so the nodes around the box bound it.
        """
        around = tuple(
            _nodes_around(part, size, count)
            for part, size, count in zip(box, self.shape, self.nodes.shape[1:], strict=True)
        )
        nodes = self.nodes[(slice(None), *around)].reshape(3, -1)
        shifts = self.section_shifts[box[0]]
        lowest = nodes.min(axis=1) + np.array([0, *shifts.min(axis=0)], dtype=np.float32)
        highest = nodes.max(axis=1) + np.array([0, *shifts.max(axis=0)], dtype=np.float32)
        return _whole(np.floor(lowest)), _whole(np.ceil(highest))

    def rescaled(self, scale: Sequence[float], offset: Sequence[float]) -> Deformation:
        """Return the deformation with source coordinates ``scale * coordinate + offset`` per axis."""
        factors = np.asarray(scale, dtype=np.float32)
        nodes = self.nodes * factors[:, None, None, None]
        nodes += np.asarray(offset, dtype=np.float32)[:, None, None, None]
        return Deformation(self.shape, nodes, self.section_shifts * factors[1:])

    def sections(self, box: Box, sections_at_once: int = 1) -> Iterator[tuple[slice, Floats]]:
        """Yield the source coordinates of a box a few z sections at a time.

        Yields:
            Slice of sections in the box, and coordinates (3, sections, y, x) in voxels relative to the block's begin.
        """
        (lower_z, weight_z), (lower_y, weight_y), (lower_x, weight_x) = (
            _between_nodes(part, size, count)
            for part, size, count in zip(box, self.shape, self.nodes.shape[1:], strict=True)
        )
        # The last and largest step goes along y, where it copies whole rows.
        along_x = _interpolate(self.nodes, lower_x, weight_x, 3)
        for begin in range(0, len(lower_z), sections_at_once):
            part = slice(begin, min(begin + sections_at_once, len(lower_z)))
            along_z = _interpolate(along_x, lower_z[part], weight_z[part], 1)
            along_z[1:] += self.section_shifts[box[0]][part].T[:, :, None, None]
            yield part, _interpolate(along_z, lower_y, weight_y, 2)


def random_deformation(
    shape: Size,
    rng: np.random.Generator,
    *,
    control_point_spacing: Sequence[int],
    jitter_sigma: Sequence[float],
    subsample: int,
    rotation: bool,
    section_shift_probability: float,
    section_slip_probability: float,
    max_misalign: int,
) -> Deformation:
    """Draw a deformation of a block.

    Args:
        shape: Extent of the block in voxels.
        rng: Source of all randomness.
        control_point_spacing: Distance of the control points in voxels per axis.
        jitter_sigma: Standard deviation of the control points' displacement in voxels per axis.
        subsample: Factor by which the grid of nodes is coarser than voxels.
        rotation: Rotate about z around the block's centre, by an angle uniform in [0, 90) degrees.
        section_shift_probability: Probability of each section that it and all later ones are shifted in y and x.
        section_slip_probability: Probability of each section that it alone is shifted.
        max_misalign: Largest such shift in voxels; uniform over whole numbers of both signs.
    """
    control_shape = tuple(
        max(1, round(size / spacing)) for size, spacing in zip(shape, control_point_spacing, strict=True)
    )
    jitter = rng.standard_normal((3, *control_shape)) * np.asarray(jitter_sigma, dtype=float)[:, None, None, None]
    angle = rng.uniform(0.0, np.pi / 2) if rotation else 0.0
    shifts, slips = (
        rng.integers(-max_misalign, max_misalign, size=(shape[0], 2), endpoint=True) * moved[:, None]
        for moved in (rng.random(shape[0]) < share for share in (section_shift_probability, section_slip_probability))
    )
    return deformation(shape, jitter.astype(np.float32), angle, np.cumsum(shifts, axis=0) + slips, subsample)


def deformation(
    shape: Size, jitter: Floats, angle: float, section_shifts: NDArray[np.integer], subsample: int
) -> Deformation:
    """Return the deformation defined by control points, angle and section shifts.

    Args:
        shape: Extent of the block in voxels.
        jitter: Displacement of the control points in voxels, (3, points z, points y, points x); they are spread evenly
            from the first to the last voxel of the block.
        angle: Rotation about z in radians, from y towards x, around the block's centre.
        section_shifts: Shift of each section in y and x, (shape z, 2), whole voxels.
        subsample: Factor by which the grid of nodes is coarser than voxels.
    """
    # At least two nodes, so that linear interpolation spans the block.
    counts = [max(min(2, size), size // subsample) for size in shape]
    nodes = _spline_values(jitter, counts)
    z, y, x = (np.linspace(0, size - 1, count) for size, count in zip(shape, counts, strict=True))
    centre_y, centre_x = (shape[1] - 1) / 2, (shape[2] - 1) / 2
    cosine, sine = np.cos(angle), np.sin(angle)
    from_y, from_x = (y - centre_y)[:, None], (x - centre_x)[None, :]
    nodes[0] += z[:, None, None]
    nodes[1] += centre_y + cosine * from_y + sine * from_x
    nodes[2] += centre_x - sine * from_y + cosine * from_x
    return Deformation(shape, nodes.astype(np.float32), section_shifts.astype(np.float32))


def _spline_values(jitter: Floats, counts: Sequence[int]) -> NDArray[np.float64]:
    """Evaluate the cubic spline through the control points at ``counts`` evenly spread nodes per axis."""
    values = jitter.astype(np.float64)
    for axis, count in enumerate(counts, start=1):
        matrix = _spline_matrix(jitter.shape[axis], count)
        # einsum without BLAS: its sums don't depend on the number of threads, so neither do the samples.
        values = np.moveaxis(np.einsum("ij,j...->i...", matrix, np.moveaxis(values, axis, 0)), 0, axis)
    return values


@functools.lru_cache(maxsize=64)
def _spline_matrix(points: int, count: int) -> NDArray[np.float64]:
    """Return weights (count, points) of the cubic spline, mirrored at its ends, at evenly spread positions."""
    if points == 1:
        return np.ones((count, 1))
    positions = np.linspace(0, points - 1, count)
    columns = [ndimage.map_coordinates(unit, [positions], order=3, mode="mirror") for unit in np.eye(points)]
    return np.stack(columns, axis=1)


def _between_nodes(part: slice, size: int, count: int) -> tuple[NDArray[np.intp], Floats]:
    """Return for each voxel of ``part`` the node at or below it and the distance from that node in node steps."""
    positions = np.arange(part.start, part.stop) * ((count - 1) / max(size - 1, 1))
    lower = np.clip(np.floor(positions).astype(np.intp), 0, max(count - 2, 0))
    return lower, (positions - lower).astype(np.float32)


def _nodes_around(part: slice, size: int, count: int) -> slice:
    lower, _ = _between_nodes(part, size, count)
    return slice(int(lower[0]), min(int(lower[-1]) + 2, count))


def _interpolate(values: Floats, lower: NDArray[np.intp], weight: Floats, axis: int) -> Floats:
    upper = np.minimum(lower + 1, values.shape[axis] - 1)
    below = np.take(values, lower, axis=axis)
    step = np.take(values, upper, axis=axis)
    step -= below
    step *= weight.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    below += step
    return below


def _whole(coordinates: Floats) -> Size:
    z, y, x = (int(coordinate) for coordinate in coordinates)
    return z, y, x
