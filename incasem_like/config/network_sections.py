"""Sections that describe the task and the network: voxels and classes, architecture, loss."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from incasem_like.config.kinds import (
    Classes,
    Factor,
    Factors,
    Flag,
    Fraction,
    Kernels,
    NotNegative,
    Positive,
    Text,
    VoxelSize,
    contradiction,
)
from incasem_like.config.section import Section


class VoxelConfig(Section):
    """What the voxels of all volumes have in common."""

    voxel_size: VoxelSize = Field(
        (5.0, 5.0, 5.0), description="Voxel size in nm, z, y, x; every data-config entry has to agree."
    )
    downsample_factor: Positive = Field(
        1, description="Take every n-th voxel along each axis before the network sees the volume; 1 = all."
    )
    num_classes: Classes = Field(2, description="Number of classes including the background, class 0.")


class OutputSection(Section):
    """Output channels that belong together."""

    name: Text = Field(..., description="What they are, such as `affinities`; predictions are written under it.")
    channels: Positive = Field(..., description="How many.")
    activation: Literal["softmax", "sigmoid"] = Field(
        "sigmoid",
        description="`sigmoid`: each channel by itself, such as affinities and descriptors; `softmax`: classes that "
        "exclude each other.",
    )

    @model_validator(mode="after")
    def _is_a_name(self) -> Self:
        if not re.fullmatch(r"[A-Za-z]\w*", self.name) or self.name in ("segmentation", "prob_maps"):
            raise contradiction(
                f'model.outputs has the name "{self.name}": give letters, digits and underscores, beginning with a '
                "letter; segmentation and prob_maps are those of classes."
            )
        return self


class ModelConfig(Section):
    """Architecture of the network; parameter names and shapes are incasem's."""

    type: Literal["Unet", "OneConv3d"] = Field(
        "Unet", description="`Unet`, or `OneConv3d`: a single 3 x 3 x 3 convolution for trials."
    )
    in_channels: Positive = Field(1, description="Channels of the raw volume.")
    num_fmaps: Positive = Field(32, description="Feature maps of the finest level.")
    num_fmaps_out: Positive = Field(2, description="Output channels; has to equal `data.num_classes`.")
    outputs: tuple[OutputSection, ...] | None = Field(
        None,
        description="What the output channels are, in their order: a list of `{name, channels, activation}`; "
        "null = one class each. Other networks than those of classes can be imported and predict, but not be trained.",
    )
    fmap_inc_factor: Positive = Field(
        2, description="Factor on the feature maps from one level to the next coarser one."
    )
    downsample_factors: Factors = Field(
        ((2, 2, 2), (2, 2, 2), (2, 2, 2)),
        description="Down-sampling factor z, y, x between consecutive levels; 1 along z keeps thick sections apart.",
    )
    kernel_size_down: Kernels | None = Field(
        None,
        description="Kernels of the convolutions on the way down: one list per level, finest first, coarsest included; "
        "null = two of 3 along every axis.",
    )
    kernel_size_up: Kernels | None = Field(
        None,
        description="Kernels of the convolutions on the way up: one list per level, finest first, "
        "without the coarsest; null = two of 3 along every axis.",
    )
    constant_upsample: Flag = Field(
        True, description="Repeat voxels to up-sample; false = learnt transposed convolutions."
    )
    initialization: Literal["torch", "he_normal"] = Field(
        "torch",
        description="How fresh weights are drawn: torch's own way, as incasem does, or He's, "
        "which keeps the signal's variance through the layers.",
    )

    @model_validator(mode="after")
    def _outputs_agree(self) -> Self:
        if self.outputs is None:
            return self
        names = [group.name for group in self.outputs]
        channels = sum(group.channels for group in self.outputs)
        if len(set(names)) < len(names):
            raise contradiction(f"model.outputs has a name twice ({', '.join(names)}): give each group its own.")
        if channels != self.num_fmaps_out:
            raise contradiction(
                f"model.outputs has {channels} channels, but model.num_fmaps_out is {self.num_fmaps_out}: "
                "describe every channel once."
            )
        return self

    @model_validator(mode="after")
    def _levels_agree(self) -> Self:
        axes = {len(factor) for factor in self.downsample_factors}
        if len(axes) > 1:
            raise contradiction("model.downsample_factors mixes 2-D and 3-D factors: give every level as many numbers.")
        levels = len(self.downsample_factors)
        for key, kernels, needed in (
            ("kernel_size_down", self.kernel_size_down, levels + 1),
            ("kernel_size_up", self.kernel_size_up, levels),
        ):
            if kernels is not None and len(kernels) != needed:
                raise contradiction(
                    f"model.{key} has {len(kernels)} levels, but {levels} downsample_factors need {needed}: "
                    f"give {needed} lists of kernels or null."
                )
            _check_kernels(key, kernels or (), axes)
        return self


def _check_kernels(key: str, kernels: tuple[tuple[Factor, ...], ...], axes: set[int]) -> None:
    for level, passes in enumerate(kernels):
        if not passes:
            raise contradiction(
                f"model.{key} has no kernel on level {level}: give it at least one, such as [[3, 3, 3]]."
            )
        for kernel in passes:
            if axes and len(kernel) not in axes:
                raise contradiction(
                    f"model.{key} has the kernel {list(kernel)} on level {level}, "
                    f"but downsample_factors have {axes.pop()} axes: give both as many numbers."
                )


class BalanceConfig(Section):
    """Balancing of the classes within a block."""

    clipmin: Fraction = Field(
        0.01, description="Smallest share a class is counted with, so that rare classes do not weigh too much."
    )
    clipmax: Fraction = Field(0.99, description="Largest share a class is counted with.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 < self.clipmin <= self.clipmax:
            raise contradiction(
                f"loss.balance_labels.clipmin is {self.clipmin:g} and clipmax {self.clipmax:g}: "
                "clipmin has to be above 0 and not above clipmax."
            )
        return self


class LossConfig(Section):
    """Loss of the training."""

    type: Literal["cross_entropy_scaling"] = Field(
        "cross_entropy_scaling",
        description="Cross-entropy per voxel, scaled by mask and class balance, divided by the sum of scales.",
    )
    weight: tuple[NotNegative, ...] = Field((1.0, 1.0), description="Fixed weight of each class; one entry per class.")
    balance_labels: BalanceConfig = Field(
        default_factory=BalanceConfig, description="Balancing of the classes within a block."
    )
