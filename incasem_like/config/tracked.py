"""A tracked run's configuration as the ground that files and ``key=value`` updates are laid on, on this machine."""

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
    """Where runs and data are, read before there is a whole configuration: a tracked one is fetched from there.

    Attributes:
        directories: Folders.
        tracking: The run store.
        given: Dotted keys of both that a person set, in a file that was named or on the command line.
    """

    directories: DirectoriesConfig
    tracking: TrackingConfig
    given: frozenset[str]


def load_places(files: Sequence[Path], updates: Sequence[str] = (), search: Path | None = None) -> Places:
    """Read where runs and data are from what a training is configured by; arguments as ``load_training_config``.

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
    """Lay files and updates over a tracked configuration; the folders and the store are those of this machine.

    Args:
        tracked: The configuration as the run store has it, this project's or incasem's.
        files: As for ``load_training_config``, but none means none.
        updates: See there.
        search: See there.
        places: Folders and store to use; by default those of this machine.

    Returns:
        The configuration, and what says of a key path where its value was read.

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
    """Make the training configuration of a tracked run valid on this machine.

    The folders it was trained with belong to the machine of that time and are replaced; the data configurations it
    names are left as they are and need not exist here.

    Args:
        tracked: The configuration as the run store has it, this project's or incasem's.
        updates: ``section.key=value`` arguments, over the tracked values.
        search: Folder to look in for named files after the current one.
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
    """Copy a tracked configuration without what belongs to the machine of that time, in this project's form."""
    values = deepcopy(dict(tracked))
    values.pop("directories", None)
    training = values.get("training")
    if isinstance(training, Mapping):
        # incasem kept the run that was continued as a key, and a falsy start_from for none
        values["training"] = {
            key: value
            for key, value in training.items()
            if key != "continue_id" and not (key == "start_from" and not value)
        }
    return values
