"""The meaning of a network's output channels: classes that exclude each other, or values that are independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from incasem_like.config import ModelConfig

SOFTMAX, SIGMOID = "softmax", "sigmoid"


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that belong together.

    Attributes:
        name: Name of the dataset that they are written to.
        channels: Number of channels.
        activation: ``softmax``: probabilities of classes that exclude each other; ``sigmoid``: each channel by itself,
            such as affinities and descriptors.
    """

    name: str
    channels: int
    activation: str


def channel_groups(model: ModelConfig) -> tuple[ChannelGroup, ...]:
    """Return the groups that a training's ``model.outputs`` describes; none where all channels are classes."""
    return tuple(ChannelGroup(group.name, group.channels, group.activation) for group in model.outputs or ())


def activated(logits: torch.Tensor, groups: Sequence[ChannelGroup] = ()) -> torch.Tensor:
    """Turn logits (batch, channels, z, y, x) into values in [0, 1], group by group; without groups all are classes."""
    if not groups:
        return torch.softmax(logits, dim=1)
    parts = torch.split(logits, [group.channels for group in groups], dim=1)
    values = [
        torch.softmax(part, dim=1) if group.activation == SOFTMAX else torch.sigmoid(part)
        for group, part in zip(groups, parts, strict=True)
    ]
    return values[0] if len(values) == 1 else torch.cat(values, dim=1)
