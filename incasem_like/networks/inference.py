"""The quickest way to run a network that only predicts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from incasem_like.networks.slabs import Slabs
from incasem_like.networks.unet import Unet
from incasem_like.networks.unet_streaming import StreamedUnet

Inference = Callable[[torch.Tensor], Slabs]


def streams(network: nn.Module, device: torch.device) -> bool:
    """Say whether a network is run slab by slab: a 3-D U-Net on a CPU, unless it is compiled."""
    return isinstance(network, Unet) and network.geometry.dims == 3 and device.type == "cpu"


def inference(network: nn.Module, device: torch.device) -> Inference:
    """Give a function from ``(1, channels, z, y, x)`` to the logits of ``network`` in slabs along z.

    It uses the weights as they are now.
    """
    if isinstance(network, Unet) and streams(network, device):
        return StreamedUnet(network)
    return lambda volume: iter([network(volume)])
