"""A hexagonal lattice on the unit sphere: the entry points of columns, and the local frame at each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, cKDTree

Array = npt.NDArray[np.float64]


def icosphere(parts: int) -> Array:
    """Divide every edge of an icosahedron into ``parts`` and map the triangular lattice of each face to the sphere.

    Within a face the lattice point of barycentric coordinates (i, j, k) is found by spherical interpolation along two
    edges and then between them, which spaces sites more evenly than projecting the flat face.

    Returns:
        Unit vectors, shape ``(10 parts^2 + 2, 3)``.
    """
    golden = (1 + 5**0.5) / 2
    corners = np.array([np.roll((0.0, a, b * golden), turn) for turn in range(3) for a in (-1, 1) for b in (-1, 1)])
    corners /= np.linalg.norm(corners, axis=1, keepdims=True)
    faces = corners[ConvexHull(corners).simplices]
    along, across = np.array([(n, k) for n in range(parts + 1) for k in range(n + 1)], dtype=float).T
    share = np.divide(across, along, out=np.zeros_like(across), where=along > 0)
    left = _slerp(faces[:, None, 0], faces[:, None, 1], along / parts)
    right = _slerp(faces[:, None, 0], faces[:, None, 2], along / parts)
    points = _slerp(left, right, share[None]).reshape(-1, 3)
    # Neighbouring faces share their edges: of duplicate sites (within rounding) the first is kept.
    duplicates = cKDTree(points).query_pairs(1e-6, output_type="ndarray")
    return np.delete(points, np.unique(duplicates.max(axis=1)), axis=0)


def _slerp(start: Array, end: Array, share: Array) -> Array:
    """Interpolate by ``share`` from ``start`` to ``end`` along the great circle; all unit vectors on the last axis."""
    angle = np.arccos(np.clip((start * end).sum(axis=-1), -1, 1))
    sine = np.where(angle < 1e-9, 1.0, np.sin(angle))
    first = np.where(angle < 1e-9, 1.0 - share, np.sin((1 - share) * angle) / sine)
    second = np.where(angle < 1e-9, share, np.sin(share * angle) / sine)
    return np.asarray(first[..., None] * start + second[..., None] * end)


def spherical_frame(points: Array) -> Array:
    """Return the unit vectors of spherical coordinates at each point of the unit sphere; axis 0 is the polar axis.

    Returns:
        Shape ``(n, 3, 3)``: rows ``e_phi`` (anterior-posterior), ``e_theta`` (dorso-ventral), ``e_r`` (outwards).
    """
    polar, y, x = points.T
    horizontal = np.hypot(x, y)
    # At the poles phi is undefined; any direction in the tangent plane will do.
    pole = horizontal < 1e-9
    cos_phi = np.where(pole, 1.0, x / np.where(pole, 1.0, horizontal))
    sin_phi = np.where(pole, 0.0, y / np.where(pole, 1.0, horizontal))
    e_phi = np.stack([np.zeros_like(polar), cos_phi, -sin_phi], axis=1)
    e_theta = np.stack([-horizontal, polar * sin_phi, polar * cos_phi], axis=1)
    return np.stack([e_phi, e_theta, points], axis=1)


def nearest_neighbour_distance(points: Array) -> float:
    """Return the mean over points of the distance to the nearest other point."""
    return float(cKDTree(points).query(points, k=2)[0][:, 1].mean())
