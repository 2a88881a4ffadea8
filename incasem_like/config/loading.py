"""Loading a configuration: YAML files, then ``key=value`` updates, over the defaults, or over what a run tracked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

from incasem_like.config.checking import check_known_keys
from incasem_like.config.layers import COMMAND_LINE, Layers, nest, parse_updates
from incasem_like.config.locations import expand, find_file, resolve_paths
from incasem_like.config.prediction_config import PredictionConfig
from incasem_like.config.reading import read_keys
from incasem_like.config.section import Document
from incasem_like.config.shared_sections import DirectoriesConfig
from incasem_like.config.training_config import TrainingConfig

D = TypeVar("D", bound=Document)

# what incasem writes into the tracked configuration of a run beside its YAML
_INJECTED_BY_INCASEM = ("continue_id", "start_from")


def load_training_config(
    files: Sequence[Path], updates: Sequence[str] = (), search: Path | None = None
) -> TrainingConfig:
    """Load the configuration of a training.

    Args:
        files: YAML (or JSON) files, later ones over earlier ones; looked for here, then in ``search``. None at all is
            ``config_training.yaml`` of ``search`` where there is one.
        updates: ``section.key=value`` arguments, over the files.
        search: Folder to look in for named files after the current one, usually the script's own.

    Raises:
        ConfigError: A file is missing or not YAML, a key is unknown, a value wrong, or values contradict each other.
    """
    return _load(TrainingConfig, _files_or_default(files, search, "config_training.yaml"), updates, search)


def load_prediction_config(
    files: Sequence[Path], updates: Sequence[str] = (), search: Path | None = None
) -> PredictionConfig:
    """Load the configuration of a prediction; arguments and errors as for :func:`load_training_config`."""
    return _load(PredictionConfig, _files_or_default(files, search, "config_prediction.yaml"), updates, search)


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
        ConfigError: As for :func:`load_training_config`.
    """
    values = deepcopy(dict(tracked))
    values.pop("directories", None)
    if isinstance(values.get("training"), Mapping):
        values["training"] = {k: v for k, v in values["training"].items() if k not in _INJECTED_BY_INCASEM}
    layers = Layers()
    if directories is not None:
        layers.lay({"directories": directories.model_dump(mode="json")}, "in the configuration")
    layers.lay(values, "in the tracked configuration")
    _lay_updates(layers, TrainingConfig, updates, search)
    return TrainingConfig.from_values(layers.values, layers.source)


def _files_or_default(files: Sequence[Path], search: Path | None, name: str) -> Sequence[Path]:
    if not files and search is not None and (search / name).is_file():
        return [search / name]
    return files


def _load(document: type[D], files: Sequence[Path], updates: Sequence[str], search: Path | None) -> D:
    layers = Layers()
    for file in files:
        path = find_file(Path(expand(str(file), "The command line")), _folders(search), "The command line")
        values = nest(read_keys(path))
        check_known_keys(document, values, lambda _key, path=path: f"in {path}")  # type: ignore[misc]
        layers.lay(resolve_paths(document, values, [path.parent]), f"in {path}")
    _lay_updates(layers, document, updates, search)
    return document.from_values(layers.values, layers.source)


def _lay_updates(layers: Layers, document: type[Document], updates: Sequence[str], search: Path | None) -> None:
    values = parse_updates(updates)
    check_known_keys(document, values, lambda _path: COMMAND_LINE)
    layers.lay(resolve_paths(document, values, _folders(search)), COMMAND_LINE)


def _folders(search: Path | None) -> list[Path]:
    return [Path.cwd()] if search is None else [Path.cwd(), search]
