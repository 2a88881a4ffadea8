"""pydantic's errors of a configuration as one sentence, and descriptions of what a type accepts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from incasem_like.config.kinds import FormerName, Words
from incasem_like.errors import ConfigError
from incasem_like.terminal import nearest

KeyPath = tuple[str, ...]
Source = Callable[[KeyPath], str]

# Names of the keys in other programs, where they are not spelled similarly.
_OTHER_NAMES = {
    "learning_rate": "lr", "l2": "weight_decay", "epochs": "iterations", "steps": "iterations",
    "max_iterations": "iterations", "gpu": "device", "amp": "precision", "workers": "num_workers",
    "threads": "num_threads", "channels": "num_fmaps", "classes": "num_classes", "resolution": "voxel_size",
}  # fmt: skip
MOST_SUGGESTED = 3
_PLAIN = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a model by their keys in the files; of a section with variants, those of all of them."""
    models = (model, *variants_of(model).values())
    return {field.alias or name: field for one in reversed(models) for name, field in one.model_fields.items()}


def variants_of(model: type[BaseModel] | None) -> Mapping[str, type[BaseModel]]:
    """Return the sections among which the key ``type`` of a section selects, by that key; none for most sections."""
    variants: Mapping[str, type[BaseModel]] = getattr(model, "variants", dict)()
    return variants


def section_of(annotation: object) -> type[BaseModel] | None:
    """Return the model of a field that is a section (or a section or null), None for any other field."""
    for candidate in get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def all_keys(model: type[BaseModel], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, FieldInfo]]:
    """Yield every key, each section before the keys in it, in the order of the model; of variants, the default's."""
    variants = variants_of(model)
    default = fields_of(variants[model.model_fields["type"].default]) if variants else {}
    for key, field in (default | model.model_fields if variants else fields_of(model)).items():
        yield (*prefix, key), field
        section = section_of(field.annotation)
        if section is not None:
            yield from all_keys(section, (*prefix, key))


def current_names(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy nested values with keys under their present names; where both are given, the former one is dropped."""
    fields = fields_of(model)
    former = {
        mark.name: key for key, field in fields.items() for mark in field.metadata if isinstance(mark, FormerName)
    }
    copied: dict[str, Any] = {}
    for key, value in values.items():
        if key in former and former[key] in values:
            continue
        key = former.get(key, key)
        section = section_of(fields[key].annotation) if key in fields else None
        copied[key] = current_names(section, value) if section is not None and isinstance(value, Mapping) else value
    return copied


def expected(annotation: object, metadata: Sequence[object] = ()) -> str:
    """Return the values that a type accepts, in words.

    Example:
        >>> from incasem_like.config.kinds import Fraction, Size
        >>> expected(Fraction)
        'a number from 0 to 1'
        >>> expected(Size)
        '[z, y, x], each a whole number of at least 1'
    """
    words = [item.text for item in metadata if isinstance(item, Words)]
    if words:
        return words[-1]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return expected(arguments[0], arguments[1:])
    if origin in (Union, UnionType):
        return " or ".join("null" if part is type(None) else expected(part) for part in arguments)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(repr, arguments))
    if origin is tuple:
        return f"{'a list, each entry' if Ellipsis in arguments else '[z, y, x], each'} {expected(arguments[0])}"
    if origin is dict:
        return f"a mapping, each value {expected(arguments[1])}"
    if section_of(annotation) is not None:
        return "a section with keys of its own"
    word = _PLAIN.get(annotation, "another value") if isinstance(annotation, type) else "another value"
    constraints = [one for item in metadata for one in (item.metadata if isinstance(item, FieldInfo) else [item])]
    bounds = {name: getattr(one, name) for one in constraints for name in ("ge", "gt", "le") if hasattr(one, name)}
    if "ge" in bounds and "le" in bounds:
        return f"{word} from {bounds['ge']} to {bounds['le']}"
    return (
        f"{word} of at least {bounds['ge']}"
        if "ge" in bounds
        else f"{word} above {bounds['gt']}"
        if "gt" in bounds
        else word
    )


def explain(
    error: ValidationError, model: type[BaseModel], values: Mapping[str, Any], source: Source, *, prefix: KeyPath = ()
) -> ConfigError:
    """Return one of pydantic's errors as a sentence: the key, the expected and the found value, and its source.

    Unknown keys come first: another key may be missing because it is misspelt.

    Args:
        error: The errors.
        model: The model that was validated.
        values: The values that were validated, nested.
        source: See ``Document.from_values``.
        prefix: Key path of ``values``.
    """
    errors = error.errors(include_url=False)
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    if first["type"] == "contradiction":
        return ConfigError(first["msg"])
    location = (*prefix, *map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        hint = _owners(model, values, first["loc"]) or _suggestion(model, location, prefix)
        return ConfigError(f"Unknown key '{'.'.join(location)}' {source(location)}{hint}")
    path, field = _locate(model, first["loc"])
    dotted = ".".join((*prefix, *path))
    what = "a mapping of keys" if field is None else expected(field.annotation, field.metadata)
    found: Any = values
    for key in path:  # up to the short form of a section
        found = {str(name): value for name, value in found.items()}.get(key) if isinstance(found, Mapping) else found
    # pydantic also reports "missing" for a list that is too short
    if first["type"] == "missing" and found is None:
        return ConfigError(f"{dotted} is missing {source(path)}: it must be {what}.")
    sentence = f"{dotted} must be {what}, found {show(found)} {source(path)}"
    section = section_of(field.annotation) if field is not None else None
    if section is not None and found is not None:
        return ConfigError(f"{sentence}: set a key of it, such as {dotted}.{next(iter(fields_of(section)))}=VALUE.")
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)] if field is not None else []
    return ConfigError(f"{sentence}{(nearest(found, choices) if isinstance(found, str) else '') or '.'}")


def show(value: object) -> str:
    """Return a value as YAML, shortened to one short line."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _owners(model: type[BaseModel], values: Mapping[str, Any], location: Sequence[int | str]) -> str:
    """Return the variants of a section that have a key which the chosen one lacks; empty if none has it."""
    path, field = _locate(model, location[:-1])
    section = section_of(field.annotation) if field is not None else None
    owners = [name for name, variant in variants_of(section).items() if location[-1] in fields_of(variant)]
    if section is None or not owners:
        return ""
    found: Any = values
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    chosen = (found or {}).get("type", section.model_fields["type"].default)
    return f": {'.'.join(path)}.type is {chosen}, but the key belongs to {', '.join(owners)}."


def _every_key(model: type[BaseModel], prefix: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield every key and section, of variants those of all."""
    for key, field in fields_of(model).items():
        yield (*prefix, key)
        section = section_of(field.annotation)
        if section is not None:
            yield from _every_key(section, (*prefix, key))


def _suggestion(model: type[BaseModel], path: KeyPath, prefix: KeyPath) -> str:
    """Suggest the same name in a few other sections, else a similar name in this section, else anywhere."""
    section, word = path[len(prefix) : -1], path[-1]
    anywhere: dict[str, list[KeyPath]] = {}
    for known in _every_key(model):
        anywhere.setdefault(known[-1], []).append(known)
    siblings = [known[-1] for known in _every_key(model) if known[:-1] == section]
    named = word if word in anywhere else _OTHER_NAMES.get(word, "")
    usable = named in siblings or 0 < len(anywhere.get(named, ())) <= MOST_SUGGESTED
    near = named if usable else _most_similar(word, siblings) or _most_similar(word, tuple(anywhere))
    if near is None:
        return f": known are {', '.join(siblings)}." if siblings else ": correct or remove it."
    beside = [known for known in anywhere[near] if known[:-1] == section]
    suggested = (f"'{'.'.join((*prefix, *known))}'" for known in beside or anywhere[near])
    return f"; did you mean {' or '.join(suggested)}?"


def _most_similar(word: str, known: Sequence[str]) -> str | None:
    phrase = nearest(word, known)
    return phrase.split("'")[1] if phrase else None


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
    if field is not None and get_origin(field.annotation) is dict and len(location) > len(path):
        entries = section_of(get_args(field.annotation)[1])
        if entries is not None:  # a mapping of names to sections
            below, inner = _locate(entries, location[len(path) + 1 :])
            return (*path, str(location[len(path)]), *below), inner
    return path, field
