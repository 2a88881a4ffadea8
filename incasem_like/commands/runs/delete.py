"""``runs delete``: delete runs and everything that only they need, after confirmation."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from incasem_like.commands.runs.options import (
    Reference,
    RunReference,
    StoreChoice,
    called,
    called_first,
    kind_option,
    store_options,
)
from incasem_like.commands.tables import Column, cell, print_table, size
from incasem_like.errors import DamagedRecordError, InputError
from incasem_like.terminal import shown_path
from incasem_like.tracking.kinds import singular
from incasem_like.tracking.model.summaries import DAMAGED
from incasem_like.tracking.moving.deletion import delete_run

if TYPE_CHECKING:
    from incasem_like.tracking import RunRecord
    from incasem_like.tracking.stores.base import Freed

Key = tuple[str, int]


@click.command("delete")
@click.argument("runs", metavar="ID...", type=RunReference(), nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Delete runs even if other runs were derived from them.")
@kind_option
@store_options
def delete_runs(runs: Sequence[Reference], yes: bool, force: bool, kind: str, stores: StoreChoice) -> int:
    """Delete runs: records, metrics, stored files, checkpoints in the database and on this machine.

    A run that others were derived from is refused unless these are deleted with it. Folders of checkpoints,
    TensorBoard logs and snapshots are deleted only if they are certainly the run's own. Predicted volumes are kept.
    """
    records = {(run.kind or kind, run.id): _look_up(run, stores, kind) for run in runs}
    children = {
        key: [(child.kind, child.id) for child in record.store.children(record.id)] for key, record in records.items()
    }
    _check(records, children, force)
    _show(list(records.values()))
    if not yes and not _agreed(len(records)):
        print("Nothing was deleted.")
        return 0
    for key in _children_first(records, children):
        record = records[key]
        freed = delete_run(record.store, record.id, force=force)
        print(f"Deleted {called(record)}: {_described(freed)}.")
        for folder in freed.folders:
            print(f"  {shown_path(folder)}")
        for sentence in freed.kept:
            print(f"  {sentence}")
    return 0


def _look_up(run: Reference, stores: StoreChoice, kind: str) -> RunRecord:
    """Look up a run; if its record cannot be read, the result holds only the error."""
    from incasem_like.tracking import RunRecord

    try:
        return run.get(stores, kind)
    except DamagedRecordError as error:
        return RunRecord(stores.open(run.kind or kind), run.id, {"status": DAMAGED, "damage": str(error)})


def _check(records: dict[Key, RunRecord], children: dict[Key, list[Key]], force: bool) -> None:
    """Check, before anything is deleted, that every one of the runs may be deleted.

    Raises:
        InputError: One is running, or other runs were derived from it.
    """
    whole = [key for key, record in records.items() if record.status != DAMAGED]
    stores = {kind: records[kind, run_id].store for kind, run_id in whole}
    heard_of = {kind: store.heard_of(run_id for of, run_id in whole if of == kind) for kind, store in stores.items()}
    for key, record in records.items():
        if record.status == "RUNNING" or record.id in heard_of.get(key[0], ()):
            raise InputError(f"{called_first(record)} is still running: stop it first, then delete it.")
        left = [f"{singular(kind)} {run_id}" for kind, run_id in children[key] if (kind, run_id) not in records]
        if left and not force:
            raise InputError(
                f"{called_first(record)} has runs derived from it ({', '.join(left)}): delete them with it, or "
                "add --force."
            )


def _children_first(records: dict[Key, RunRecord], children: dict[Key, list[Key]]) -> list[Key]:
    done: dict[Key, None] = {}

    def visit(key: Key, path: tuple[Key, ...]) -> None:
        for child in children.get(key, ()):
            if child in records and child not in path:
                visit(child, (*path, key))
        done[key] = None

    for key in records:
        visit(key, ())
    return list(done)


def _show(records: Sequence[RunRecord]) -> None:
    rows = []
    for record in records:
        if record.status == DAMAGED:
            print(f"{record.document['damage']}\n", file=sys.stderr)
        checkpoints = record.checkpoints
        length = size(sum(checkpoint.bytes for checkpoint in checkpoints)) if checkpoints else None
        said = (
            singular(record.kind),
            record.id,
            record.name,
            record.status,
            record.start_time,
            len(checkpoints),
            length,
        )
        rows.append([cell(value) for value in said])
    titles = ("kind", "id", "name", "status", "started", "checkpoints", "size")
    print_table([Column(title, title in ("id", "checkpoints", "size")) for title in titles], rows)


def _agreed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise InputError("Nobody can be asked whether to delete: add --yes.")
    return click.confirm(f"Delete {'this run' if count == 1 else f'these {count} runs'} for good?", default=False)


def _described(freed: Freed) -> str:
    return f"freed {size(freed.bytes)} ({', '.join(_counts(freed))})"


def _counts(freed: Freed) -> Iterator[str]:
    counted = (
        (freed.runs, "record"),
        (freed.metrics, "metric"),
        (freed.artifacts, "artifact"),
        (freed.sources, "source"),
        (freed.stored_checkpoints, "checkpoint in the database"),
        (freed.checkpoints, "checkpoint on disk"),
    )
    for count, what in counted:
        if count:
            head, _, tail = what.partition(" ")
            yield f"{count} {head}{'s' if count > 1 else ''}{' ' if tail else ''}{tail}"
