"""``runs note``, ``runs tag`` and ``runs delete``: notes and tags of runs, which Omniboard shows too; deletion."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from incasem_like.commands.options import (
    Reference,
    RunReference,
    StoreChoice,
    called,
    called_first,
    confirmed,
    kind_option,
    store_options,
)
from incasem_like.commands.tables import Column, cell, print_table, size
from incasem_like.errors import DamagedRecordError, InputError
from incasem_like.terminal import shown_path
from incasem_like.tracking import RunRecord
from incasem_like.tracking.kinds import singular
from incasem_like.tracking.model.summaries import DAMAGED
from incasem_like.tracking.moving.model_files import delete_run
from incasem_like.tracking.stores.base import refuse_empty_tags


class TagCommand(click.Command):
    """A command whose arguments may begin with a minus: ``-draft`` removes a tag and is not a flag."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:  # noqa: D102
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        takes_value = {name: not option.is_flag for option in options for name in option.opts}
        flags: list[str] = []
        words: list[str] = []
        waiting = list(args)
        while waiting:
            word = waiting.pop(0)
            name = word.partition("=")[0]
            if name in takes_value or word.startswith("--"):
                flags.append(word)
                if takes_value.get(word) and waiting:
                    flags.append(waiting.pop(0))
            else:
                words.append(word)
        return super().parse_args(ctx, [*flags, "--", *words])


@click.command("note")
@click.argument("run", metavar="ID", type=RunReference())
@click.argument("text", required=False)
@click.option("--replace", is_flag=True, help="Replace earlier notes by TEXT; '' removes them.")
@kind_option
@store_options
def note_run(run: Reference, text: str | None, replace: bool, kind: str, stores: StoreChoice) -> None:
    """Append TEXT to the notes of a run; without TEXT, show the notes."""
    record = run.get(stores, kind)
    if text is None:
        if replace:
            raise InputError("TEXT is missing: write what replaces the notes, or '' to remove them.")
        print(record.notes or f"Nothing is noted of {called(record)}.")
        return
    notes = text if replace or not record.notes else f"{record.notes}\n{text}"
    stores.open(record.kind).annotate(record.id, notes=notes)
    print(f"Notes of {called(record)}:\n{notes}" if notes else f"The notes of {called(record)} were removed.")


@click.command("tag", cls=TagCommand)
@click.argument("run", metavar="ID", type=RunReference())
@click.argument("tags", metavar="[+TAG] [-TAG]...", nargs=-1)
@kind_option
@store_options
def tag_run(run: Reference, tags: Sequence[str], kind: str, stores: StoreChoice) -> None:
    """Add tags (+good, or just good) to a run and remove others (-draft); without any, show its tags."""
    record = run.get(stores, kind)
    gone = [tag[1:] for tag in tags if tag.startswith("-")]
    added = [tag.removeprefix("+") for tag in tags if not tag.startswith("-")]
    if tags:
        refuse_empty_tags([*added, *gone])
        if both := sorted(set(added) & set(gone)):
            raise InputError(f"The tag '{both[0]}' is both added and removed: write +{both[0]} or -{both[0]}.")
        before = record.tags
        stores.open(record.kind).annotate(record.id, add_tags=added, remove_tags=gone)
        record = record.store.get(record.id)
        for tag in dict.fromkeys([*added, *gone]):
            if (tag in before) == (tag in added):
                print(f"It had {'the' if tag in before else 'no'} tag '{tag}'{' already' if tag in before else ''}.")
    print(f"Tags of {called(record)}: {', '.join(record.tags) or 'none'}")


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
    records: dict[Key, RunRecord] = {}
    for run in runs:
        of = run.kind or kind
        try:
            records[of, run.id] = run.get(stores, kind)
        except DamagedRecordError as error:  # its record holds the error alone
            records[of, run.id] = RunRecord(stores.open(of), run.id, {"status": DAMAGED, "damage": str(error)})
    children = {
        key: [(child.kind, child.id) for child in record.store.children(record.id)] for key, record in records.items()
    }
    _check(records, children, force)
    rows = []
    for record in records.values():
        if record.status == DAMAGED:
            print(f"{record.document['damage']}\n", file=sys.stderr)
        checkpoints = record.checkpoints
        length = size(sum(checkpoint.bytes for checkpoint in checkpoints)) if checkpoints else None
        values = (singular(record.kind), record.id, record.name, record.status, record.start_time)
        rows.append([cell(value) for value in (*values, len(checkpoints), length)])
    titles = ("kind", "id", "name", "status", "started", "checkpoints", "size")
    print_table([Column(title, title in ("id", "checkpoints", "size")) for title in titles], rows)
    runs_in_words = "this run" if len(records) == 1 else f"these {len(records)} runs"
    if not yes and not confirmed(f"Delete {runs_in_words} for good?", "delete"):
        print("Nothing was deleted.")
        return 0
    for key in _children_first(records, children):
        record = records[key]
        freed = delete_run(stores.open(record.kind), record.id, force=force)
        print(f"Deleted {called(record)}: freed {size(freed.bytes)}.")
        for folder in freed.folders:
            print(f"  {shown_path(folder)}")
        for sentence in freed.kept:
            print(f"  {sentence}")
    return 0


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
