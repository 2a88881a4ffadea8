"""The U-Net's layout from its configuration, and the sizes, borders and fields of view that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from incasem_like.errors import ConfigError
from incasem_like.networks.geometry import NetworkGeometry

if TYPE_CHECKING:
    from incasem_like.config.network_sections import UnetOptions

Kernel = tuple[int, ...]
Voxels = npt.NDArray[np.int64]
# Stands for a voxel outside the maps, whose value a layer makes up: zeros around them, or repeated borders.
OUTSIDE = 2**40


@dataclass(frozen=True)
class UnetLayout:
    """Down-sampling factors and convolution kernels of a U-Net, the full-resolution level first.

    Attributes:
        factors: Down-sampling factor per axis, one tuple for each pair of consecutive levels.
        kernels_down: Kernels of the encoder's convolutions, one list per level; the last is the bottom's.
        kernels_up: Kernels of the decoder's convolutions, one list per level above the bottom.
        final_kernel: Kernel of the last convolution, which outputs the logits.
        padded: Whether convolutions keep the size of maps, by zeros around them.
        crops_to_factor: Whether up-sampled maps are cropped to whole cells of the coarsest level.
        interpolates: Whether maps are up-sampled by linear interpolation.
        halo: Output voxels per side to discard; None for those that depend on the maps' surroundings.
        sections: Adjacent sections that a 2-D network takes as channels.
    """

    factors: tuple[Kernel, ...]
    kernels_down: tuple[tuple[Kernel, ...], ...]
    kernels_up: tuple[tuple[Kernel, ...], ...]
    final_kernel: Kernel
    padded: bool = False
    crops_to_factor: bool = True
    interpolates: bool = False
    halo: Kernel | None = None
    sections: int = 1

    @classmethod
    def from_config(cls, model: UnetOptions) -> UnetLayout:
        """Read the levels, kernels and padding of ``model``; kernels of null are two of 3 everywhere.

        Raises:
            ConfigError: No levels, axes that differ in number, lists of the wrong length, numbers below 1, even kernels
                with padding, or adjacent sections of a 3-D network.
        """
        factors = tuple(tuple(int(number) for number in factor) for factor in model.downsample_factors)
        if not factors:
            raise ConfigError("model.downsample_factors is empty: give one factor per level, such as [[2, 2, 2]].")
        dims = len(factors[0])
        if dims not in (2, 3):
            raise ConfigError(f"model.downsample_factors has {dims} numbers per level: give 3, or 2 for a 2-D network.")
        _check_numbers("model.downsample_factors", factors, dims)
        levels = len(factors)
        layout = cls(
            factors=factors,
            kernels_down=_kernels("model.kernel_size_down", model.kernel_size_down, levels + 1, dims),
            kernels_up=_kernels("model.kernel_size_up", model.kernel_size_up, levels, dims),
            final_kernel=(model.final_kernel_size,) * dims,
            padded=model.padding == "same",
            crops_to_factor=model.crop_to_factor and model.padding == "valid",
            interpolates=model.constant_upsample and model.upsample_mode == "linear",
            halo=model.halo,
            sections=model.adjacent_sections,
        )
        kernels = [*layout.kernels_down, *layout.kernels_up, (layout.final_kernel,)]
        if layout.padded and any(edge % 2 == 0 for level in kernels for kernel in level for edge in kernel):
            raise ConfigError("model.padding=same needs kernels of odd edges, but one is even: set padding=valid.")
        if layout.halo is not None and len(layout.halo) != dims:
            raise ConfigError(
                f"model.halo has {len(layout.halo)} numbers, but the network has {dims} axes: give {dims}."
            )
        if layout.sections > 1 and dims == 3:
            raise ConfigError(
                f"model.adjacent_sections is {layout.sections}, but the network is 3-D: set it to 1, or give each "
                "level of model.downsample_factors 2 numbers."
            )
        return layout

    @property
    def dims(self) -> int:
        """Number of spatial axes: 2 or 3."""
        return len(self.final_kernel)

    @property
    def levels(self) -> int:
        """Number of down-sampling steps."""
        return len(self.factors)

    def pooled_voxels(self, level: int) -> Kernel:
        """Return the product of the down-sampling factors from ``level`` to the bottom, per axis."""
        return tuple(prod(factor[axis] for factor in self.factors[level:]) for axis in range(self.dims))

    def crop_factor(self, level: int) -> Kernel:
        """Return what the size of up-sampled maps is cropped to a multiple of, apart from following convolutions."""
        return self.pooled_voxels(level) if self.crops_to_factor else (1,) * self.dims

    def geometry(self) -> NetworkGeometry:
        """Return the sizes, computed by following the layers along each axis."""
        smallest, lost, border, fields = [], [], [], []
        for axis, stride in enumerate(self.pooled_voxels(0)):
            size, output = 1, self.axis_output(1, axis)
            while output is None:
                size += 1
                output = self.axis_output(size, axis)
            smallest.append(size)
            lost.append(size - output)
            made_up, field = self._far_from_borders(axis, size, stride)
            border.append(made_up if self.halo is None else self.halo[axis])
            fields.append(field)
        return NetworkGeometry(
            tuple(smallest), self.pooled_voxels(0), tuple(lost), tuple(border), self.sections, tuple(fields)
        )

    def axis_output(self, size: int, axis: int) -> int | None:
        """Return the output size of ``size`` voxels along one axis; None where a layer does not accept its input."""
        seen = self._seen(size, axis)
        return None if seen is None else len(seen[0])

    def _far_from_borders(self, axis: int, size: int, stride: int) -> tuple[int, int]:
        """Return how many output voxels per side depend on made-up values, and the field of view of the others."""
        steps = 8
        while True:
            length = size + steps * stride
            seen = self._seen(length, axis)
            assert seen is not None
            first, last = seen
            inner = (first >= 0) & (last < length)
            # One whole period of phases is enough; their fields of view differ.
            if inner.sum() >= stride:
                field = int((last - first)[inner].max()) + 1
                return max(int((first < 0).sum()), int((last >= length).sum())), field
            steps *= 2

    def _seen(self, size: int, axis: int) -> tuple[Voxels, Voxels] | None:
        """Return the first and the last input voxel that each output voxel depends on, along one axis.

        -OUTSIDE and OUTSIDE stand for values that a layer makes up. None where a layer does not accept its input.
        """
        first = last = np.arange(size)
        skipped = []
        for level, factor in enumerate(self.factors):
            first, last = self._convolved(first, last, self.kernels_down[level], axis)
            if not len(first) or len(first) % factor[axis]:
                return None
            skipped.append((first, last))
            first, last = first[:: factor[axis]], last[factor[axis] - 1 :: factor[axis]]
        first, last = self._convolved(first, last, self.kernels_down[-1], axis)
        for level in reversed(range(self.levels)):
            first, last = self._upsampled(first, last, self.factors[level][axis])
            crop = 0 if self.padded else convolution_crop(self.kernels_up[level], axis)
            kept = cropped_size(len(first), crop, self.crop_factor(level)[axis])
            if kept - crop < 1:
                return None
            beside = [_middle(positions, kept) for positions in skipped.pop()]
            first = np.minimum(_middle(first, kept), beside[0])
            last = np.maximum(_middle(last, kept), beside[1])
            first, last = self._convolved(first, last, self.kernels_up[level], axis)
        first, last = self._convolved(first, last, (self.final_kernel,), axis)
        return (first, last) if len(first) else None

    def _convolved(self, first: Voxels, last: Voxels, kernels: Sequence[Kernel], axis: int) -> tuple[Voxels, Voxels]:
        reach = convolution_crop(kernels, axis)
        if self.padded:
            first = np.pad(first, reach // 2, constant_values=(-OUTSIDE, OUTSIDE))
            last = np.pad(last, reach // 2, constant_values=(-OUTSIDE, OUTSIDE))
        return first[: max(0, len(first) - reach)], last[reach:]

    def _upsampled(self, first: Voxels, last: Voxels, factor: int) -> tuple[Voxels, Voxels]:
        if not self.interpolates:
            return np.repeat(first, factor), np.repeat(last, factor)
        # Voxel i lies at (i + 1/2) / factor - 1/2 between two of the small maps; those outside repeat the borders.
        twice = 2 * np.arange(len(first) * factor) + 1 - factor
        below = twice // (2 * factor)
        above = below + (twice % (2 * factor) > 0)
        return (
            np.where(below < 0, -OUTSIDE, first[np.maximum(below, 0)]),
            np.where(above >= len(last), OUTSIDE, last[np.minimum(above, len(last) - 1)]),
        )


def convolution_crop(kernels: Sequence[Kernel], axis: int) -> int:
    """Return the voxels that valid convolutions with these kernels crop along an axis, both sides together."""
    return sum(kernel[axis] - 1 for kernel in kernels)


def cropped_size(size: int, crop: int, factor: int) -> int:
    """Return the largest size up to ``size`` that, reduced by ``crop``, is a multiple of ``factor``.

    Up-sampled maps are cropped to it. Otherwise the decoder's output could start within a pooling cell at one
    input size and at its edge at another, and a shift of the input by the stride would change values.
    """
    return (size - crop) // factor * factor + crop


def _middle(positions: Voxels, size: int) -> Voxels:
    begin = (len(positions) - size) // 2
    return positions[begin : begin + size]


def _kernels(key: str, kernels: object, levels: int, dims: int) -> tuple[tuple[Kernel, ...], ...]:
    if kernels is None:
        return (((3,) * dims,) * 2,) * levels
    assert isinstance(kernels, Sequence)
    if len(kernels) != levels:
        raise ConfigError(
            f"{key} has {len(kernels)} levels, but model.downsample_factors asks for {levels}: "
            "give one list of kernels per level."
        )
    read = tuple(tuple(tuple(int(number) for number in kernel) for kernel in level) for level in kernels)
    for level in read:
        if not level:
            raise ConfigError(f"{key} has a level without a kernel: give each level at least one.")
        _check_numbers(key, level, dims)
    return read


def _check_numbers(key: str, entries: Sequence[Kernel], dims: int) -> None:
    for entry in entries:
        if len(entry) != dims or min(entry) < 1:
            raise ConfigError(f"{key} has the entry {list(entry)}: give {dims} whole numbers of at least 1.")
