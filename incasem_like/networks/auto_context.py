"""AutoContext: a U-Net that sees the output of a trained, frozen one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from incasem_like.networks.checkpoints import load_checkpoint
from incasem_like.networks.unet import Unet
from incasem_like.networks.unet_geometry import UnetLayout

if TYPE_CHECKING:
    from incasem_like.config.network_sections import AutoContextModel, UnetOptions
    from incasem_like.networks.geometry import NetworkGeometry


class AutoContext(nn.Module):
    """Two U-Nets in a row: the first, frozen, describes raw; the second receives its output, and raw unless without.

    With descriptors these are AcLSD and AcrLSD of Sheridan et al.: Local shape descriptors for neuron segmentation,
    Nature Methods 2023. As there, the first network's output is rounded to 8 bits, and its crop that the second takes
    is centred.

    Args:
        model: See ``incasem_like.config.network_sections.AutoContextModel``.

    Raises:
        ConfigError: The networks differ in their number of axes; or see ``Unet``.
    """

    def __init__(self, model: AutoContextModel) -> None:
        super().__init__()
        self.geometry = self.geometry_of(model)
        self.with_raw = model.with_raw
        self.first = Unet(_first(model)).requires_grad_(False).eval()
        self.second = Unet(_second(model))

    @classmethod
    def from_config(cls, model: AutoContextModel) -> AutoContext:
        """Build it from the ``model`` part of a configuration; ``read_first`` reads the first network's weights."""
        return cls(model)

    @staticmethod
    def geometry_of(model: AutoContextModel) -> NetworkGeometry:
        """Return the sizes of both networks in a row."""
        first, second = (UnetLayout.from_config(unet).geometry() for unet in (_first(model), _second(model)))
        return first.followed_by(second)

    def read_first(self, checkpoint: Path) -> None:
        """Load the first network's weights.

        Raises:
            CheckpointError: As ``load_checkpoint``.
        """
        load_checkpoint(checkpoint, self.first)

    def train(self, mode: bool = True) -> AutoContext:
        """Set the mode of the second network alone."""
        super().train(mode)
        self.first.eval()
        return self

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Map ``(b, in_channels, ...)`` to logits ``(b, num_fmaps_out, ...)``.

        Raises:
            ConfigError: The network does not accept that size; the nearest valid ones are named.
        """
        self.geometry.output_size(volume.shape[2:])
        with torch.no_grad():
            described = torch.round(torch.sigmoid(self.first(volume)) * 255) / 255
        size, _ = self.second.geometry.nearest_valid(described.shape[2:])
        assert size is not None
        contexts = (self.geometry.context, self.first.geometry.context, self.second.geometry.context)
        for axis, (whole, before, after) in enumerate(zip(*contexts, strict=True)):
            described = described.narrow(axis + 2, whole - before - after, size[axis])
            volume = volume.narrow(axis + 2, whole - after, size[axis])
        result: torch.Tensor = self.second(torch.cat([volume, described], dim=1) if self.with_raw else described)
        return result


def _first(model: AutoContextModel) -> UnetOptions:
    seen = {"in_channels": model.in_channels, "adjacent_sections": model.adjacent_sections}
    return model.first.model_copy(update=seen)


def _second(model: AutoContextModel) -> UnetOptions:
    raw = model.in_channels * model.adjacent_sections if model.with_raw else 0
    return model.model_copy(update={"in_channels": model.first.num_fmaps_out + raw, "adjacent_sections": 1})
