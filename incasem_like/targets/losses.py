"""Losses that a target can name. A new one is one class and one line in ``LOSSES`` of ``config/target_sections.py``.

A loss compares logits with a target. The activation is the target's, so that a network is trained on the values that it
later predicts. Sums are computed in float32. Voxels of weight 0 never count.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BeforeValidator, Field, SerializeAsAny

from incasem_like.config.kinds import Fraction, NotNegative, Positive, PositiveNumber, contradiction
from incasem_like.config.target_sections import Activation, Kind, LossSection, TargetSection, parse_loss

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-6
TINY = 1e-6
FEWEST, MOST = 0.01, 0.99  # bounds of the share of positive voxels where classes are balanced
_total: ContextVar[Callable[[Tensor], Tensor]] = ContextVar("how values are summed", default=lambda values: values)


@contextlib.contextmanager
def summed_by(function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Compute losses of a batch that several processes share: ``function`` sums a value over them."""
    token = _total.set(function)
    try:
        yield
    finally:
        _total.reset(token)


def total(values: Tensor) -> Tensor:
    """Return the sum of values over the processes that share a batch; the values themselves if there is only one.

    Losses that divide by a sum use it for both, so that they are the same however a batch is divided. Gradients pass
    through; their average over the processes is that of the whole batch.
    """
    return _total.get()(values)


class Loss(LossSection):
    """A loss: a function of logits, target and weight."""

    @abstractmethod
    def __call__(self, logits: Tensor, target: Tensor, weight: Tensor, activation: Activation) -> Tensor:
        """Compute the loss of a batch.

        Args:
            logits: ``(b, c, z, y, x)``, any floating type.
            target: ``(b, z, y, x)`` class ids, or ``(b, c, z, y, x)`` values.
            weight: Weight of each voxel: of the target's shape, or ``(b, 1, z, y, x)`` for all channels.
            activation: The target's.

        Returns:
            A scalar; 0, still attached to the graph, where all weights are 0.
        """


def activate(logits: Tensor, activation: Activation) -> Tensor:
    """Return the values that logits ``(b, c, z, y, x)`` stand for."""
    if activation == "none":
        return logits
    return logits.softmax(dim=1) if activation == "softmax" else logits.sigmoid()


class ClassWeights(Loss):
    """A loss with a fixed weight for each class."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"classes"})
    weight: tuple[NotNegative, ...] | None = Field(
        None, description="Fixed weight of each class, background first; null = 1 for each."
    )

    def check(self, target: TargetSection) -> None:
        """Check that there is one weight for each class."""
        super().check(target)
        if self.weight is not None and len(self.weight) != target.channels:
            raise contradiction(
                f"loss.weight has {len(self.weight)} entries, but there are {target.channels} classes with background: "
                f"give one weight per class, such as loss.weight={[1.0] * target.channels}."
            )

    def voxelwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of each voxel times the weight of its class, ``(b, z, y, x)`` float32."""
        from torch.nn.functional import cross_entropy

        values = logits.float()
        weight = None if self.weight is None else values.new_tensor(self.weight)
        return cross_entropy(values, target.long(), weight=weight, reduction="none")


class BalancedCrossEntropy(ClassWeights):
    """Cross-entropy per voxel, divided by the sum of weights, as in incasem.

    With l = CE(logits, class) * weight[class] for each voxel and the target's weights w, which include mask and class
    balance, the loss is sum(l * w) / sum(w).
    """

    type: str = "cross_entropy_scaling"

    def __call__(self, logits: Tensor, target: Tensor, weight: Tensor, activation: Activation) -> Tensor:
        """Compute the loss; see `Loss`."""
        return mean(self.voxelwise(logits, target), weight)


class CrossEntropyDice(ClassWeights):
    """Weighted categorical cross-entropy plus soft dice, as in ExLLSM.

    (1 - d) * mean(CE * weight[class]) + d * (1 - mean over samples and classes of
    2 sum(p y) / (sum(p^2) + sum(y^2))), where d is `dice_weight`, p the probability and y 1 in voxels of the class.
    """

    type: str = "cross_entropy_dice"
    dice_weight: Fraction = Field(0.3, description="Share of the soft dice in the loss.")

    def __call__(self, logits: Tensor, target: Tensor, weight: Tensor, activation: Activation) -> Tensor:
        """Compute the loss; see `Loss`."""
        counted = (weight > 0).float()
        probabilities, classes = _channels(logits, target, activation)
        counted_channels = counted.unsqueeze(1)
        both = (probabilities * classes * counted_channels).flatten(2).sum(dim=2)
        each = ((probabilities**2 + classes**2) * counted_channels).flatten(2).sum(dim=2)
        dices = (2 * both + EPSILON) / (each + EPSILON)
        dice = 1 - total(dices.mean()) / total(dices.new_ones(()))
        return (1 - self.dice_weight) * mean(self.voxelwise(logits, target), counted) + self.dice_weight * dice


class BinaryCrossEntropy(Loss):
    """Binary cross-entropy of independent channels: sum(l * w) / sum(w)."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"binary"})
    type: str = "bce"

    def __call__(self, logits: Tensor, target: Tensor, weight: Tensor, activation: Activation) -> Tensor:
        """Compute the loss; see `Loss`."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        wanted = target.float()
        factor = self.factor_of_ones(wanted, weight)
        return mean(
            binary_cross_entropy_with_logits(logits.float(), wanted, pos_weight=factor, reduction="none"), weight
        )

    def factor_of_ones(self, wanted: Tensor, weight: Tensor) -> Tensor | None:
        """Return the factor of the weight of voxels of value 1, one or one for each channel; None for 1."""
        return None


class WeightedBinaryCrossEntropy(BinaryCrossEntropy):
    """Binary cross-entropy in which voxels of value 1 weigh more or less than those of value 0.

    sum(w * (a t (-log p) + (1 - t)(-log(1 - p)))) / sum(w). Without a fixed a, it is (1 - f) / f for each channel, with
    f the weighted share of ones in the batch, clipped to [0.01, 0.99], so that balanced weights stay balanced.
    """

    type: str = "weighted_bce"
    positive_weight: PositiveNumber | None = Field(
        None, description="Weight of voxels of value 1, relative to those of value 0; null = balanced in each batch."
    )

    def factor_of_ones(self, wanted: Tensor, weight: Tensor) -> Tensor:
        """Return the factor of the weight of voxels of value 1, one or one for each channel."""
        if self.positive_weight is not None:
            return wanted.new_tensor(self.positive_weight)
        counted = weight.float().expand_as(wanted)
        over = (0, *range(2, wanted.ndim))
        ones, known = (total(one.sum(dim=over, keepdim=True)) for one in (wanted * counted, counted))
        share = (ones / known.clamp_min(TINY)).clamp(FEWEST, MOST)
        return ((1 - share) / share)[0]


class Dice(Loss):
    """Soft dice over the whole batch: 1 - (2 tp + 1) / (2 tp + fn + fp + 1), the mean over channels.

    The sums are weighted. Of classes that exclude each other, the background does not count.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"classes", "binary"})
    type: str = "dice"

    def __call__(self, logits: Tensor, target: Tensor, weight: Tensor, activation: Activation) -> Tensor:
        """Compute the loss; see `Loss`."""
        values, wanted = _channels(logits, target, activation)
        if target.ndim < logits.ndim:
            values, wanted, weight = values[:, 1:], wanted[:, 1:], weight.unsqueeze(1)
        weights = self.voxel_weights(wanted, weight)
        over = (0, *range(2, values.ndim))
        sums = [(values * wanted * weights).sum(dim=over), ((values + wanted) * weights).sum(dim=over)]
        both, each = map(total, sums)
        loss: Tensor = (1 - (2 * both + 1) / (each + 1)).mean()
        return loss

    def voxel_weights(self, wanted: Tensor, weight: Tensor) -> Tensor:
        """Return the weight of each voxel of the channels ``wanted``."""
        return weight


class BoundaryWeightedDice(Dice):
    """Soft dice in which voxels just outside the objects weigh more, so that touching objects are kept apart.

    The weights of voxels that are 0, but 1 somewhere within `thickness` voxels along an axis, are multiplied by
    `boundary_weight`.
    """

    type: str = "boundary_weighted_dice"
    boundary_weight: NotNegative = Field(2.0, description="Factor of the weight of voxels just outside the objects.")
    thickness: Positive = Field(1, description="Thickness of that border in voxels.")

    def voxel_weights(self, wanted: Tensor, weight: Tensor) -> Tensor:
        """Return the weight of each voxel of the channels ``wanted``."""
        from torch.nn.functional import max_pool3d

        near = wanted
        for axis in range(3):
            reach = [self.thickness if other == axis else 0 for other in range(3)]
            near = near.maximum(max_pool3d(wanted, [2 * size + 1 for size in reach], stride=1, padding=reach))
        return weight * (1 + (self.boundary_weight - 1) * (near - wanted))


class MeanSquaredError(Loss):
    """Mean squared error: sum(w * (p - t)^2) / (number of voxels of weight above 0)."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"binary", "values"})
    type: str = "mse"

    def __call__(self, logits: Tensor, target: Tensor, weight: Tensor, activation: Activation) -> Tensor:
        """Compute the loss; see `Loss`."""
        errors = (activate(logits.float(), activation) - target.float()) ** 2
        counted = (weight > 0).sum() * (errors.numel() // weight.numel())
        return total((errors * weight).sum()) / total(counted).clamp_min(1)


class WeightedSum(Loss):
    """The sum of several losses."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"classes", "binary", "values"})
    type: str = "sum"
    losses: Annotated[
        tuple[SerializeAsAny[Loss], ...],
        Field(min_length=1),
        BeforeValidator(lambda value: tuple(map(parse_loss, value)) if isinstance(value, list | tuple) else value),
    ] = Field(..., description="Losses, each a name, or a mapping of `type` and options.")
    weights: tuple[NotNegative, ...] | None = Field(None, description="Weight of each loss; null = 1 for each.")

    def check(self, target: TargetSection) -> None:
        """Check each loss, and that there are as many weights."""
        for loss in self.losses:
            loss.check(target)
        if self.weights is not None and len(self.weights) != len(self.losses):
            raise contradiction(
                f"loss.weights has {len(self.weights)} entries for {len(self.losses)} losses: give one for each."
            )

    def __call__(self, logits: Tensor, target: Tensor, weight: Tensor, activation: Activation) -> Tensor:
        """Compute the loss; see `Loss`."""
        weights = self.weights or (1.0,) * len(self.losses)
        losses = zip(weights, self.losses, strict=True)
        terms = [factor * loss(logits, target, weight, activation) for factor, loss in losses]
        return sum(terms[1:], terms[0])


def mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return sum(values * weight) / sum(weight), where the weight may have one channel for all; 0 if it is 0."""
    weights = total(weight.float().sum() * (values.numel() // weight.numel()))
    return total((values * weight).sum()) / weights.where(weights > 0, 1)


def _channels(logits: Tensor, target: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """Return activated logits, and the target as channels of 0 and 1, both ``(b, c, z, y, x)`` float32."""
    values, wanted = logits.float(), target.float()
    if target.ndim < logits.ndim:
        wanted = values.new_zeros(values.shape).scatter_(1, target.long().unsqueeze(1), 1)
    return activate(values, activation), wanted
