"""Unet: the U-Net of incasem, whose published checkpoints load by name, with the options of further published U-Nets.

By default, parameter names, shapes and their order, and the arithmetic, are those of the U-Net of funlib.learn.torch
with incasem's last convolution after it: valid convolutions, no normalisation, a ReLU after each convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from incasem_like.errors import ConfigError
from incasem_like.networks.section_convolution import convolution_3d
from incasem_like.networks.unet_geometry import Kernel, UnetLayout, convolution_crop, cropped_size

if TYPE_CHECKING:
    from incasem_like.config.network_sections import UnetModel, UnetOptions
    from incasem_like.networks.geometry import NetworkGeometry

CONVOLUTION: Mapping[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: convolution_3d}
TRANSPOSED_CONVOLUTION: Mapping[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL: Mapping[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
BATCH_NORM: Mapping[int, Callable[..., nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class ConvPass(nn.Module):
    """Consecutive convolutions, each followed by an activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels after every convolution.
        kernels: One kernel per convolution.
        rectified: Whether a ReLU follows each convolution; without it, the values are logits.
        padded: Whether zeros around the maps keep their size.
        normalized: Whether batch normalisation follows each ReLU.
        residual: ``none``, ``linear`` or ``shortcut``; see ``model.residual``.
        halved: Whether all but the last convolution have half as many channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernels: Sequence[Kernel],
        *,
        rectified: bool = True,
        padded: bool = False,
        normalized: bool = False,
        residual: str = "none",
        halved: bool = False,
    ) -> None:
        super().__init__()
        dims, channels = len(kernels[0]), in_channels
        layers: list[nn.Module] = []
        for kernel in kernels[:-1]:
            following = out_channels // 2 if halved else out_channels
            layers += [
                _convolution(channels, following, kernel, padded),
                *_activation(following, dims, rectified, normalized),
            ]
            channels = following
        layers.append(_convolution(channels, out_channels, kernels[-1], padded))
        if residual != "linear":
            layers += _activation(out_channels, dims, rectified, normalized)
        self.conv_pass = nn.Sequential(*layers)
        self.rectified = rectified
        self.residual: nn.Module | None = None
        if residual == "linear":
            self.residual = nn.Sequential(CONVOLUTION[dims](in_channels, out_channels, (1,) * dims))
        elif residual == "shortcut" and in_channels == out_channels:
            self.residual = nn.Identity()
        elif residual == "shortcut":
            convolution = CONVOLUTION[dims](in_channels, out_channels, (1,) * dims, bias=False)
            self.residual = nn.Sequential(convolution, *([BATCH_NORM[dims](out_channels)] if normalized else []))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map ``(b, in_channels, ...)`` to ``(b, out_channels, ...)``, cropped by the kernels unless padded."""
        result: torch.Tensor = self.conv_pass(maps)
        if self.residual is not None:
            result = result + self.residual(centre_crop(maps, result.shape[2:]))
            result = result.relu_() if self.rectified else result
        return result


class UpsampleAndJoin(nn.Module):
    """Up-sample the maps from below, crop them for translation equivariance, and join them with the skipped maps.

    Args:
        model: How maps are up-sampled and joined.
        layout: Factors and kernels.
        level: The level whose skipped maps are joined.
        below: Channels of the maps from below.
        skipped: Channels of the skipped maps.

    Attributes:
        channels: Channels of the up-sampled maps.
    """

    def __init__(self, model: UnetOptions, layout: UnetLayout, level: int, below: int, skipped: int) -> None:
        super().__init__()
        factor = layout.factors[level]
        self.crop_factor = layout.crop_factor(level)
        self.convolution_crop = tuple(convolution_crop(layout.kernels_up[level], axis) for axis in range(layout.dims))
        self.upsampled_first = model.upsampled_first
        self.rectified = model.transposed_relu and not model.constant_upsample
        self.up: nn.Module
        if model.constant_upsample:
            mode = "nearest" if model.upsample_mode == "nearest" else {2: "bilinear", 3: "trilinear"}[layout.dims]
            self.channels = below
            self.up = nn.Upsample(scale_factor=tuple(float(number) for number in factor), mode=mode)
        else:
            self.channels = below if model.transposed_fmaps == "lower" else skipped
            self.up = TRANSPOSED_CONVOLUTION[layout.dims](below, self.channels, kernel_size=factor, stride=factor)

    def forward(self, skipped: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        """Join ``skipped`` (b, c, ...) and ``below`` (b, c', ...) to (b, c + channels, ...)."""
        upsampled = self.up(below)
        if self.rectified:
            upsampled = upsampled.relu_()
        size = [
            cropped_size(size, crop, factor)
            for size, crop, factor in zip(upsampled.shape[2:], self.convolution_crop, self.crop_factor, strict=True)
        ]
        maps = [centre_crop(skipped, size), centre_crop(upsampled, size)]
        return torch.cat(maps[::-1] if self.upsampled_first else maps, dim=1)


class UnetBody(nn.Module):
    """Encoder and decoders, without the last convolution.

    Args:
        model: Numbers of feature maps and other options.
        layout: Factors and kernels.
        in_channels: Channels of the input.
        decoders: Number of decoders.

    Attributes:
        out_channels: Channels of the output of each decoder.
    """

    def __init__(self, model: UnetOptions, layout: UnetLayout, in_channels: int, decoders: int = 1) -> None:
        super().__init__()
        fmaps = [model.num_fmaps * model.fmap_inc_factor**level for level in range(layout.levels + 1)]
        decoded = [model.num_fmaps_last or fmaps[0], *fmaps[1:]]
        self.out_channels = decoded[0]
        levels = range(layout.levels)
        options: dict[str, Any] = {
            "padded": layout.padded,
            "normalized": model.normalization == "batch",
            "residual": model.residual,
        }
        # The order of these attributes is the order of the parameters, which the optimizer's state relies on.
        self.l_conv = nn.ModuleList(
            ConvPass(before, after, kernels, halved=model.halve_first, **options)
            for before, after, kernels in zip([in_channels, *fmaps], fmaps, layout.kernels_down, strict=False)
        )
        self.l_down = nn.ModuleList(MAX_POOL[layout.dims](layout.factors[level]) for level in levels)
        # A list of decoders: that is where the 0 in the names of the parameters of a single one comes from.
        self.r_up = nn.ModuleList(
            nn.ModuleList(UpsampleAndJoin(model, layout, level, fmaps[level + 1], fmaps[level]) for level in levels)
            for _ in range(decoders)
        )
        self.r_conv = nn.ModuleList(
            nn.ModuleList(
                ConvPass(fmaps[level] + join.channels, decoded[level], layout.kernels_up[level], **options)
                for level, join in enumerate(joins.children())
            )
            for joins in self.r_up
        )
        self.dropout = nn.Dropout(model.bottleneck_dropout) if model.bottleneck_dropout else nn.Identity()

    def forward(self, maps: torch.Tensor) -> list[torch.Tensor]:
        """Map ``(b, in_channels, ...)`` to ``(b, out_channels, ...)`` of each decoder."""
        skipped = []
        for convolutions, pool in zip(self.l_conv[:-1], self.l_down, strict=True):
            maps = convolutions(maps)
            skipped.append(maps)
            maps = pool(maps)
        skipped.append(self.dropout(self.l_conv[-1](maps)))
        del maps
        decoded: list[torch.Tensor] = []
        for up, convolutions in zip(self.r_up, self.r_conv, strict=True):
            joins, passes = list(up.children()), list(convolutions.children())
            # Maps are dropped as soon as the last decoder has used them.
            waiting = skipped if len(decoded) == len(self.r_up) - 1 else list(skipped)
            while joins:
                below = waiting.pop()
                waiting.append(passes.pop()(joins.pop()(waiting.pop(), below)))
                del below
            decoded.append(waiting.pop())
        return decoded


class Unet(nn.Module):
    """The U-Net with a last convolution that outputs the logits.

    Args:
        model: See ``incasem_like.config.UnetModel``, where its options are described.

    Raises:
        ConfigError: A number of feature maps below 1, decoders that do not give the output's channels, or see
            ``UnetLayout.from_config``.
    """

    def __init__(self, model: UnetOptions) -> None:
        super().__init__()
        for key in ("in_channels", "num_fmaps", "num_fmaps_out", "fmap_inc_factor"):
            if getattr(model, key) < 1:
                raise ConfigError(f"model.{key} is {getattr(model, key)}: give a whole number of at least 1.")
        heads = model.decoder_channels or (model.num_fmaps_out,)
        if sum(heads) != model.num_fmaps_out:
            raise ConfigError(
                f"model.decoder_channels {list(heads)} are {sum(heads)} in all, but the network needs "
                f"{model.num_fmaps_out} output channels: give numbers with that sum, or null for one decoder."
            )
        layout = UnetLayout.from_config(model)
        self.geometry = layout.geometry()
        # What StreamedUnet computes.
        self.streams = (
            layout.dims == 3
            and len(heads) == 1
            and not (layout.padded or layout.interpolates or model.transposed_relu)
            and model.residual == model.normalization == "none"
        )
        self.unet = UnetBody(model, layout, model.in_channels * model.adjacent_sections, len(heads))
        residual = "linear" if model.residual == "linear" else "none"
        finals = [
            ConvPass(
                self.unet.out_channels,
                channels,
                [layout.final_kernel],
                rectified=False,
                padded=layout.padded,
                residual=residual,
            )
            for channels in heads
        ]
        if len(finals) == 1:
            self.final_conv_pass = finals[0]
        else:
            self.final_conv_passes = nn.ModuleList(finals)

    @classmethod
    def from_config(cls, model: UnetModel) -> Unet:
        """Build it from the ``model`` part of a configuration."""
        return cls(model)

    @staticmethod
    def geometry_of(model: UnetModel) -> NetworkGeometry:
        """Return the input and output sizes, from the configuration alone."""
        return UnetLayout.from_config(model).geometry()

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Map ``(b, in_channels * adjacent_sections, ...)`` to logits ``(b, num_fmaps_out, ...)``.

        Raises:
            ConfigError: The network does not accept that size; the nearest valid ones are named.
        """
        self.geometry.output_size(volume.shape[2:])
        decoded = self.unet(volume)
        finals = self.final_conv_passes if len(decoded) > 1 else [self.final_conv_pass]
        logits = [final(decoded.pop(0)) for final in finals]
        return logits[0] if len(logits) == 1 else torch.cat(logits, dim=1)


def centre_crop(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return the central crop of that spatial size of ``(b, c, ...)``; if odd, one more voxel is cropped at the end."""
    for axis, wanted in enumerate(size, start=2):
        maps = maps.narrow(axis, (maps.shape[axis] - wanted) // 2, wanted)
    return maps


def _convolution(in_channels: int, out_channels: int, kernel: Kernel, padded: bool) -> nn.Module:
    padding = tuple(edge // 2 if padded else 0 for edge in kernel)
    return CONVOLUTION[len(kernel)](in_channels, out_channels, kernel, padding=padding)


def _activation(channels: int, dims: int, rectified: bool, normalized: bool) -> list[nn.Module]:
    # In place: the convolution's own output is not needed again, not even in the backward pass.
    activation: nn.Module = nn.ReLU(inplace=True) if rectified else nn.Identity()
    return [activation, BATCH_NORM[dims](channels)] if normalized else [activation]
