"""Losses that ``loss.type`` can name. A new one is one class and one line in ``LOSSES``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from incasem_like.errors import ConfigError
from incasem_like.terminal import nearest

if TYPE_CHECKING:
    from incasem_like.config import LossConfig


class BalancedCrossEntropy(nn.Module):
    """Cross-entropy weighted by voxel, normalised by the sum of those weights.

    With l = CE(logits, label) * weight[label] for each voxel, the loss is sum(l * scale) / sum(scale). The scale is 0
    where the mask is 0 and otherwise balances the classes within a block (``incasem_like.targets.balance_weights``).

    Args:
        class_weights: A fixed weight per class.
    """

    class_weights: torch.Tensor

    def __init__(self, class_weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("class_weights", torch.tensor(class_weights, dtype=torch.float32), persistent=False)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Compute the loss of a batch.

        Args:
            logits: ``(b, classes, z, y, x)``, any floating type; the sum is computed in float32.
            labels: ``(b, z, y, x)`` int64 class ids.
            scale: ``(b, z, y, x)`` weights, mask included.

        Returns:
            A scalar; 0, still attached to the graph, where the whole batch is masked.

        Raises:
            ConfigError: ``loss.weight`` and the network's output differ in their number of classes.
        """
        if logits.shape[1] != len(self.class_weights):
            raise ConfigError(
                f"loss.weight has {len(self.class_weights)} numbers, but the network gives {logits.shape[1]} classes: "
                "give one weight per class."
            )
        weights = self.class_weights.to(logits.device)
        voxelwise = functional.cross_entropy(logits.float(), labels, weight=weights, reduction="none")
        total = scale.float().sum()
        return (voxelwise * scale).sum() / torch.where(total > 0, total, torch.ones_like(total))


LOSSES: Mapping[str, Callable[[LossConfig], nn.Module]] = {
    "cross_entropy_scaling": lambda loss: BalancedCrossEntropy(loss.weight),
}


def build_loss(loss: LossConfig) -> nn.Module:
    """Build the loss that ``loss.type`` names: a callable ``(logits, labels, scale)`` that returns a scalar.

    Raises:
        ConfigError: Unknown ``loss.type``.
    """
    if loss.type not in LOSSES:
        raise ConfigError(
            f"loss.type is '{loss.type}', but the known ones are {', '.join(LOSSES)}{nearest(loss.type, list(LOSSES))}"
        )
    return LOSSES[loss.type](loss)
