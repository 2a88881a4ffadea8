"""The flags that scripts and the console command share: the run store, the record of a run, kinds and ids of runs."""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from incasem_like.errors import InputError
from incasem_like.terminal import nearest, shell_command, shown_path
from incasem_like.tracking import RunRecord, RunStore, RunSummary
from incasem_like.tracking.address import as_folder
from incasem_like.tracking.kinds import KINDS, singular
from incasem_like.tracking.moving.sync import open_offline
from incasem_like.tracking.opening import open_store
from incasem_like.tracking.values import without_credentials

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

Command = TypeVar("Command", bound=Callable[..., Any])
_REFERENCE = re.compile(r"^(?:([a-z]+)[/ :])?0*(\d+)$", re.IGNORECASE)


class Option(NamedTuple):
    """A flag that several commands have.

    Attributes:
        names: Its names; the long one that is the attribute's name comes first.
        help: Its meaning.
        metavar: Placeholder of its value; None for a switch.
        aliases: Former names, which are accepted but not shown.
    """

    names: tuple[str, ...]
    help: str
    metavar: str | None = None
    aliases: tuple[str, ...] = ()


DEBUG_OPTION = Option(("--debug", "-d"), "show the traceback of an error")
STORE_OPTIONS = (
    Option(
        ("--mongodb", "-m", "--mongo_db"),
        "run store: a MongoDB URL, host:port[:database] or a JSON file with url, db_name; otherwise that of the "
        "configuration, tracking.url, or of the environment variable INCASEM_TRACKING_URL",
        "URL",
    ),
    Option(("--file_storage", "-F"), "run store: files below this folder", "DIR"),
    Option(
        ("--runs_directory",),
        "folder of checkpoints and, unless a store is named, of runs; otherwise training_runs",
        "DIR",
        ("--runs",),
    ),
)
RECORD_OPTIONS = (
    Option(("--name", "-n"), "a name for the run", "NAME"),
    Option(("--comment", "-c"), "a remark on the run", "TEXT"),
    Option(("--id", "-i"), "id for the run; otherwise the store's next one", "ID"),
    *STORE_OPTIONS,
    Option(
        ("--offline",),
        "the database cannot be reached: keep the run on disk until 'incasem-like runs sync' uploads it",
    ),
    Option(("--unobserved", "-u"), "keep no record of the run"),
)


def add_options(parser: argparse.ArgumentParser, options: Sequence[Option], title: str) -> None:
    """Add options to a parser; names that the script uses itself are left to it, and get the missing short ones.

    Args:
        parser: Parser with the script's own flags.
        options: What to add.
        title: Heading of their group in ``--help``.
    """
    group = parser.add_argument_group(title)
    for option in options:
        own = parser._option_string_actions
        kind: dict[str, Any] = {"action": "store_true"} if option.metavar is None else {"metavar": option.metavar}
        hidden = {"help": argparse.SUPPRESS, "default": argparse.SUPPRESS, **kind}
        free = sorted((name for name in option.names if name not in own), key=len)
        if option.names[0] in own:
            owner = own[option.names[0]]
            if free and owner.nargs == (0 if option.metavar is None else None):
                group.add_argument(*free, dest=owner.dest, **hidden)
            continue
        dest = option.names[0].removeprefix("--")
        group.add_argument(*free, dest=dest, help=option.help, **kind)
        for alias in option.aliases:
            group.add_argument(alias, dest=dest, **hidden)


def add_record_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a script whose work is tracked as a run."""
    add_options(parser, RECORD_OPTIONS, "the run and its record")


@dataclass(frozen=True)
class StoreChoice:
    """The run store that the command line names.

    Attributes:
        url: Value of --mongodb or --file_storage, or None; may contain a password.
        runs_directory: The folder of training runs.
        offline: Whether runs stay on this machine until the database can be reached.
        configured: The address to use where the command line names none, ``tracking.url``; None for that of the
            environment.
    """

    url: str | None = field(repr=False)
    runs_directory: Path
    offline: bool = False
    configured: str | None = field(default=None, repr=False)
    _opened: dict[str, RunStore] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> StoreChoice:
        """Return the store that a script's flags choose.

        Raises:
            InputError: Flags exclude each other, or a folder is the address of a server.
        """
        given = arguments.runs_directory
        directory = Path(as_folder(given)) if given else default_runs_directory()
        return cls(store_url(arguments), directory, getattr(arguments, "offline", False))

    def open(self, kind: str) -> RunStore:
        """Open the store of one kind of run; it stays open for the rest of the command."""
        if kind not in self._opened:
            url = self.url or self.configured
            if self.offline:
                self._opened[kind] = open_offline(url, kind, self.runs_directory)
            else:
                self._opened[kind] = open_store(url, kind, self.runs_directory)
        return self._opened[kind]

    def open_all(self) -> dict[str, RunStore]:
        """Open the stores of all kinds of runs, by kind."""
        return {kind: self.open(kind) for kind in KINDS}

    def flags(self) -> list[str]:
        """Return the flags that select the same store again, without a URL's password."""
        flags: list[str] = []
        if self.url and os.path.isabs(self.url):
            flags = ["--file_storage", shown_path(Path(self.url))]
        elif self.url:
            flags = ["--mongodb", str(without_credentials(self.url))]
        if self.runs_directory != default_runs_directory():
            flags += ["--runs_directory", shown_path(self.runs_directory)]
        return [*flags, "--offline"] if self.offline else flags


def predict_command(stores: StoreChoice, run_id: int, script: Path | None = None, checkpoint: int | None = None) -> str:
    """Return the command that predicts with the network of a training.

    Args:
        stores: Where its record is.
        run_id: The training.
        script: Path of ``predict.py``, by default from the repository's root.
        checkpoint: Iteration to use; None for the best.
    """
    path = "scripts/03_predict/predict.py" if script is None else shown_path(script)
    words = ["python", path, "--run_id", run_id, *([] if checkpoint is None else ["--checkpoint", checkpoint])]
    return shell_command(*words, *stores.flags(), "with", "config_prediction.yaml", "prediction.data=YOUR_DATA.json")


def given_workers(arguments: argparse.Namespace) -> Workers | None:
    """Return the workers that a script's flags ask for, see ``blockwise.workers_file``."""
    from incasem_like.blockwise.workers_file import given_workers  # numpy and pydantic would slow ``--help`` down

    return given_workers(arguments)


def default_runs_directory() -> Path:
    """Return the default folder of training runs."""
    from incasem_like.config import default_runs_directory  # pydantic would slow ``--help`` down

    return default_runs_directory()


def store_url(arguments: argparse.Namespace) -> str | None:
    """Return the store that flags name: the URL, the absolute path of the folder, or None.

    Raises:
        InputError: Flags exclude each other, or the folder is the address of a server.
    """
    if arguments.mongodb and arguments.file_storage:
        raise InputError("A run has one store: give --mongodb or --file_storage, not both.")
    offline = getattr(arguments, "offline", False)  # commands that read runs do not have it
    if offline and arguments.unobserved:
        raise InputError(
            "--offline keeps a record to be uploaded later, --unobserved keeps none: give one of them, not both."
        )
    if offline and arguments.file_storage:
        raise InputError(
            "--file_storage keeps the run as files already, no server is needed: leave --offline out, or give the "
            "database with --mongodb."
        )
    return arguments.mongodb or (as_folder(arguments.file_storage) if arguments.file_storage else None)


def record_options(arguments: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Return the options of a tracked run that a script's flags give: ``store``, ``run_name``, ``comment``, ``run_id``.

    Raises:
        InputError: As ``StoreChoice.from_arguments``, or --id is not the id of a run.
    """
    choice = StoreChoice.from_arguments(arguments)
    return {
        "store": None if arguments.unobserved else choice.open(kind),
        "run_name": arguments.name,
        "comment": arguments.comment,
        "run_id": run_id(arguments.id, "--id"),
    }


def run_id(text: str | None, flag: str) -> int | None:
    """Parse the id of a run; None stays None.

    Raises:
        InputError: It is not a whole number from 1.
    """
    if text is not None and not (text.isdigit() and int(text) >= 1):
        raise InputError(f"{flag} takes the id of a run, a whole number from 1, found '{text}': correct it.")
    return None if text is None else int(text)


@dataclass(frozen=True)
class Reference:
    """A run as typed: ``12``, or with its kind ``predictions/12``."""

    id: int
    kind: str | None = None

    def get(self, choice: StoreChoice, kind: str) -> RunRecord:
        """Look up the run; ``kind`` is used if none was typed."""
        return choice.open(self.kind or kind).get(self.id)


def store_options(command: Command) -> Command:
    """Add the flags that choose the store to a click command, which receives a ``StoreChoice`` as ``stores``."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, debug: bool, **options: Any) -> Any:
        given = {name: options.pop(name) for name in ("mongodb", "file_storage", "runs_directory")}
        return command(*arguments, stores=StoreChoice.from_arguments(argparse.Namespace(**given)), **options)

    for option in reversed((*STORE_OPTIONS, DEBUG_OPTION)):
        wrapped = click_option(option)(wrapped)
    return wrapped  # type: ignore[return-value]


def click_option(option: Option) -> Callable[[Command], Command]:
    """Return the decorator that adds an option to a click command."""
    sentence = option.help[0].upper() + option.help[1:] + "."
    names, is_flag = sorted(option.names, key=len), option.metavar is None
    return click.option(*names, metavar=option.metavar, is_flag=is_flag, help=sentence)


def kind_option(command: Command) -> Command:
    """Add the flag ``--kind`` to a command."""
    decorate = click.option(
        "--kind", type=KindOfRun(), default="trainings", show_default=True, help=f"Kind of run: {', '.join(KINDS)}."
    )
    return decorate(command)


def confirmed(question: str, action: str) -> bool:
    """Ask the user a question at the terminal; return whether the answer is yes.

    Raises:
        InputError: The process has no terminal.
    """
    if not sys.stdin.isatty():
        raise InputError(f"Nobody can be asked whether to {action}: add --yes.")
    return click.confirm(question, default=False)


class Whole(click.IntRange):
    """A whole number, of at least ``min``."""

    name = "whole number"


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
        near = nearest(text, KINDS) or f": choose one of {', '.join(KINDS)}."
        raise InputError(f"Unknown kind of run '{text}'{near}")
    return found[0]


def read_reference(text: str) -> Reference | None:
    """Read ``12`` or ``predictions/12``; None for any other form.

    Raises:
        InputError: The kind is unknown.

    Example:
        >>> read_reference("predictions/12")
        Reference(id=12, kind='predictions')
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
