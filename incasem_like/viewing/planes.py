"""The three orthogonal planes through a point of a volume, read without the rest of the volume."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from incasem_like.viewing.figures import PLANES
from incasem_like.volumes import Roi, Volume
from incasem_like.volumes.values import stated_scale

NORMAL_AXIS = {"xy": 0, "xz": 1, "yz": 2}


def read_planes(volume: Volume, roi: Roi, centre: tuple[int, int, int]) -> dict[str, NDArray[np.generic]]:
    """Read the planes through ``centre`` within ``roi``.

    Args:
        volume: A volume.
        roi: The part to show, absolute voxels.
        centre: A point inside ``roi``, absolute voxels.

    Returns:
        A 2-D array per plane: ``xy`` (y, x), ``xz`` (z, x), ``yz`` (z, y). Of a volume with channels, the first three
        of them as red, green and blue in 0 to 1, (y, x, 3).
    """
    planes = {}
    for plane in PLANES:
        axis = NORMAL_AXIS[plane]
        offset = [centre[i] if i == axis else roi.offset[i] for i in range(3)]
        shape = [1 if i == axis else roi.shape[i] for i in range(3)]
        found = volume.read(Roi(offset, shape)).squeeze(axis - 3)
        planes[plane] = found if found.ndim == 2 else _as_colours(found, stated_scale(volume))
    return planes


def _as_colours(channels: NDArray[np.generic], scale: float | None) -> NDArray[np.float64]:
    """Return the first three channels (c, y, x) as colours; missing ones are 0."""
    values = channels[:3].astype(float) / (scale or (255 if channels.dtype == np.uint8 else 1))
    colours = np.zeros((*channels.shape[1:], 3))
    colours[..., : len(values)] = np.moveaxis(np.clip(values, 0, 1), 0, -1)
    return colours


def around(roi: Roi, centre: tuple[int, int, int], most: int = 768) -> Roi:
    """Return the part of ``roi`` around a point, of at most ``most`` voxels along each axis."""
    shape = [min(size, most) for size in roi.shape]
    begin = [
        min(max(at - size // 2, first), first + whole - size)
        for at, size, first, whole in zip(centre, shape, roi.begin, roi.shape, strict=True)
    ]
    return Roi(begin, shape)


def busiest_point(volume: Volume, roi: Roi, samples: int = 24) -> tuple[int, int, int]:
    """Find a point whose three planes show much foreground: per axis, the one with most of evenly spaced planes.

    Args:
        volume: Labels; every nonzero voxel is foreground.
        roi: The part to search, absolute voxels.
        samples: Number of planes read per axis.
    """
    point = []
    for axis in range(3):
        positions = np.unique(np.linspace(roi.begin[axis], roi.end[axis] - 1, samples + 2)[1:-1].astype(int))
        counts = []
        for position in positions:
            offset = [int(position) if i == axis else roi.offset[i] for i in range(3)]
            shape = [1 if i == axis else roi.shape[i] for i in range(3)]
            counts.append(int(np.count_nonzero(volume.read(Roi(offset, shape)))))
        point.append(int(positions[int(np.argmax(counts))]))
    return point[0], point[1], point[2]


def plane_aspects(voxel_size: tuple[float, ...]) -> Mapping[str, float]:
    """Return the aspect ratio (pixel height / width) in each plane, from the voxel size z, y, x."""
    z, y, x = voxel_size[-3:]
    return {"xy": y / x, "xz": z / x, "yz": z / y}
