"""OneConv3d: a single 3x3x3 convolution, for trying out a pipeline in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from incasem_like.networks.geometry import NetworkGeometry

if TYPE_CHECKING:
    from incasem_like.config.network_sections import OneConv3dModel

GEOMETRY = NetworkGeometry((1, 1, 1), stride=(1, 1, 1), lost=(0, 0, 0), border=(1, 1, 1), field_of_view=(3, 3, 3))


class OneConv3d(nn.Module):
    """One convolution padded with a voxel of zeros, so that the output is as large as the input.

    Args:
        in_channels: Channels of the input.
        num_fmaps_out: Channels of the output, one logit per class.
    """

    def __init__(self, in_channels: int, num_fmaps_out: int) -> None:
        super().__init__()
        self.geometry = GEOMETRY
        self.layer = nn.Conv3d(in_channels, num_fmaps_out, kernel_size=3, padding=1)

    @classmethod
    def from_config(cls, model: OneConv3dModel) -> OneConv3d:
        """Build it from ``model.in_channels`` and ``model.num_fmaps_out``; the other keys have no effect."""
        return cls(model.in_channels, model.num_fmaps_out)

    @staticmethod
    def geometry_of(model: OneConv3dModel) -> NetworkGeometry:
        """Return the geometry: any size is valid; the outermost output voxel of each side depends on padding."""
        return GEOMETRY

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Map ``(b, in_channels, z, y, x)`` to logits ``(b, num_fmaps_out, z, y, x)``."""
        logits: torch.Tensor = self.layer(volume)
        return logits
