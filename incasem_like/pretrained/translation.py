"""Translation of incasem's configurations to those of this package."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from incasem_like.config import TrainingConfig
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
    values = deepcopy(unpickled(original))
    left_out, replaced = _repair(values, source)
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


def _repair(values: dict[str, Any], source: str) -> tuple[list[str], list[str]]:
    """Remove what this package does not know or accept, and convert texts to the types of their keys.

    Args:
        values: The configuration; changed in place.
        source: See ``translate``.

    Returns:
        The dotted keys that are unknown here, and those whose value could not be used.

    Raises:
        ConfigError: A value that decides about network or voxels cannot be used.
    """
    left_out: list[str] = []
    replaced: list[str] = []
    read: set[Keys] = set()
    adapter = TypeAdapter(TrainingConfig)
    while True:
        try:
            adapter.validate_python(values)
            return left_out, replaced
        except ValidationError as error:
            errors = error.errors(include_url=False)
            found = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
            keys = _present(values, found["loc"])
            if found["type"] == "contradiction" or not keys:
                return left_out, replaced
            section = _section(values, keys)
            value = section[keys[-1]]
            if found["type"] == "extra_forbidden":
                del section[keys[-1]]
                if keys[0] not in _OTHER_COMMANDS and keys != _CONTINUED:
                    left_out.append(".".join(keys))
            elif isinstance(value, str) and keys not in read:
                read.add(keys)
                with contextlib.suppress(ConfigError):
                    section[keys[-1]] = parse_yaml(value, "a value")
            elif keys[0] in _ESSENTIAL:
                TrainingConfig.from_values(values, lambda _key: source)  # raises it as one sentence
            else:
                del section[keys[-1]]
                replaced.append(".".join(keys))


def _present(values: Mapping[str, Any], location: Sequence[int | str]) -> Keys:
    """Return the part of pydantic's location that exists in the values."""
    keys: Keys = ()
    below: Any = values
    for part in location:
        if not isinstance(below, Mapping) or part not in below:
            break
        keys, below = (*keys, str(part)), below[part]
    return keys


def _section(values: dict[str, Any], keys: Keys) -> dict[str, Any]:
    for key in keys[:-1]:
        values = values[key]
    return values


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
