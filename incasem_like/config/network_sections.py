"""Sections that describe the task and the network: voxels and classes, architecture, loss."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeAlias, cast

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from incasem_like.config.kinds import (
    Checkpoint,
    Classes,
    DefaultWords,
    Factor,
    Factors,
    Flag,
    Fraction,
    Kernels,
    Margin,
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

    voxel_size: VoxelSize = (5.0, 5.0, 5.0)
    """Voxel size in nm, z, y, x; must match every data-config entry."""
    downsample_factor: Positive = 1
    """Use only every n-th voxel along each axis of the volumes; 1 = all."""
    num_classes: Classes = Field(2, description="Number of classes including the background, class 0.")


class OutputSection(Section):
    """Output channels that belong together."""

    name: Text = Field(..., description="Name, such as `affinities`; predictions are written under it.")
    channels: Positive = Field(..., description="Number of channels.")
    activation: Activation = "sigmoid"
    """`sigmoid`: independent channels, such as affinities and descriptors; `softmax`: mutually exclusive classes;
    `none`: values as the network gives them."""
    attributes: dict[str, Any] = Field(default_factory=dict)
    """Attributes of the predicted dataset, such as the names of the channels and offsets."""

    @model_validator(mode="after")
    def _has_a_name(self) -> Self:
        check_name(self.name, "model.outputs")
        return self


class InputSection(Section):
    """Input channels that belong together, of a network that reads predictions."""

    name: Text = Field(..., description="Name, such as `lsd`.")
    channels: Positive = Field(..., description="Number of channels.")
    attributes: dict[str, Any] = Field(default_factory=dict)
    """What they are: names of the channels, offsets, `sigma_voxels` and so on."""


ModelSections: TypeAlias = "Mapping[str, type[ModelConfig]]"


def input_sections(targets: Sequence[TargetSection], voxel_size: Sequence[float]) -> tuple[InputSection, ...]:
    """Return the input channels of a network that reads what another one predicts of targets.

    Lengths in voxels travel with it, since what it has learnt of shapes is learnt of voxels.
    """
    described = []
    for target in targets:
        attributes = target.describe()
        if "sigma" in attributes:
            sizes = [voxel_size[axis] for axis in attributes["axes"]]
            voxels = [sigma / size for sigma, size in zip(attributes["sigma"], sizes, strict=True)]
            attributes = {**attributes, "sigma_voxels": voxels}
        described.append(InputSection(name=target.name, channels=target.channels, attributes=attributes))
    return tuple(described)


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
    """Network; which further keys it has depends on `model.type`."""

    type: Literal["Unet", "StackedHourglass", "AutoContext", "Custom", "OneConv3d"] = "Unet"
    """Architecture; each has the keys of its own table below."""
    in_channels: Positive = Field(1, description="Channels of the raw volume.")
    inputs: tuple[InputSection, ...] | None = None
    """Input channels in order, of a network that reads predictions: a list of `{name, channels, attributes}`, with
    which its input is compared; null = raw. It follows from `training.synthetic.input`."""
    num_fmaps_out: Annotated[Positive, DefaultWords("as many as the targets have")] = 2
    """Number of output channels; of classes, `data.num_classes`."""
    outputs: tuple[OutputSection, ...] | None = None
    """Output channels in order: a list of `{name, channels, activation, attributes}`; null = one class each. It follows
    from `targets`, and has to be given for imported networks with other outputs than classes."""
    initialization: Literal["torch", "he_normal", "glorot_uniform"] = "torch"
    """Initialisation of the weights: torch's default, as in incasem; He's (Kaiming), which preserves the signal's
    variance through ReLUs, as with funlib's networks; Glorot's, as in Keras."""

    @classmethod
    def variants(cls) -> ModelSections:
        """Return the section of each ``type``; none for a section that is one of them."""
        return MODELS if cls is ModelConfig else {}

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_type(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if cls is ModelConfig and isinstance(values, Mapping):
            section = MODELS.get(values.get("type", "Unet"))
            if section is not None:
                return cast(Self, section.model_validate(values))
        return handler(values)

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


class LevelsSection(ModelConfig):
    """Levels of a U-Net, finest first; parameter names and shapes are incasem's."""

    num_fmaps: Positive = Field(32, description="Number of feature maps of the finest level.")
    fmap_inc_factor: Positive = 2
    """Factor by which the number of feature maps grows from one level to the next coarser one."""
    downsample_factors: Factors = ((2, 2, 2), (2, 2, 2), (2, 2, 2))
    """Down-sampling factors z, y, x between consecutive levels; 1 along z for thick sections. Two numbers per level
    make a 2-D network, which is applied to each section."""
    kernel_size_down: Kernels | None = None
    """Kernels of the convolutions on the way down: one list per level, finest first, coarsest included; null = two of 3
    along every axis."""
    kernel_size_up: Kernels | None = None
    """Kernels of the convolutions on the way up: one list per level, finest first, without the coarsest; null = two of
    3 along every axis."""
    residual: Literal["none", "linear", "shortcut"] = "none"
    """What is added to the result of each level's convolutions before its ReLU: nothing; a 1 x 1 x 1 convolution of
    their input (funlib's residual U-Net; also at the output); their input, convolved where the number of maps differs
    (3dsegmentation)."""
    halo: Margin | None = None
    """Outermost output voxels per side, z, y, x, that tiles of a prediction compute but discard, since they depend on
    padding; null = all of them, so that seams vanish. Fewer are faster."""

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
            for level, passes in enumerate(kernels or ()):
                if not passes:
                    raise contradiction(
                        f"model.{key} has no kernel on level {level}: give it at least one, such as [[3, 3, 3]]."
                    )
                for kernel in passes:
                    if axes and len(kernel) not in axes:
                        raise contradiction(
                            f"model.{key} has the kernel {list(kernel)} on level {level}, but downsample_factors have "
                            f"{axes.pop()} axes: give both as many numbers."
                        )
        return self


class UnetOptions(LevelsSection):
    """Options of one U-Net."""

    padding: Literal["valid", "same"] = "valid"
    """`valid`: the output is smaller than the input; `same`: zeros around keep the size."""
    normalization: Literal["none", "batch"] = "none"
    """`batch`: batch normalisation after each ReLU; give batches of several blocks."""
    constant_upsample: Flag = True
    """Up-sample without weights; false = learnt transposed convolutions."""
    upsample_mode: Literal["nearest", "linear"] = "nearest"
    """With `constant_upsample`: repeat voxels, or interpolate linearly between them."""
    transposed_fmaps: Literal["lower", "upper"] = "lower"
    """Maps after a transposed convolution: as many as on the level below, or as on the one it leads to."""
    transposed_relu: Flag = Field(False, description="Whether a ReLU follows each transposed convolution.")
    upsampled_first: Flag = False
    """Whether up-sampled maps come before skipped ones; matters for weights trained elsewhere."""
    crop_to_factor: Flag = True
    """Crop up-sampled maps so that outputs are whole pooling cells of the coarsest level; false = larger outputs, as in
    the paper of the local shape descriptors."""
    halve_first: Flag = False
    """Half as many maps in all but the last convolution of each level on the way down (ExLLSM)."""
    num_fmaps_last: Positive | None = None
    """Feature maps before the last convolution; null = `num_fmaps`."""
    final_kernel_size: Positive = Field(3, description="Edge of the last convolution's kernel; most U-Nets have 1.")
    bottleneck_dropout: Fraction = 0.0
    """Share of values of the coarsest level that is set to 0 at random in training."""
    decoder_channels: tuple[Positive, ...] | None = None
    """Output channels of each of several decoders; null = one decoder for all channels."""
    adjacent_sections: Positive = 1
    """For a 2-D network: sections around each one that it sees as channels, itself included."""


class UnetModel(UnetOptions):
    """The U-Net. The defaults are incasem's; the other options are those of further published U-Nets."""

    type: Literal["Unet"] = "Unet"


class StackedHourglassModel(LevelsSection):
    """U-Nets in a row, each trained to improve on the one before: padded, with batch normalisation after each ReLU."""

    type: Literal["StackedHourglass"] = "StackedHourglass"
    num_stacks: Positive = Field(2, description="Number of U-Nets.")


class AutoContextModel(UnetOptions):
    """A U-Net that sees the output of a trained, frozen one; the keys of a Unet describe the second.

    Both take the same `in_channels` and `adjacent_sections`; those of `first` have no effect.
    """

    type: Literal["AutoContext"] = "AutoContext"
    first: UnetModel = Field(default_factory=UnetModel)
    """The frozen network, as it was trained; with `first_run_id`, the network of that run."""
    first_run_id: Positive | None = None
    """Training run of the frozen network; null = the file named below."""
    first_checkpoint: Checkpoint | None = None
    """Its checkpoint: `best`, `last`, an iteration, or the path of a file; null = best, or last where none is marked
    best. It is read at the start of a training; later checkpoints contain it."""
    with_raw: Flag = Field(True, description="Whether the second network sees raw besides (AcrLSD) or not (AcLSD).")

    @model_validator(mode="after")
    def _names_a_run_or_a_file(self) -> Self:
        which = self.first_checkpoint
        if self.first_run_id is None and which is not None and (which in ("best", "last") or which.isdigit()):
            raise contradiction(
                f"model.first_checkpoint is {which}, but of no training run: set model.first_run_id too, or give the "
                "path of a file."
            )
        return self


class CustomModel(ModelConfig):
    """A `torch.nn.Module` of your own, called with `in_channels`, `num_fmaps_out` and `options`."""

    type: Literal["Custom"] = "Custom"
    module: Text = Field("", description="The class, as `module:Class`; a module in the current folder or PYTHONPATH.")
    options: dict[str, Any] = Field(default_factory=dict, description="Further keyword arguments of the class.")
    input_size: Factor = Field((64, 64, 64), description="Smallest input z, y, x; two numbers for a 2-D network.")
    output_size: Factor = Field((64, 64, 64), description="Size of the output for that input, centred in it.")
    stride: Factor = (1, 1, 1)
    """Step from one valid input size to the next, such as 8 for 3 poolings."""
    halo: Margin = (0, 0, 0)
    """Outermost output voxels per side that depend on padding; 0 for valid convolutions."""

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        if len({len(size) for size in (self.input_size, self.output_size, self.stride, self.halo)}) > 1:
            raise contradiction(
                "model.input_size, output_size, stride and halo differ in their number of axes: give all 3, or 2 each."
            )
        if not re.fullmatch(r"[\w.]+:\w+", self.module):
            raise contradiction(
                f"model.module is '{self.module}': give it as module:Class, such as my_networks:Unet3d."
            )
        return self


class OneConv3dModel(UnetOptions):
    """A single 3 x 3 x 3 convolution for tests; the keys of a Unet are accepted, but have no effect."""

    type: Literal["OneConv3d"] = "OneConv3d"


MODELS: ModelSections = {
    "Unet": UnetModel,
    "StackedHourglass": StackedHourglassModel,
    "AutoContext": AutoContextModel,
    "Custom": CustomModel,
    "OneConv3d": OneConv3dModel,
}


class BalanceConfig(Section):
    """Balancing of the classes within a block."""

    clipmin: Fraction = 0.01
    """Lower bound of a class's share, which limits the weight of rare classes."""
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

    type: Literal["cross_entropy_scaling"] = "cross_entropy_scaling"
    """Cross-entropy per voxel, weighted by mask and class balance, divided by the sum of weights."""
    weight: tuple[NotNegative, ...] = Field((1.0, 1.0), description="Fixed weight of each class; one entry per class.")
    balance_labels: BalanceConfig = Field(default_factory=BalanceConfig)
    """Balancing of the classes within a block."""
