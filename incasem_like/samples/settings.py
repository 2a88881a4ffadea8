"""Parameters of training samples besides the data: sizes, targets, rejection, augmentation; picklable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self, cast

from incasem_like.config import TrainingConfig
from incasem_like.config.synthetic_sections import SyntheticSection
from incasem_like.config.training_sections import AugmentationConfig, RejectConfig
from incasem_like.targets import Target, overlapping_classes, targets_of
from incasem_like.volumes.geometry import nanometres

Size = tuple[int, int, int]


@dataclass(frozen=True)
class SampleSettings:
    """The parameters from which each process builds the same pipeline.

    Attributes:
        input_size: Raw block in voxels, z, y, x.
        output_size: Label block in voxels, centred in the input.
        voxel_size: Voxel size of the volumes in nm.
        downsample_factor: Every n-th voxel is taken along each axis; sizes above count voxels after that.
        synthetic: Samples of random objects instead of regions; None for regions.
        num_classes: Number of classes including background.
        targets: What is made of the labels of each block.
        reject: Which random blocks are rejected.
        augmentation: Random changes of each block.
    """

    input_size: Size
    output_size: Size
    voxel_size: tuple[float, float, float]
    num_classes: int
    targets: tuple[Target, ...]
    reject: RejectConfig
    augmentation: AugmentationConfig
    downsample_factor: int = 1
    synthetic: SyntheticSection | None = None

    @classmethod
    def from_config(cls, config: TrainingConfig) -> Self:
        """Return the sample parameters of a training configuration."""
        return cls(
            input_size=config.training.input_size_voxels,
            output_size=config.training.output_size_voxels,
            voxel_size=config.data.voxel_size,
            num_classes=config.data.num_classes,
            targets=targets_of(config),
            reject=config.training.reject,
            augmentation=config.training.augmentation,
            downsample_factor=config.data.downsample_factor,
            synthetic=config.training.synthetic,
        )

    @property
    def input_targets(self) -> tuple[Target, ...]:
        """What the network reads instead of raw; none where it reads raw."""
        if self.synthetic is None:
            return ()
        return cast("tuple[Target, ...]", tuple(target.resolved(self.num_classes) for target in self.synthetic.input))

    @property
    def input_channels(self) -> int:
        """Channels of the network's input."""
        return sum(target.channels for target in self.input_targets) or 1

    @property
    def raw_context(self) -> Size:
        """Voxels of raw beyond the label block on each side, z, y, x."""
        z, y, x = ((raw - out) // 2 for raw, out in zip(self.input_size, self.output_size, strict=True))
        return z, y, x

    @property
    def instance_classes(self) -> tuple[int, ...]:
        """The classes whose instance ids are needed."""
        return tuple(sorted({one for target in self.targets for one in target.reads}))

    @property
    def overlapping_classes(self) -> tuple[int, ...]:
        """The classes to which a voxel belongs whatever other label datasets say of it."""
        return overlapping_classes(self.targets)

    @property
    def label_context(self) -> Size:
        """Voxels of labels that the targets need beyond the label block on each side, z, y, x.

        It is equal along axes that may be exchanged.
        """
        needed = [target.full_context(self.downsampled_voxel_size) for target in self.targets]
        widest = [max(sizes) for sizes in zip(*needed, strict=True)]
        simple = self.augmentation.simple
        exchanged = () if simple is None else simple.transpose_only
        among = max((widest[axis] for axis in exchanged), default=0)
        z, y, x = (among if axis in exchanged else size for axis, size in enumerate(widest))
        return z, y, x

    @property
    def downsampled_voxel_size(self) -> tuple[float, float, float]:
        """Voxel size in nm after downsampling."""
        z, y, x = nanometres((self.downsample_factor,) * 3, self.voxel_size)
        return z, y, x

    @property
    def voxel_size_picometres(self) -> Size:
        """Voxel size after downsampling in whole picometres, the world unit inside gunpowder: 4.6 nm is exact."""
        z, y, x = (round(size * 1000) * self.downsample_factor for size in self.voxel_size)
        return z, y, x

    @property
    def largest_request(self) -> Size:
        """Extent of raw in voxels that an augmented block rarely exceeds; determines the size of the memory cache."""
        elastic, simple = self.augmentation.elastic, self.augmentation.simple
        if elastic is None:
            return self.input_size
        turned = math.sqrt(2) if elastic.rotation else 1.0
        grown = [self.input_size[0], self.input_size[1] * turned, self.input_size[2] * turned]
        if simple is not None:
            widest = max((grown[axis] for axis in simple.transpose_only), default=0)
            grown = [widest if axis in simple.transpose_only else size for axis, size in enumerate(grown)]
        margins = [6 * sigma + 4 * elastic.max_misalign for sigma in elastic.jitter_sigma]
        z, y, x = (math.ceil(size + margin) for size, margin in zip(grown, margins, strict=True))
        return z, y, x
