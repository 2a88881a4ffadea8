"""What a network's output channels mean: classes that exclude each other, or values that stand each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from incasem_like.config import ModelConfig
from incasem_like.config.prediction_config import PredictionSection
from incasem_like.errors import ConfigError
from incasem_like.prediction.computing.variants import NONE

SOFTMAX, SIGMOID = "softmax", "sigmoid"


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that belong together.

    Attributes:
        name: Of the dataset that they are written to.
        channels: How many.
        activation: ``softmax``: probabilities of classes that exclude each other; ``sigmoid``: each channel by itself,
            such as affinities and descriptors.
    """

    name: str
    channels: int
    activation: str


def channel_groups(model: ModelConfig) -> tuple[ChannelGroup, ...]:
    """List the groups that a training's ``model.outputs`` describes; none where all channels are classes."""
    return tuple(ChannelGroup(group.name, group.channels, group.activation) for group in model.outputs or ())


def check_channels(section: PredictionSection, model: ModelConfig) -> None:
    """Make sure that what is for classes is not asked of other channels.

    Raises:
        ConfigError: Metrics of channels that are no classes, or mirroring of such as may mean a direction.
    """
    groups = channel_groups(model)
    names = ", ".join(group.name for group in groups)
    if section.log_metrics and groups:
        raise ConfigError(
            f"prediction.log_metrics compares classes with labels, but the network gives {names}: set it to false."
        )
    if section.test_time_augmentation != NONE and any(group.activation == SIGMOID for group in groups):
        raise ConfigError(
            f"prediction.test_time_augmentation={section.test_time_augmentation} averages mirrored positions, but the "
            f"network gives {names}, which may mean a direction, as affinities do: set it to none."
        )


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
