"""``predict.py``: predict volumes with the network of a tracked training, as a tracked run of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from incasem_like.commands.prediction_runs import (
    add_flags,
    find_training,
    open_run_store,
    prediction_store,
    say_examined,
    share_the_cores,
    training_ids,
    with_given,
)
from incasem_like.commands.records import check_commit, run_options
from incasem_like.commands.tracked import run_tracked, script_folder
from incasem_like.errors import InputError, RunTakenError
from incasem_like.terminal import report_written, shell_command, shown_path

if TYPE_CHECKING:
    from incasem_like.commands.command_line import CommandLine
    from incasem_like.config import PredictionConfig
    from incasem_like.prediction.experiment import FinishedPrediction
    from incasem_like.prediction.planning.plan import PredictionPlan

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
            say_finished(predict(config, line, script), evaluate_script)

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
    from incasem_like.config import PredictionConfig, load_prediction_config

    config = load_prediction_config(line.files, line.updates, folder)
    if line.own.resume is not None and not line.files and not line.updates:
        tracked = open_run_store(line, config, "predictions").get(line.own.resume).config
        config = PredictionConfig.model_validate(tracked)
    given = {"run_id_training": line.own.run_id, "checkpoint": line.own.checkpoint, "weights": line.own.weights}
    return with_given(config, "prediction", given)


def predict(config: PredictionConfig, line: CommandLine, script: Path) -> FinishedPrediction:
    """Find the training runs and predict with them."""
    from incasem_like.blockwise.workers_file import given_workers

    workers = given_workers(line.own)
    trainings = [find_training(line, config, training_id) for training_id in training_ids(config)]
    if line.own.check_commit:
        for training in trainings:
            check_commit(training, script)

    from incasem_like.evaluation.prediction_metrics import PredictionMetrics
    from incasem_like.prediction.experiment import predict_data

    begun: list[int] = []

    def started(run_id: int, plan: PredictionPlan) -> None:
        begun.append(line.own.resume or run_id)
        say_started(run_id, plan)

    try:
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
    except BaseException as error:
        if begun and not isinstance(error, (InputError, RunTakenError)):  # these would occur again
            say_how_to_resume(begun[0])
        raise


def examine(config: PredictionConfig, line: CommandLine) -> None:
    """Print what the prediction would do; write nothing.

    Raises:
        InputError: Something would stop it.
    """
    from incasem_like.prediction.experiment import examine_prediction

    find = partial(find_training, line, config)
    say_examined(
        examine_prediction(
            config,
            lambda: [find(training_id) for training_id in training_ids(config)],
            lambda: prediction_store(line, config),
            resume=line.own.resume,
            workers_file=line.own.workers,
        )
    )


def say_started(run_id: int, plan: PredictionPlan) -> None:
    """Print the networks, checkpoints and regions of the prediction."""
    from incasem_like.tracking.model.summaries import origins

    print(f"Prediction run {run_id} with {' and '.join(map(_described, origins(plan.lineage)))}", flush=True)


def _described(origin: Mapping[str, Any]) -> str:
    iteration = "" if origin["iteration"] is None else f", iteration {origin['iteration']}"
    return f"training run {origin['training_run_id']}{iteration}: {shown_path(Path(origin['checkpoint']))}"


def say_how_to_resume(prediction_id: int) -> None:
    """Print the command that resumes the interrupted prediction."""
    from incasem_like.prediction.experiment import resuming_command

    print(f"Go on with: {resuming_command(prediction_id)}", file=sys.stderr)


def say_finished(finished: FinishedPrediction, evaluate_script: Path) -> None:
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
