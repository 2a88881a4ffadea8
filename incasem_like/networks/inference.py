"""The fastest way to run a network for prediction only: the U-Net slab by slab along z on a CPU, others as they are.

A forward pass keeps every feature map of the whole tile. In ``StreamedUnet`` planes stream through the layers: a
convolution keeps the last planes it has received, and skipped maps are buffered for those from below. Memory depends on
the tile's cross-section and hardly on its depth, so that tiles can be larger, and larger tiles compute less context
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from incasem_like.networks.sections import Sections
from incasem_like.networks.slabs import (
    Size,
    Slabs,
    Waiting,
    applied,
    behind_one_another,
    convolved,
    frozen_convolution,
    planes,
    pooled,
)
from incasem_like.networks.unet import ConvPass, Unet, UpsampleAndJoin
from incasem_like.networks.unet_geometry import cropped_size
from incasem_like.networks.upsampled_convolution import UpsampledConvolution

# Function from slabs along z of raw values in [0, 1], and the total size z, y, x, to slabs of logits.
Inference = Callable[[Slabs, Size], Slabs]
# Smaller slabs cost time (overhead), larger ones memory.
VOXELS_AT_ONCE = 2**20


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


class StreamedUnet:
    """Same results as a 3-D ``Unet``, up to rounding, with less memory and fewer operations; for inference only.

    Args:
        network: A 3-D U-Net whose attribute ``streams`` is true; its current weights are used.
        voxels_at_once: Approximate number of input voxels that are computed together.
    """

    def __init__(self, network: Unet, voxels_at_once: int = VOXELS_AT_ONCE) -> None:
        self.geometry = network.geometry
        self._voxels_at_once = voxels_at_once
        body = network.unet
        decoder = [_layers(module) for module in body.r_conv[0].children()]
        self._encoder = [_layers(module) for module in body.l_conv.children()]
        self._pools = list(body.l_down.children())
        self._joins = [_Join(up, layers[0]) for up, layers in zip(body.r_up[0].children(), decoder, strict=True)]
        self._decoder = [layers[1:] for layers in decoder]
        self._last = _layers(network.final_conv_pass)[0]

    def __call__(self, volume: torch.Tensor) -> Slabs:
        """Map ``(1, in_channels, z, y, x)`` to the logits ``(1, num_fmaps_out, z', y', x')`` in slabs along z.

        Raises:
            ConfigError: The network cannot take that size.
        """
        return self.slabs(self.thin(iter([volume])), tuple(volume.shape[2:]))

    def slabs(self, maps: Slabs, size: Size) -> Slabs:
        """Map a volume of that size z, y, x, given in slabs, to logits in slabs.

        Raises:
            ConfigError: The network cannot take that size.
        """
        depth = self.geometry.output_size(size)[0]
        logits, _ = self._level(0, maps, size)
        return planes(convolved(logits, self._last), 0, depth)

    def thin(self, maps: Slabs) -> Slabs:
        """Split slabs into those that are computed together."""
        for slab in maps:
            yield from torch.split(slab, self.planes_at_once(slab.shape[3:]), dim=2)

    def planes_at_once(self, cross_section: Sequence[int]) -> int:
        """Return how many planes of that many voxels y, x are computed together: a multiple of the stride."""
        stride = self.geometry.stride[0]
        return max(1, self._voxels_at_once // (stride * cross_section[0] * cross_section[1])) * stride

    def _level(self, level: int, maps: Slabs, size: Size) -> tuple[Slabs, Size]:
        """Apply a level and those below it to ``maps``, which come in slabs of total size ``size``."""
        maps, size = _rectified(maps, size, self._encoder[level])
        if level == len(self._pools):
            return maps, size
        pool, waiting = self._pools[level], Waiting()
        assert isinstance(pool, nn.MaxPool3d)
        factor: Size = tuple(pool.kernel_size)  # type: ignore[arg-type]
        smaller = tuple(edge // step for edge, step in zip(size, factor, strict=True))
        below, size_below = self._level(level + 1, pooled(waiting.noted(maps), pool, factor[0]), smaller)
        maps, size = self._joins[level].joined(waiting, size, below, size_below)
        return _rectified(maps, size, self._decoder[level])


@dataclass(frozen=True)
class _Crop:
    """Crop of maps along each axis before they are joined."""

    begin: Size
    size: Size

    @classmethod
    def centred(cls, found: Size, wanted: Size) -> _Crop:
        """Crop as ``unet.centre_crop`` does."""
        return cls(tuple((edge - kept) // 2 for edge, kept in zip(found, wanted, strict=True)), wanted)


class _Join:
    """Up-sampling, joining and the next convolution, as the sum of one over the skipped and one over the other maps."""

    def __init__(self, up: nn.Module, layer: nn.Conv3d) -> None:
        assert isinstance(up, UpsampleAndJoin)
        self._convolution_crop, self._crop_factor = up.convolution_crop, up.crop_factor
        self._kernel: Size = tuple(layer.kernel_size)
        skipped, below = slice(None, -up.channels), slice(-up.channels, None)
        if up.upsampled_first:
            skipped, below = slice(up.channels, None), slice(None, up.channels)
        self._skipped = frozen_convolution(layer.weight[:, skipped], layer.bias)
        self._upsampled = UpsampledConvolution(up.up, layer.weight[:, below])

    def joined(self, waiting: Waiting, size: Size, below: Slabs, size_below: Size) -> tuple[Slabs, Size]:
        """Join buffered maps of ``size`` with those from below, then apply convolutions and ReLUs."""
        upsampled = tuple(edge * factor for edge, factor in zip(size_below, self._upsampled.factor, strict=True))
        wanted = tuple(map(cropped_size, upsampled, self._convolution_crop, self._crop_factor))
        waiting.crop(_Crop.centred(size, wanted).begin, wanted)
        sums = self._upsampled(below, size_below, _Crop.centred(upsampled, wanted).begin, wanted)
        return self._added(waiting, sums), tuple(
            edge - kernel + 1 for edge, kernel in zip(wanted, self._kernel, strict=True)
        )

    def _added(self, waiting: Waiting, sums: Slabs) -> Slabs:
        for other in sums:
            skipped = waiting.take(other.shape[2], self._kernel[0] - 1)
            results = [applied(self._skipped, skipped).add_(other).relu_()]
            del skipped, other
            yield results.pop()


def _layers(convolutions: Any) -> list[nn.Conv3d]:
    assert isinstance(convolutions, ConvPass)
    return [layer for layer in convolutions.conv_pass if isinstance(layer, nn.Conv3d)]


def _rectified(maps: Slabs, size: Size, layers: list[nn.Conv3d]) -> tuple[Slabs, Size]:
    for layer in layers:
        maps = (slab.relu_() for slab in convolved(maps, layer))
        size = tuple(edge - kernel + 1 for edge, kernel in zip(size, layer.kernel_size, strict=True))
    return maps, size


def _few_sections(maps: Slabs) -> Slabs:
    """Split slabs into those whose sections are computed together."""
    for slab in maps:
        yield from torch.split(slab, max(1, VOXELS_AT_ONCE // (slab.shape[3] * slab.shape[4])), dim=2)


def _in_range(raw: torch.Tensor) -> torch.Tensor:
    return raw * 2 - 1
