"""Commands that run as a tracked experiment: ``[flags] [print_config] with CONFIG.yaml key=value ...``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from incasem_like.commands.command_line import CommandLine, format_config, parse_command_line
from incasem_like.commands.cpu_settings import use_huge_pages
from incasem_like.commands.options import StoreChoice
from incasem_like.errors import InputError, RunTakenError
from incasem_like.terminal import run_guarded
from incasem_like.tracking.recording.surroundings import describe_repositories

if TYPE_CHECKING:
    from incasem_like.config.shared_sections import DirectoriesConfig, TrackingConfig
    from incasem_like.tracking import RunRecord

Request = TypeVar("Request")
CHECK_COMMIT = "refuse to run unless the code is that of the tracked run: same commit, no changed files"


def run_tracked(
    parser: argparse.ArgumentParser,
    example: str,
    read: Callable[[CommandLine], Request],
    work: Callable[[Request, CommandLine], None],
    config_of: Callable[[Request], Any] = lambda request: request,
) -> NoReturn:
    """Read the command line and the configuration, print the latter if asked to, do the work, and exit.

    Args:
        parser: Parser with the command's own flags; those of every tracked command are added.
        example: Arguments of the example that ``--help`` shows.
        read: Makes the request, with its validated configuration, from the command line.
        work: Does the command's work.
        config_of: Returns the configuration of a request; by default the request is the configuration.
    """

    def act() -> None:
        line = parse_command_line(sys.argv[1:], parser, example=example)
        if line.loglevel is not None:
            logging.getLogger().setLevel(line.loglevel)
        request = read(line)
        if line.print_config or line.command == "print_config":
            print(format_config(config_of(request).model_dump(mode="json")))
        if line.command != "print_config":
            work(request, line)

    debug = {"--debug"} if "-d" in parser._option_string_actions else {"-d", "--debug"}  # -d may be the script's own
    use_huge_pages()
    run_guarded(act, debug=bool(debug & set(sys.argv)))


class Resumable:
    """Work that can be resumed: if it ends by an error after it began, the command that resumes it is printed.

    Attributes:
        command: That command; None before the work has begun. Input errors, and another process that has claimed the
            run, would occur again, so that nothing is printed for them.
    """

    command: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.command is not None and error is not None and not isinstance(error, (InputError, RunTakenError)):
            print(f"Resume with: {self.command}", file=sys.stderr)


def script_folder(script: Path) -> Path:
    """Return the folder of a script, where configuration files of the command line are searched too."""
    return script.resolve().parent


def stores_of(
    line: CommandLine, directories: DirectoriesConfig, tracking: TrackingConfig, own: str | None = None
) -> StoreChoice:
    """Return the stores that the command line names, else the configuration.

    Args:
        line: The command line.
        directories: The configured folders.
        tracking: The configured store.
        own: Value of the script's own flag for one kind of run.
    """
    return StoreChoice(own or line.store, directories.runs, line.offline, tracking.url)


def further_observers(line: CommandLine, folder: Path) -> list[Any]:
    """Make the observers of --slack and --observer; files are searched in the current folder, then beside the script.

    Raises:
        InputError: A file is missing, or does not describe an observer.
    """
    if not line.slack and not line.observers:
        return []
    from incasem_like.tracking.recording.observers import read_observer  # pydantic would slow ``--help`` down

    folders = [Path.cwd(), folder]
    slack = [read_observer(line.slack, folders, "SlackObserver")] if line.slack else []
    return [*slack, *(read_observer(path, folders) for path in line.observers)]


def run_options(line: CommandLine, script: Path) -> dict[str, Any]:
    """Return the options of the run itself, from the command line, as ``tracking.run_experiment`` takes them.

    Raises:
        InputError: As ``further_observers``.
    """
    return {
        "run_name": line.name,
        "comment": line.comment,
        "run_id": line.id,
        "sources": [script],
        "observers": further_observers(line, script_folder(script)),
    }


def check_commit(record: RunRecord, script: Path) -> None:
    """Check that the code here is that of a tracked run.

    Raises:
        InputError: The commits differ, or files differed from their commit, now or then; or a commit is not known.
    """
    run = f"Run {record.id} in {record.store.description}"
    here = describe_repositories([script.resolve().parent, Path(__file__).parent])
    tracked: dict[str, dict[str, Any]] = {
        str(entry.get("commit")): entry for entry in record.experiment.get("repositories") or [] if entry.get("commit")
    }
    if not here:
        raise InputError(
            f"The code here is in no git repository, so --check_commit cannot tell: clone it to use {run}."
        )
    if not tracked:
        raise InputError(f"{run} knows no commit, so --check_commit cannot compare: leave the flag out.")
    for repository in here:
        commit = str(repository["commit"])
        if commit not in tracked:
            others = " and ".join(other[:12] for other in tracked)
            raise InputError(
                f"{run} was made with commit {others}, but HEAD is {commit[:12]}: git checkout "
                f"{next(iter(tracked))[:12]}, or leave --check_commit out."
            )
        if tracked[commit].get("dirty"):
            raise InputError(
                f"{run} was made with files that differed from its commit {commit[:12]}, so it cannot be had again: "
                "leave --check_commit out."
            )
        if repository["dirty"]:
            raise InputError(
                f"Files differ from commit {commit[:12]} with which run {record.id} was made: commit, stash or undo "
                "the changes ('git status' lists them), or leave --check_commit out."
            )
