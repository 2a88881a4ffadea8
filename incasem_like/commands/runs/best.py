"""``runs best``: the runs that are best by a metric, and their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from incasem_like.commands.runs.listing import FILTERS
from incasem_like.commands.runs.options import StoreChoice, kind_option, store_options
from incasem_like.commands.tables import Column, cell, print_table
from incasem_like.errors import InputError
from incasem_like.terminal import shell_command
from incasem_like.tracking.kinds import singular

if TYPE_CHECKING:
    from incasem_like.tracking.model.summaries import RunSummary
    from incasem_like.tracking.queries.fields import Field


@click.command("best", epilog=FILTERS)
@click.argument("metric")
@click.argument("filters", metavar="[FILTER]...", nargs=-1)
@click.option("--largest", is_flag=True, help="The largest value is best.")
@click.option("--smallest", is_flag=True, help="The smallest value is best.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=5, show_default=True, help="Show N runs.")
@kind_option
@store_options
def best_runs(
    metric: str, filters: Sequence[str], largest: bool, smallest: bool, limit: int, kind: str, stores: StoreChoice
) -> None:
    """Show the runs that are best by METRIC, and the iteration of the best value.

    For scores (dice, jaccard, precision, recall, …) the largest value is best, for losses and errors the smallest; for
    anything else, add --largest or --smallest.
    """
    from incasem_like.tracking.queries.conditions import parse_condition
    from incasem_like.tracking.queries.fields import better
    from incasem_like.tracking.queries.select import select_runs

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
    values = {run.id: value for run in selection.runs if (value := _value(run, field.metric, chosen)) is not None}
    ranked = sorted(selection.runs, key=lambda run: (run.id in values, _rank(values.get(run.id), chosen)), reverse=True)
    ranked = [run for run in ranked if run.id in values]
    if not ranked:
        raise InputError(f"No run that meets the filters has {field.metric}: leave filters out, or name another store.")
    _print(ranked[:limit], values, field, chosen)
    _print_best(ranked[0], values[ranked[0].id], field.metric, chosen, stores)


def _value(run: RunSummary, metric: str, chosen: str) -> float | None:
    found = run.summary.get(metric, {}).get(chosen)
    return None if found is None or found != found else float(found)


def _rank(value: float | None, chosen: str) -> float:
    return 0.0 if value is None else -value if chosen == "min" else value


def _step(run: RunSummary, metric: str, chosen: str) -> int | None:
    step = run.summary[metric].get(f"{chosen}_step")
    return None if step is None else int(step)


def _print(runs: Sequence[RunSummary], values: dict[int, float], field: Field, chosen: str) -> None:
    assert field.metric is not None
    titles = ("id", "name", "status", "started", field.metric, "iteration", "checkpoint")
    rows = []
    for run in runs:
        step = _step(run, field.metric, chosen)
        kept = "kept" if step in {checkpoint.iteration for checkpoint in run.checkpoints} else None
        said = (run.id, run.name, run.status, run.start_time, values[run.id], step, kept)
        rows.append([cell(value) for value in said])
    print_table([Column(title, title in ("id", field.metric, "iteration")) for title in titles], rows)


def _print_best(run: RunSummary, value: float, metric: str, chosen: str, stores: StoreChoice) -> None:
    step = _step(run, metric, chosen)
    name = f" ({run.name})" if run.name else ""
    print(f"\nBest {metric}: {value:.4f} in {singular(run.kind)} run {run.id}{name}, iteration {step}.")
    if run.kind == "trainings" and step in {checkpoint.iteration for checkpoint in run.checkpoints}:
        command = ["python", "scripts/03_predict/predict.py", "--run_id", str(run.id), "--checkpoint", str(step)]
        command += _store_flags(stores)
        command += ["with", "config_prediction.yaml", "prediction.data=YOUR_DATA.json"]
        print(f"Next: {shell_command(*command)}")


def _store_flags(stores: StoreChoice) -> list[str]:
    """Return the flags for ``predict.py`` that select the same store."""
    flags = stores.flags()
    return flags[: flags.index("--runs_directory")] if "--runs_directory" in flags else flags
