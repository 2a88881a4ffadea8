"""3-D convolutions whose kernel is one section deep, computed section by section where that is faster.

CPU libraries run a 1 x k x k kernel over a volume several times slower than the same kernel over a stack of images
(``benchmarks/bench_section_convolution.py``). Folding the sections into the batch is the same arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class SectionConv3d(nn.Conv3d):
    """A ``Conv3d`` with a kernel of depth 1; parameters, names and results are those of ``Conv3d``."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map ``(b, in, z, y, x)`` to ``(b, out, z, y', x')``."""
        if maps.device.type != "cpu":
            return super().forward(maps)
        batch, channels, depth, *plane = maps.shape
        # With channels last the sections are contiguous in memory, so that the folding needs no copy.
        maps = maps.contiguous(memory_format=torch.channels_last_3d)
        sections = maps.permute(0, 2, 1, 3, 4).reshape(batch * depth, channels, *plane)
        weight = self.weight.squeeze(2).contiguous(memory_format=torch.channels_last)
        result = functional.conv2d(sections, weight, self.bias, padding=self.padding[1:])
        return result.reshape(batch, depth, *result.shape[1:]).permute(0, 2, 1, 3, 4)


def convolution_3d(in_channels: int, out_channels: int, kernel: tuple[int, int, int], **options: Any) -> nn.Conv3d:
    """Return the convolution for a kernel z, y, x; ``options`` are ``padding`` and ``bias`` of ``Conv3d``."""
    return (SectionConv3d if kernel[0] == 1 else nn.Conv3d)(in_channels, out_channels, kernel, **options)
