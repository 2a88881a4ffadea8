"""``predict.py``: predict volumes with the network of a tracked training, as a tracked run of its own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.cpu_settings import share_the_cores
from incasem_like.commands.options import given_workers
from incasem_like.commands.tracked import (
    CHECK_COMMIT,
    Resumable,
    check_commit,
    run_options,
    run_tracked,
    script_folder,
    stores_of,
)
from incasem_like.config import PredictionConfig, load_prediction_config
from incasem_like.errors import InputError, StoreError
from incasem_like.terminal import WORKERS_HELP, counted, report_written, shell_command, shown_path, workers_source
from incasem_like.tracking import RunRecord, RunStore
from incasem_like.tracking.model.summaries import origins

if TYPE_CHECKING:
    from incasem_like.prediction.experiment import FinishedPrediction
    from incasem_like.prediction.planning.plan import PredictionPlan
    from incasem_like.prediction.planning.planner import Findings

Config = TypeVar("Config", bound="PredictionConfig")
NO_TRAINING = "No training run is named: add --run_id ID, the id that train.py printed."
_STORES = (
    ("--mongodb_training", "store of the training run, if different from the prediction's"),
    ("--mongodb_predictions", "store of the prediction run, if different from the training's"),
)
EXAMPLE = "--run_id 12 --name mito with config_prediction.yaml prediction.data=my_data.json"
# Several values, in one flag or in several of the same name.
MANY: dict[str, Any] = {"nargs": "+", "action": "extend"}


def main(script: Path) -> NoReturn:
    """Run the prediction that the command line of ``script`` describes."""
    share_the_cores()
    folder = script_folder(script)

    def work(config: PredictionConfig, line: CommandLine) -> None:
        evaluate_script = folder.parent / "04_postprocessing" / "05_evaluate_metric.py"
        if line.own.dry_run:
            examine(config, line)
        else:
            report_finished(predict(config, line, script), evaluate_script)

    parser = argparse.ArgumentParser(
        description="Predict volumes with a tracked network, as a tracked run.", allow_abbrev=False
    )
    parser.add_argument(
        "-r",
        "--run_id",
        type=int,
        metavar="ID",
        help="training run whose network and configuration are used; with several, their mean is predicted",
        **MANY,
    )
    parser.add_argument(
        "--checkpoint",
        metavar="WHICH",
        help="best, last, an iteration, or a file; otherwise best, or last if no best is known; for several runs "
        "one for all, or one for each",
        **MANY,
    )
    parser.add_argument(
        "--weights",
        type=float,
        metavar="WEIGHT",
        help="weight of each of several runs in the mean; otherwise equal",
        **MANY,
    )
    parser.add_argument(
        "--resume",
        type=int,
        metavar="ID",
        help="resume the interrupted prediction of that id; otherwise a new one starts",
    )
    add_flags(parser)
    run_tracked(parser, EXAMPLE, lambda line: read_config(line, folder), work)


def read_config(line: CommandLine, folder: Path) -> PredictionConfig:
    """Read the configuration; with ``--resume`` alone, that of the interrupted prediction."""
    config = load_prediction_config(line.files, line.updates, folder)
    if line.own.resume is not None and not line.files and not line.typed_updates:
        tracked = open_run_store(line, config, "predictions").get(line.own.resume).config
        if line.own.runs_directory:
            runs = str(config.directories.runs)
            tracked = {**tracked, "directories": {**(tracked.get("directories") or {}), "runs": runs}}
        config = PredictionConfig.model_validate(tracked)
    given = {"run_id_training": line.own.run_id, "checkpoint": line.own.checkpoint, "weights": line.own.weights}
    return with_given(config, "prediction", given)


def predict(config: PredictionConfig, line: CommandLine, script: Path) -> FinishedPrediction:
    """Find the training runs and predict with them."""
    workers = given_workers(line.own)
    trainings = [find_training(line, config, training_id) for training_id in training_ids(config)]
    if line.own.check_commit:
        for training in trainings:
            check_commit(training, script)

    from incasem_like.evaluation.prediction_metrics import PredictionMetrics
    from incasem_like.prediction.experiment import predict_data, resuming_command

    def started(run_id: int, plan: PredictionPlan) -> None:
        work.command = resuming_command(line.own.resume or run_id)
        networks = [
            f"training run {origin['training_run_id']}"
            + ("" if origin["iteration"] is None else f", iteration {origin['iteration']}")
            + f": {shown_path(Path(origin['checkpoint']))}"
            for origin in origins(plan.lineage)
        ]
        print(f"Prediction run {run_id} with {' and '.join(networks)}", flush=True)

    with Resumable() as work:
        return predict_data(
            config,
            trainings[0],
            further=trainings[1:],
            store=lambda: prediction_store(line, config),
            observing=PredictionMetrics,
            resume=line.own.resume,
            workers=workers,
            started=started,
            **run_options(line, script),
        )


def examine(config: PredictionConfig, line: CommandLine) -> None:
    """Print what the prediction would do; write nothing.

    Raises:
        InputError: Something would stop it.
    """
    from incasem_like.prediction.experiment import examine_prediction

    find = partial(find_training, line, config)
    report_examined(
        examine_prediction(
            config,
            lambda: [find(training_id) for training_id in training_ids(config)],
            lambda: prediction_store(line, config),
            resume=line.own.resume,
            workers_file=line.own.workers,
        )
    )


def report_finished(finished: FinishedPrediction, evaluate_script: Path) -> None:
    """Print where the prediction is, the scores, and the command that evaluates it."""
    already = finished.result["voxels_predicted"] == 0
    if already:
        print(f"Prediction {finished.prediction_id} was already complete.")
    for name, value in finished.scores.items():
        if len(finished.locations) > 1 or name.endswith("_ds_0"):  # the mean of a single region is redundant
            print(f"{name}: {value:.4f}")
    first, *others = finished.locations.items()
    for name, place in others:
        report_written(f"prediction of {name}", shown_path(place.container / place.group), already=already)
    command = None
    if not first[1].channels:
        probabilities = f"{shown_path(first[1].container)}/{first[1].probability_map(1)}"
        command = shell_command("python", shown_path(evaluate_script), "-p", probabilities, "-l", "YOUR_LABELS")
    where = shown_path(first[1].container / first[1].group)
    report_written(f"prediction of {first[0]}", where, command, already=already)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that all commands that predict have."""
    for name, meaning in _STORES:
        parser.add_argument(name, metavar="URL", help=meaning)
    parser.add_argument("--workers", type=workers_source, metavar="FILE", help=WORKERS_HELP)
    parser.add_argument(
        "--dashboard", action="store_true", help="print the address of a page that shows what workers do"
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="report what would be done, the time, memory and disk it takes, and problems",
    )
    parser.add_argument("--check_commit", action="store_true", help=f"{CHECK_COMMIT}, here the training run")


def with_given(config: Config, section: str, given: Mapping[str, Any]) -> Config:
    """Set keys in a section of the configuration to the values of flags; None leaves a key unchanged.

    Raises:
        ConfigError: A value is wrong, or contradicts another.
    """
    values = config.model_dump(mode="json")
    values[section].update({key: value for key, value in given.items() if value is not None})
    return type(config).from_values(values, lambda _path: "on the command line")


def training_ids(config: PredictionConfig) -> tuple[int, ...]:
    """Return the ids of the training runs.

    Raises:
        InputError: No training run is named.
    """
    named = config.prediction.run_id_training
    if named is None:
        raise InputError(NO_TRAINING)
    return named if isinstance(named, tuple) else (named,)


def find_training(line: CommandLine, config: PredictionConfig, training_id: int) -> RunRecord:
    """Look up a training run; with --offline first among those waiting to be uploaded to the database."""
    if line.offline and line.own.mongodb_training is None:
        waiting = open_run_store(line, config, "trainings")
        if training_id in waiting.ids():
            return waiting.get(training_id)
    try:
        return open_run_store(replace(line, offline=False), config, "trainings").get(training_id)
    except StoreError:
        if not line.offline:
            raise
        raise StoreError(
            f"Training run {training_id} was not begun with --offline, and the database that holds its record does not "
            "answer: start the server, a prediction cannot do without that record."
        ) from None


def open_run_store(line: CommandLine, config: PredictionConfig, kind: str) -> RunStore:
    """Open the store that the command line names, else the configuration's."""
    own = {"trainings": line.own.mongodb_training, "predictions": line.own.mongodb_predictions}[kind]
    return stores_of(line, config.directories, config.tracking, own).open(kind)


def prediction_store(line: CommandLine, config: PredictionConfig) -> RunStore | None:
    """Open the store of prediction runs; None if no record is kept."""
    return None if line.unobserved else open_run_store(line, config, "predictions")


def artifact_command(line: CommandLine, config: PredictionConfig, run_id: int, name: str) -> str:
    """Return the command that prints a file stored with a prediction run."""
    stores = stores_of(line, config.directories, config.tracking, line.own.mongodb_predictions)
    flags = replace(stores, offline=False).flags()  # the console command has no --offline
    words = ["incasem-like", "runs", "show", f"predictions/{run_id}", "--artifact", name, *flags]
    return f"{shell_command(*words)} > {shell_command(name)}"


def report_examined(found: Findings) -> None:
    """Print the findings of a dry run.

    Raises:
        InputError: Something would stop the prediction.
    """
    print("\n".join(found.lines))
    if found.problems:
        raise InputError(
            f"{counted(len(found.problems), 'problem')} would stop this prediction, as listed above; nothing was done."
        )
