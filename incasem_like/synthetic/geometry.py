"""The geometry of a synthetic optic lobe: entry points and directions of columns, paths of neurites."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from incasem_like.errors import InputError
from incasem_like.synthetic.lattice import icosphere, nearest_neighbour_distance, spherical_frame
from incasem_like.synthetic.parameters import OpticLobeParameters

Array = npt.NDArray[np.float64]
ATTEMPTS = 2000


@dataclass(frozen=True)
class ColumnGeometry:
    """Columns in a box whose longest side is 1, axes z, y, x.

    Attributes:
        sites: Entry point of each column, shape ``(n, 3)``.
        frames: Local frame of each column, shape ``(n, 3, 3)``, rows ``e_phi, e_theta, e_r``. It is the spherical frame
            stretched with the ellipsoid, so it is neither normalised nor orthogonal: a circle in it is a column
            that keeps its share of the stretched lattice.
        spacing: Mean distance between neighbouring columns at the entry, measured in the frames.
        taper: Width of a column at its end over its width at the entry.
        depth: Length of a column, measured in the frames.
        bezier: Control points of each neurite, shape ``(n, 4, 3)``; the first is the site.
    """

    sites: Array
    frames: Array
    spacing: float
    taper: float
    depth: float
    bezier: Array

    @property
    def middles(self) -> Array:
        """Midpoint of each column, shape ``(n, 3)``."""
        return self.sites + 0.5 * self.depth * self.frames[:, 2]


def draw_geometry(parameters: OpticLobeParameters, extents: Array, rng: np.random.Generator) -> ColumnGeometry:
    """Draw ellipsoids until enough columns enter the box.

    Args:
        parameters: Ranges to draw from.
        extents: Side lengths of the box, z, y, x; the longest is 1.
        rng: Source of all randomness.

    Raises:
        InputError: No draw has ``min_columns`` (times the box's share of the unit cube) entries inside.
    """
    wanted = max(1, int(np.ceil(parameters.min_columns * extents.prod())))
    most = 0
    for _ in range(ATTEMPTS):
        sites, frames, centre, spacing = _draw_sites(parameters, extents, rng)
        inside = int(np.all((sites > 0) & (sites < extents), axis=1).sum())
        if inside >= wanted:
            depth = spacing * parameters.relative_depth
            # On the unit sphere rays diverge with the distance from the centre; the stretch preserves that ratio.
            return ColumnGeometry(sites, frames, spacing, 1.0 + depth, depth, _neurites(sites, frames, centre, rng))
        most = max(most, inside)
    raise InputError(
        f"No layout with {wanted} columns inside the volume was found in {ATTEMPTS} draws, at most {most} were: "
        "lower min_columns or raise subdivisions."
    )


def _draw_sites(
    parameters: OpticLobeParameters, extents: Array, rng: np.random.Generator
) -> tuple[Array, Array, Array, float]:
    parts = int(rng.integers(parameters.subdivisions[0], parameters.subdivisions[1], endpoint=True)) + 1
    sphere = icosphere(parts)
    stretch = rng.uniform(*parameters.scale, size=3)
    points, frames = sphere * stretch, spherical_frame(sphere) * stretch
    anchor = points[rng.integers(len(points))]
    upright = _half_turn_to_axis(anchor)
    turn = _rotation(np.deg2rad(rng.uniform(*parameters.rotation_degrees, size=3)))
    shift = rng.uniform(*parameters.shift, size=3) * extents
    transform = turn @ upright
    place = turn @ shift + 0.5 * extents  # rotated about the centre of the box, so that most draws stay within it
    sites, frames = (points - anchor) @ transform.T + place, frames @ transform.T
    centre = place - transform @ anchor
    near = np.all((sites > -parameters.margin) & (sites < extents + parameters.margin), axis=1)
    sites, frames = sites[near], frames[near]
    if len(sites):
        kept = _beyond_random_edge(sites, frames, rng)
        sites, frames = sites[kept], frames[kept]
    return sites, frames, centre, nearest_neighbour_distance(sphere)


def _half_turn_to_axis(direction: Array) -> Array:
    """Return the half-turn rotation about the bisector of ``direction`` and the z axis: it maps direction to +z."""
    axis = direction / np.linalg.norm(direction) + np.array([1.0, 0.0, 0.0])
    length = np.linalg.norm(axis)
    axis = np.array([0.0, 1.0, 0.0]) if length < 1e-9 else axis / length
    return np.asarray(2 * np.outer(axis, axis) - np.eye(3))


def _rotation(angles: Array) -> Array:
    """Return the product of the three elementary rotations by ``angles`` (radians)."""
    product = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = [other for other in range(3) if other != axis]
        elementary = np.eye(3)
        elementary[[first, second], [first, second]] = np.cos(angle)
        elementary[first, second], elementary[second, first] = -np.sin(angle), np.sin(angle)
        product = elementary @ product
    return product


def _beyond_random_edge(sites: Array, frames: Array, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Cut the lobe along a random line: keep the sites on one side of a plane through a random site."""
    index = rng.integers(len(sites))
    along_phi, along_theta = rng.uniform(1e-6, 1.0, size=2)
    normal = along_phi * frames[index, 0] + along_theta * frames[index, 1]
    return np.asarray((sites - sites[index]) @ normal >= 0)


def _neurites(sites: Array, frames: Array, centre: Array, rng: np.random.Generator) -> Array:
    """Draw the cubic Bezier curve of each column's neurite: inwards, via a common plane, towards the lobe's centre."""
    count = len(sites)
    inwards = frames * rng.uniform(0, 1, size=(count, 3, 1)) * np.array([0.1, 0.1, -0.2])[:, None]
    first = sites + inwards.sum(axis=1)
    through = rng.integers(count)
    angle = rng.uniform(0, 2 * np.pi)
    normal = np.cos(angle) * frames[through, 0] + np.sin(angle) * frames[through, 1]
    normal /= np.linalg.norm(normal)
    distance = ((sites - sites[through]) @ normal)[:, None]
    second = sites - distance * normal
    last = centre + 0.25 * distance * normal + rng.normal(0, 0.05, size=(count, 3))
    return np.stack([sites, first, second, last], axis=1)
