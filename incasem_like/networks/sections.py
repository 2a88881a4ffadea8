"""Sections: a 2-D network applied to volumes, section by section."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from incasem_like.networks.geometry import NetworkGeometry


class Sections(nn.Module):
    """Applies a 2-D network to every section of a volume independently.

    Args:
        network: Maps (b, channels, y, x) to (b, classes, y', x').
        geometry: Geometry of that network.
    """

    def __init__(self, network: nn.Module, geometry: NetworkGeometry) -> None:
        super().__init__()
        self.network, self.geometry = network, geometry_in_volumes(geometry)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Map (b, channels, z, y, x) to (b, classes, z, y', x'), all sections in one batch."""
        batch, channels, depth, *plane = volume.shape
        # With channels last the sections are contiguous in memory, so that the folding needs no copy.
        sections = volume.transpose(1, 2).reshape(batch * depth, channels, *plane)
        logits: torch.Tensor = self.network(sections)
        return logits.reshape(batch, depth, *logits.shape[1:]).transpose(1, 2)


def geometry_in_volumes(geometry: NetworkGeometry) -> NetworkGeometry:
    """Return a geometry z, y, x: that of a 2-D network accepts any number of sections; 3-D ones are unchanged."""
    if geometry.dims == 3:
        return geometry
    return replace(
        geometry,
        smallest_input=(1, *geometry.smallest_input),
        stride=(1, *geometry.stride),
        lost=(0, *geometry.lost),
        border=(0, *geometry.border),
    )


def on_volumes(network: nn.Module, geometry: NetworkGeometry) -> nn.Module:
    """Return a network for (b, channels, z, y, x): a 2-D network is wrapped, others are returned unchanged."""
    return network if geometry.dims == 3 else Sections(network, geometry)
