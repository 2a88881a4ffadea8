"""A tracked run's configuration as the base of files and ``key=value`` updates on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incasem_like.config.checking import KeyPath
from incasem_like.config.layers import Layers
from incasem_like.config.loading import files_or_default, lay_given
from incasem_like.config.shared_sections import DirectoriesConfig, TrackingConfig
from incasem_like.config.training_config import TrainingConfig

TRACKED = "in the tracked configuration"


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
) -> tuple[TrainingConfig, Callable[[KeyPath], str]]:
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
    layers.check()
    return TrainingConfig.from_values(layers.values, layers.source), layers.source


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
    layers.check()
    return TrainingConfig.from_values(layers.values, layers.source)


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
