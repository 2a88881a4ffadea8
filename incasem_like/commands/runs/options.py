"""Options shared by the commands on runs: the store, the kind of run, the run."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from incasem_like.errors import InputError
from incasem_like.terminal import nearest
from incasem_like.tracking.address import as_folder
from incasem_like.tracking.kinds import KINDS, singular

if TYPE_CHECKING:
    from incasem_like.tracking import RunRecord, RunStore, RunSummary

Command = TypeVar("Command", bound=Callable[..., Any])
_REFERENCE = re.compile(r"^(?:([a-z]+)[/ :])?0*(\d+)$", re.IGNORECASE)


def default_runs_directory() -> Path:
    """Return the default folder of training runs; imports the configuration only when called."""
    from incasem_like.config import default_runs_directory

    return default_runs_directory()


@dataclass(frozen=True)
class StoreChoice:
    """The run store that the command line names.

    Attributes:
        url: Value of --mongodb or --file_storage, or None; may contain a password.
        runs_directory: The folder of training runs.
    """

    url: str | None = field(repr=False)
    runs_directory: Path
    _opened: dict[str, RunStore] = field(default_factory=dict, init=False, repr=False, compare=False)

    def open(self, kind: str) -> RunStore:
        """Open the store of one kind of run; it stays open for the rest of the command."""
        from incasem_like.tracking.opening import open_store

        if kind not in self._opened:
            self._opened[kind] = open_store(self.url, kind, self.runs_directory)
        return self._opened[kind]

    def open_all(self) -> dict[str, RunStore]:
        """Open the stores of all kinds of runs, by kind."""
        return {kind: self.open(kind) for kind in KINDS}

    def flags(self) -> list[str]:
        """Return the flags that select the same store, without a URL that contains a password."""
        from incasem_like.terminal import shown_path
        from incasem_like.tracking.values import without_credentials

        flags: list[str] = []
        if self.url:
            in_folder = os.path.isabs(self.url)
            named = shown_path(Path(self.url)) if in_folder else str(without_credentials(self.url))
            flags = ["-F" if in_folder else "--mongodb", named]
        if self.runs_directory != default_runs_directory():
            flags += ["--runs_directory", shown_path(self.runs_directory)]
        return flags


@dataclass(frozen=True)
class Reference:
    """A run as typed: ``12``, or with its kind ``predictions/12``."""

    id: int
    kind: str | None = None

    def get(self, choice: StoreChoice, kind: str) -> RunRecord:
        """Look up the run; ``kind`` is used if none was typed."""
        return choice.open(self.kind or kind).get(self.id)


def store_options(command: Command) -> Command:
    """Add the flags that choose the store to a command, which receives a ``StoreChoice`` as ``stores``."""

    @functools.wraps(command)
    def wrapped(
        *arguments: Any,
        mongodb: str | None,
        file_storage: str | None,
        runs_directory: Path | None,
        debug: bool,
        **options: Any,
    ) -> Any:
        if mongodb and file_storage:
            raise InputError("Runs are searched in one store: give --mongodb or --file_storage, not both.")
        directory = runs_directory.expanduser().absolute() if runs_directory else default_runs_directory()
        folder = as_folder(file_storage) if file_storage else None
        return command(*arguments, stores=StoreChoice(mongodb or folder, directory), **options)

    for decorate in reversed(
        (
            click.option("--mongodb", metavar="URL", help="Store: MongoDB URL, host:port or a JSON file of incasem."),
            click.option("-F", "--file_storage", metavar="DIR", help="Store: files below this folder."),
            click.option(
                "--runs_directory",
                metavar="DIR",
                type=click.Path(path_type=Path),
                help="Folder of checkpoints and, unless a store is named, of runs.  [default: training_runs]",
            ),
            click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        )
    ):
        wrapped = decorate(wrapped)
    return wrapped  # type: ignore[return-value]


def kind_option(command: Command) -> Command:
    """Add the flag ``--kind`` to a command."""
    decorate = click.option(
        "--kind", type=KindOfRun(), default="trainings", show_default=True, help=f"Kind of run: {', '.join(KINDS)}."
    )
    return decorate(command)


class KindOfRun(click.ParamType[str]):
    """A kind of run, singular or plural, or its beginning: ``predictions``, ``prediction``, ``pred``."""

    name = "kind"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: D102
        return "KIND"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: D102
        return read_kind(str(value))


class RunReference(click.ParamType[Reference]):
    """The id of a run, or kind and id: ``12``, ``predictions/12``."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Reference:  # noqa: D102
        if isinstance(value, Reference):
            return value
        reference = read_reference(str(value))
        if reference is None:
            raise InputError(
                f"'{value}' is not a run: write its id, such as 12, or kind and id, such as predictions/12."
            )
        return reference


def read_kind(text: str) -> str:
    """Read a kind of run.

    Raises:
        InputError: No kind has that name.
    """
    found = [kind for kind in KINDS if text and kind.startswith(text.lower())]
    if len(found) != 1:
        raise InputError(f"Unknown kind of run '{text}'{nearest(text, KINDS)}: choose one of {', '.join(KINDS)}.")
    return found[0]


def read_reference(text: str) -> Reference | None:
    """Read ``12`` or ``predictions/12``; None for any other form.

    Raises:
        InputError: The kind is unknown.
    """
    found = _REFERENCE.match(text)
    if found is None:
        return None
    return Reference(int(found[2]), read_kind(found[1]) if found[1] else None)


def called(run: RunRecord | RunSummary) -> str:
    """Return the name of a run inside a sentence: ``training run 12 (mito)``."""
    name = f" ({run.name})" if run.name else ""
    return f"{singular(run.kind)} run {run.id}{name}"


def called_first(run: RunRecord | RunSummary) -> str:
    """Return the name of a run at the beginning of a sentence: ``Training run 12 (ER, mito)``."""
    words = called(run)
    return words[0].upper() + words[1:]
