"""Trainings recorded by other programs: their form here before they are stored, and incasem's configurations."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from incasem_like.config import TrainingConfig
from incasem_like.config.reading import parse_yaml
from incasem_like.errors import ConfigError
from incasem_like.tracking.model.summaries import unpickled
from incasem_like.tracking.series import Metric
from incasem_like.tracking.values import plain, without_credentials

ORIGIN = "imported"
# A wrong guess for these would give another network than the trained one, or other voxels.
_ESSENTIAL = ("data", "model")
# Keys that do not describe the training: sections of incasem's other commands, and the parent, which is noted.
_NOT_OF_THE_TRAINING = ("prediction", "name", "training.continue_id")


@dataclass(frozen=True)
class ForeignRun:
    """A training from another store.

    Attributes:
        id: Its id there; None where it had none.
        identity: Text that identifies it when it is imported a second time.
        document: Its record, with the keys of ``RunStore.read_document`` except ``artifacts``.
        artifacts: The content of its files, by name.
        sources: The content of its source files, by name.
        problem: Why its configuration could not be translated, so that the record can only be read; or empty.
        missing: Names of its files that are missing or incomplete.
    """

    id: int | None
    name: str
    identity: str
    document: dict[str, Any]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    sources: Mapping[str, bytes] = field(default_factory=dict)
    problem: str = ""
    missing: tuple[str, ...] = ()


def origin(identity: str, source: str, foreign_id: int | None) -> dict[str, Any]:
    """Return the record of an imported run's origin: its identity, the file or folder it came from, its id there."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {ORIGIN: {"identity": identity, "from": source, "original_id": foreign_id, "time": now}}


def blank_document(
    run_id: int | None,
    name: str,
    comment: str,
    config: Mapping[str, Any],
    info: Mapping[str, Any],
    tags: Sequence[str] = (),
    iteration: int | None = None,
) -> dict[str, Any]:
    """Make the record of a training known only by its configuration; its times are those of the import."""
    now = datetime.now(UTC)
    options = {"--name": name, "--comment": comment, "--id": run_id}
    unknown: dict[str, list[Any]] = {"sources": [], "dependencies": [], "repositories": []}
    return {
        "experiment": {"name": name, "base_dir": "", "mainfile": None, **unknown},
        "command": "train",
        "host": {},
        "meta": {"command": "train", "comment": comment, "options": options},
        "status": "COMPLETED",
        "start_time": now,
        "stop_time": now,
        "heartbeat": now,
        "result": None if iteration is None else {"iteration": iteration},
        "omniboard": {"tags": list(tags), "notes": ""} if tags else None,
        "config": config,
        "info": info,
        "captured_out": "",
        "fail_trace": [],
    }


@dataclass(frozen=True)
class Configuration:
    """A translated configuration in this package's form.

    ``left_out`` are dotted keys of the original that it does not have; those ``replaced`` have incasem's default, since
    their value could not be used.
    """

    config: dict[str, Any]
    left_out: tuple[str, ...]
    replaced: tuple[str, ...]


def translate(original: Mapping[str, Any], source: str) -> Configuration:
    """Translate a training configuration of incasem, perhaps written by Sacred's serializer.

    Numbers stored as text become numbers. Paths are unchanged: they belong to the original machine. ``source`` names it
    in messages: ``of run 1841``.

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
    return Configuration(config.model_dump(mode="json"), tuple(left_out), tuple(replaced))


def translated(original: Mapping[str, Any], source: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Translate a configuration; if that fails, keep the original, with the reason.

    Returns the configuration; for the run's ``info``, the original one, its parent and notes about the translation; and
    why it failed, or nothing.
    """
    unchanged = without_credentials(plain(unpickled(original)))
    info: dict[str, Any] = {"original_config": unchanged}
    try:
        found = translate(original, source)
    except ConfigError as error:
        return unchanged, info, str(error)
    info["translation"] = {"left_out": list(found.left_out), "replaced": list(found.replaced)}
    if parent := parent_of(original):
        info["parent"] = parent
    return without_credentials(found.config), info, ""


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
    """Remove what this package does not know or accept, in place, and convert texts to the types of their keys.

    Returns the dotted keys that are unknown here, and those whose value could not be used. A value that decides about
    network or voxels and cannot be used raises ``ConfigError``.
    """
    left_out: list[str] = []
    replaced: list[str] = []
    parsed: set[str] = set()
    adapter = TypeAdapter(TrainingConfig)
    while True:
        try:
            adapter.validate_python(values)
            return left_out, replaced
        except ValidationError as error:
            errors = error.errors(include_url=False)
        found = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
        section, keys, below = values, list[str](), values
        for part in map(str, found["loc"]):  # those in the values; pydantic adds names of types to them
            if not isinstance(below, dict) or part not in below:
                break
            section, below = below, below[part]
            keys.append(part)
        if found["type"] == "contradiction" or not keys:
            return left_out, replaced
        name, last = ".".join(keys), keys[-1]
        if found["type"] == "extra_forbidden":
            del section[last]
            if name not in _NOT_OF_THE_TRAINING and keys[0] not in _NOT_OF_THE_TRAINING:
                left_out.append(name)
        elif isinstance(section[last], str) and name not in parsed:
            parsed.add(name)
            with contextlib.suppress(ConfigError):
                section[last] = parse_yaml(section[last], "a value")
        elif keys[0] in _ESSENTIAL:
            TrainingConfig.from_values(values, lambda _key: source)  # raises it as one sentence
        else:
            del section[last]
            replaced.append(name)


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
