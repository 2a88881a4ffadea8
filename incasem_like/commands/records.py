"""The record of a command's run: its store, further observers, and the comparison of code with a tracked run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.commands.tracked import script_folder
from incasem_like.errors import InputError
from incasem_like.terminal import shown_path

if TYPE_CHECKING:
    from sacred.observers import RunObserver

    from incasem_like.commands.command_line import CommandLine
    from incasem_like.config import PredictionConfig, TrainingConfig
    from incasem_like.config.shared_sections import DirectoriesConfig, TrackingConfig
    from incasem_like.tracking import RunRecord, RunStore

CHECK_COMMIT = "refuse to run unless the code is that of the tracked run: same commit, no changed files"


def open_run_store(
    line: CommandLine, kind: str, directories: DirectoriesConfig, tracking: TrackingConfig, own: str | None = None
) -> RunStore:
    """Open the store of one kind of run: from the command line, else the configuration; with --offline a folder.

    Args:
        line: The command line.
        kind: Kind of run: trainings, predictions and so on.
        directories: The configured folders.
        tracking: The configured store.
        own: Value of the script's own flag for this kind of run.
    """
    url = own or line.store or tracking.url
    if line.offline:
        from incasem_like.tracking.moving.sync import open_offline

        return open_offline(url, kind, directories.runs)
    from incasem_like.tracking import open_store

    return open_store(url, kind, directories.runs)


def store_flags(line: CommandLine) -> list[str]:
    """Return the flags that select the same store again, without a password."""
    from incasem_like.tracking.values import without_credentials

    if line.own.file_storage:
        return ["-F", shown_path(Path(str(line.store)))]
    named = ["-m", str(without_credentials(line.store))] if line.store else []
    return [*named, "--offline"] if line.offline else named


def runs_directory(config: TrainingConfig | PredictionConfig) -> list[str]:
    """Return the ``key=value`` that selects the same runs directory again; empty for the default."""
    from incasem_like.config import default_runs_directory

    runs = config.directories.runs
    return [] if runs == default_runs_directory() else [f"directories.runs={shown_path(runs)}"]


def further_observers(line: CommandLine, folder: Path) -> list[RunObserver]:
    """Make the observers of --slack and --observer; files are searched in the current folder, then beside the script.

    Raises:
        InputError: A file is missing, or does not describe an observer.
    """
    if not line.slack and not line.observers:
        return []
    from incasem_like.tracking.recording.observers import read_observer

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
    from incasem_like.tracking.recording.surroundings import describe_repositories

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
