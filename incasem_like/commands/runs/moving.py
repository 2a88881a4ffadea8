"""``runs export``, ``runs import`` and ``runs copy``: move runs with all their files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from incasem_like.commands.options import (
    Reference,
    RunReference,
    StoreChoice,
    called,
    kind_option,
    read_reference,
    store_options,
)
from incasem_like.errors import InputError
from incasem_like.terminal import report_written, shell_command, shown_path
from incasem_like.tracking import RunRecord
from incasem_like.tracking.kinds import singular
from incasem_like.tracking.moving.transfer import copy_runs as copy
from incasem_like.tracking.moving.transfer import export_run
from incasem_like.tracking.moving.transfer import import_runs as bring_in
from incasem_like.tracking.run_folder import MANIFEST

_new_ids = click.option("--new_ids", is_flag=True, help="Assign new ids even if the old ones are free.")


@click.command("export")
@click.argument("words", metavar="ID... FOLDER", nargs=-1, required=True)
@click.option("--no_checkpoints", is_flag=True, help="Leave the checkpoints out.")
@kind_option
@store_options
def export_runs(words: Sequence[str], no_checkpoints: bool, kind: str, stores: StoreChoice) -> None:
    """Write a run into a new FOLDER: record, metrics, artifacts, sources and checkpoints, with their hashes.

    Several runs get one folder each in FOLDER. Checkpoints that are only in the database are fetched.
    """
    *typed, folder = words
    references = [reference for word in typed if (reference := read_reference(word))]
    if not typed or len(references) < len(typed):
        raise InputError(f"'{' '.join(words)}' is not ID... FOLDER: write ids, such as 12, and then a folder.")
    if folder.isdigit():
        raise InputError(f"'{folder}' is read as a run: write the folder last, ./{folder} if that is its name.")
    target = Path(folder).expanduser().absolute()
    records = [reference.get(stores, kind) for reference in references]
    places = [target] if len(records) == 1 else [target / f"{singular(r.kind)}_{r.id:04d}" for r in records]
    for record, place in zip(records, places, strict=True):
        export_run(record, place, with_checkpoints=not no_checkpoints)
        print(f"Exported {called(record)}: {shown_path(place)}")
    print("To import it into another store, add --mongodb URL or --file_storage DIR to this:")
    print(f"Next: {shell_command('incasem-like', 'runs', 'import', shown_path(target))}")


@click.command("import")
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path))
@_new_ids
@store_options
def import_runs(folders: Sequence[Path], new_ids: bool, stores: StoreChoice) -> None:
    """Import exported runs into the store, under their own ids if these are free.

    FOLDER was written by runs export, for one run or several. Links between runs imported together are kept. Their
    checkpoints go into models/ of the runs directory, and into the database if the store is one.
    """
    places = [place for folder in folders for place in portable_folders(folder.expanduser().absolute())]
    records = bring_in(places, stores.open("trainings"), keep_ids=not new_ids)
    for record in records:
        _report_new(record)
    if len(records) == 1:
        words = ["incasem-like", "runs", "show", f"{records[0].kind}/{records[0].id}", *stores.flags()]
        print(f"Next: {shell_command(*words)}")


@click.command("copy")
@click.argument("runs", metavar="ID...", type=RunReference(), nargs=-1, required=True)
@click.option("--to", "target", metavar="URL", required=True, help="The other store: MongoDB URL, JSON file or folder.")
@_new_ids
@kind_option
@store_options
def copy_runs(runs: Sequence[Reference], target: str, new_ids: bool, kind: str, stores: StoreChoice) -> None:
    """Copy runs into another store, with metrics, files and, if it is a database, checkpoints.

    Ids are kept if they are free. Links between runs copied together are kept.
    """
    records = [run.get(stores, kind) for run in dict.fromkeys(runs)]
    other = StoreChoice(target, stores.runs_directory)
    here, there = (os.path.realpath(choice.open(kind).description) for choice in (stores, other))
    if here == there:
        raise InputError(f"--to names the store that the runs are in, {stores.open(kind).description}: name another.")
    for record in copy(records, other.open(kind), keep_ids=not new_ids):
        _report_new(record)


def portable_folders(folder: Path) -> list[Path]:
    """Return the folders of exported runs: ``folder`` itself, or those directly inside.

    Raises:
        InputError: There is none.
    """
    if (folder / MANIFEST).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not found:
        raise InputError(f"{folder} holds no exported run: name a folder that incasem-like runs export wrote.")
    return found


def _report_new(record: RunRecord) -> None:
    old = record.info.get("original_id")
    renamed = f", which was run {old} before" if old is not None and old != record.id else ""
    report_written(f"{called(record)}{renamed}", record.store.description)
