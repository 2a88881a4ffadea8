"""The work of ``11_search_parameters.py``: the search and what is printed of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.options import given_workers
from incasem_like.commands.segmenting import open_prediction
from incasem_like.commands.tables import Column, print_table
from incasem_like.commands.tracked import run_options, stores_of
from incasem_like.evaluation.decode_search import search_as_run, validation_blocks
from incasem_like.search import shown
from incasem_like.terminal import report_written, shell_command
from incasem_like.viewing.error_figure import draw_errors
from incasem_like.viewing.search_figure import search_figure
from incasem_like.volumes import Roi, open_volume

if TYPE_CHECKING:
    from incasem_like.evaluation.decode_search import Candidate
    from incasem_like.evaluation.search_config import DecodeSearchConfig

SEGMENT = "scripts/04_postprocessing/10_segment.py"


def search(config: DecodeSearchConfig, line: CommandLine, script: Path) -> None:
    """Search, and print the choices, the best first."""
    workers = given_workers(line.own)
    stores = stores_of(line, config.directories, config.tracking)
    rois = [Roi(block[:3], block[3:]) for block in line.own.block or ()]
    prediction = open_prediction(config, line)
    blocks = validation_blocks(prediction, open_volume(line.own.labels), rois, stores.open, line.own.seen)
    candidates: list[Candidate] = []
    store = None if line.unobserved else stores.open("evaluations")
    result = search_as_run(
        config,
        blocks,
        store=store,
        open_store=stores.open,
        report=candidates.append,
        draw=search_figure,
        draw_errors=draw_errors,
        num_workers=line.own.num_workers,
        workers=workers,
        **run_options(line, script),
    )
    metric, best = result["metric"], result["best"]
    keys = list(config.search.dimensions)
    rows = []
    for one in sorted(candidates, key=lambda one: one.trial.number != best["trial"]):
        value = "undefined" if one.trial.value is None else f"{one.trial.value:.4f}"
        at = "-" if one.best is None or one.thresholds[one.best] is None else f"{one.thresholds[one.best]:g}"
        rows.append([str(one.trial.number), value, at, *(shown(one.trial.parameters[key]) for key in keys)])
    print_table([Column(title) for title in ("trial", metric, "threshold", *keys)], rows)
    at = "" if best["threshold"] is None else f" at threshold {best['threshold']:g}"
    print(f"Best {metric}: {best['value']:.4f}, trial {best['trial']}{at}")
    if store is not None:
        source = ("--run_id", line.own.run_id) if line.own.run_id else ("-f", line.own.filename, "-d", line.own.dataset)
        words = [*source, *stores.flags(), "--parameters_of", result["run_id"]]
        report_written(
            f"evaluation run {result['run_id']}", store.description, shell_command("python", SEGMENT, *words)
        )
