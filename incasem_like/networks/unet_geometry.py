"""The U-Net's layout from its configuration, and the resulting sizes along each axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from incasem_like.errors import ConfigError
from incasem_like.networks.geometry import NetworkGeometry

if TYPE_CHECKING:
    from incasem_like.config import ModelConfig

Kernel = tuple[int, ...]
FINAL_KERNEL_EDGE = 3


@dataclass(frozen=True)
class UnetLayout:
    """Down-sampling factors and convolution kernels of a U-Net, the full-resolution level first.

    Attributes:
        factors: Down-sampling factor per axis, one tuple for each pair of consecutive levels.
        kernels_down: Kernels of the encoder's convolutions, one list per level; the last is the bottom's.
        kernels_up: Kernels of the decoder's convolutions, one list per level above the bottom.
        final_kernel: Kernel of the last convolution, which outputs the logits.
    """

    factors: tuple[Kernel, ...]
    kernels_down: tuple[tuple[Kernel, ...], ...]
    kernels_up: tuple[tuple[Kernel, ...], ...]
    final_kernel: Kernel

    @classmethod
    def from_config(cls, model: ModelConfig) -> UnetLayout:
        """Read ``model.downsample_factors``, ``kernel_size_down`` and ``kernel_size_up``; null means 3 everywhere.

        Raises:
            ConfigError: No levels, axes that differ in number, lists of the wrong length, numbers below 1.
        """
        factors = tuple(tuple(int(number) for number in factor) for factor in model.downsample_factors)
        if not factors:
            raise ConfigError("model.downsample_factors is empty: give one factor per level, such as [[2, 2, 2]].")
        dims = len(factors[0])
        if dims not in (2, 3):
            raise ConfigError(f"model.downsample_factors has {dims} numbers per level: give 3, or 2 for a 2-D network.")
        _check_numbers("model.downsample_factors", factors, dims)
        levels = len(factors)
        return cls(
            factors=factors,
            kernels_down=_kernels("model.kernel_size_down", model.kernel_size_down, levels + 1, dims),
            kernels_up=_kernels("model.kernel_size_up", model.kernel_size_up, levels, dims),
            final_kernel=(FINAL_KERNEL_EDGE,) * dims,
        )

    @property
    def dims(self) -> int:
        """Number of spatial axes: 2 or 3."""
        return len(self.final_kernel)

    @property
    def levels(self) -> int:
        """Number of down-sampling steps."""
        return len(self.factors)

    def crop_factor(self, level: int) -> Kernel:
        """Return the product of the down-sampling factors from ``level`` to the bottom, per axis."""
        return tuple(prod(factor[axis] for factor in self.factors[level:]) for axis in range(self.dims))

    def geometry(self) -> NetworkGeometry:
        """Return the sizes, computed by following the layers along each axis."""
        smallest, lost = [], []
        for axis in range(self.dims):
            size, output = 1, self.axis_output(1, axis)
            while output is None:
                size += 1
                output = self.axis_output(size, axis)
            smallest.append(size)
            lost.append(size - output)
        return NetworkGeometry(tuple(smallest), self.crop_factor(0), tuple(lost), (0,) * self.dims)

    def axis_output(self, size: int, axis: int) -> int | None:
        """Return the output size of ``size`` voxels along one axis; None where a layer does not accept its input."""
        for level, factor in enumerate(self.factors):
            size -= convolution_crop(self.kernels_down[level], axis)
            if size < 1 or size % factor[axis]:
                return None
            size //= factor[axis]
        size -= convolution_crop(self.kernels_down[-1], axis)
        for level in reversed(range(self.levels)):
            crop = convolution_crop(self.kernels_up[level], axis)
            size = cropped_size(size * self.factors[level][axis], crop, self.crop_factor(level)[axis]) - crop
            if size < 1:
                return None
        size -= self.final_kernel[axis] - 1
        return size if size >= 1 else None


def convolution_crop(kernels: Sequence[Kernel], axis: int) -> int:
    """Return the voxels that valid convolutions with these kernels crop along an axis, both sides together."""
    return sum(kernel[axis] - 1 for kernel in kernels)


def cropped_size(size: int, crop: int, factor: int) -> int:
    """Return the largest size up to ``size`` that, reduced by ``crop``, is a multiple of ``factor``.

    Up-sampled maps are cropped to it. Otherwise the decoder's output could start within a pooling cell at one
    input size and at its edge at another, and a shift of the input by the stride would change values.
    """
    return (size - crop) // factor * factor + crop


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
