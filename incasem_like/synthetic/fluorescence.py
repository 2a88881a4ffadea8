"""Fluorescence of the synthetic optic lobe: clouds of dye in three kinds of column, and neurites."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from incasem_like.synthetic.geometry import ColumnGeometry
from incasem_like.synthetic.parameters import OpticLobeParameters

Array = npt.NDArray[np.float64]
Array32 = npt.NDArray[np.float32]
EMPTY, DENSE, CLUSTERED, RING = range(4)
COLUMNS_AT_ONCE = 16  # limits memory: about 25,000 points per column
POINTS_ALONG_NEURITE = 4  # points scattered around every step of a neurite


@dataclass(frozen=True)
class ColumnKind:
    """Distribution of the dye in one kind of column; lengths in units of the column spacing.

    Attributes:
        children: Number of clouds that each cloud of the level above splits into, level by level.
        radial_std: Spread of each level's children across the column.
        leaf_radial_std: Spread of the points in an innermost cloud across the column.
        sigma_gain: Factor on the log-normal sigma of intensities.
        ring: Mean and standard deviation of the radius of the first level's clouds, or None.
    """

    children: tuple[int, ...]
    radial_std: float = 0.12
    leaf_radial_std: float = 0.12
    sigma_gain: float = 1.0
    ring: tuple[float, float] | None = None


AXIAL_STD = 0.20
KINDS = {
    DENSE: ColumnKind(children=(10, 10), sigma_gain=1.2),
    CLUSTERED: ColumnKind(children=(3, 4, 5)),
    RING: ColumnKind(children=(75,), leaf_radial_std=0.06, ring=(0.3, 0.1)),
}


def draw_kinds(
    count: int, ratios: tuple[float, float, float, float], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Assign every column a kind (EMPTY, DENSE, CLUSTERED, RING); shares match ``ratios`` as closely as possible."""
    bounds = np.rint(np.cumsum(ratios) / np.sum(ratios) * count).astype(int)
    kinds = np.searchsorted(bounds, np.arange(count), side="right")
    return np.asarray(rng.permutation(kinds), dtype=np.int64)


def draw_fluorescence(
    geometry: ColumnGeometry,
    kinds: npt.NDArray[np.int64],
    labels: npt.NDArray[np.uint32],
    parameters: OpticLobeParameters,
    shape: tuple[int, int, int],
    voxel: Array,
    rng: np.random.Generator,
) -> Array32:
    """Sum the dye of all columns and neurites into voxels.

    Returns:
        float32 of ``shape``; arbitrary units, 0 or above except for rare points drawn below 0.
    """
    sigma = float(rng.uniform(*parameters.intensity_sigma))
    flat = np.zeros(int(np.prod(shape)), dtype=np.float32)
    for number, kind in KINDS.items():
        members = _reaching(geometry, np.flatnonzero(kinds == number), shape, voxel)
        for start in range(0, len(members), COLUMNS_AT_ONCE):
            some = members[start : start + COLUMNS_AT_ONCE]
            positions, values = _scatter(geometry, some, kind, sigma, parameters, rng)
            _even_out(values, geometry, some, parameters.relative_diameter, voxel)
            _accumulate(flat, positions, values, shape, voxel)
    positions, values = _neurites(geometry, sigma, parameters, max(shape), rng)
    _accumulate(flat, positions, values, shape, voxel)
    if parameters.diffuse_dye > 0:
        # e is the median of every log-normal intensity.
        level = parameters.diffuse_dye * parameters.baseline_intensity * np.e
        flat += np.where(np.append(EMPTY, kinds) != EMPTY, level, 0).astype(np.float32)[labels.ravel()]
    return flat.reshape(shape)


def _reaching(
    geometry: ColumnGeometry, members: npt.NDArray[np.intp], shape: tuple[int, int, int], voxel: Array
) -> npt.NDArray[np.intp]:
    """Remove columns so far outside that none of their dye can reach the volume."""
    reach = 2.0 * geometry.spacing * np.abs(geometry.frames[members]).max(axis=1)
    middles = geometry.middles[members]
    near = np.all((middles > -reach) & (middles < np.asarray(shape) * voxel + reach), axis=1)
    return np.asarray(members[near])


def _scatter(
    geometry: ColumnGeometry,
    members: npt.NDArray[np.intp],
    kind: ColumnKind,
    sigma: float,
    parameters: OpticLobeParameters,
    rng: np.random.Generator,
) -> tuple[Array32, Array32]:
    """Split each column into clouds, level by level, and the innermost clouds into points, in the column's own frame.

    Returns:
        Positions in the box, shape ``(points, 3)``, and their intensities, shape ``(points,)``.
    """
    spacing = geometry.spacing
    across, along = spacing * kind.radial_std / parameters.simplify, spacing * AXIAL_STD / parameters.simplify
    clouds = np.zeros((len(members), 1, 3), dtype=np.float32)
    for level, children in enumerate(kind.children):
        offsets = _normal(rng, (len(members), clouds.shape[1], children, 3)) * np.array(
            [across, across, along], dtype=np.float32
        )
        if level == 0 and kind.ring is not None:
            radius = rng.normal(kind.ring[0] * spacing, kind.ring[1] * spacing, size=offsets.shape[:-1])
            angle = rng.uniform(0, 2 * np.pi, size=offsets.shape[:-1])
            offsets[..., 0], offsets[..., 1] = radius * np.cos(angle), radius * np.sin(angle)
        clouds = (clouds[:, :, None] + offsets).reshape(len(members), -1, 3)
    intensity = (
        rng.lognormal(1.0, kind.sigma_gain * sigma, size=clouds.shape[:2]).astype(np.float32)
        * parameters.baseline_intensity
    )
    leaf_across = spacing * kind.leaf_radial_std / parameters.simplify
    leaf_along = np.maximum(0, rng.normal(along, along, size=clouds.shape[:2]))
    spread = np.stack(
        [np.full_like(leaf_along, leaf_across), np.full_like(leaf_along, leaf_across), leaf_along], axis=-1
    ).astype(np.float32)
    per_cloud = (*clouds.shape[:2], parameters.points_per_cloud)
    points = clouds[:, :, None] + _normal(rng, (*per_cloud, 3)) * spread[:, :, None]
    values = intensity[:, :, None] + parameters.point_std * _normal(rng, per_cloud)
    frames = geometry.frames[members].astype(np.float32)
    positions = points.reshape(len(members), -1, 3) @ frames + geometry.middles[members, None].astype(np.float32)
    return positions.reshape(-1, 3), values.reshape(-1)


def _even_out(
    values: Array32, geometry: ColumnGeometry, members: npt.NDArray[np.intp], relative_diameter: float, voxel: Array
) -> None:
    """Scale values in place so that the points of a column, spread evenly over its voxels, would yield one intensity.

    Without this, brightness would grow with the number of points and shrink with the resolution, and neurites, which
    have few points, would be invisible.
    """
    volume = np.pi * (0.5 * relative_diameter * geometry.spacing) ** 2 * geometry.depth
    voxels = volume * np.abs(np.linalg.det(geometry.frames[members])) / voxel.prod()
    by_column = values.reshape(len(members), -1)
    by_column *= (voxels / by_column.shape[1]).astype(np.float32)[:, None]


def _neurites(
    geometry: ColumnGeometry, sigma: float, parameters: OpticLobeParameters, steps: int, rng: np.random.Generator
) -> tuple[Array32, Array32]:
    """Follow each neurite's Bezier curve in ``steps`` steps and scatter a few points around every step."""
    count = len(geometry.sites)
    intensity = rng.lognormal(1.0, sigma, size=count) * parameters.baseline_intensity * parameters.neurite_gain
    intensity[rng.permutation(count)[: round(parameters.neurites_empty * count)]] = 0
    t = np.linspace(0, 1, steps)
    weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    curves = np.einsum("sb,nba->nsa", weights, geometry.bezier)[:, :, None]
    noise = _normal(rng, (count, steps, POINTS_ALONG_NEURITE, 3)) * parameters.neurite_spread * geometry.spacing
    values = np.broadcast_to(intensity[:, None, None], (count, steps, POINTS_ALONG_NEURITE))
    return (curves + noise).reshape(-1, 3).astype(np.float32), values.reshape(-1).astype(np.float32)


def _accumulate(flat: Array32, positions: Array32, values: Array32, shape: tuple[int, int, int], voxel: Array) -> None:
    """Add every value to the voxel of its position; values in the same voxel add up."""
    index = np.floor(positions / voxel.astype(np.float32)).astype(np.int32)
    inside = np.all((index >= 0) & (index < np.asarray(shape)), axis=1)
    z, y, x = index[inside].astype(np.int64).T
    flat_index = (z * shape[1] + y) * shape[2] + x
    if len(flat_index) == 0:
        return
    start = int(flat_index.min())
    total = np.bincount(flat_index - start, weights=values[inside])
    flat[start : start + len(total)] += total.astype(np.float32)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array32:
    return rng.standard_normal(shape, dtype=np.float32)
