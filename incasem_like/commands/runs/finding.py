"""``runs list`` and ``runs best``: runs, filtered and sorted, as a table, JSON or CSV; the best by a metric."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from incasem_like.commands.options import StoreChoice, Whole, called, kind_option, predict_command, store_options
from incasem_like.commands.tables import Column, cell, is_number, print_table
from incasem_like.errors import InputError
from incasem_like.tracking.kinds import kind_named
from incasem_like.tracking.model.summaries import RunSummary
from incasem_like.tracking.queries.fields import Field, better, parse_condition
from incasem_like.tracking.queries.select import select_runs
from incasem_like.tracking.stores.base import RunStore

_ALWAYS = ("id", "name", "status", "started", "took")
FILTERS = """\b
FILTER is NAME OPERATOR VALUE: status=COMPLETED  'dice>0.8'  training.optimizer.lr=1e-4  name~mito  tag=good
                               organelle=er  'started>2026-01-01'  'took<2h'  parent=none
Operators are = != < <= > >= and ~ (regular expression); quote those that the shell interprets. All filters
must match. NAME is a field (id name command status started stopped heartbeat took host comment tags notes
parent iteration checkpoints size data organelle), a metric, a configuration key or a result; for the latter three
a short name is enough if it is unambiguous: lr for training.optimizer.lr, dice for dice_class_1. A metric's value is
its best (largest dice, smallest loss), else its last; NAME.last, NAME.min, NAME.max choose.
"""


@click.command("list", epilog=FILTERS)
@click.argument("filters", metavar="[FILTER]...", nargs=-1)
@click.option("--columns", metavar="A,B,C", help="Columns to show; +A,B adds to the default columns.")
@click.option("--sort", metavar="NAME", help="Sort by this column; -NAME puts the largest first; several with commas.")
@click.option("--limit", metavar="N", type=Whole(min=1), help="Show the first N only.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON list; without --columns, everything but the configuration."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a header; times in UTC, durations in seconds.")
@click.option("--all", "all_kinds", is_flag=True, help="Runs of all kinds.")
@kind_option
@store_options
def list_runs(
    filters: Sequence[str],
    columns: str | None,
    sort: str | None,
    limit: int | None,
    as_json: bool,
    as_csv: bool,
    all_kinds: bool,
    kind: str,
    stores: StoreChoice,
) -> None:
    """List runs, the newest first."""
    if as_json and as_csv:
        raise InputError("A list has one form: give --json or --csv, not both.")
    chosen = list(stores.open_all().values()) if all_kinds else [stores.open(kind)]
    names, usual = read_columns(columns, chosen)
    selection = select_runs(
        chosen, [parse_condition(text) for text in filters], names=names, optional=usual, sort=_split(sort)
    )
    runs = selection.runs[:limit]
    wanted = [selection.fields[name] for name in dict.fromkeys([*usual, *names]) if name in selection.fields]
    if as_json:
        if columns is None:
            left_out = ("config", "inputs", "summary", "damage")
            entries = []
            for run in runs:
                entry = {key: plain(value) for key, value in asdict(run).items() if key not in left_out}
                entry["metrics"] = plain(dict(run.summary))
                entries.append(entry | ({"damage": run.damage} if run.damage else {}))
        else:
            entries = [{field.name: plain(field.read(run)) for field in wanted} for run in runs]
        print(json.dumps(entries, indent=2))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([field.name for field in wanted])
        for run in runs:
            values = [plain(field.read(run)) for field in wanted]
            writer.writerow(["; ".join(map(str, value)) if isinstance(value, list) else value for value in values])
    else:
        known = [field for field in wanted if any(field.read(run) not in (None, ()) for run in runs)]
        show_runs(runs, [field for field in wanted if field.name in names or field in known])
        where = chosen[0].description if len(chosen) == 1 else "the stores"
        found = len(selection.runs)  # what follows goes to stderr, so that a pipe receives only the table
        if not selection.total:
            print(f"No runs yet in {where}.", file=sys.stderr)
        elif not found:
            print(f"None of the {selection.total} runs in {where} meets the filters.", file=sys.stderr)
        elif len(runs) < found:
            print(f"{len(runs)} of {found} runs shown; leave out --limit for all.", file=sys.stderr)


def read_columns(columns: str | None, stores: Sequence[RunStore]) -> tuple[list[str], list[str]]:
    """Return the requested columns of ``--columns``, and the default ones, kept if none or ``+…`` is requested."""
    usual = [] if len(stores) == 1 else ["kind"]
    usual += [*_ALWAYS, *dict.fromkeys(name for store in stores for name in kind_named(store.kind).columns)]
    if columns is None:
        return [], usual
    if not _split(columns.removeprefix("+")):
        raise InputError("--columns names what to show: write id,name,dice, or +lr to add to the usual columns.")
    return _split(columns.removeprefix("+")), usual if columns.startswith("+") else []


def show_runs(runs: Sequence[RunSummary], fields: Sequence[Field]) -> None:
    """Print a table of runs."""
    if not runs:
        return
    columns, cells = [], []
    for field in fields:
        values = [field.read(run) for run in runs]
        columns.append(Column(field.name, any(map(is_number, values))))
        cells.append([cell(value, field.quantity) for value in values])
    print_table(columns, list(zip(*cells, strict=True)))


def _split(names: str | None) -> list[str]:
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def plain(value: Any) -> Any:
    """Convert a value for JSON, which has neither times, nor NaN, nor database ids."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


@click.command("best", epilog=FILTERS)
@click.argument("metric")
@click.argument("filters", metavar="[FILTER]...", nargs=-1)
@click.option("--largest", is_flag=True, help="The largest value is best.")
@click.option("--smallest", is_flag=True, help="The smallest value is best.")
@click.option("--limit", metavar="N", type=Whole(min=1), default=5, show_default=True, help="Show N runs.")
@kind_option
@store_options
def best_runs(
    metric: str, filters: Sequence[str], largest: bool, smallest: bool, limit: int, kind: str, stores: StoreChoice
) -> None:
    """Show the runs that are best by METRIC, and the iteration of the best value.

    For scores (dice, jaccard, precision, recall, …) the largest value is best, for losses and errors the smallest; for
    anything else, add --largest or --smallest.
    """
    if largest and smallest:
        raise InputError("One value is best: give --largest or --smallest, not both.")
    store = stores.open(kind)
    selection = select_runs([store], [parse_condition(text) for text in filters], names=[metric])
    field = selection.fields[metric]
    if field.metric is None:
        raise InputError(f"'{metric}' is {field.meaning}, which is not a metric: name one, or use runs list --sort.")
    chosen = "max" if largest else "min" if smallest else better(field.metric)
    if chosen is None:
        raise InputError(
            f"It is not known whether a large or a small {field.metric} is better: add --largest or --smallest."
        )
    sign = -1 if chosen == "min" else 1
    found = [(run, run.summary.get(field.metric, {}).get(chosen)) for run in selection.runs]
    ranked = [(run, float(value)) for run, value in found if value is not None and value == value]
    ranked.sort(key=lambda pair: sign * pair[1], reverse=True)
    if not ranked:
        raise InputError(f"No run that meets the filters has {field.metric}: leave filters out, or name another store.")
    titles = ("id", "name", "status", "started", field.metric, "iteration", "checkpoint")
    rows = []
    for run, value in ranked[:limit]:
        kept = "kept" if _has_checkpoint(run, step := run.summary[field.metric].get(f"{chosen}_step")) else None
        values = (run.id, run.name, run.status, run.start_time, value, step, kept)
        rows.append([cell(value) for value in values])
    print_table([Column(title, title in ("id", field.metric, "iteration")) for title in titles], rows)
    (best, value), *_ = ranked
    step = best.summary[field.metric].get(f"{chosen}_step")
    print(f"\nBest {field.metric}: {value:.4f} in {called(best)}, iteration {step}.")
    if best.kind == "trainings" and _has_checkpoint(best, step):
        print(f"Next: {predict_command(stores, best.id, checkpoint=int(step or 0))}")


def _has_checkpoint(run: RunSummary, iteration: float | None) -> bool:
    return iteration in {checkpoint.iteration for checkpoint in run.checkpoints}
