"""Target: what a network learns of labels, from the arrays of a block to the loss of its channels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from incasem_like.config.kinds import Axes, Count, Positive, PositiveNumber, contradiction
from incasem_like.config.target_sections import TargetSection
from incasem_like.targets.boundaries import boundary_labels, grow_boundary
from incasem_like.targets.losses import Loss
from incasem_like.targets.weights import boundary_weights, instance_weights
from incasem_like.volumes.values import foreground

if TYPE_CHECKING:
    from torch import Tensor

    from incasem_like.config import TrainingConfig

Array = NDArray[Any]
Size = tuple[int, int, int]


@dataclass(frozen=True)
class LabelBlock:
    """The labels of a block, and of some voxels around it, from which targets are made.

    Attributes:
        classes: Class ids (z, y, x) uint8; 0 = background.
        instances: By class, the ids as stored (z, y, x); 0 = none. Only the classes that targets read.
        mask: (z, y, x) uint8; 0 = unlabelled.
        inside: (z, y, x) uint8; 0 = beyond the region, where nothing is known.
        voxel_size: nm, z, y, x.
        context: Voxels before and after the block along each axis, which all arrays hold besides the block.
        weights: Weight of each voxel in the loss (z, y, x) float32; None = 1.
    """

    classes: NDArray[np.uint8]
    instances: Mapping[int, NDArray[np.integer]]
    mask: NDArray[np.uint8]
    inside: NDArray[np.uint8]
    voxel_size: tuple[float, float, float]
    context: Size = (0, 0, 0)
    weights: NDArray[np.float32] | None = None

    def crop(self, array: Array) -> Array:
        """Return an array (..., z, y, x) without the context."""
        z, y, x = (slice(edge, size - edge) for edge, size in zip(self.context, self.mask.shape, strict=True))
        cropped: Array = array[..., z, y, x]
        return cropped

    def merged_instances(self, class_ids: Sequence[int] | None = None) -> NDArray[np.integer]:
        """Return one array of ids for some classes, by default all: ids of one class as stored, else with an offset.

        Equal ids of different classes are different objects. A voxel claimed by two classes is background.
        """
        chosen = [self.instances[one] for one in class_ids or self.instances]
        if len(chosen) == 1:
            return chosen[0]
        merged = np.zeros(self.mask.shape, dtype=np.uint64)
        claimed = np.zeros(self.mask.shape, dtype=bool)
        for ids in chosen:
            found = foreground(ids)
            merged[found] = ids[found].astype(np.uint64) + merged.max()
            merged[found & claimed] = 0
            claimed |= found
        return merged


class Target(TargetSection):
    """What a network learns; its fields are the options in a configuration.

    A new one is a class with ``kind``, ``channel_names``, ``make`` and a default ``loss``, and a line in ``TARGETS`` of
    ``config/target_sections.py``.
    """

    boundary_weight: PositiveNumber = Field(
        1.0, description="Factor of the weight of voxels at boundaries between objects, and with the background."
    )
    boundary_reach: Positive = Field(1, description="Voxels on each side of a boundary that `boundary_weight` is for.")
    instance_weight_limit: PositiveNumber | None = Field(
        None,
        description="Weigh the objects of a block alike whatever their sizes, 1 on average, and at most by this "
        "factor; null = every voxel of an object counts the same.",
    )

    @property
    def reads(self) -> Sequence[int]:
        """The classes whose instance ids ``make`` reads; none if the class map is enough."""
        return ()

    @property
    def overlaps(self) -> bool:
        """Whether a voxel of several label datasets belongs to all of them, instead of none."""
        return False

    def objects(self, block: LabelBlock) -> NDArray[np.integer]:
        """Return the ids (z, y, x) that tell objects apart where they are weighted, with the block's context."""
        return block.merged_instances(self.reads) if self.reads else block.classes

    @property
    def bytes_per_voxel(self) -> int:
        """The most bytes that ``make`` returns for a voxel."""
        return 5 if self.kind == "classes" else 8 * self.channels

    def context(self, voxel_size: Sequence[float]) -> Size:
        """Return how many voxels of labels ``make`` needs before and after a block, z, y, x."""
        return (0, 0, 0)

    def full_context(self, voxel_size: Sequence[float]) -> Size:
        """Return how many voxels of labels ``weighted`` needs before and after a block, z, y, x."""
        z, y, x = (max(size, self._reach) for size in self.context(voxel_size))
        return z, y, x

    @property
    def _reach(self) -> int:
        return self.boundary_reach if self.boundary_weight != 1 else 0

    @abstractmethod
    def make(self, block: LabelBlock) -> tuple[Array, Array]:
        """Compute the target of a block.

        Returns:
            The target: (z, y, x) class ids, or (channels, z, y, x) uint8 or float32; and its weight, 0 where it does
            not count, float32 of the same shape, or with one channel for all. Both without the block's context.
        """

    def weighted(self, block: LabelBlock) -> tuple[Array, Array]:
        """Return what ``make`` returns, with the weights of voxels, objects and boundaries multiplied in."""
        target, weight = self.make(block)
        if block.weights is not None:
            weight = weight * block.crop(self.given_weights(block.weights))
        if self.boundary_weight != 1:
            factors = boundary_weights(
                self.objects(block), self.boundary_weight, self.boundary_reach, mask=block.inside
            )
            weight = weight * np.where(block.crop(block.inside), block.crop(factors), np.float32(1))
        if self.instance_weight_limit is not None:
            objects, mask = block.crop(self.objects(block)), block.crop(block.mask)
            factors = instance_weights(objects, mask, self.instance_weight_limit)
            weight = weight * np.where(mask, factors, np.float32(1))
        return target, weight

    def given_weights(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the weights of the data for each voxel of the target, of the same (z, y, x), from those of voxels."""
        return weights

    def loss_of(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Return the loss of its channels of a batch, before it is multiplied by ``weight``."""
        assert isinstance(self.loss, Loss)
        return self.loss(logits, target, weight, self.activation)


class InstanceTarget(Target):
    """A target made of instance ids."""

    labels: tuple[Positive, ...] | None = Field(
        None,
        min_length=1,
        description="Classes, as numbered in the data configuration, whose label datasets hold the instance ids; "
        "null = all.",
    )
    grow_boundary: Count = Field(
        0, description="Voxels that objects lose at each boundary before, so that there is a gap between them."
    )
    grow_boundary_axes: Axes = Field(
        (0, 1, 2), min_length=1, description="Axes along which boundaries grow; [1, 2]: within sections."
    )

    @property
    def reads(self) -> Sequence[int]:
        """The classes whose instance ids it is made of."""
        return self.labels or ()

    def objects(self, block: LabelBlock) -> NDArray[np.integer]:
        """Return the ids that it is made of."""
        return self.instances(block)

    def instances(self, block: LabelBlock) -> NDArray[np.integer]:
        """Return the ids that it is made of, with its context, after the growth of boundaries."""
        merged = block.merged_instances(self.labels)
        if not self.grow_boundary:
            return merged
        return grow_boundary(merged, self.grow_boundary, block.inside, self.grow_boundary_axes)

    def known(self, block: LabelBlock) -> NDArray[np.uint8]:
        """Return 1 inside the region, but for voxels that a boundary beyond its end might reach by growing."""
        near = boundary_labels(block.inside, self.grow_boundary, self.grow_boundary_axes)
        return np.asarray(block.inside * (1 - near), np.uint8)

    def with_growth(self, context: Sequence[int]) -> Size:
        """Return the context for labels whose boundaries have yet to grow."""
        growth = (self.grow_boundary if axis in self.grow_boundary_axes else 0 for axis in range(3))
        z, y, x = (max(size, self._reach) + steps for size, steps in zip(context, growth, strict=True))
        return z, y, x

    def resolved(self, num_classes: int) -> Self:
        """Return it with the classes that it reads."""
        labels = self.labels or tuple(range(1, num_classes))
        if max(labels) >= num_classes:
            raise contradiction(
                f"{self.name} reads the labels of class {max(labels)}, but data.num_classes is {num_classes} with "
                f"background: give labels of 1 to {num_classes - 1}."
            )
        return self.model_copy(update={"labels": labels})


def targets_of(config: TrainingConfig) -> tuple[Target, ...]:
    """Return the targets of a training, in the order of the network's channels."""
    return cast("tuple[Target, ...]", config.resolved_targets)


def overlapping_classes(targets: Sequence[Target]) -> tuple[int, ...]:
    """Return the classes to which a voxel belongs for some target whatever other label datasets say of it."""
    return tuple(sorted({one for target in targets if target.overlaps for one in target.reads}))


def channel_slices(targets: Sequence[TargetSection]) -> list[slice]:
    """Return the channels of each target in the output of the network."""
    ends = np.cumsum([target.channels for target in targets]).tolist()
    return [slice(end - target.channels, end) for target, end in zip(targets, ends, strict=True)]
