"""``predict_multiple.py``: predict with many checkpoints of one training, as one tracked run that can be resumed."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.cpu_settings import share_the_cores
from incasem_like.commands.options import given_workers, predict_command
from incasem_like.commands.predict import (
    add_flags,
    artifact_command,
    find_training,
    prediction_store,
    report_examined,
    training_ids,
    with_given,
)
from incasem_like.commands.tracked import Resumable, check_commit, run_options, run_tracked, script_folder, stores_of
from incasem_like.config import SeriesConfig, load_series_config
from incasem_like.prediction import SERIES_FIGURE
from incasem_like.terminal import counted, report_written, shown_path
from incasem_like.tracking.model.checkpoints import series_log_folder
from incasem_like.tracking.moving.model_files import share
from incasem_like.tracking.stores.records import ChosenCheckpoint

if TYPE_CHECKING:
    from incasem_like.prediction.series.experiment import FinishedSeries
    from incasem_like.prediction.series.plan import Entry, SeriesPlan

EXAMPLE = "--run_id 12 --start 1000 --keep best with config_prediction.yaml prediction.data=my_data.json"
# Keys of the section "series" of the configuration: flag, type, placeholder and help.
SERIES_FLAGS = (
    ("start", int, "N", "first iteration; otherwise of the first checkpoint"),
    ("stop", int, "N", "last iteration, included; otherwise of the last checkpoint"),
    ("step", int, "N", "interval in iterations; otherwise all existing checkpoints"),
    ("best", int, "N", "only the N best by the training's own validation"),
    ("checkpoint_dir", str, "FOLDER", "folder of checkpoints that the training run does not know"),
    ("checkpoint_basename", str, "NAME", "their names up to the iteration; otherwise model_checkpoint_"),
    ("keep", str, "WHICH", "predictions that stay on disk: all (the default), best or none"),
    ("metric", str, "SCORE", "score that decides on the best iteration; otherwise the training's best_metric"),
)


def main(script: Path) -> NoReturn:
    """Run the series of predictions that the command line of ``script`` describes."""
    share_the_cores()
    folder = script_folder(script)

    def work(config: SeriesConfig, line: CommandLine) -> None:
        if line.own.dry_run:
            examine(config, line)
        else:
            report_finished(predict(config, line, script), line, script.with_name("predict.py"))

    parser = argparse.ArgumentParser(
        description="Predict with many checkpoints of one training, measure each, and find the best iteration; the "
        "same command again resumes an interrupted series, and adds checkpoints that were written since.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-r", "--run_id", type=int, metavar="ID", help="training run whose checkpoints predict; its configuration too"
    )
    for name, kind, metavar, meaning in SERIES_FLAGS:
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=meaning)
    parser.add_argument("--new", action="store_true", help="start another run even if there is one to resume")
    add_flags(parser)
    run_tracked(parser, EXAMPLE, lambda line: read_config(line, folder), work)


def read_config(line: CommandLine, folder: Path) -> SeriesConfig:
    """Read the configuration; flags override it."""
    config = load_series_config(line.files, line.updates, folder)
    given = {name: getattr(line.own, name) for name, *_ in SERIES_FLAGS}
    if given["checkpoint_dir"] is not None:
        given["checkpoint_dir"] = str(Path(given["checkpoint_dir"]).expanduser().absolute())
    return with_given(with_given(config, "prediction", {"run_id_training": line.own.run_id}), "series", given)


def predict(config: SeriesConfig, line: CommandLine, script: Path) -> FinishedSeries:
    """Find the training run and predict with its checkpoints."""
    workers = given_workers(line.own)
    training = find_training(line, config, training_ids(config)[0])
    if line.own.check_commit:
        check_commit(training, script)

    from incasem_like.evaluation.prediction_metrics import PredictionMetrics
    from incasem_like.prediction.series.experiment import continuing_command, predict_series
    from incasem_like.training.tensorboard import TensorBoardLog
    from incasem_like.viewing.series_figure import series_figure

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
    from incasem_like.prediction.series.experiment import examine_series

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
