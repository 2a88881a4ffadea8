"""Ground truth of the synthetic optic lobe: one tapered column (a cone frustum) per site, drawn as instance labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from incasem_like.synthetic.geometry import ColumnGeometry

Array = npt.NDArray[np.float64]


def draw_columns(
    geometry: ColumnGeometry,
    relative_diameter: float,
    shape: tuple[int, int, int],
    voxel: Array,
    labelled: npt.NDArray[np.bool_],
) -> npt.NDArray[np.uint32]:
    """Return instance labels of the voxels whose centre lies in a column.

    A column is the frustum ``0 <= axial <= depth``, ``radial <= radius (1 + (taper - 1) axial / depth)`` in its own
    frame, with ``radius = spacing relative_diameter / 2`` at the entry. Where two overlap, the voxel belongs to the one
    whose axis is nearer in units of its radius.

    Args:
        geometry: The columns, in a box whose longest side is 1.
        relative_diameter: Diameter at the entry over the spacing.
        shape: Shape in voxels, z, y, x.
        voxel: Size of a voxel in units of the box, z, y, x.
        labelled: Mask of the columns to draw, shape ``(n,)``.

    Returns:
        uint32, 0 = none, column i of the geometry has id i + 1.
    """
    labels = np.zeros(shape, dtype=np.uint32)
    closeness = np.full(shape, np.inf, dtype=np.float32)
    radius = 0.5 * relative_diameter * geometry.spacing
    for index in np.flatnonzero(labelled):
        site, frame = geometry.sites[index], geometry.frames[index]
        window = _bounding_box(site, frame, radius, geometry, shape, voxel)
        if window is None:
            continue
        phi, theta, axial = _local_coordinates(window, site, frame, voxel)
        reach = radius * (1 + (geometry.taper - 1) * axial / geometry.depth)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = (phi**2 + theta**2) / reach**2
        relative = np.where((axial >= 0) & (axial <= geometry.depth), relative, np.inf)
        won = (relative <= 1) & (relative < closeness[window])
        closeness[window][won] = relative[won]
        labels[window][won] = index + 1
    return labels


def _bounding_box(
    site: Array, frame: Array, radius: float, geometry: ColumnGeometry, shape: tuple[int, int, int], voxel: Array
) -> tuple[slice, slice, slice] | None:
    """Return the bounding box of the frustum: the hull of its two end discs, clipped to the volume."""
    disc = radius * np.hypot(frame[0], frame[1])  # half width of the stretched disc along each axis
    ends = np.stack(
        [
            site - disc,
            site + disc,
            site + geometry.depth * frame[2] - geometry.taper * disc,
            site + geometry.depth * frame[2] + geometry.taper * disc,
        ]
    )
    begin = np.maximum(np.floor(ends.min(axis=0) / voxel).astype(int), 0)
    end = np.minimum(np.ceil(ends.max(axis=0) / voxel).astype(int), shape)
    if np.any(begin >= end):
        return None
    z, y, x = (slice(int(low), int(high)) for low, high in zip(begin, end, strict=True))
    return z, y, x


def _local_coordinates(window: tuple[slice, slice, slice], site: Array, frame: Array, voxel: Array) -> list[Array]:
    """Return coordinates of the window's voxel centres along the column's ``e_phi, e_theta, e_r``, one array each."""
    inverse = np.linalg.inv(frame)  # rows of a frame are its vectors: position = coordinates @ frame
    centres = [
        (np.arange(part.start, part.stop) + 0.5) * size - origin
        for part, size, origin in zip(window, voxel, site, strict=True)
    ]
    z, y, x = np.ix_(*centres)
    return [z * inverse[0, axis] + y * inverse[1, axis] + x * inverse[2, axis] for axis in range(3)]
