"""A configuration as incasem kept it, made one of this project's."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from incasem_like.config import TrainingConfig
from incasem_like.config.checking import fields_of, section_of
from incasem_like.config.reading import parse_yaml
from incasem_like.errors import ConfigError
from incasem_like.tracking.model.summaries import unpickled

Keys = tuple[str, ...]
# A wrong guess at these would give a network other than the one that was trained, or other voxels.
_ESSENTIAL = ("data", "model")
_CONTINUED = ("training", "continue_id")
# Sections of other commands that incasem keeps in the same document.
_OTHER_COMMANDS = ("prediction", "name")


@dataclass(frozen=True)
class Translation:
    """What came of a configuration.

    Attributes:
        config: In this project's form and complete: what the original did not say has incasem's default.
        left_out: Dotted keys of the original that this project has no place for.
        replaced: Dotted keys whose value could not be used, so that incasem's default stands in their place.
    """

    config: dict[str, Any]
    left_out: tuple[str, ...]
    replaced: tuple[str, ...]


def translate(original: Mapping[str, Any], source: str) -> Translation:
    """Translate a training configuration of incasem.

    Numbers that were kept as text become numbers. Paths stay as they are: they belong to the machine of that time.

    Args:
        original: As its run document or JSON has it, perhaps written by Sacred's serializer.
        source: What it is the configuration of, for messages: ``of run 1841``.

    Raises:
        ConfigError: What it says of voxels, classes or network cannot be used.
    """
    left_out: list[str] = []
    values = _known(TrainingConfig, unpickled(original), left_out)
    replaced: list[str] = []
    for keys in _unusable(values, source):
        replaced.append(".".join(keys))
    try:
        config = TrainingConfig.from_values(values, lambda _key: source)
    except ConfigError:
        # Values that contradict each other in this project's eyes, where the way of sampling is no longer of use.
        config = TrainingConfig.from_values(_bare(values), lambda _key: source)
        replaced.append("training")
    return Translation(config.model_dump(mode="json"), tuple(left_out), tuple(replaced))


def parent_of(original: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give what an incasem training was started or continued from, or None."""
    training = unpickled(original).get("training")
    if not isinstance(training, Mapping):
        return None
    start = training.get("start_from") or ()
    if isinstance(start, Sequence) and start and str(start[0]).isdigit():
        return {"training_run_id": int(start[0]), "checkpoint": str(start[1]) if len(start) > 1 else None}
    continued = training.get("continue_id")
    return {"training_run_id": int(str(continued))} if str(continued).isdigit() else None


def _known(model: type[BaseModel], values: Mapping[str, Any], left_out: list[str], prefix: str = "") -> dict[str, Any]:
    """Copy what the sections of a configuration know; texts become what their keys ask for."""
    known, copied = fields_of(model), {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if key not in known:
            if dotted not in (*_OTHER_COMMANDS, ".".join(_CONTINUED)):
                left_out.append(dotted)
            continue
        annotation = known[key].annotation
        section = section_of(annotation)
        if section is not None and isinstance(value, Mapping):
            copied[key] = _known(section, value, left_out, f"{dotted}.")
        elif isinstance(value, str) and section is None and not _takes_text(annotation):
            copied[key] = _read_text(value)
        else:
            copied[key] = value
    return copied


def _takes_text(annotation: Any) -> bool:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _takes_text(arguments[0])
    if origin in (Union, types.UnionType):
        return any(map(_takes_text, arguments))
    if origin is Literal:
        return any(isinstance(choice, str) for choice in arguments)
    return isinstance(annotation, type) and issubclass(annotation, (str, Path))


def _read_text(value: str) -> Any:
    try:
        return parse_yaml(value, "a value")
    except ConfigError:
        return value


def _unusable(values: dict[str, Any], source: str) -> Iterator[Keys]:
    """Take values of the wrong type or range out, one after the other, and name them.

    Raises:
        ConfigError: One of them is essential.
    """
    adapter = TypeAdapter(TrainingConfig)
    while True:
        try:
            adapter.validate_python(values)
            return
        except ValidationError as error:
            found = error.errors(include_url=False)[0]
            keys = _present(values, found["loc"])
            if found["type"] == "contradiction" or not keys:
                return
            if keys[0] in _ESSENTIAL:
                TrainingConfig.from_values(values, lambda _key: source)  # says it in a sentence
            _take_out(values, keys)
            yield keys


def _present(values: Mapping[str, Any], location: Sequence[int | str]) -> Keys:
    """Follow pydantic's location as far as the values have it."""
    keys: Keys = ()
    below: Any = values
    for part in location:
        if not isinstance(below, Mapping) or part not in below:
            break
        keys, below = (*keys, str(part)), below[part]
    return keys


def _take_out(values: dict[str, Any], keys: Keys) -> None:
    for key in keys[:-1]:
        values = values[key]
    del values[keys[-1]]


def _bare(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what says which network it is and what it was trained on."""
    training, validation = values.get("training", {}), values.get("validation", {})
    classes = values.get("data", {}).get("num_classes", 2)
    kept = ("data", "iterations", "save_every", "optimizer")
    return {
        **{key: values[key] for key in ("seed", "directories", "data", "model") if key in values},
        "loss": {"weight": [1.0] * classes},
        "training": {
            **{key: training[key] for key in kept if key in training},
            "augmentation": {"simple": None, "elastic": None},
        },
        "validation": {key: validation[key] for key in ("data",) if key in validation},
    }
