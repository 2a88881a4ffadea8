"""One-sentence errors of a configuration: unknown keys with the nearest known one, wrong types, wrong ranges."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from incasem_like.config.kinds import Words
from incasem_like.errors import ConfigError
from incasem_like.terminal import nearest

KeyPath = tuple[str, ...]

# Names of the keys in other programs, where they are not spelled similarly.
_OTHER_NAMES = {
    "learning_rate": "lr", "l2": "weight_decay", "epochs": "iterations", "steps": "iterations",
    "max_iterations": "iterations", "gpu": "device", "amp": "precision", "workers": "num_workers",
    "threads": "num_threads", "channels": "num_fmaps", "classes": "num_classes", "resolution": "voxel_size",
}  # fmt: skip
_PLAIN = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a model by their keys in the files."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def section_of(annotation: object) -> type[BaseModel] | None:
    """Return the model of a field that is a section (or a section or null), None for any other field."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def all_keys(model: type[BaseModel], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, FieldInfo]]:
    """Yield every key that is not itself a section, in the order of the model."""
    for key, field in fields_of(model).items():
        section = section_of(field.annotation)
        if section is None:
            yield (*prefix, key), field
        else:
            yield from all_keys(section, (*prefix, key))


def expected(annotation: object, metadata: Sequence[object] = ()) -> str:
    """Return the values that a type accepts, in words: ``a whole number of at least 1``, ``one of 'a', 'b'``."""
    words = [item.text for item in metadata if isinstance(item, Words)]
    if words:
        return words[-1]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return expected(arguments[0], arguments[1:])
    if origin in (Union, UnionType):
        said = [expected(part) for part in arguments if part is not type(None)]
        return " or ".join([*said, "null"] if type(None) in arguments else said)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(repr, arguments))
    if origin is tuple and Ellipsis in arguments:
        return f"a list, each entry {expected(arguments[0])}"
    if origin is dict:
        return f"a mapping, each value {expected(arguments[1])}"
    if section_of(annotation) is not None:
        return "a section with keys of its own"
    return _PLAIN.get(annotation, "another value") if isinstance(annotation, type) else "another value"


def check_known_keys(
    model: type[BaseModel],
    values: Mapping[str, Any],
    source: Callable[[KeyPath], str],
    *,
    prefix: KeyPath = (),
    whole: type[BaseModel] | None = None,
) -> None:
    """Check that every key is known.

    Raises:
        ConfigError: A key is unknown; the message gives the dotted key, its source, and the nearest known key.
    """
    whole = whole or model
    known = fields_of(model)
    for key, value in values.items():
        path = (*prefix, str(key))
        if key not in known:
            raise ConfigError(
                f"Unknown key '{'.'.join(path)}' {source(path)}{_suggestion(path, tuple(known), whole, prefix)}"
            )
        section = section_of(known[key].annotation)
        if section is not None and isinstance(value, Mapping):
            check_known_keys(section, value, source, prefix=path, whole=whole)


def _suggestion(path: KeyPath, siblings: Sequence[str], whole: type[BaseModel], prefix: KeyPath) -> str:
    """Suggest the same name in another section, else a similar name in this section, else a similar name anywhere."""
    anywhere: dict[str, list[KeyPath]] = {}
    for known in _keys_and_sections(whole):
        anywhere.setdefault(known[-1], []).append(known)
    named = path[-1] if path[-1] in anywhere else _OTHER_NAMES.get(path[-1], "")
    if named in anywhere:
        beside = [known for known in anywhere[named] if known[:-1] == prefix]
        return _did_you_mean(beside or anywhere[named])
    near = _nearest_word(path[-1], siblings)
    if near:
        return _did_you_mean([(*prefix, near)])
    near = _nearest_word(path[-1], tuple(anywhere))
    return _did_you_mean(anywhere[near]) if near else f": known there are {', '.join(siblings)}."


def _keys_and_sections(model: type[BaseModel], prefix: KeyPath = ()) -> Iterator[KeyPath]:
    for key, field in fields_of(model).items():
        yield (*prefix, key)
        section = section_of(field.annotation)
        if section is not None:
            yield from _keys_and_sections(section, (*prefix, key))


def _nearest_word(word: str, known: Sequence[str]) -> str | None:
    phrase = nearest(word, known)
    return phrase.split("'")[1] if phrase else None


def _did_you_mean(paths: Sequence[KeyPath]) -> str:
    return "; did you mean " + " or ".join(f"'{'.'.join(path)}'" for path in paths) + "?"


def explain(
    error: ValidationError,
    model: type[BaseModel],
    values: Mapping[str, Any],
    source: Callable[[KeyPath], str],
    *,
    prefix: KeyPath = (),
) -> ConfigError:
    """Return pydantic's first error as a sentence: the key, the expected and the found value, and its source."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "contradiction":
        return ConfigError(first["msg"])
    path, field = _locate(model, first["loc"])
    dotted = ".".join((*prefix, *path))
    found = _value_at(values, path)
    # pydantic also reports "missing" for a list that is too short
    if first["type"] == "missing" and found is None:
        return ConfigError(f"{dotted} is missing {source(path)}: it must be {_expected_of(field)}.")
    what = f"{dotted} must be {_expected_of(field)}, found {show(found)} {source(path)}"
    return ConfigError(f"{what}{_better_value(field, dotted, found)}")


def _better_value(field: FieldInfo | None, dotted: str, found: object) -> str:
    """Return the end of a sentence about a wrong value: the value that was probably meant."""
    section = section_of(field.annotation) if field is not None else None
    if section is not None and found is not None:
        return f": set a key of it, such as {dotted}.{next(iter(fields_of(section)))}=VALUE."
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)] if field is not None else []
    return (nearest(found, choices) if isinstance(found, str) else "") or "."


def _locate(model: type[BaseModel], location: Sequence[int | str]) -> tuple[KeyPath, FieldInfo | None]:
    """Return the key path and field of pydantic's location, without list indices and union branches."""
    path: KeyPath = ()
    field: FieldInfo | None = None
    section: type[BaseModel] | None = model
    for part in location:
        known = fields_of(section) if section is not None else {}
        if part not in known:
            break
        field = known[str(part)]
        path = (*path, str(part))
        section = section_of(field.annotation)
    return path, field


def _expected_of(field: FieldInfo | None) -> str:
    return "a mapping of keys" if field is None else expected(field.annotation, field.metadata)


def _value_at(values: object, path: KeyPath) -> object:
    for key in path:
        if values is not None and not isinstance(values, Mapping):
            return values  # the short form of a section
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def show(value: object) -> str:
    """Return a value as YAML, shortened to one short line."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
