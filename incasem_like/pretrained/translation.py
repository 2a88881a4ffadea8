"""Translation of incasem's configurations to those of this package."""

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
# A wrong guess for these would give another network than the trained one, or other voxels.
_ESSENTIAL = ("data", "model")
_CONTINUED = ("training", "continue_id")
# Sections of other commands that incasem stores in the same document.
_OTHER_COMMANDS = ("prediction", "name")


@dataclass(frozen=True)
class Translation:
    """A translated configuration.

    Attributes:
        config: The complete configuration in this package's form; missing values have incasem's defaults.
        left_out: Dotted keys of the original that this package does not have.
        replaced: Dotted keys whose value could not be used and was replaced by incasem's default.
    """

    config: dict[str, Any]
    left_out: tuple[str, ...]
    replaced: tuple[str, ...]


def translate(original: Mapping[str, Any], source: str) -> Translation:
    """Translate a training configuration of incasem.

    Numbers stored as text become numbers. Paths are unchanged: they belong to the original machine.

    Args:
        original: The configuration in its run document or JSON, perhaps written by Sacred's serializer.
        source: Text that names it in messages: ``of run 1841``.

    Raises:
        ConfigError: Its values for voxels, classes or network cannot be used.
    """
    left_out: list[str] = []
    values = _known(TrainingConfig, unpickled(original), left_out)
    replaced: list[str] = []
    for keys in _unusable(values, source):
        replaced.append(".".join(keys))
    try:
        config = TrainingConfig.from_values(values, lambda _key: source)
    except ConfigError:
        # Values that contradict each other here; how samples were drawn does not matter any more.
        config = TrainingConfig.from_values(_bare(values), lambda _key: source)
        replaced.append("training")
    return Translation(config.model_dump(mode="json"), tuple(left_out), tuple(replaced))


def parent_of(original: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the training that an incasem training was started or continued from, or None."""
    training = unpickled(original).get("training")
    if not isinstance(training, Mapping):
        return None
    start = training.get("start_from") or ()
    if isinstance(start, Sequence) and start and str(start[0]).isdigit():
        return {"training_run_id": int(start[0]), "checkpoint": str(start[1]) if len(start) > 1 else None}
    continued = training.get("continue_id")
    return {"training_run_id": int(str(continued))} if str(continued).isdigit() else None


def _known(model: type[BaseModel], values: Mapping[str, Any], left_out: list[str], prefix: str = "") -> dict[str, Any]:
    """Copy the known keys of a configuration's sections; texts are converted to the types of their keys."""
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
    """Remove values of wrong type or range, one after the other, and yield their keys.

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
                TrainingConfig.from_values(values, lambda _key: source)  # raises it as one sentence
            _take_out(values, keys)
            yield keys


def _present(values: Mapping[str, Any], location: Sequence[int | str]) -> Keys:
    """Return the part of pydantic's location that exists in the values."""
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
    """Return only the keys that describe the network and its training data."""
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
