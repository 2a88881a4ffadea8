"""``runs checkpoints``: the checkpoints of a run, where each of them is and whether it is complete."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from incasem_like.commands.runs.options import (
    Reference,
    RunReference,
    StoreChoice,
    called_first,
    kind_option,
    store_options,
)
from incasem_like.commands.tables import NOTHING, Column, cell, print_table, size
from incasem_like.terminal import shown_path

if TYPE_CHECKING:
    from pathlib import Path

    from incasem_like.tracking import CheckpointRecord, RunRecord
    from incasem_like.tracking.model.checkpoints import TrackedFile


@click.command("checkpoints")
@click.argument("run", metavar="ID", type=RunReference())
@click.option("--quick", is_flag=True, help="Compare lengths only, instead of reading and hashing the files.")
@kind_option
@store_options
def list_checkpoints(run: Reference, quick: bool, kind: str, stores: StoreChoice) -> int:
    """List the checkpoints that a run registered: metrics, size, where each one is, and whether it is whole.

    Whole means that the file has the SHA-256 that the run registered. A checkpoint is listed with its state if training
    can be continued from it. The exit status is 1 if a checkpoint cannot be found anywhere.
    """
    record = run.get(stores, kind)
    checkpoints = record.checkpoints
    if not checkpoints:
        print(f"{called_first(record)} has no checkpoints.")
        return 0
    marked = {"best": _best(record), "last": checkpoints[-1].iteration}
    metrics = _columns(record)
    rows, lost = [], 0
    for checkpoint in checkpoints:
        marks = [word for word, iteration in marked.items() if checkpoint.iteration == iteration]
        state = condition(checkpoint, quick=quick)
        lost += state.startswith(("missing", "changed"))
        length = sum(file.bytes for file in checkpoint.files)
        values = [cell(checkpoint.metrics.get(name)) for name in metrics]
        where = ", ".join(places(checkpoint.model)) or NOTHING
        iteration, mark, path = str(checkpoint.iteration), " ".join(marks) or NOTHING, shown_path(checkpoint.path)
        rows.append([iteration, mark, *values, size(length), where, state, path])
    columns = [Column("iteration", True), Column("mark"), *(Column(name, True) for name in metrics)]
    print_table([*columns, Column("size", True), Column("where"), Column("state"), Column("file")], rows)
    return 1 if lost else 0


def places(file: TrackedFile) -> list[str]:
    """Return the places where a file is available: disk, cache, database, URL."""
    from incasem_like.tracking.model.cache import cached_path

    found = ["disk"] if _on_disk(file) else []
    found += ["cache"] if cached_path(file.name, file.sha256).is_file() else []
    found += ["database"] if file.sha256 in file.places.stored else []
    return found + (["URL"] if file.url is not None else [])


def condition(checkpoint: CheckpointRecord, *, quick: bool) -> str:
    """Return whether a checkpoint is whole, and whether the state for continuing from it exists."""
    model = _state_of(checkpoint.model, quick)
    if model not in ("whole", "right length", "not looked at"):
        return model
    return model if _state_file_is_there(checkpoint) else f"{model}, without state"


def _state_of(file: TrackedFile, quick: bool) -> str:
    from incasem_like.tracking.model.cache import file_sha256

    on_disk = _on_disk(file)
    if on_disk is None:
        there = [path for path in file.candidates if path.is_file()]
        if "database" in places(file):
            return "whole"  # the database lists a file only once its last chunk is stored
        if there and not places(file):
            return f"changed: {there[0].stat().st_size} bytes, not {file.bytes}"
        return "not looked at" if places(file) else "missing"
    if quick:
        return "right length"
    return "whole" if file_sha256(on_disk) == file.sha256 else "changed: other SHA-256"


def _on_disk(file: TrackedFile) -> Path | None:
    right = [path for path in file.candidates if path.is_file() and path.stat().st_size == file.bytes]
    return right[0] if right else None


def _state_file_is_there(checkpoint: CheckpointRecord) -> bool:
    if checkpoint.state is not None:
        return checkpoint.state.can_be_had()
    return checkpoint.path.with_name(f"training_state_{checkpoint.iteration}").is_file()


def _policy(record: RunRecord) -> tuple[str | None, str]:
    policy = (record.config.get("training") or {}).get("checkpoints") or {}
    return policy.get("best_metric"), policy.get("best_mode") or "max"


def _best(record: RunRecord) -> int | None:
    from incasem_like.tracking.model.checkpoints import rank

    metric, mode = _policy(record)
    ranked = rank(record.checkpoints, metric, mode)
    return ranked[0].iteration if ranked else None


def _columns(record: RunRecord) -> list[str]:
    """Return the metrics to show as columns: the one that decides on the best, the loss, the dice of the foreground."""
    known = {name for c in record.checkpoints for name, value in c.metrics.items() if not math.isnan(value)}
    wanted = [_policy(record)[0], "loss", "dice_class_1"]
    return [name for name in dict.fromkeys(wanted) if name in known and name is not None]
