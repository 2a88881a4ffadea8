"""Layers of a configuration: files and ``key=value`` updates merged over one another, with the source of each value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from incasem_like.config.checking import KeyPath
from incasem_like.config.reading import parse_yaml
from incasem_like.errors import ConfigError

COMMAND_LINE = "on the command line"


@dataclass
class Layers:
    """Nested values of all layers merged so far, and the source of each value by key path.

    Attributes:
        values: The values.
        origins: Source of each value, as ``in /path/config.yaml``.
        faults: Errors of values by key path, such as a missing file; dropped when a later layer replaces the value.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)
    faults: dict[KeyPath, ConfigError] = field(default_factory=dict)

    def lay(self, values: Mapping[str, Any], origin: str, faults: Mapping[KeyPath, ConfigError] | None = None) -> None:
        """Merge nested values over the present ones: sections are merged key by key, everything else is replaced."""
        _merge(self.values, values)
        for path in _paths(values):
            for known in (self.origins, self.faults):
                for other in [other for other in known if _replaces(path, other, values)]:
                    del known[other]
            self.origins[path] = origin
        self.faults.update(faults or {})

    def drop(self, path: KeyPath) -> None:
        """Remove the value of a key path."""
        section = self.values
        for key in path[:-1]:
            section = section[key]
        del section[path[-1]]
        for known in (self.origins, self.faults):
            for other in [other for other in known if other[: len(path)] == path]:
                del known[other]

    def check(self) -> None:
        """Check that the remaining values have no faults.

        Raises:
            ConfigError: The first fault.
        """
        for fault in self.faults.values():
            raise fault

    def source(self, path: KeyPath) -> str:
        """Return the source of the value of a key path: ``in /path/config.yaml``."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return "in the configuration"


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping):
            if not isinstance(below.get(key), dict):
                below[key] = {}
            _merge(below[key], value)
        else:
            below[key] = value


def _replaces(path: KeyPath, other: KeyPath, values: Mapping[str, Any]) -> bool:
    """Return whether values that contain ``path`` replace ``other``: the key itself, or a section around it."""
    if path != other[: len(path)]:
        return False
    inner: Any = values
    for key in path:
        inner = inner[key]
    return path == other or not isinstance(inner, Mapping)


def _paths(values: Mapping[str, Any], prefix: KeyPath = ()) -> Iterator[KeyPath]:
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, Mapping):
            yield from _paths(value, (*prefix, key))


def nest(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the values with dotted keys converted to nested ones; both forms may be mixed."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        inner = nest(value) if isinstance(value, Mapping) else value
        for part in reversed(str(key).split(".")[1:]):
            inner = {part: inner}
        _merge(nested, {str(key).split(".")[0]: inner})
    return nested


def parse_updates(updates: Sequence[str]) -> dict[str, Any]:
    """Parse ``section.key=value`` arguments; the value is parsed as YAML, so lists, quotes and null work.

    Raises:
        ConfigError: An argument has no ``=``, no key before it, or a value that is not YAML.
    """
    nested: dict[str, Any] = {}
    for update in updates:
        key, equals, text = update.partition("=")
        key = key.strip()
        if not equals:
            raise ConfigError(
                f"'{update}' {COMMAND_LINE} has no '=': write section.key=value, such as training.iterations=1000."
            )
        if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
            raise ConfigError(f"'{update}' {COMMAND_LINE} has no key before the '=': write section.key=value.")
        _merge(nested, nest({key: parse_yaml(text, f"The value of {key} {COMMAND_LINE}")}))
    return nested
