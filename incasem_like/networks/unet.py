"""Unet: the U-Net of incasem, whose published checkpoints load by name.

Parameter names, shapes and their order, and the arithmetic, are those of the U-Net of funlib.learn.torch with
incasem's last convolution after it: valid convolutions, no normalisation, a ReLU after each convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from incasem_like.errors import ConfigError
from incasem_like.networks.forward_maps import ForwardMaps
from incasem_like.networks.section_convolution import convolution_3d
from incasem_like.networks.unet_geometry import Kernel, UnetLayout, convolution_crop, cropped_size

if TYPE_CHECKING:
    from incasem_like.config import ModelConfig
    from incasem_like.networks.geometry import NetworkGeometry

CONVOLUTION: Mapping[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: convolution_3d}
TRANSPOSED_CONVOLUTION: Mapping[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL: Mapping[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class ConvPass(nn.Module):
    """Consecutive valid convolutions, each followed by an activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels after every convolution.
        kernels: One kernel per convolution.
        rectified: Whether a ReLU follows each convolution; without it, the values are logits.
    """

    def __init__(self, in_channels: int, out_channels: int, kernels: Sequence[Kernel], rectified: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for kernel in kernels:
            layers.append(CONVOLUTION[len(kernel)](in_channels, out_channels, kernel))
            # In place: the convolution's own output is not needed again, not even in the backward pass.
            layers.append(nn.ReLU(inplace=True) if rectified else nn.Identity())
            in_channels = out_channels
        self.conv_pass = nn.Sequential(*layers)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map ``(b, in_channels, ...)`` to ``(b, out_channels, ...)``, cropped by the kernels."""
        result: torch.Tensor = self.conv_pass(maps)
        return result


class UpsampleAndJoin(nn.Module):
    """Up-sample the maps from below, crop them for translation equivariance, and prepend the skipped maps.

    Args:
        factor: Up-sampling factor per axis.
        channels: Channels of the maps from below; a transposed convolution keeps their number.
        constant: Whether to repeat each voxel; otherwise a transposed convolution with learned weights is used.
        crop_factor: The size after the following convolutions is a multiple of this.
        next_kernels: Kernels of the following convolutions.
    """

    def __init__(
        self, factor: Kernel, channels: int, constant: bool, crop_factor: Kernel, next_kernels: Sequence[Kernel]
    ) -> None:
        super().__init__()
        self.channels, self.crop_factor = channels, crop_factor
        self.convolution_crop = tuple(convolution_crop(next_kernels, axis) for axis in range(len(factor)))
        self.up: nn.Module
        if constant:
            self.up = nn.Upsample(scale_factor=tuple(float(number) for number in factor), mode="nearest")
        else:
            self.up = TRANSPOSED_CONVOLUTION[len(factor)](channels, channels, kernel_size=factor, stride=factor)

    def forward(self, skipped: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        """Join ``skipped`` (b, c, ...) and ``below`` (b, channels, ...) to (b, c + channels, ...)."""
        upsampled = self.up(below)
        size = [
            cropped_size(size, crop, factor)
            for size, crop, factor in zip(upsampled.shape[2:], self.convolution_crop, self.crop_factor, strict=True)
        ]
        return torch.cat([centre_crop(skipped, size), centre_crop(upsampled, size)], dim=1)


class UnetBody(nn.Module):
    """Encoder and decoder, without the last convolution.

    Args:
        layout: Factors and kernels.
        in_channels: Channels of the input.
        num_fmaps: Feature maps of the full-resolution level, also of the output.
        fmap_inc_factor: How many times more feature maps each level has than the one above.
        constant_upsample: See ``UpsampleAndJoin``.
    """

    def __init__(
        self, layout: UnetLayout, in_channels: int, num_fmaps: int, fmap_inc_factor: int, constant_upsample: bool
    ) -> None:
        super().__init__()
        fmaps = [num_fmaps * fmap_inc_factor**level for level in range(layout.levels + 1)]
        levels = range(layout.levels)
        # The order of these attributes is the order of the parameters, which the optimizer's state relies on.
        self.l_conv = nn.ModuleList(
            ConvPass(in_channels if level == 0 else fmaps[level - 1], fmaps[level], layout.kernels_down[level])
            for level in range(layout.levels + 1)
        )
        self.l_down = nn.ModuleList(MAX_POOL[layout.dims](layout.factors[level]) for level in levels)
        # One decoder in a list of decoders: that is where the 0 in the names of its parameters comes from.
        self.r_up = nn.ModuleList(
            [
                nn.ModuleList(
                    UpsampleAndJoin(
                        layout.factors[level],
                        fmaps[level + 1],
                        constant_upsample,
                        layout.crop_factor(level),
                        layout.kernels_up[level],
                    )
                    for level in levels
                )
            ]
        )
        self.r_conv = nn.ModuleList(
            [
                nn.ModuleList(
                    ConvPass(fmaps[level] + fmaps[level + 1], fmaps[level], layout.kernels_up[level])
                    for level in levels
                )
            ]
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map ``(b, in_channels, ...)`` to ``(b, num_fmaps, ...)``."""
        skipped = []
        for convolutions, pool in zip(self.l_conv[:-1], self.l_down, strict=True):
            maps = convolutions(maps)
            skipped.append(maps)
            maps = pool(maps)
        maps = self.l_conv[-1](maps)
        joins, decoder = list(self.r_up[0].children()), list(self.r_conv[0].children())
        while skipped:
            maps = decoder.pop()(joins.pop()(skipped.pop(), maps))
        return maps


class Unet(nn.Module):
    """The U-Net with a last convolution that outputs one logit per class.

    Args:
        layout: Factors and kernels; see ``UnetLayout``.
        in_channels: Channels of the input.
        num_fmaps: Feature maps of the full-resolution level.
        num_fmaps_out: Channels of the output.
        fmap_inc_factor: How many times more feature maps each level has than the one above.
        constant_upsample: Repeat voxels to up-sample; otherwise transposed convolutions.
    """

    def __init__(
        self,
        layout: UnetLayout,
        *,
        in_channels: int = 1,
        num_fmaps: int = 32,
        num_fmaps_out: int = 2,
        fmap_inc_factor: int = 2,
        constant_upsample: bool = True,
    ) -> None:
        super().__init__()
        self.geometry = layout.geometry()
        self.unet = UnetBody(layout, in_channels, num_fmaps, fmap_inc_factor, constant_upsample)
        self.final_conv_pass = ConvPass(num_fmaps, num_fmaps_out, [layout.final_kernel], rectified=False)

    @classmethod
    def from_config(cls, model: ModelConfig) -> Unet:
        """Build it from the ``model`` part of a configuration.

        Raises:
            ConfigError: A number of feature maps below 1, or see ``UnetLayout.from_config``.
        """
        for key in ("in_channels", "num_fmaps", "num_fmaps_out", "fmap_inc_factor"):
            if getattr(model, key) < 1:
                raise ConfigError(f"model.{key} is {getattr(model, key)}: give a whole number of at least 1.")
        return cls(
            UnetLayout.from_config(model),
            in_channels=model.in_channels,
            num_fmaps=model.num_fmaps,
            num_fmaps_out=model.num_fmaps_out,
            fmap_inc_factor=model.fmap_inc_factor,
            constant_upsample=model.constant_upsample,
        )

    @staticmethod
    def geometry_of(model: ModelConfig) -> NetworkGeometry:
        """Return the input and output sizes, from the configuration alone."""
        return UnetLayout.from_config(model).geometry()

    @staticmethod
    def forward_maps_of(model: ModelConfig) -> ForwardMaps:
        """Return the largest memory on the way down and up again, including the skipped maps."""
        factors = UnetLayout.from_config(model).factors
        voxels = [1.0 / math.prod(map(math.prod, factors[:level])) for level in range(len(factors) + 1)]
        maps = [model.num_fmaps * model.fmap_inc_factor**level for level in range(len(factors) + 1)]
        sizes = [number * share for number, share in zip(maps, voxels, strict=True)]
        read, given = float(model.in_channels), float(model.num_fmaps_out)
        together, widest = read + sizes[0] + given, max(read, given, *sizes)
        for level, size in enumerate(sizes):
            taken = 0.0 if level == 0 else maps[level - 1] * voxels[level]
            together = max(together, read + sum(sizes[:level]) + taken + 2 * size)
        for level, below in enumerate(sizes[1:]):
            upsampled = maps[level + 1] * voxels[level]
            joined = upsampled + sizes[level]
            joining, convolving = sizes[level] + upsampled + joined, joined + 2 * sizes[level]
            together = max(together, read + sum(sizes[:level]) + below + max(joining, convolving))
            widest = max(widest, joined)
        return ForwardMaps(together, widest)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Map ``(b, in_channels, z, y, x)`` to logits ``(b, num_fmaps_out, z', y', x')``.

        Raises:
            ConfigError: The network does not accept that size; the nearest valid ones are named.
        """
        self.geometry.output_size(volume.shape[2:])
        logits: torch.Tensor = self.final_conv_pass(self.unet(volume))
        return logits


def centre_crop(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return the central crop of that spatial size of ``(b, c, ...)``; if odd, one more voxel is cropped at the end."""
    for axis, wanted in enumerate(size, start=2):
        maps = maps.narrow(axis, (maps.shape[axis] - wanted) // 2, wanted)
    return maps
