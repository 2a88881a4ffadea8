"""Types of configuration values: constraints that pydantic checks, and words where a type's description needs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict
from pydantic_core import PydanticCustomError


@dataclass(frozen=True)
class Words:
    """Description of a type in messages and in the reference page, with its article, instead of the generated one."""

    text: str


@dataclass(frozen=True)
class DefaultWords:
    """Description, in the reference page, of a default that depends on the machine or on another key."""

    text: str


@dataclass(frozen=True)
class FormerName:
    """The name that a key had in earlier versions, under which it is still accepted."""

    name: str


@dataclass(frozen=True)
class PathRole:
    """How a path in a configuration is resolved: a ``folder`` may be new, a ``file`` must exist.

    A ``checkpoint`` is a path only when it is neither ``best`` nor ``last`` nor a number.
    """

    role: Literal["folder", "file", "checkpoint"]


def contradiction(sentence: str) -> PydanticCustomError:
    """Return the error of values that are valid alone but not together; ``sentence`` is shown to the user unchanged."""
    return PydanticCustomError("contradiction", "{sentence}", {"sentence": sentence})


def _as_text(value: Any) -> Any:
    """Convert an iteration or path to text, for keys that also accept words."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return str(value) if is_count or isinstance(value, Path) else value


def _one_or_several(value: Any) -> Any:
    """Convert a list of one to that one."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _choice_of_checkpoints(value: Any) -> Any:
    """Convert ``last, best`` or a list of words to the words in alphabetical order."""
    words = value if isinstance(value, list | tuple) else str(value).split(",")
    return ",".join(sorted({str(word).strip().lower() for word in words}))


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("not ascending")
    return limits


def _distinct(axes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(axes)) != len(axes):
        raise ValueError("an axis twice")
    return axes


# 2e5 and 3.0, which YAML reads as floats, are whole numbers.
Whole = Annotated[
    int,
    Strict(),
    BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value),
]
Positive = Annotated[Whole, Field(ge=1)]
Count = Annotated[Whole, Field(ge=0)]
Classes = Annotated[Whole, Field(ge=2, le=256)]
Points = Annotated[Whole, Field(ge=10, le=20_000)]
Seed = Annotated[Whole, Field(ge=0, le=2**32 - 1)]
Number = Annotated[float, Strict()]
PositiveNumber = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Field(min_length=1)]

Position = tuple[Whole, Whole, Whole]
Size = tuple[Positive, Positive, Positive]
VoxelSize = tuple[PositiveNumber, PositiveNumber, PositiveNumber]
Spread = tuple[NotNegative, NotNegative, NotNegative]
Axes = Annotated[
    tuple[Annotated[Whole, Field(ge=0, le=2)], ...],
    AfterValidator(_distinct),
    Words("a list of different axes out of 0 (z), 1 (y), 2 (x)"),
]
Range = Annotated[
    tuple[NotNegative, NotNegative],
    AfterValidator(_ascending),
    Words("two numbers [from, to] of at least 0, ascending"),
]
PositiveRange = Annotated[
    tuple[PositiveNumber, PositiveNumber],
    AfterValidator(_ascending),
    Words("two numbers [from, to] above 0, ascending"),
]
Factor = Annotated[tuple[Positive, ...], Field(min_length=2, max_length=3)]
Margin = Annotated[
    tuple[Count, ...], Field(min_length=2, max_length=3), Words("whole numbers of at least 0 [z, y, x] or [y, x]")
]
Factors = Annotated[
    tuple[Factor, ...],
    Field(min_length=1),
    Words("a list with one [z, y, x] of whole numbers of at least 1 for each level"),
]
Kernels = Annotated[
    tuple[tuple[Factor, ...], ...], Words("a list of levels, each a list of convolution kernels [z, y, x]")
]

Folder = Annotated[Path, PathRole("folder"), Words("the path of a folder")]
ExistingFile = Annotated[Path, PathRole("file"), Words("the path of a file")]
Checkpoint = Annotated[
    Text, BeforeValidator(_as_text), PathRole("checkpoint"), Words("best, last, an iteration or the path of a file")
]
Checkpoints = Annotated[
    Checkpoint | Annotated[tuple[Checkpoint, ...], Field(min_length=1)],
    BeforeValidator(_one_or_several),
    PathRole("checkpoint"),
    Words("best, last, an iteration or the path of a file, or a list with one of these for each run"),
]
RunIds = Annotated[
    Positive | Annotated[tuple[Positive, ...], Field(min_length=1)],
    BeforeValidator(_one_or_several),
    Words("the id of a run, or a list of such ids"),
]
Weights = Annotated[tuple[PositiveNumber, ...], Field(min_length=1), Words("a list of numbers above 0")]
StoredCheckpoints = Annotated[
    Literal["all", "none", "best", "last", "best,last"],
    BeforeValidator(_choice_of_checkpoints),
    Words("best, last, both with a comma between, all or none"),
]
Device = Annotated[
    Count | Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")],
    BeforeValidator(lambda value: int(value) if isinstance(value, str) and value.isdigit() else value),
    Words("a GPU index, cuda, cuda:INDEX, cpu or mps"),
]
