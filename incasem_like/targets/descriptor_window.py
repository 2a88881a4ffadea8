"""What local shape descriptors are asked for: channels, neighbourhood, and part of an array."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from incasem_like.errors import InputError
from incasem_like.targets.instances import Slices, one_per_axis, used_axes
from incasem_like.volumes import Roi

Mode = Literal["gaussian", "sphere"]
Exponents = tuple[int, ...]

DESCRIPTOR_NAMES = {
    2: ("offset_y", "offset_x", "variance_y", "variance_x", "pearson_yx", "size"),
    3: (
        "offset_z", "offset_y", "offset_x", "variance_z", "variance_y", "variance_x",
        "pearson_zy", "pearson_zx", "pearson_yx", "size",
    ),
}  # fmt: skip
TRUNCATE = 3.0
# A sphere includes the voxels exactly at its radius, whatever the rounding of radius / voxel size.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Window:
    """The neighbourhood of a voxel in a (z, y, x) array; all lengths are per axis of it, unused axes included.

    Attributes:
        axes: The used axes.
        sigma: Radius in world units.
        spacing: World units between sampled voxels.
        steps: Voxels between sampled voxels.
        mode: Its kind.
    """

    axes: tuple[int, ...]
    sigma: tuple[float, ...]
    spacing: tuple[float, ...]
    steps: tuple[int, ...]
    mode: Mode

    @property
    def reach(self) -> tuple[int, ...]:
        """Return the distance in sampled voxels, per axis, of the farthest voxel that counts; 0 for unused axes."""
        radii = (sigma / spacing for sigma, spacing in zip(self.sigma, self.spacing, strict=True))
        whole = (int(TRUNCATE * r + 0.5) if self.mode == "gaussian" else int(r + TOLERANCE) for r in radii)
        return tuple(reach if axis in self.axes else 0 for axis, reach in enumerate(whole))

    def exponents(self, degree: int) -> list[Exponents]:
        """Return the exponents z, y, x of all moments up to a degree."""
        powers = (range(degree + 1 if axis in self.axes else 1) for axis in range(3))
        return [powers for powers in itertools.product(*powers) if sum(powers) <= degree]


def find_window(
    dimensions: int,
    axes: Sequence[int] | None,
    sigma: float | Sequence[float],
    voxel_size: float | Sequence[float],
    mode: Mode,
    downsample: int,
) -> Window:
    """Return the neighbourhood in an array extended to (z, y, x), or raise an error on what cannot be computed."""
    used = used_axes(dimensions, axes)
    if dimensions not in (2, 3) or len(used) < 2:
        raise InputError(
            f"Shape descriptors are of volumes or sections, but {len(used)} of {dimensions} axes are used: give labels "
            "(z, y, x) or (y, x), and at least two axes."
        )
    if mode not in get_args(Mode):
        raise InputError(f"Unknown mode of the shape descriptors: {mode}; choose gaussian or sphere.")
    if downsample < 1:
        raise InputError(f"downsample must be 1 or more, but is {downsample}; 1 describes every voxel.")
    shown = f"the labels have {dimensions} axes"
    sizes = one_per_axis(voxel_size, dimensions, "voxel_size", shown)
    radii = one_per_axis(sigma, len(used), "sigma", shown if len(used) == dimensions else f"{len(used)} axes are used")
    added = 3 - dimensions
    all_radii, spacing, steps = [1.0] * 3, [1.0] * 3, [1] * 3
    for axis, radius in zip(used, radii, strict=True):
        where = axis + added
        all_radii[where], spacing[where], steps[where] = radius, sizes[axis] * downsample, downsample
        if radius < spacing[where] * (1 - TOLERANCE):
            raise InputError(
                f"sigma is less than one sampled voxel along axis {axis}: {radius:g}, but voxel_size * downsample is "
                f"{sizes[axis]:g} * {downsample}; raise sigma, which is in world units, or leave the axis out of axes."
            )
    axes_used = tuple(axis + added for axis in used)
    return Window(axes_used, tuple(all_radii), tuple(spacing), tuple(steps), mode)


def find_channels(components: Sequence[int] | str | None, dimensions: int) -> list[int]:
    """Return the numbers of the chosen channels, or raise an error on what are none."""
    names = DESCRIPTOR_NAMES[dimensions]
    if components is None:
        return list(range(len(names)))
    channels = [int(channel) if str(channel).isdigit() else -1 for channel in components]
    if not channels or not all(0 <= channel < len(names) for channel in channels):
        raise InputError(
            f"The components {components!r} are not channels of shape descriptors in {dimensions}-D: choose from 0 to "
            f"{len(names) - 1} ({', '.join(names)})."
        )
    return channels


def find_region(roi: Roi | None, shape: Sequence[int], steps: Sequence[int]) -> Slices:
    """Return the part to describe as slices of (z, y, x)."""
    begin, end = ((0,) * len(shape), tuple(shape)) if roi is None else (tuple(roi.begin), tuple(roi.end))
    if len(begin) != len(shape) or not all(0 <= a < b <= n for a, b, n in zip(begin, end, shape, strict=True)):
        raise InputError(
            f"The ROI {begin} to {end} is not inside the labels of shape {tuple(shape)}: give it in voxels."
        )
    used = steps[3 - len(shape) :]
    if any(a % step or b % step for a, b, step in zip(begin, end, used, strict=True)):
        raise InputError(
            f"The block {begin} to {end} is not a multiple of downsample {max(steps)}: change its shape, or downsample."
        )
    return (slice(0, 1),) * (3 - len(shape)) + tuple(slice(a, b) for a, b in zip(begin, end, strict=True))
