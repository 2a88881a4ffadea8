"""The targets that a training can name: classes, affinities, boundaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, model_validator

from incasem_like.config.kinds import Axes, Flag, Fraction, Positive, Whole, Words, contradiction
from incasem_like.config.target_sections import AnyLoss, Kind, default_loss
from incasem_like.targets.affinities import affinities
from incasem_like.targets.boundaries import boundary_labels
from incasem_like.targets.target import Array, InstanceTarget, LabelBlock, Size, Target
from incasem_like.targets.weights import balance_weights
from incasem_like.volumes.values import foreground

NEIGHBOURS = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
Offset = Annotated[
    tuple[Whole, ...], Field(min_length=2, max_length=3), Words("three whole numbers [z, y, x], or two [y, x]")
]
FEWEST, MOST = 0.05, 0.95  # bounds of a share where zeros and ones are balanced


class Classes(Target):
    """Semantic classes: the label datasets of the data configuration, one class each."""

    type: str = "classes"
    loss: AnyLoss = default_loss("cross_entropy_scaling")
    exclusive: Flag = Field(
        True,
        description="true: a voxel belongs to one class or to the background (a channel too), and to the background "
        "where label datasets overlap. false: independent channels, one per class without the background; bce then is "
        "the default loss.",
    )
    clipmin: Fraction = Field(0.01, gt=0, description="Lower bound of a class's share when classes are balanced.")
    clipmax: Fraction = Field(0.99, gt=0, description="Upper bound of that share.")
    _count: int = PrivateAttr(default=0)  # data.num_classes

    @model_validator(mode="before")
    @classmethod
    def _default_loss(cls, values: Any) -> Any:
        independent = isinstance(values, Mapping) and values.get("exclusive") is False
        return {"loss": "bce", **values} if independent else values

    @property
    def kind(self) -> Kind:
        """Classes, or independent channels."""
        return "classes" if self.exclusive else "binary"

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The background, if it has a channel, and the classes."""
        names = [f"class_{index}" for index in range(1, self._count)]
        return ("background", *names) if self.exclusive else tuple(names)

    @property
    def score_groups(self) -> Mapping[str, Sequence[int]]:
        """Each class by itself."""
        first = 0 if self.exclusive else 1
        return {f"class_{first + channel}": [channel] for channel in range(self.channels)}

    def score_name(self, score: str, group: str) -> str:
        """Return incasem's name of a metric, such as ``dice_class_1``."""
        return f"{score}_{group}" if self.name == self.type else super().score_name(score, group)

    @property
    def main_metric(self) -> str:
        """The dice of the first class."""
        return self.score_name("dice", "class_1")

    @property
    def reads(self) -> Sequence[int]:
        """The label datasets themselves where they may overlap; else the class map is enough."""
        return () if self.exclusive else range(1, self._count)

    def resolved(self, num_classes: int) -> Self:
        """Return it with its number of classes."""
        resolved = self.model_copy()
        resolved._count = num_classes
        return resolved

    def check(self, output_size: Sequence[int]) -> None:
        """Check the loss and the bounds."""
        super().check(output_size)
        if self.clipmin > self.clipmax:
            raise contradiction(f"clipmin of {self.name} is {self.clipmin:g} and above clipmax {self.clipmax:g}.")

    def make(self, block: LabelBlock) -> tuple[Array, Array]:
        """Compute class ids, or a channel per class, and weights that balance the classes of the block."""
        mask = block.crop(block.mask)
        if self.exclusive:
            classes = block.crop(block.classes)
            return classes, balance_weights(classes, mask, self._count, self.clipmin, self.clipmax)
        channels = np.stack([foreground(block.crop(block.instances[one])).view(np.uint8) for one in self.reads])
        weights = [balance_weights(channel, mask, 2, self.clipmin, self.clipmax) for channel in channels]
        return channels, np.stack(weights)


class Affinities(InstanceTarget):
    """Affinities: whether a voxel and the one at an offset belong to the same object.

    A pair counts unless both ends are unlabelled (mask 0). Nothing is known beyond the region.
    """

    type: str = "affinities"
    loss: AnyLoss = default_loss("bce")
    offsets: tuple[Offset, ...] = Field(
        NEIGHBOURS,
        min_length=1,
        description="Offsets in voxels, each [z, y, x], or [y, x] within sections: the affinity of voxel v is that "
        "with v + offset.",
    )
    balance: Flag = Field(
        True, description="Balance 0 and 1 within a block, over all channels; shares are clipped to 0.05-0.95."
    )

    @property
    def kind(self) -> Kind:
        """Independent channels."""
        return "binary"

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The offsets in words: ``z-1``, ``y-9 x-9``."""
        steps = [[f"{axis}{step:+d}" for axis, step in zip("zyx", offset, strict=True) if step] for offset in self._zyx]
        return tuple(" ".join(words) for words in steps)

    @property
    def score_groups(self) -> Mapping[str, Sequence[int]]:
        """All offsets and, where there are others than those of direct neighbours, both kinds by themselves."""
        far = [channel for channel, offset in enumerate(self._zyx) if max(map(abs, offset)) > 1]
        near = [channel for channel in range(self.channels) if channel not in far]
        everything = {"": range(self.channels)}
        return {**everything, "neighbours": near, "long_range": far} if near and far else everything

    def describe(self) -> dict[str, Any]:
        """Return the offsets too, z, y, x."""
        return {**super().describe(), "offsets": [list(offset) for offset in self._zyx]}

    def context(self, voxel_size: Sequence[float]) -> Size:
        """Return the longest offset along each axis."""
        z, y, x = (max(abs(step) for step in steps) for steps in zip(*self._zyx, strict=True))
        return z, y, x

    def check(self, output_size: Sequence[int]) -> None:
        """Check the loss, and that every offset fits into a block."""
        super().check(output_size)
        for offset in self._zyx:
            if not any(offset):
                raise contradiction(f"{self.name} has the offset {list(offset)}: a voxel is always its own object.")
            if any(abs(step) >= size for step, size in zip(offset, output_size, strict=True)):
                raise contradiction(
                    f"{self.name} has the offset {list(offset)}, which is longer than a block of "
                    f"training.output_size_voxels {list(output_size)}: shorten it or enlarge the block."
                )
        if len(set(self._zyx)) < len(self._zyx):
            raise contradiction(f"{self.name} has an offset twice: {[list(offset) for offset in self.offsets]}.")

    def make(self, block: LabelBlock) -> tuple[Array, Array]:
        """Compute the affinities, and weights that are 0 for pairs that do not count."""
        found, known = affinities(block.merged_instances(self.labels), self._zyx, block.mask, block.inside)
        return block.crop(found), _weights(block.crop(found), block.crop(known), self.balance)

    @property
    def _zyx(self) -> tuple[Size, ...]:
        return tuple((0, *offset)[-3:] for offset in self.offsets)  # type: ignore[misc]


class Boundaries(InstanceTarget):
    """Boundaries between objects, and between objects and background.

    See ``boundary_labels``. Nothing is known beyond the region, so what is near its border counts only where no boundary
    can lie beyond.
    """

    type: str = "boundaries"
    loss: AnyLoss = default_loss("bce")
    thickness: Positive = Field(1, description="Voxels marked on each side of a boundary.")
    axes: Axes = Field((0, 1, 2), min_length=1, description="Axes along which neighbours count; [1, 2]: in sections.")
    balance: Flag = Field(True, description="Balance 0 and 1 within a block; shares are clipped to 0.05-0.95.")

    @property
    def kind(self) -> Kind:
        """A channel of 0 and 1."""
        return "binary"

    @property
    def channel_names(self) -> tuple[str, ...]:
        """One channel."""
        return ("boundary",)

    def describe(self) -> dict[str, Any]:
        """Return the thickness too."""
        return {**super().describe(), "thickness": self.thickness}

    def context(self, voxel_size: Sequence[float]) -> Size:
        """Return the thickness along the axes that count."""
        z, y, x = (self.thickness if axis in self.axes else 0 for axis in range(3))
        return z, y, x

    def make(self, block: LabelBlock) -> tuple[Array, Array]:
        """Compute the boundaries; voxels that may have one just beyond the region do not count."""
        found = boundary_labels(block.merged_instances(self.labels), self.thickness, self.axes)
        known = block.mask * block.inside * (1 - boundary_labels(block.inside, self.thickness, self.axes))
        target = block.crop(found)[None]
        return target, _weights(target, block.crop(known)[None], self.balance)


def _weights(target: NDArray[np.uint8], known: NDArray[np.uint8], balance: bool) -> NDArray[np.float32]:
    """Return weights that are 0 where the target is not known, and balance 0 and 1 if asked to."""
    return balance_weights(target, known, 2, FEWEST, MOST) if balance else known.astype(np.float32)
