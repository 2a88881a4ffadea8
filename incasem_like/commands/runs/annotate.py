"""``runs note`` and ``runs tag``: notes and tags of runs, which Omniboard shows too."""

from __future__ import annotations

from collections.abc import Sequence

import click

from incasem_like.commands.runs.options import Reference, RunReference, StoreChoice, called, kind_option, store_options
from incasem_like.errors import InputError


class TagCommand(click.Command):
    """A command whose arguments may begin with a minus: ``-draft`` removes a tag and is not a flag."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:  # noqa: D102
        takes_value = {name: not option.is_flag for option in self._options(ctx) for name in option.opts}
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

    def _options(self, ctx: click.Context) -> list[click.Option]:
        return [param for param in self.get_params(ctx) if isinstance(param, click.Option)]


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
    record.store.annotate(record.id, notes=notes)
    print(f"Notes of {called(record)}:\n{notes}" if notes else f"The notes of {called(record)} were removed.")


@click.command("tag", cls=TagCommand)
@click.argument("run", metavar="ID", type=RunReference())
@click.argument("tags", metavar="[+TAG] [-TAG]...", nargs=-1)
@kind_option
@store_options
def tag_run(run: Reference, tags: Sequence[str], kind: str, stores: StoreChoice) -> None:
    """Add tags (+good, or just good) to a run and remove others (-draft); without any, show its tags."""
    from incasem_like.tracking.stores.base import refuse_empty_tags

    record = run.get(stores, kind)
    gone = [tag[1:] for tag in tags if tag.startswith("-")]
    added = [tag.removeprefix("+") for tag in tags if not tag.startswith("-")]
    if tags:
        refuse_empty_tags([*added, *gone])
        if both := sorted(set(added) & set(gone)):
            raise InputError(f"The tag '{both[0]}' is both added and removed: write +{both[0]} or -{both[0]}.")
        before = record.tags
        record.store.annotate(record.id, add_tags=added, remove_tags=gone)
        record = record.store.get(record.id)
        for tag in dict.fromkeys([*added, *gone]):
            if (tag in before) == (tag in added):
                print(f"It had {'the' if tag in before else 'no'} tag '{tag}'{' already' if tag in before else ''}.")
    print(f"Tags of {called(record)}: {', '.join(record.tags) or 'none'}")
