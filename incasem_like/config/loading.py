"""Loading a configuration: defaults or a tracked run's, then YAML files, then ``key=value`` updates.

The source of every value is remembered for error messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from incasem_like.config.checking import KeyPath, Source, current_names, fields_of, section_of, variants_of
from incasem_like.config.locations import expand, find_file, resolve_paths
from incasem_like.config.prediction_config import PredictionConfig, SeriesConfig
from incasem_like.config.reading import parse_yaml, read_keys
from incasem_like.config.section import Document
from incasem_like.config.shared_sections import DirectoriesConfig, TrackingConfig
from incasem_like.config.sweep_config import SweepConfig
from incasem_like.config.training_config import TrainingConfig
from incasem_like.errors import ConfigError

COMMAND_LINE = "on the command line"
TRACKED = "in the tracked configuration"
D = TypeVar("D", bound=Document)


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

    def validated(self, document: type[D]) -> D:
        """Return the typed configuration.

        Raises:
            ConfigError: A value has a fault, or as ``Document.from_values``.
        """
        try:
            config = document.from_values(self.values, self.source)
        except ConfigError as error:
            # A missing file is reported before contradictions, but after keys that do not exist.
            raise error if str(error).startswith("Unknown key") else next(iter(self.faults.values()), error) from None
        for fault in self.faults.values():
            raise fault
        return config

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


def load_training_config(
    files: Sequence[Path], updates: Sequence[str] = (), search: Path | None = None
) -> TrainingConfig:
    """Load the configuration of a training.

    Args:
        files: YAML (or JSON) files, later ones override earlier ones; looked for in the current folder, then in
            ``search``. Without any, ``config_training.yaml`` of ``search`` is used if it exists.
        updates: ``section.key=value`` arguments, which override the files.
        search: Folder to search for named files after the current one, usually the script's own.

    Raises:
        ConfigError: A file is missing or not YAML, a key is unknown, a value wrong, or values contradict each other.
    """
    return load_document(TrainingConfig, files_or_default(files, search, "config_training.yaml"), updates, search)


def load_prediction_config(
    files: Sequence[Path], updates: Sequence[str] = (), search: Path | None = None
) -> PredictionConfig:
    """Load the configuration of a prediction; arguments and errors as for :func:`load_training_config`."""
    return load_document(PredictionConfig, files_or_default(files, search, "config_prediction.yaml"), updates, search)


def load_series_config(files: Sequence[Path], updates: Sequence[str] = (), search: Path | None = None) -> SeriesConfig:
    """Load the configuration of a series of predictions; as :func:`load_training_config`."""
    return load_document(
        SeriesConfig, files_or_default(files, search, "config_prediction_multiple.yaml"), updates, search
    )


def load_sweep_config(files: Sequence[Path], updates: Sequence[str] = (), search: Path | None = None) -> SweepConfig:
    """Load the configuration of a sweep; as :func:`load_training_config`."""
    return load_document(SweepConfig, files, updates, search)


def files_or_default(files: Sequence[Path], search: Path | None, name: str) -> Sequence[Path]:
    """Return the given files, or without any the file ``name`` in ``search``, if it exists."""
    if not files and search is not None and (search / name).is_file():
        return [search / name]
    return files


def lay_given(
    layers: Layers, document: type[Document], files: Sequence[Path], updates: Sequence[str], search: Path | None
) -> None:
    """Merge files and then updates over ``layers``; arguments as for :func:`load_training_config`.

    Raises:
        ConfigError: A configuration file is missing or not YAML. Unknown keys are left to the validation, and what is
            wrong with a path to ``layers.check``, since a later layer may replace it.
    """
    folders = [Path.cwd()] if search is None else [Path.cwd(), search]
    for file in files:
        path = find_file(Path(expand(str(file), "The command line")), folders, "The command line")
        values = current_names(document, nest(read_keys(path)))
        resolved, faults = resolve_paths(document, values, [path.parent])
        _drop_options(layers, document, resolved)
        layers.lay(resolved, f"in {path}", faults)
    values = current_names(document, parse_updates(updates))
    resolved, faults = resolve_paths(document, values, folders)
    _drop_options(layers, document, resolved)
    layers.lay(resolved, COMMAND_LINE, faults)


def _drop_options(layers: Layers, document: type[Document], values: Mapping[str, Any]) -> None:
    """Drop the options of an earlier layer's network, or other section with a ``type``, if ``values`` name another."""
    for key, about in fields_of(document).items():
        section = values.get(key)
        chosen = variants_of(section_of(about.annotation)).get(
            section.get("type", "") if isinstance(section, Mapping) else ""
        )
        if chosen is not None:
            for option in [option for option in layers.values.get(key) or {} if option not in fields_of(chosen)]:
                layers.drop((key, option))


def load_document(document: type[D], files: Sequence[Path], updates: Sequence[str], search: Path | None) -> D:
    """Load a configuration; arguments and errors as for :func:`load_training_config`, but without a default file."""
    layers = Layers()
    lay_given(layers, document, files, updates, search)
    return layers.validated(document)


@dataclass(frozen=True)
class Places:
    """Folders and run store, read before the whole configuration, since a tracked one is fetched from the store.

    Attributes:
        directories: Folders.
        tracking: The run store.
        given: Dotted keys of both that the user set, in a named file or on the command line.
    """

    directories: DirectoriesConfig
    tracking: TrackingConfig
    given: frozenset[str]


def load_places(files: Sequence[Path], updates: Sequence[str] = (), search: Path | None = None) -> Places:
    """Read folders and run store from the configuration of a training; arguments as ``load_training_config``.

    Raises:
        ConfigError: As ``load_training_config``, but not for values of other sections.
    """
    layers = Layers()
    lay_given(layers, TrainingConfig, files_or_default(files, search, "config_training.yaml"), updates, search)
    sections = ("directories", "tracking")
    values = {key: layers.values[key] for key in sections if key in layers.values}
    config = TrainingConfig.from_values(values, layers.source)
    named = Layers()
    lay_given(named, TrainingConfig, files, updates, search)
    given = frozenset(".".join(path) for path in named.origins if path[0] in sections)
    return Places(config.directories, config.tracking, given)


def overlay_tracked(
    tracked: Mapping[str, Any],
    files: Sequence[Path] = (),
    updates: Sequence[str] = (),
    search: Path | None = None,
    *,
    places: Places | None = None,
) -> tuple[TrainingConfig, Source]:
    """Merge files and updates over a tracked configuration; the folders and the store are those of this machine.

    Args:
        tracked: The configuration as the run store has it, this project's or incasem's.
        files: As for ``load_training_config``, but without a default file.
        updates: As for ``load_training_config``.
        search: As for ``load_training_config``.
        places: Folders and store to use; by default those of this machine.

    Returns:
        The configuration, and a function that returns the source of the value of a key path.

    Raises:
        ConfigError: As ``load_training_config``.
    """
    layers = Layers()
    layers.lay(_tracked_values(tracked), TRACKED)
    lay_given(layers, TrainingConfig, files, updates, search)
    if places is not None:
        directories = places.directories.model_dump(mode="json")
        layers.lay({"directories": directories, "tracking": {"url": places.tracking.url}}, "in the configuration")
    return layers.validated(TrainingConfig), layers.source


def resolve_training_config(
    tracked: Mapping[str, Any],
    updates: Sequence[str] = (),
    search: Path | None = None,
    *,
    directories: DirectoriesConfig | None = None,
) -> TrainingConfig:
    """Return the training configuration of a tracked run, adapted to this machine.

    The folders it was trained with belong to the machine of that time and are replaced; the data configurations it
    names are left as they are and need not exist here.

    Args:
        tracked: The configuration as the run store has it, this project's or incasem's.
        updates: ``section.key=value`` arguments, which override the tracked values.
        search: Folder to search for named files after the current one.
        directories: Folders to use; by default those of this machine.

    Raises:
        ConfigError: As for ``load_training_config``.
    """
    layers = Layers()
    layers.lay(_tracked_values(tracked), TRACKED)
    if directories is not None:
        layers.lay({"directories": directories.model_dump(mode="json")}, "in the configuration")
    lay_given(layers, TrainingConfig, (), updates, search)
    return layers.validated(TrainingConfig)


def _tracked_values(tracked: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tracked configuration in this project's form, without values of the original machine."""
    values = deepcopy(dict(tracked))
    values.pop("directories", None)
    training = values.get("training")
    if isinstance(training, Mapping):
        # incasem stored the continued run under a key, and a falsy start_from for none
        values["training"] = {
            key: value
            for key, value in training.items()
            if key != "continue_id" and not (key == "start_from" and not value)
        }
    return values
