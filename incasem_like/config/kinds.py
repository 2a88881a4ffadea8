"""Types of configuration values: how each is parsed, and its description in error messages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict
from pydantic_core import PydanticCustomError


@dataclass(frozen=True)
class Words:
    """Description of a type in messages, with its article: ``a whole number``."""

    text: str


@dataclass(frozen=True)
class DefaultWords:
    """Description, in the reference page, of a default that depends on the machine or on another key."""

    text: str


@dataclass(frozen=True)
class PathRole:
    """How a path in a configuration is resolved: a ``folder`` may be new, a ``file`` must exist.

    A ``checkpoint`` is a path only when it is neither ``best`` nor ``last`` nor a number.
    """

    role: Literal["folder", "file", "checkpoint"]


def contradiction(sentence: str) -> PydanticCustomError:
    """Return the error of values that are valid alone but not together; ``sentence`` is shown to the user unchanged."""
    return PydanticCustomError("contradiction", "{sentence}", {"sentence": sentence})


def _whole(value: object) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or value != value
        or value in (math.inf, -math.inf)
    ):
        raise ValueError("not a whole number")
    if value != int(value):
        raise ValueError("not a whole number")
    return int(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("too large") from None
    if not math.isfinite(number):
        raise ValueError("not a number")
    return number


def _device(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        if value.isdigit():
            return int(value)
        kind, _, index = value.partition(":")
        if value in ("cpu", "cuda", "mps") or (kind == "cuda" and index.isdigit()):
            return value
    raise ValueError("not a device")


def _checkpoint(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str | Path) or value == "":
        raise ValueError("not a checkpoint")
    if isinstance(value, int) and value < 0:
        raise ValueError("not a checkpoint")
    return str(value)


def _checkpoints(value: object) -> str | tuple[str, ...]:
    """Parse one checkpoint, or one for each of several runs; a list of one is that one."""
    if not isinstance(value, list | tuple):
        return _checkpoint(value)
    read = tuple(_checkpoint(item) for item in value)
    if not read:
        raise ValueError("no checkpoint")
    return read if len(read) > 1 else read[0]


def _run_ids(value: object) -> int | tuple[int, ...]:
    """Parse the id of a run, or of several; a list of one is that one."""
    read = tuple(_whole(item) for item in (value if isinstance(value, list | tuple) else [value]))
    if not read or min(read) < 1:
        raise ValueError("no run ids")
    return read if len(read) > 1 else read[0]


def _stored_checkpoints(value: object) -> str:
    """Parse which checkpoints are stored in the database; the order of words is ignored."""
    listed = value if isinstance(value, list | tuple) else str(value).split(",")
    words = {str(word).strip().lower() for word in listed}
    if words in ({"all"}, {"none"}):
        return words.pop()
    if not words or not words <= {"best", "last"}:
        raise ValueError("not a choice of checkpoints")
    return ",".join(sorted(words))


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("not ascending")
    return limits


def _distinct(axes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(axes)) != len(axes):
        raise ValueError("an axis twice")
    return axes


Classes = Annotated[int, BeforeValidator(_whole), Field(ge=2, le=256), Words("a whole number from 2 to 256")]
Whole = Annotated[int, BeforeValidator(_whole), Words("a whole number")]
Positive = Annotated[int, BeforeValidator(_whole), Field(ge=1), Words("a whole number of at least 1")]
Points = Annotated[int, BeforeValidator(_whole), Field(ge=10, le=20_000), Words("a whole number from 10 to 20000")]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=0), Words("a whole number of at least 0")]
Number = Annotated[float, BeforeValidator(_number), Words("a number")]
PositiveNumber = Annotated[float, BeforeValidator(_number), Field(gt=0), Words("a number above 0")]
NotNegative = Annotated[float, BeforeValidator(_number), Field(ge=0), Words("a number of at least 0")]
Fraction = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1), Words("a number from 0 to 1")]
Flag = Annotated[bool, Strict(), Words("true or false")]
Text = Annotated[str, Field(min_length=1), Words("a text")]
Seed = Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=2**32), Words("a whole number from 0 to 4294967295")]

Position = Annotated[tuple[Whole, Whole, Whole], Words("three whole numbers [z, y, x]")]
Size = Annotated[tuple[Positive, Positive, Positive], Words("three whole numbers of at least 1 [z, y, x]")]
VoxelSize = Annotated[tuple[PositiveNumber, PositiveNumber, PositiveNumber], Words("three numbers above 0 [z, y, x]")]
Spread = Annotated[tuple[NotNegative, NotNegative, NotNegative], Words("three numbers of at least 0 [z, y, x]")]
Axis = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=2)]
Axes = Annotated[
    tuple[Axis, ...],
    Field(max_length=3),
    BeforeValidator(lambda axes: _distinct(axes) if isinstance(axes, list | tuple) else axes),
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
    str, BeforeValidator(_checkpoint), PathRole("checkpoint"), Words("best, last, an iteration or the path of a file")
]
Checkpoints = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_checkpoints),
    PathRole("checkpoint"),
    Words("best, last, an iteration or the path of a file, or a list with one of these for each run"),
]
RunIds = Annotated[int | tuple[int, ...], BeforeValidator(_run_ids), Words("the id of a run, or a list of such ids")]
Weights = Annotated[tuple[PositiveNumber, ...], Field(min_length=1), Words("a list of numbers above 0")]
StoredCheckpoints = Annotated[
    str, BeforeValidator(_stored_checkpoints), Words("best, last, both with a comma between, all or none")
]
Device = Annotated[int | str, BeforeValidator(_device), Words("a GPU index, cuda, cuda:INDEX, cpu or mps")]
