"""Sections: a 2-D network applied to volumes, section by section."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from incasem_like.networks.geometry import NetworkGeometry
from incasem_like.networks.slabs import Slabs, behind_one_another


class Sections(nn.Module):
    """Applies a 2-D network to every section of a volume, with the adjacent sections that it takes as channels.

    Args:
        network: Maps (b, channels * sections, y, x) to (b, classes, y', x'); the sections of a channel are consecutive.
        geometry: Geometry of that network.
    """

    def __init__(self, network: nn.Module, geometry: NetworkGeometry) -> None:
        super().__init__()
        self.network, self.geometry, self._adjacent = network, geometry_in_volumes(geometry), geometry.sections

    def forward(self, volume: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Map (b, channels, z, y, x) to (b, classes, z', y', x'), all sections in one batch; a list where it does."""
        batch, channels, _, *plane = volume.shape
        # With channels last the sections are contiguous in memory, so that folding one by one needs no copy.
        windows = volume.unfold(2, self._adjacent, 1).permute(0, 2, 1, 5, 3, 4)
        result = self.network(windows.reshape(-1, channels * self._adjacent, *plane))
        unfolded = [
            logits.reshape(batch, -1, *logits.shape[1:]).transpose(1, 2)
            for logits in (result if isinstance(result, list | tuple) else [result])
        ]
        return unfolded if isinstance(result, list | tuple) else unfolded[0]

    def slabs(self, maps: Slabs) -> Iterator[torch.Tensor]:
        """Apply the network to a volume given in slabs along z; the last sections of each are kept for the next one."""
        kept: list[torch.Tensor] = []
        for slab in maps:
            seen = behind_one_another([*kept, slab])
            reach = self._adjacent - 1
            kept = [seen[:, :, max(0, seen.shape[2] - reach) :].clone()] if reach else []
            if seen.shape[2] > reach:
                yield self(seen)


def geometry_in_volumes(geometry: NetworkGeometry) -> NetworkGeometry:
    """Return a geometry z, y, x: a 2-D network takes any number of sections, 3-D ones are unchanged."""
    if geometry.dims == 3:
        return geometry
    field = geometry.field_of_view
    return replace(
        geometry,
        smallest_input=(geometry.sections, *geometry.smallest_input),
        stride=(1, *geometry.stride),
        lost=(geometry.sections - 1, *geometry.lost),
        border=(0, *geometry.border),
        field_of_view=None if field is None else (geometry.sections, *field),
    )


def on_volumes(network: nn.Module, geometry: NetworkGeometry) -> nn.Module:
    """Return a network for (b, channels, z, y, x): a 2-D network is wrapped, others are returned unchanged."""
    return network if geometry.dims == 3 else Sections(network, geometry)
