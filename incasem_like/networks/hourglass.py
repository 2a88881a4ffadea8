"""StackedHourglass: U-Nets in a row, each correcting the result of the one before."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import nn

from incasem_like.config.network_sections import UnetModel
from incasem_like.networks.geometry import NetworkGeometry
from incasem_like.networks.unet import CONVOLUTION, ConvPass, UnetBody
from incasem_like.networks.unet_geometry import UnetLayout

if TYPE_CHECKING:
    from incasem_like.config.network_sections import StackedHourglassModel


class StackedHourglass(nn.Module):
    """U-Nets in a row; each receives the input, features and logits of the one before.

    With features f and logits s of a U-Net on x, the next U-Net's input is x + f + s, both after 1 x 1 convolutions.
    In training the logits of all U-Nets are returned, so that the loss supervises each of them. The U-Nets are padded,
    have batch normalisation after each ReLU, and transposed convolutions.

    Newell, Yang and Deng: Stacked hourglass networks for human pose estimation, 2016, arXiv:1603.06937.

    Args:
        model: See ``incasem_like.config.network_sections.StackedHourglassModel``.

    Raises:
        ConfigError: See ``UnetLayout.from_config``.
    """

    def __init__(self, model: StackedHourglassModel) -> None:
        super().__init__()
        unet = unet_of(model)
        layout = UnetLayout.from_config(unet)
        self.geometry = self.geometry_of(model)
        kernel = (1,) * layout.dims
        channels = model.num_fmaps

        def block() -> ConvPass:
            return ConvPass(channels, channels, [kernel], normalized=True)

        stacks = range(model.num_stacks)
        self.unets = nn.ModuleList(UnetBody(unet, layout, channels if stack else model.in_channels) for stack in stacks)
        self.features = nn.ModuleList(block() for _ in stacks)
        self.scores = nn.ModuleList(CONVOLUTION[layout.dims](channels, model.num_fmaps_out, kernel) for _ in stacks)
        between = stacks[1:]
        self.features_back = nn.ModuleList(block() for _ in between)
        self.scores_back = nn.ModuleList(
            CONVOLUTION[layout.dims](model.num_fmaps_out, channels, kernel) for _ in between
        )

    @classmethod
    def from_config(cls, model: StackedHourglassModel) -> StackedHourglass:
        """Build it from the ``model`` part of a configuration."""
        return cls(model)

    @staticmethod
    def geometry_of(model: StackedHourglassModel) -> NetworkGeometry:
        """Return the sizes; padding reaches as far into the output as all U-Nets together see."""
        geometry = reduce(
            NetworkGeometry.followed_by, [UnetLayout.from_config(unet_of(model)).geometry()] * model.num_stacks
        )
        return geometry if model.halo is None else replace(geometry, border=model.halo)

    def forward(self, volume: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Map ``(b, in_channels, ...)`` to logits ``(b, num_fmaps_out, ...)``; in training, those of every U-Net.

        Raises:
            ConfigError: The network does not accept that size; the nearest valid ones are named.
        """
        self.geometry.output_size(volume.shape[2:])
        maps, results = volume, []
        for stack, unet in enumerate(self.unets):
            (decoded,) = unet(maps)
            features = self.features[stack](decoded)
            results.append(self.scores[stack](features))
            if stack < len(self.unets) - 1:
                # A volume has fewer channels than features: its mean is added to each of them.
                before = maps if stack else volume.mean(dim=1, keepdim=True)
                maps = before + self.features_back[stack](features) + self.scores_back[stack](results[-1])
        return results if self.training else results[-1]


def unet_of(model: StackedHourglassModel) -> UnetModel:
    """Return the options of one of the U-Nets."""
    levels = ("num_fmaps", "fmap_inc_factor", "downsample_factors", "kernel_size_down", "kernel_size_up", "residual")
    return UnetModel().model_copy(
        update={key: getattr(model, key) for key in levels}
        | {
            "padding": "same",
            "normalization": "batch",
            "constant_upsample": False,
            "transposed_fmaps": "upper",
            "upsampled_first": True,
            "final_kernel_size": 1,
        }
    )
