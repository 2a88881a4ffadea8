"""Sections that describe the task and the network: voxels and classes, architecture, loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from incasem_like.config.kinds import (
    Classes,
    DefaultWords,
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
from incasem_like.config.section import Section, without_nulls
from incasem_like.config.target_sections import Activation, TargetSection, check_name


class VoxelConfig(Section):
    """Voxel properties shared by all volumes."""

    voxel_size: VoxelSize = Field(
        (5.0, 5.0, 5.0), description="Voxel size in nm, z, y, x; must match every data-config entry."
    )
    downsample_factor: Positive = Field(
        1, description="Use only every n-th voxel along each axis of the volumes; 1 = all."
    )
    num_classes: Classes = Field(2, description="Number of classes including the background, class 0.")


class OutputSection(Section):
    """Output channels that belong together."""

    name: Text = Field(..., description="Name, such as `affinities`; predictions are written under it.")
    channels: Positive = Field(..., description="Number of channels.")
    activation: Activation = Field(
        "sigmoid",
        description="`sigmoid`: independent channels, such as affinities and descriptors; `softmax`: mutually "
        "exclusive classes; `none`: values as the network gives them.",
    )
    attributes: dict[str, Any] = Field(
        default_factory=dict,
        description="Attributes of the predicted dataset, such as the names of the channels and offsets.",
    )

    @model_validator(mode="after")
    def _has_a_name(self) -> Self:
        check_name(self.name, "model.outputs")
        return self


def output_sections(targets: Sequence[TargetSection]) -> tuple[OutputSection, ...] | None:
    """Return the output channels of a network that learns targets; None for one that learns exclusive classes alone."""
    if len(targets) == 1 and targets[0].kind == "classes":
        return None
    return tuple(
        OutputSection(
            name=target.name, channels=target.channels, activation=target.activation, attributes=target.describe()
        )
        for target in targets
    )


class ModelConfig(Section):
    """Architecture of the network; parameter names and shapes are incasem's."""

    type: Literal["Unet", "OneConv3d"] = Field(
        "Unet", description="`Unet`, or `OneConv3d`: a single 3 x 3 x 3 convolution for tests."
    )
    in_channels: Positive = Field(1, description="Channels of the raw volume.")
    num_fmaps: Positive = Field(32, description="Number of feature maps of the finest level.")
    num_fmaps_out: Annotated[Positive, DefaultWords("as many as the targets have")] = Field(
        2, description="Number of output channels; of classes, `data.num_classes`."
    )
    outputs: tuple[OutputSection, ...] | None = Field(
        None,
        description="Output channels in order: a list of `{name, channels, activation, attributes}`; null = one class "
        "each. It follows from `targets`, and has to be given for imported networks with other outputs than classes.",
    )
    fmap_inc_factor: Positive = Field(
        2, description="Factor by which the number of feature maps grows from one level to the next coarser one."
    )
    downsample_factors: Factors = Field(
        ((2, 2, 2), (2, 2, 2), (2, 2, 2)),
        description="Down-sampling factors z, y, x between consecutive levels; 1 along z for thick sections.",
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
        True, description="Up-sample by repeating voxels; false = learnt transposed convolutions."
    )
    initialization: Literal["torch", "he_normal"] = Field(
        "torch",
        description="Initialisation of the weights: torch's default, as in incasem, or He's, "
        "which preserves the signal's variance through the layers.",
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, values: Any) -> Any:
        return without_nulls(values, ("num_fmaps_out",))

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
        0.01, description="Lower bound of a class's share, which limits the weight of rare classes."
    )
    clipmax: Fraction = Field(0.99, description="Upper bound of a class's share.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 < self.clipmin <= self.clipmax:
            raise contradiction(
                f"loss.balance_labels.clipmin is {self.clipmin:g} and clipmax {self.clipmax:g}: "
                "clipmin has to be above 0 and not above clipmax."
            )
        return self


class LossConfig(Section):
    """Loss of a training without `targets`."""

    type: Literal["cross_entropy_scaling"] = Field(
        "cross_entropy_scaling",
        description="Cross-entropy per voxel, weighted by mask and class balance, divided by the sum of weights.",
    )
    weight: tuple[NotNegative, ...] = Field((1.0, 1.0), description="Fixed weight of each class; one entry per class.")
    balance_labels: BalanceConfig = Field(
        default_factory=BalanceConfig, description="Balancing of the classes within a block."
    )
