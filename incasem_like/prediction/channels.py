"""The meaning of a network's output channels: classes that exclude each other, or values that are independent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from incasem_like.config import ModelConfig
from incasem_like.config.target_sections import Activation
from incasem_like.targets import activate


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that belong together.

    Attributes:
        name: Name of the dataset that they are written to.
        channels: Number of channels.
        activation: ``softmax``: probabilities of classes that exclude each other; ``sigmoid``: each channel by itself,
            such as affinities and descriptors; ``none``: values as the network gives them.
        attributes: Attributes of that dataset, such as the offsets of affinities.
    """

    name: str
    channels: int
    activation: Activation
    attributes: Mapping[str, Any] = field(default_factory=dict)


def channel_groups(model: ModelConfig) -> tuple[ChannelGroup, ...]:
    """Return the groups that a training's ``model.outputs`` describes; none where all channels are classes."""
    return tuple(
        ChannelGroup(group.name, group.channels, group.activation, group.attributes) for group in model.outputs or ()
    )


def activated(logits: torch.Tensor, groups: Sequence[ChannelGroup] = ()) -> torch.Tensor:
    """Turn logits (batch, channels, z, y, x) into values, group by group; without groups all channels are classes."""
    if not groups:
        return activate(logits, "softmax")
    parts = torch.split(logits, [group.channels for group in groups], dim=1)
    values = [activate(part, group.activation) for group, part in zip(groups, parts, strict=True)]
    return values[0] if len(values) == 1 else torch.cat(values, dim=1)
