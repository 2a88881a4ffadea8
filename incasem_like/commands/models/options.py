"""Options shared by the commands on models: which models, and where their files are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from incasem_like.errors import InputError

if TYPE_CHECKING:
    from incasem_like.pretrained.manifest import Manifest

Command = TypeVar("Command", bound=Callable[..., Any])


def place_options(command: Command) -> Command:
    """Add the flags for the folder of models and their list to a command."""
    for decorate in (
        click.option(
            "--manifest",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="List of models.  [default: models/pretrained.yaml]",
        ),
        click.option(
            "--models_directory",
            metavar="DIR",
            type=click.Path(path_type=Path),
            help="Folder of downloaded models.  [default: models, or $INCASEM_MODELS]",
        ),
    ):
        command = decorate(command)
    return command


def models_folder(given: Path | None) -> Path:
    """Return the folder of downloaded models."""
    from incasem_like.config.locations import absolute
    from incasem_like.pretrained.manifest import default_models_directory

    return absolute(given.expanduser()) if given is not None else default_models_directory()


def find_models(manifest: Manifest, words: Iterable[str]) -> list[int]:
    """Find models by id or name; all of them where none is named.

    Raises:
        InputError: No published model has that id or name.
    """
    names = {model.name: model_id for model_id, model in manifest.models.items()}
    found = [int(word) if word.isdigit() else names.get(word) for word in words]
    for model_id, word in zip(found, words, strict=True):
        if model_id not in manifest.models:
            known = ", ".join(f"{known} ({model.name})" for known, model in sorted(manifest.models.items()))
            raise InputError(f"Unknown published model {word}: choose among {known}.")
    return [model_id for model_id in dict.fromkeys(found) if model_id is not None] or sorted(manifest.models)
