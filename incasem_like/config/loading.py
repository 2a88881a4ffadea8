"""Loading a configuration: YAML files, then ``key=value`` updates, over the defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from incasem_like.config.checking import check_known_keys
from incasem_like.config.layers import COMMAND_LINE, Layers, nest, parse_updates
from incasem_like.config.locations import expand, find_file, resolve_paths
from incasem_like.config.prediction_config import PredictionConfig
from incasem_like.config.reading import read_keys
from incasem_like.config.section import Document
from incasem_like.config.series_config import SeriesConfig
from incasem_like.config.training_config import TrainingConfig

D = TypeVar("D", bound=Document)


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
        ConfigError: A configuration file is missing or not YAML, or a key is unknown. What is wrong with a path in
            it is left to ``layers.check``, since a later layer may replace it.
    """
    folders = [Path.cwd()] if search is None else [Path.cwd(), search]
    for file in files:
        path = find_file(Path(expand(str(file), "The command line")), folders, "The command line")
        values = nest(read_keys(path))
        check_known_keys(document, values, lambda _key, path=path: f"in {path}")  # type: ignore[misc]
        resolved, faults = resolve_paths(document, values, [path.parent])
        layers.lay(resolved, f"in {path}", faults)
    values = parse_updates(updates)
    check_known_keys(document, values, lambda _path: COMMAND_LINE)
    resolved, faults = resolve_paths(document, values, folders)
    layers.lay(resolved, COMMAND_LINE, faults)


def load_document(document: type[D], files: Sequence[Path], updates: Sequence[str], search: Path | None) -> D:
    """Load a configuration; arguments and errors as for :func:`load_training_config`, but without a default file."""
    layers = Layers()
    lay_given(layers, document, files, updates, search)
    layers.check()
    return document.from_values(layers.values, layers.source)
