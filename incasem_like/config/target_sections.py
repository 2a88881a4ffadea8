"""Targets and losses as configurations name them: their common keys, their registries, and how an entry is parsed.

Configurations lie below the packages that hold the classes, so the registries name each class by its address, as the
entry points of installed packages do, and the keys, messages and the reference page come from the classes. A target or
loss is one class, a section whose fields are its options, and one line here.
"""

from __future__ import annotations

import importlib
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from incasem_like.config.checking import explain, show
from incasem_like.config.kinds import DefaultWords, PositiveNumber, Text, Words, contradiction
from incasem_like.config.section import Section
from incasem_like.terminal import nearest

TARGETS: Mapping[str, str] = {
    "classes": "incasem_like.targets.learned:Classes",
    "affinities": "incasem_like.targets.learned:Affinities",
    "boundaries": "incasem_like.targets.learned:Boundaries",
    "lsd": "incasem_like.targets.learned:Descriptors",
    "distance": "incasem_like.targets.learned:Distance",
}
LOSSES: Mapping[str, str] = {
    "cross_entropy_scaling": "incasem_like.targets.losses:BalancedCrossEntropy",
    "cross_entropy_dice": "incasem_like.targets.losses:CrossEntropyDice",
    "bce": "incasem_like.targets.losses:BinaryCrossEntropy",
    "weighted_bce": "incasem_like.targets.losses:WeightedBinaryCrossEntropy",
    "dice": "incasem_like.targets.losses:Dice",
    "boundary_weighted_dice": "incasem_like.targets.losses:BoundaryWeightedDice",
    "mse": "incasem_like.targets.losses:MeanSquaredError",
    "sum": "incasem_like.targets.losses:WeightedSum",
}

Activation = Literal["softmax", "sigmoid", "none"]
# What a target consists of: an id per voxel, or per channel 0 and 1, or a number.
Kind = Literal["classes", "binary", "values"]
KIND_WORDS: Mapping[Kind, str] = {
    "classes": "classes that exclude each other",
    "binary": "independent channels of 0 and 1",
    "values": "continuous values",
}
# The validation scores of each kind, and whether the highest or the lowest is best.
SCORES: Mapping[Kind, Mapping[str, Literal["max", "min"]]] = {
    "classes": {"dice": "max", "jaccard": "max", "precision": "max", "recall": "max"},
    "binary": {"dice": "max", "jaccard": "max", "precision": "max", "recall": "max", "bce": "min"},
    "values": {"mse": "min"},
}
RESERVED_NAMES = ("segmentation", "prob_maps")


def check_name(name: str, key: str) -> None:
    """Check that a name can be that of a dataset of a prediction.

    Raises:
        PydanticCustomError: It cannot.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", name) or name in RESERVED_NAMES:
        raise contradiction(
            f'{key} has the name "{name}": give letters, digits and underscores, beginning with a letter; '
            "segmentation and prob_maps are those of classes."
        )


class LossSection(Section):
    """Keys that all losses share.

    Attributes:
        kinds: The kinds of targets it can compare with.
    """

    kinds: ClassVar[frozenset[Kind]]
    type: Text = Field(..., description="Name of the loss.")

    def check(self, target: TargetSection) -> None:
        """Check that it suits the target; a loss with further conditions extends this.

        Raises:
            PydanticCustomError: It does not.
        """
        if target.kind not in self.kinds:
            fitting = [name for name, address in LOSSES.items() if target.kind in load(address).kinds]
            raise contradiction(
                f"loss.type is {self.type}, but {target.name} has {KIND_WORDS[target.kind]}: choose one of "
                f"{', '.join(fitting)}."
            )


AnyLoss = Annotated[
    SerializeAsAny[LossSection], BeforeValidator(lambda value: parse_loss(value)), Words("a loss, see below")
]


class TargetSection(Section):
    """Keys that all targets share, and what a network needs to know of a target before there are data."""

    type: Text = Field(..., description="Name of the target.")
    name: Annotated[Text, DefaultWords("the type")] = Field(default_factory=lambda known: known.get("type", ""))
    """Name in metrics, and of the dataset that a prediction writes."""
    weight: PositiveNumber = Field(1.0, description="Weight of its loss in the sum over all targets.")
    loss: AnyLoss = Field(..., description="Its name, or a mapping of `type` and options.")

    @model_validator(mode="after")
    def _has_a_name(self) -> Self:
        check_name(self.name, "targets")
        return self

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """What the target consists of."""

    @property
    def activation(self) -> Activation:
        """The function that turns the logits of its channels into what is predicted."""
        return "softmax" if self.kind == "classes" else "sigmoid"

    @property
    @abstractmethod
    def channel_names(self) -> tuple[str, ...]:
        """The meaning of each of its channels, in order."""

    @property
    def channels(self) -> int:
        """Number of channels of the network's output."""
        return len(self.channel_names)

    @property
    def score_groups(self) -> Mapping[str, Sequence[int]]:
        """Channels that are scored together, by the ending of their scores' names."""
        return {"": range(self.channels)}

    def score_name(self, score: str, group: str) -> str:
        """Return the name of a validation metric: ``affinities_dice`` or, of some of the channels, with an ending."""
        return "_".join(filter(None, (self.name, score, group)))

    @property
    def metrics(self) -> dict[str, Literal["max", "min"]]:
        """Its validation metrics, and whether the highest or the lowest value is best."""
        scores = SCORES[self.kind].items()
        return {self.score_name(score, group): best for score, best in scores for group in self.score_groups}

    @property
    def main_metric(self) -> str:
        """The metric that decides on the best checkpoint unless the configuration names one."""
        return next(iter(self.metrics))

    def describe(self) -> dict[str, Any]:
        """Return what a reader of its predictions has to know: attributes of the run and of the predicted dataset.

        A target whose options decide on the meaning of its channels adds them.
        """
        known = {"target": self.type, "channel_names": list(self.channel_names)}
        return known if self.activation == "none" else {**known, "value_range": [0, 1]}

    def resolved(self, num_classes: int) -> Self:
        """Return it with the options that follow from ``data.num_classes``."""
        return self

    def check(self, output_size: Sequence[int], voxel_size: Sequence[float]) -> None:
        """Check what can be checked without data; a target with further conditions extends this.

        Args:
            output_size: ``training.output_size_voxels``.
            voxel_size: nm, z, y, x, after downsampling.

        Raises:
            PydanticCustomError: Its loss does not suit it.
        """
        self.loss.check(self)


def load(address: str) -> Any:
    """Return the class at an address, such as ``incasem_like.targets.losses:Dice``."""
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)


def default_loss(name: str) -> Any:
    """Return the field of a target's loss, with the loss that it has by default."""
    description = "Its name, or a mapping of `type` and options."
    return Field(default_factory=lambda: parse_loss(name), description=description)


def parse_loss(value: object) -> LossSection:
    """Parse a loss: its name, or a mapping of ``type`` and options.

    Raises:
        PydanticCustomError: It is unknown, or an option is unknown or wrong.
    """
    loss: LossSection = _parse(value, LOSSES, "loss", LossSection)
    return loss


def parse_targets(value: Sequence[object]) -> tuple[TargetSection, ...]:
    """Parse a list of targets, each a name or a mapping of ``type`` and options.

    Raises:
        PydanticCustomError: A target is unknown, an option is unknown or wrong, or two have the same name.
    """
    targets = tuple(_parse(item, TARGETS, f"targets[{index}]", TargetSection) for index, item in enumerate(value))
    names = [target.name for target in targets]
    if len(set(names)) < len(names):
        raise contradiction(f"targets has a name twice ({', '.join(names)}): give each its own name.")
    return targets


Targets = Annotated[
    tuple[SerializeAsAny[TargetSection], ...],
    Field(min_length=1),
    BeforeValidator(lambda value: parse_targets(value) if isinstance(value, list | tuple) else value),
    Words(f"a list of targets, each a mapping with type ({', '.join(TARGETS)}) and its options"),
]


def _parse(value: object, table: Mapping[str, str], key: str, base: type[Section]) -> Any:
    if isinstance(value, base):
        return value
    options = {"type": value} if isinstance(value, str) else value
    name = options.get("type") if isinstance(options, Mapping) else None
    if not isinstance(options, Mapping) or not isinstance(name, str) or name not in table:
        found = f"has the type '{name}'" if isinstance(name, str) else f"is {show(value)}"
        near = nearest(name, list(table)) if isinstance(name, str) else ""
        ending = near or f": known types are {', '.join(table)}."
        raise contradiction(f"{key} {found}{ending}")
    section = load(table[name])
    try:
        return section.model_validate(dict(options))
    except ValidationError as error:
        raise contradiction(str(explain(error, section, options, lambda _path: f"in {key}"))) from None
