"""``incasem-like report``: a page on one run, or on several compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from incasem_like.commands.options import Reference, RunReference, StoreChoice, kind_option, store_options
from incasem_like.commands.runs.lineage import find_lineage
from incasem_like.terminal import report_written, shown_path
from incasem_like.tracking import RunRecord
from incasem_like.viewing.lineage_drawing import lineage_svg
from incasem_like.viewing.report import write_report
from incasem_like.viewing.run_report import report_of_run, report_of_runs


@click.command("report")
@click.argument("runs", metavar="ID...", type=RunReference(), nargs=-1, required=True)
@click.option("--output", "-o", metavar="HTML", type=click.Path(path_type=Path), help="By default report_KIND_ID.html.")
@kind_option
@store_options
def report(runs: Sequence[Reference], output: Path | None, kind: str, stores: StoreChoice) -> None:
    """Write a page on a run: curves, slices, scores, lineage, and the commands that repeat it; or compare several.

    ID is a run's id, 12, or kind and id, predictions/12. The page stands alone: it needs no other file and no network.
    """

    records = [run.get(stores, kind) for run in dict.fromkeys(runs)]
    if len(records) == 1:
        write_run_report(records[0], stores, output)
        return

    ids = "_".join(f"{record.id:04d}" for record in records)
    path = (output or Path(f"report_{records[0].kind}_{ids}.html")).expanduser().absolute()
    report_written("the report", shown_path(write_report(report_of_runs(records), path)))


def write_run_report(record: RunRecord, stores: StoreChoice, output: Path | None) -> None:
    """Write the page on one run and print its path.

    Raises:
        InputError: The output is a folder, or another file than a page.
    """

    everything = [run for store in stores.open_all().values() for run in store.summaries(inputs=True)]
    lineage, focus = find_lineage(f"{record.kind}/{record.id}", record.kind, everything, record.store.description)
    page = report_of_run(record, lineage_svg(lineage, focus).encode())
    path = (output or Path(f"report_{record.kind}_{record.id:04d}.html")).expanduser().absolute()
    report_written("the report", shown_path(write_report(page, path)))
