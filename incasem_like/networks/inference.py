"""The fastest way to run a network for prediction only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from incasem_like.networks.sections import Sections
from incasem_like.networks.slabs import Size, Slabs, behind_one_another
from incasem_like.networks.unet import Unet
from incasem_like.networks.unet_streaming import VOXELS_AT_ONCE, StreamedUnet

# Function from slabs along z of raw values in [0, 1], and the total size z, y, x, to slabs of logits.
Inference = Callable[[Slabs, Size], Slabs]


def streams(network: nn.Module, device: torch.device) -> bool:
    """Return whether a network is run slab by slab: a plain 3-D U-Net on a CPU, unless compiled; a 2-D network."""
    if isinstance(network, Sections):
        return True
    return isinstance(network, Unet) and network.streams and device.type == "cpu"


def inference(network: nn.Module, device: torch.device) -> Inference:
    """Return a function from slabs of raw values ``(1, channels, planes, y, x)`` in [0, 1] to slabs of logits.

    The network receives them scaled to [-1, 1]. Its current weights are used.
    """
    if isinstance(network, Unet) and streams(network, device):
        streamed = StreamedUnet(network)
        return lambda raw, size: streamed.slabs(map(_in_range, streamed.thin(raw)), size)

    if isinstance(network, Sections):
        return lambda raw, size: network.slabs(map(_in_range, _few_sections(raw)))

    def whole(raw: Slabs, size: Size) -> Slabs:
        yield network(_in_range(behind_one_another(list(raw))))

    return whole


def _few_sections(maps: Slabs) -> Slabs:
    """Split slabs into those whose sections are computed together."""
    for slab in maps:
        yield from torch.split(slab, max(1, VOXELS_AT_ONCE // (slab.shape[3] * slab.shape[4])), dim=2)


def _in_range(raw: torch.Tensor) -> torch.Tensor:
    return raw * 2 - 1
