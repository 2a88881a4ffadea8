"""Locations: default folders, and absolute paths from those in a configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from incasem_like.config.checking import KeyPath, fields_of, section_of
from incasem_like.config.kinds import PathRole
from incasem_like.errors import ConfigError

_DIRECTORY_VARIABLES = ("INCASEM_RUNS", "INCASEM_DATA")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::-([^}]*))?\})")


def default_runs_directory() -> Path:
    """Return the default folder of checkpoints, logs and tracked runs.

    ``$INCASEM_RUNS``, else ``training_runs`` of the repository the package runs from, else ``training_runs`` here.
    """
    return _default_directory("INCASEM_RUNS", "training_runs")


def default_data_directory() -> Path:
    """Return the default folder of volumes.

    ``$INCASEM_DATA``, else ``data`` of the repository the package runs from, else ``data`` here.
    """
    return _default_directory("INCASEM_DATA", "data")


def _default_directory(variable: str, name: str) -> Path:
    if os.environ.get(variable):
        return absolute(Path(os.environ[variable]).expanduser())
    beside_package = Path(__file__).resolve().parents[2]
    if (beside_package / "scripts").is_dir():
        return beside_package / name
    return Path.cwd() / name


def absolute(path: Path, folder: Path | None = None) -> Path:
    """Return an absolute path, relative to ``folder`` (default: current), without ``..``; symbolic links are kept.

    Links are kept because a resolved one may name a mount that other machines of a cluster do not have.
    """
    return Path(os.path.abspath((folder or Path.cwd()) / path))


def expand(text: str, key: str) -> str:
    """Replace ``~``, ``$NAME``, ``${NAME}`` and ``${NAME:-otherwise}``.

    Raises:
        ConfigError: A variable is not set and has no default.
    """

    def value(found: re.Match[str]) -> str:
        name, otherwise = found[1] or found[2], found[3]
        known = os.environ.get(name)
        if known and name in _DIRECTORY_VARIABLES:  # relative to the current folder, whatever file mentions it
            return str(absolute(Path(known).expanduser()))
        known = known or otherwise
        if known is None:
            raise ConfigError(
                f"{key} is {text}, but the environment variable {name} is not set: set it or write the path."
            )
        return known

    return os.path.expanduser(_VARIABLE.sub(value, text))


def find_file(name: Path, folders: Sequence[Path], what: str) -> Path:
    """Find a named file in the first of several folders that has it; an absolute path is used unchanged.

    Raises:
        ConfigError: No folder has it; the message lists the searched folders.
    """
    candidates = list(dict.fromkeys(absolute(name, folder) for folder in folders))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    folder = next((candidate for candidate in candidates if candidate.is_dir()), None)
    if folder is not None:
        raise ConfigError(f"{what} names the folder {folder}: name a file in it.")
    raise ConfigError(f"{what} names a file that does not exist: looked for {' and '.join(map(str, candidates))}.")


def resolve_paths(
    model: type[BaseModel], values: Mapping[str, Any], folders: Sequence[Path], prefix: KeyPath = ()
) -> tuple[dict[str, Any], dict[KeyPath, ConfigError]]:
    """Return nested values with every path made absolute, relative to the first of ``folders`` where it exists.

    Returns:
        The copy, and by key path the fault of a path: its file is missing or an environment variable is not set.
        Faults are not raised here, since a later layer may replace the value.
    """
    known = fields_of(model)
    resolved = dict(values)
    faults: dict[KeyPath, ConfigError] = {}
    for key, value in values.items():
        field = known.get(key)
        if field is None:
            continue
        path = (*prefix, key)
        section = section_of(field.annotation)
        if section is not None and isinstance(value, Mapping):
            resolved[key], inner = resolve_paths(section, value, folders, path)
            faults.update(inner)
        elif isinstance(value, (str, list)) and value:
            try:
                # a field that may be null keeps the metadata inside its annotation
                parts = getattr(field.annotation, "__args__", ())
                marks = [*field.metadata, *(item for part in parts for item in getattr(part, "__metadata__", ()))]
                role, name = next((mark.role for mark in marks if isinstance(mark, PathRole)), None), ".".join(path)
                if isinstance(value, str):
                    resolved[key] = _resolve(value, role, folders, name)
                else:
                    resolved[key] = [
                        _resolve(item, role, folders, name) if isinstance(item, str) and item else item
                        for item in value
                    ]
            except ConfigError as fault:
                faults[path] = fault
    return resolved, faults


def _resolve(text: str, role: str | None, folders: Sequence[Path], key: str) -> str:
    if role is None or (role == "checkpoint" and (text in ("best", "last") or text.isdigit())):
        return text
    path = Path(expand(text, key))
    if role == "folder":
        candidates = [absolute(path, folder) for folder in folders]
        return str(next((candidate for candidate in candidates if candidate.is_dir()), candidates[0]))
    return str(find_file(path, folders, key))
