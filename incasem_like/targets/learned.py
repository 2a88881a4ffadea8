"""The targets that a training can name: classes, affinities, boundaries, local shape descriptors, distances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, model_validator

from incasem_like.config.kinds import (
    Axes,
    Count,
    Flag,
    Fraction,
    Positive,
    PositiveNumber,
    Whole,
    Words,
    contradiction,
)
from incasem_like.config.target_sections import AnyLoss, Kind, default_loss
from incasem_like.targets.affinities import affinities
from incasem_like.targets.boundaries import boundary_labels
from incasem_like.targets.descriptor_window import DESCRIPTOR_NAMES, Mode
from incasem_like.targets.descriptors import local_shape_descriptors
from incasem_like.targets.distance import boundary_distance
from incasem_like.targets.instances import pair_slices
from incasem_like.targets.target import Array, InstanceTarget, LabelBlock, Size, Target
from incasem_like.targets.weights import balance_weights
from incasem_like.volumes import Roi
from incasem_like.volumes.values import foreground

NEIGHBOURS = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
Offset = Annotated[
    tuple[Whole, ...], Field(min_length=2, max_length=3), Words("three whole numbers [z, y, x], or two [y, x]")
]
REACH = 3.0  # of a distance, in multiples of its scale: there it is 0.9975
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
        """The label datasets themselves where they overlap or objects are weighted; else the class map is enough."""
        class_map_suffices = self.exclusive and self.instance_weight_limit is None
        return () if class_map_suffices else range(1, self._count)

    @property
    def overlaps(self) -> bool:
        """Whether a voxel may belong to several classes."""
        return not self.exclusive

    def resolved(self, num_classes: int) -> Self:
        """Return it with its number of classes."""
        resolved = self.model_copy()
        resolved._count = num_classes
        return resolved

    def check(self, output_size: Sequence[int], voxel_size: Sequence[float]) -> None:
        """Check the loss and the bounds."""
        super().check(output_size, voxel_size)
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
        return self.with_growth([max(abs(step) for step in steps) for steps in zip(*self._zyx, strict=True)])

    def check(self, output_size: Sequence[int], voxel_size: Sequence[float]) -> None:
        """Check the loss, and that every offset fits into a block."""
        super().check(output_size, voxel_size)
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
        found, known = affinities(self.instances(block), self._zyx, block.mask, self.known(block))
        return block.crop(found), _weights(block.crop(found), block.crop(known), self.balance)

    def given_weights(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return for each pair the larger weight of its voxels, as a pair counts if one of them is labelled."""
        pairs = np.repeat(weights[None], self.channels, axis=0)
        for channel, offset in enumerate(self._zyx):
            here, there = pair_slices(weights.shape, offset)
            np.maximum(weights[here], weights[there], out=pairs[channel][here])
        return pairs

    @property
    def _zyx(self) -> tuple[Size, ...]:
        return tuple((0, *offset)[-3:] for offset in self.offsets)  # type: ignore[misc]


class Boundaries(InstanceTarget):
    """Boundaries between objects, and between objects and background.

    See ``boundary_labels``. Nothing is known beyond the region, so what is near its border counts only where no
    boundary can lie beyond.
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
        return self.with_growth([self.thickness if axis in self.axes else 0 for axis in range(3)])

    def make(self, block: LabelBlock) -> tuple[Array, Array]:
        """Compute the boundaries; voxels that may have one just beyond the region do not count."""
        found = boundary_labels(self.instances(block), self.thickness, self.axes, block.inside)
        certain = self.known(block)
        known = block.mask * certain * (1 - boundary_labels(certain, self.thickness, self.axes))
        target = block.crop(found)[None]
        return target, _weights(target, block.crop(known)[None], self.balance)


class Descriptors(InstanceTarget):
    """Local shape descriptors: the shape of the part of an object that lies near each of its voxels.

    See ``local_shape_descriptors``. Nothing is known beyond the region, where objects end for the descriptors.
    """

    type: str = "lsd"
    loss: AnyLoss = default_loss("mse")
    sigma: PositiveNumber | tuple[PositiveNumber, ...] = Field(
        80.0, description="Radius of the neighbourhood in nm: a number, or one for each axis that counts."
    )
    components: tuple[Count, ...] | None = Field(
        None,
        min_length=1,
        description="Channels to learn: in 3-D 0-2 mean offset, 3-5 variance, 6-8 correlation, 9 size; per section "
        "0-1, 2-3, 4, 5; null = all.",
    )
    mode: Mode = Field("gaussian", description="Neighbourhood: weighted by distance, or a sphere.")
    downsample: Positive = Field(1, description="Compute them for every n-th voxel along each axis only; faster.")
    per_section: Flag = Field(False, description="2-D descriptors of each section by itself.")
    background: Literal["ignore", "zero"] = Field(
        "ignore", description="Whether labelled background does not count, or is to become 0."
    )

    @property
    def kind(self) -> Kind:
        """Continuous values."""
        return "values"

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The names of the components."""
        names = DESCRIPTOR_NAMES[len(self._axes)]
        return names if self.components is None else tuple(names[component] for component in self.components)

    @property
    def score_groups(self) -> Mapping[str, Sequence[int]]:
        """All components, and those of each sort."""
        groups: dict[str, list[int]] = {"": list(range(self.channels))}
        for channel, name in enumerate(self.channel_names):
            groups.setdefault(name.partition("_")[0], []).append(channel)
        return groups

    def describe(self) -> dict[str, Any]:
        """Return the parameters of the descriptors too; sigma in nm, one for each axis."""
        options = {
            "sigma": list(self._sigmas),
            "mode": self.mode,
            "downsample": self.downsample,
            "axes": list(self._axes),
        }
        return {**super().describe(), **options}

    def context(self, voxel_size: Sequence[float]) -> Size:
        """Return the reach of the neighbourhood."""
        reach = [0, 0, 0]
        for axis, sigma in zip(self._axes, self._sigmas, strict=True):
            voxels = (3 if self.mode == "gaussian" else 1) * sigma / voxel_size[axis] + 0.5
            reach[axis] = math.ceil(voxels / self.downsample) * self.downsample
        return self.with_growth(reach)

    def check(self, output_size: Sequence[int], voxel_size: Sequence[float]) -> None:
        """Check the loss, the components and sigma."""
        super().check(output_size, voxel_size)
        known = len(DESCRIPTOR_NAMES[len(self._axes)])
        if self.components is not None and not max(self.components) < known:
            raise contradiction(f"{self.name} has the component {max(self.components)}: give some of 0 to {known - 1}.")
        if len(self._sigmas) != len(self._axes):
            raise contradiction(
                f"sigma of {self.name} has {len(self._sigmas)} numbers for {len(self._axes)} axes that count"
                f"{' (per_section=true)' if self.per_section else ''}: give one number, or one for each."
            )
        for axis, sigma in zip(self._axes, self._sigmas, strict=True):
            if sigma < voxel_size[axis] * self.downsample:
                raise contradiction(
                    f"sigma of {self.name} is {sigma:g} nm, less than a voxel of {voxel_size[axis]:g} nm along "
                    f"{'zyx'[axis]} times downsample {self.downsample}: raise it."
                )

    def make(self, block: LabelBlock) -> tuple[Array, Array]:
        """Compute the descriptors, and weights that are 0 outside objects or, with their background, if unlabelled."""
        instances = self.instances(block)
        steps = [self.downsample if axis in self._axes else 1 for axis in range(3)]
        # The block itself, extended to multiples of downsample.
        sides = list(zip(block.context, instances.shape, steps, strict=True))
        begin = [edge // step * step for edge, _, step in sides]
        end = [-(-(size - edge) // step) * step for edge, size, step in sides]
        roi = Roi(begin, [stop - start for start, stop in zip(begin, end, strict=True)])
        described = local_shape_descriptors(
            instances, self.sigma, block.voxel_size, components=self.components, mode=self.mode,
            downsample=self.downsample, roi=roi, axes=self._axes,
        )  # fmt: skip
        inner = [slice(edge - start, size - edge - start) for (edge, size, _), start in zip(sides, begin, strict=True)]
        counted = block.mask * block.inside
        if self.background == "ignore":
            counted = counted * (instances > 0)
        return described[(slice(None), *inner)], block.crop(counted)[None].astype(np.float32)

    @property
    def _axes(self) -> tuple[int, ...]:
        return (1, 2) if self.per_section else (0, 1, 2)

    @property
    def _sigmas(self) -> tuple[float, ...]:
        return self.sigma if isinstance(self.sigma, tuple) else (self.sigma,) * len(self._axes)


class Distance(InstanceTarget):
    """Signed distance to the nearest boundary, positive in objects: 1 / (1 + exp(-2 d / scale)), 0.5 at boundaries.

    See ``boundary_distance``; 2 x - 1 is its ``normalised_distance``, cut at 3 times the scale. Voxels count that lie
    nearer to a boundary than to the end of the region.
    """

    type: str = "distance"
    loss: AnyLoss = default_loss("mse")
    scale: PositiveNumber = Field(
        50.0, description="Distance in nm at which it reaches 0.88; about the radius of the objects."
    )
    per_section: Flag = Field(False, description="Distance within each section.")

    @property
    def kind(self) -> Kind:
        """A continuous value."""
        return "values"

    @property
    def channel_names(self) -> tuple[str, ...]:
        """One channel."""
        return ("distance",)

    def describe(self) -> dict[str, Any]:
        """Return the scale too, in nm."""
        return {**super().describe(), "distance_scale": self.scale, "axes": list(self._axes)}

    def context(self, voxel_size: Sequence[float]) -> Size:
        """Return how far boundaries are searched."""
        reach = [math.ceil(REACH * self.scale / size) for size in voxel_size]
        return self.with_growth([size if axis in self._axes else 0 for axis, size in enumerate(reach)])

    def make(self, block: LabelBlock) -> tuple[Array, Array]:
        """Compute the distance, and weights that are 0 where a boundary may lie nearer, beyond the region."""
        limit = REACH * self.scale
        distance = boundary_distance(self.instances(block), block.voxel_size, self._axes, limit)
        end = boundary_distance(self.known(block), block.voxel_size, self._axes, limit)
        known = block.mask * ((np.abs(distance) < end) | (end >= limit))
        target = 1 / (1 + np.exp(-2 * distance / np.float32(self.scale)))
        return block.crop(target)[None], block.crop(known)[None].astype(np.float32)

    @property
    def _axes(self) -> tuple[int, ...]:
        return (1, 2) if self.per_section else (0, 1, 2)


def _weights(target: NDArray[np.uint8], known: NDArray[np.uint8], balance: bool) -> NDArray[np.float32]:
    """Return weights that are 0 where the target is not known, and balance 0 and 1 if asked to."""
    return balance_weights(target, known, 2, FEWEST, MOST) if balance else known.astype(np.float32)
