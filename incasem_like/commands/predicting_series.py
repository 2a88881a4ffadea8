"""The work of ``predict_multiple.py``, and what is printed of it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.options import predict_command
from incasem_like.commands.predicting import report_examined
from incasem_like.commands.prediction_request import find_training, prediction_store, training_ids
from incasem_like.commands.tracked import Resumable, run_options, stores_of
from incasem_like.evaluation.prediction_metrics import PredictionMetrics
from incasem_like.prediction import SERIES_FIGURE
from incasem_like.prediction.series.experiment import continuing_command, examine_series, predict_series
from incasem_like.terminal import counted, report_written, shell_command, shown_path
from incasem_like.tracking.model.checkpoints import series_log_folder
from incasem_like.tracking.moving.model_files import share
from incasem_like.tracking.stores.records import ChosenCheckpoint
from incasem_like.training.tensorboard import TensorBoardLog
from incasem_like.viewing.series_figure import series_figure

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.config import PredictionConfig, SeriesConfig
    from incasem_like.prediction.series.experiment import FinishedSeries
    from incasem_like.prediction.series.plan import Entry, SeriesPlan
    from incasem_like.tracking import RunRecord


def predict(
    config: SeriesConfig, training: RunRecord, workers: Workers | None, line: CommandLine, script: Path
) -> FinishedSeries:
    """Predict with the checkpoints of a training run."""
    with contextlib.ExitStack() as opened, Resumable() as work:
        board: TensorBoardLog | None = None
        store = cache(partial(prediction_store, line, config))

        def started(run_id: int, series: SeriesPlan, left: Sequence[ChosenCheckpoint]) -> None:
            nonlocal board
            work.command = continuing_command()
            done = len(series.checkpoints) - len(left)
            known = f"; {done} of {len(series.checkpoints)} are done" if done else ""
            print(
                f"Prediction run {run_id} with {counted(len(left), 'checkpoint')} of training run "
                f"{series.plan.training_run_ids[0]}, iterations {left[0].iteration} to {left[-1].iteration}{known}",
                flush=True,
            )
            if series.metric and (runs := store()) is not None:
                log = series_log_folder(runs.runs_directory, run_id)
                log.mkdir(parents=True, exist_ok=True)
                share(log, [(runs.description, run_id)])  # runs of the same id in other stores may use it too
                board = opened.enter_context(TensorBoardLog(log, left[0].iteration))

        def measured(run_id: int, entry: Entry) -> None:
            report_measured(entry)
            if board is not None:
                board.scalars("series", entry.scores, entry.iteration)
                board.flush()

        return predict_series(
            config,
            training,
            store=store,
            observing=PredictionMetrics,
            workers=workers,
            anew=line.own.new,
            started=started,
            measured=measured,
            draw=series_figure,
            **run_options(line, script),
        )


def examine(config: SeriesConfig, line: CommandLine) -> None:
    """Print what the series would do; write nothing.

    Raises:
        InputError: Something would stop it.
    """
    find = partial(find_training, line, config)
    report_examined(
        examine_series(
            config,
            lambda: find(training_ids(config)[0]),
            lambda: prediction_store(line, config),
            workers_file=line.own.workers,
            anew=line.own.new,
        )
    )


def report_measured(entry: Entry) -> None:
    """Print the scores of one checkpoint: means over the regions, without the background."""
    means = [name for name in entry.scores if "_ds_" not in name and not name.endswith("_0")]
    found = ", ".join(f"{name} {entry.scores[name]:.4f}" for name in means) or "predicted, not measured"
    print(f"Iteration {entry.iteration}: {entry.problem or found}", flush=True)


def report_finished(finished: FinishedSeries, line: CommandLine, predict_script: Path) -> None:
    """Print the best iteration, where the predictions are, and the commands that show and use them."""
    if not finished.predicted:
        print(f"Prediction run {finished.run_id} has done all of this already; --new starts another one.")
        for entry in finished.entries:
            report_measured(entry)
    series, best = finished.plan, finished.best
    if best is not None and series.metric is not None:
        print(f"Best: iteration {best.iteration}, {series.metric} {best.scores[series.metric]:.4f}")
        if finished.run_id:
            print(f"Figure: {artifact_command(line, series.config, finished.run_id, SERIES_FIGURE)}")
    _report_kept(finished)
    if best is not None:
        stores = stores_of(line, series.config.directories, series.config.tracking)
        print(f"Next: {predict_command(stores, series.plan.training_run_ids[0], predict_script, best.iteration)}")


def _report_kept(finished: FinishedSeries) -> None:
    """Print where the kept predictions are."""
    series, kept = finished.plan, finished.kept
    if not kept:
        return
    iterations = f"iteration {kept[0].iteration}" if len(kept) == 1 else f"{len(kept)} iterations"
    for region, place in zip(series.region_names, series.locations(finished.run_id, kept[0].iteration), strict=True):
        folder = place.folder if len(kept) == 1 else place.container / series.plan.group(finished.run_id)
        if not folder.exists():
            print(
                f"The prediction of {region}, {iterations}, is missing from {shown_path(folder)}: --new predicts again."
            )
        elif finished.predicted:
            report_written(f"prediction of {region}, {iterations}", shown_path(folder))
        else:
            print(f"There is the prediction of {region}, {iterations}: {shown_path(folder)}")


def artifact_command(line: CommandLine, config: PredictionConfig, run_id: int, name: str) -> str:
    """Return the command that prints a file stored with a prediction run."""
    stores = stores_of(line, config.directories, config.tracking, line.own.mongodb_predictions)
    flags = replace(stores, offline=False).flags()  # the console command has no --offline
    words = ["incasem-like", "runs", "show", f"predictions/{run_id}", "--artifact", name, *flags]
    return f"{shell_command(*words)} > {shell_command(name)}"
