"""``sweep.py``: many trainings that differ in some keys of their configuration, as one tracked run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.options import given_workers, predict_command
from incasem_like.commands.tables import Column, print_table
from incasem_like.commands.tracked import Resumable, run_options, run_tracked, script_folder, stores_of
from incasem_like.config import SweepConfig, load_sweep_config
from incasem_like.errors import InputError
from incasem_like.search import Search, Trial, shown
from incasem_like.terminal import WORKERS_HELP, workers_source
from incasem_like.viewing.sweep_figure import sweep_figure
from incasem_like.volumes.provenance import command_line

if TYPE_CHECKING:
    from incasem_like.training.sweep import FinishedSweep

EXAMPLE = "with config_training.yaml sweep.yaml training.data=my_training.json validation.data=my_validation.json"


def main(script: Path) -> NoReturn:
    """Run the sweep that the command line of ``script`` describes."""
    parser = argparse.ArgumentParser(
        description="Train with many configurations, each as a tracked run, and compare them; the same command again "
        "resumes an interrupted sweep, and adds trials if sweep.trials was raised.",
        allow_abbrev=False,
    )
    parser.add_argument("--new", action="store_true", help="start another run even if there is one to resume")
    parser.add_argument(
        "--num_workers", type=int, default=1, metavar="N", help="trainings at a time on this machine; default 1"
    )
    parser.add_argument("--workers", type=workers_source, metavar="FILE", help=WORKERS_HELP)
    folder = script_folder(script)
    run_tracked(
        parser,
        EXAMPLE,
        lambda line: load_sweep_config(line.files or [Path("sweep.yaml")], line.updates, folder),
        lambda config, line: run(config, line, script),
    )


def run(config: SweepConfig, line: CommandLine, script: Path) -> None:
    """Run the trainings that are not done yet, and print them all, best first, with the next command."""
    from incasem_like.training.sweep import run_sweep

    if line.unobserved:
        raise InputError("A sweep compares tracked trainings: leave --unobserved out.")
    if line.own.num_workers < 1:
        raise InputError(f"--num_workers is {line.own.num_workers}: give at least 1.")
    stores = stores_of(line, config.directories, config.tracking)
    train = script.resolve().with_name("train.py")

    def started(run_id: int, search: Search, done: Sequence[Trial]) -> None:
        work.command = command_line({"--new": 0})
        known = f"; {len(done)} are done" if done else ""
        print(f"Sweep run {run_id}: {search.total} trainings, {config.sweep.method}{known}", flush=True)

    def draw(finished: FinishedSweep) -> bytes:
        measured = [trial for trial in finished.trials if trial.value is not None]
        dimensions = finished.search.dimensions.items()
        return sweep_figure(
            [trial.parameters for trial in measured],
            [trial.value for trial in measured if trial.value is not None],
            finished.search.metric,
            finished.search.mode,
            {key for key, values in dimensions if isinstance(values, Mapping) and values.get("log")},
        )

    def report(trial: Trial) -> None:
        parameters = ", ".join(f"{key}={shown(value)}" for key, value in trial.parameters.items())
        value = "not measured" if trial.value is None else f"{trial.value:.4f}"
        status = "" if trial.status == "COMPLETED" else f" ({trial.status})"
        found = f"Trial {trial.number}, training run {trial.run_id}{status}: {value} with {parameters}"
        print(found, flush=True)

    with Resumable() as work:
        finished = run_sweep(
            config,
            sweeps=stores.open("sweeps"),
            trainings=stores.open("trainings"),
            command=[sys.executable, str(train), *stores.flags()],
            anew=line.own.new,
            num_workers=line.own.num_workers,
            workers=given_workers(line.own),
            started=started,
            report=report,
            draw=draw,
            **run_options(line, script),
        )
    if finished.was_complete:
        print(f"Sweep run {finished.run_id} has done all of this already; --new starts another one.")
    best, sign = finished.best, -1 if finished.search.mode == "max" else 1
    ranked = sorted(finished.trials, key=lambda trial: (trial.value is None, sign * (trial.value or 0)))
    keys = list(finished.search.dimensions)
    rows = []
    for trial in ranked:
        value = "-" if trial.value is None else f"{trial.value:.4f}"
        values = (shown(trial.parameters[key]) for key in keys)
        rows.append([str(trial.number), str(trial.run_id), trial.status, value, *values])
    print_table([Column(title) for title in ("trial", "training", "status", finished.search.metric, *keys)], rows)
    if best is None or best.run_id is None:
        raise InputError(f"No trial has the metric {finished.search.metric}: set sweep.metric, or validation.data.")
    print(f"Best: trial {best.number}, training run {best.run_id}, {finished.search.metric} {best.value:.4f}")
    predict = script_folder(script).parent / "03_predict" / "predict.py"
    print(f"Next: {predict_command(stores, best.run_id, predict)}")
