"""``runs compare``: differences of runs in configuration and metrics, and their curves in one figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from incasem_like.commands.options import Reference, RunReference, StoreChoice, kind_option, store_options
from incasem_like.commands.runs.finding import plain
from incasem_like.commands.tables import NOTHING, Column, cell, print_table
from incasem_like.disk import write_whole
from incasem_like.errors import InputError
from incasem_like.terminal import nearest, report_written, shown_path
from incasem_like.tracking import RunRecord, RunStore
from incasem_like.tracking.kinds import singular
from incasem_like.tracking.model.summaries import differing, flatten
from incasem_like.tracking.queries.fields import better
from incasem_like.training.arithmetic import KEY, WARNING, arithmetic_differences
from incasem_like.viewing.comparison import comparison_figure

_ABSENT = object()


@click.command("compare")
@click.argument("runs", metavar="ID ID...", type=RunReference(), nargs=-1, required=True)
@click.option("--metric", "metrics", metavar="NAME", multiple=True, help="Compare this metric only; may be repeated.")
@click.option("--plot", metavar="FILE.png", type=click.Path(path_type=Path), help="Draw the metrics' curves.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@kind_option
@store_options
def compare_runs(
    runs: Sequence[Reference], metrics: Sequence[str], plot: Path | None, as_json: bool, kind: str, stores: StoreChoice
) -> None:
    """Compare runs: the differences of their configurations, and their metrics side by side.

    For a metric, the best value is shown with its iteration, else the last value; * marks the best run. Of runs that
    were evaluated on the same voxels, sentences say which is better, by a paired bootstrap over parts of the volume.
    """
    if plot is not None and plot.suffix.lower() != ".png":
        raise InputError(f"The plot is written as PNG: name a file that ends in .png, not '{plot}'.")
    if len({(run.kind or kind, run.id) for run in runs}) < 2:
        raise InputError("A comparison takes two runs or more: name another id.")
    records = [run.get(stores, kind) for run in dict.fromkeys(runs)]
    differences = differing([flatten(record.config) for record in records], _ABSENT)
    verdicts = verdicts_of(records, metrics, lambda: stores.open("evaluations"))
    logged = {name for record in records for name in record.metric_summaries}
    table = metric_values(records, [name for name in metrics if name in logged] if verdicts else metrics)
    if as_json:
        print(json.dumps({**_as_json(records, differences, table), "verdicts": verdicts}, indent=2))
    else:
        _print(records, differences, table)
        print("\n".join(["", *verdicts]) if verdicts else "", end="\n" if verdicts else "")
    if plot is not None:
        png, path = comparison_figure(records, metrics), plot.expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(png))
        print()
        report_written("the plot", shown_path(path))


def verdicts_of(records: Sequence[RunRecord], metrics: Sequence[str], evaluations: Callable[[], RunStore]) -> list[str]:
    """Return sentences on which run is better, for each metric that evaluations compare, or why that cannot be told.

    Returns:
        None of runs that are not evaluations, and have none.
    """
    from incasem_like.evaluation.run_comparison import compare_evaluations, evaluation_of

    names = [f"{singular(record.kind).capitalize()} run {record.id}" for record in records]
    try:
        evaluated = [evaluation_of(record, evaluations) for record in records]
        return [
            found.sentence(names[i], names[j][0].lower() + names[j][1:])
            for metric in metrics or (None,)
            for i, j, found in compare_evaluations(evaluated, metric)
        ]
    except InputError as error:
        counted = any("evaluated" in (record.result or {}) for record in records if isinstance(record.result, Mapping))
        return [str(error)] if counted else []


def metric_values(
    records: Sequence[RunRecord], wanted: Sequence[str] = ()
) -> dict[str, list[tuple[float, int] | None]]:
    """Return each metric's best value, else its last, with its iteration, for each run.

    Raises:
        InputError: No run has one of the requested metrics.
    """
    summaries = [record.metric_summaries for record in records]
    known = sorted({name for summary in summaries for name in summary})
    for name in wanted:
        if name not in known:
            hint = nearest(name, known) or f": they have {', '.join(known) or 'none'}."
            raise InputError(f"None of the runs has a metric '{name}'{hint}")
    rows: dict[str, list[tuple[float, int] | None]] = {}
    for name in wanted or known:
        value = better(name) or "last"
        numbers = [summary.get(name, {}) for summary in summaries]
        rows[name] = [(one[value], int(one[f"{value}_step"])) if value in one else None for one in numbers]
    return rows


def _print(
    records: Sequence[RunRecord],
    differences: Mapping[str, Sequence[Any]],
    table: Mapping[str, Sequence[tuple[float, int] | None]],
) -> None:
    heads = [Column(f"{singular(record.kind)} {record.id}") for record in records]
    rows = [[name, *map(cell, values)] for name, values in _facts(records).items()]
    print_table([Column("run"), *heads], rows)
    print()
    if differences:
        rows = [
            [key, *(NOTHING if value is _ABSENT else "none" if value is None else cell(value) for value in values)]
            for key, values in differences.items()
        ]
        print_table([Column("configuration"), *heads], rows)
    else:
        print("The configurations are the same.")
    if differing := _arithmetic(records):
        text = "; ".join(f"{name} {' | '.join(values)}" for name, values in differing.items())
        print(f"\n{WARNING}: {text}.")
    if table:
        print()
        rows = [[name, *_metric_cells(name, values)] for name, values in table.items()]
        print_table([Column("metric"), *heads], rows)


def _facts(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    repositories = [(record.experiment.get("repositories") or [{}])[0] for record in records]
    commits = [
        str(one.get("commit") or "")[:10] + (" with changes" if one.get("dirty") else "") for one in repositories
    ]
    results = [record.result if isinstance(record.result, dict) else {} for record in records]
    facts: dict[str, list[Any]] = {
        "name": [record.name for record in records],
        "status": [record.status for record in records],
        "started": [record.start_time for record in records],
        "iteration": [result.get("iteration") for result in results],
        "machine": [record.host.get("hostname") for record in records],
        "commit": commits,
        "tags": [record.tags for record in records],
    }
    return {name: values for name, values in facts.items() if any(values)}


def _arithmetic(records: Sequence[RunRecord]) -> dict[str, list[str]]:
    return arithmetic_differences([record.info.get(KEY) or [] for record in records])


def _metric_cells(name: str, values: Sequence[tuple[float, int] | None]) -> list[str]:
    direction = better(name)
    defined = [value for pair in values if pair is not None and (value := pair[0]) == value]
    best = None if direction is None or not defined else max(defined) if direction == "max" else min(defined)
    tied = len(set(defined)) == 1
    cells = []
    for pair in values:
        mark = " *" if pair is not None and pair[0] == best and not tied else ""
        cells.append("-" if pair is None else f"{cell(float(pair[0]))} at {pair[1]}{mark}")
    return cells


def _as_json(
    records: Sequence[RunRecord],
    differences: Mapping[str, Sequence[Any]],
    table: Mapping[str, Sequence[tuple[float, int] | None]],
) -> dict[str, Any]:
    facts = [{name: plain(values[n]) for name, values in _facts(records).items()} for n in range(len(records))]
    return {
        "runs": [{"kind": r.kind, "id": r.id, **fact} for r, fact in zip(records, facts, strict=True)],
        "configuration": {
            key: [{} if value is _ABSENT else {"value": plain(value)} for value in values]
            for key, values in differences.items()
        },
        "arithmetic": _arithmetic(records),
        "metrics": {
            name: [None if pair is None else {"value": plain(pair[0]), "iteration": pair[1]} for pair in values]
            for name, values in table.items()
        },
    }
