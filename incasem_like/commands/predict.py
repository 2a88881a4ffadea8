"""``predict.py``: predict volumes with the network of a tracked training, as a tracked run of its own."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from incasem_like.commands.records import CHECK_COMMIT, check_commit, further_observers
from incasem_like.commands.records import open_run_store as open_store_of
from incasem_like.commands.tracked import run_tracked, script_folder
from incasem_like.errors import InputError, StoreError
from incasem_like.terminal import report_written, shown_path

if TYPE_CHECKING:
    from incasem_like.config import PredictionConfig
    from incasem_like.prediction.experiment import FinishedPrediction
    from incasem_like.prediction.plan import PredictionPlan
    from incasem_like.tracking import CommandLine, RunRecord, RunStore

EXAMPLE = "--run_id 12 --name mito with config_prediction.yaml prediction.data=my_data.json"
NO_TRAINING = "No training run is named: add --run_id ID, the id that train.py printed."
FLAGS = (
    (("-r", "--run_id"), int, "ID", "training run whose network predicts; its configuration comes along"),
    (("--checkpoint",), str, "WHICH", "best, last, an iteration, or a file; otherwise best, or last if none is"),
    (("--resume",), int, "ID", "go on with the interrupted prediction of that id; else a new one starts"),
    (("--mongodb_training",), str, "URL", "store of the training run, where it is not the prediction's"),
    (("--mongodb_predictions",), str, "URL", "store of the prediction run, where it is not the training's"),
)


def main(script: Path) -> NoReturn:
    """Predict as the command line of ``script`` says."""
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
    for names, kind, metavar, meaning in FLAGS:
        parser.add_argument(*names, type=kind, metavar=metavar, help=meaning)
    parser.add_argument(
        "--workers", type=Path, metavar="FILE", help="workers.yaml: workers here or on a cluster (docs/blockwise.md)"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="say what would be done, in what time and space, and what stops it"
    )
    parser.add_argument("--check_commit", action="store_true", help=f"{CHECK_COMMIT}, here the training run")
    run_tracked(parser, EXAMPLE, lambda line: read_config(line, folder), work)


def read_config(line: CommandLine, folder: Path) -> PredictionConfig:
    """Read the configuration; that of the interrupted prediction where nothing but ``--resume`` is given."""
    from incasem_like.config import PredictionConfig, load_prediction_config

    config = load_prediction_config(line.files, line.updates, folder)
    if line.own.resume is not None and not line.files and not line.updates:
        tracked = open_run_store(line, config, "predictions").get(line.own.resume).config
        config = PredictionConfig.model_validate(tracked)
    given = {"run_id_training": line.own.run_id, "checkpoint": line.own.checkpoint}
    changes = {key: value for key, value in given.items() if value is not None}
    return config.model_copy(update={"prediction": config.prediction.model_copy(update=changes)})


def predict(config: PredictionConfig, line: CommandLine, script: Path) -> FinishedPrediction:
    """Find the training run and predict with it."""
    training_id = config.prediction.run_id_training
    if training_id is None:
        raise InputError(NO_TRAINING)
    training = find_training(line, config, training_id)
    if line.own.check_commit:
        check_commit(training, script)

    from incasem_like.blockwise.workers_file import load_workers
    from incasem_like.evaluation.prediction_metrics import PredictionMetrics
    from incasem_like.prediction.experiment import predict_data

    begun: list[int] = []

    def started(run_id: int, plan: PredictionPlan) -> None:
        begun.append(line.own.resume or run_id)
        say_started(run_id, plan)

    try:
        return predict_data(
            config,
            training,
            store=lambda: None if line.unobserved else open_run_store(line, config, "predictions"),
            observing=PredictionMetrics,
            resume=line.own.resume,
            workers=load_workers(line.own.workers) if line.own.workers is not None else None,
            started=started,
            run_name=line.name,
            comment=line.comment,
            run_id=line.id,
            sources=[script],
            observers=further_observers(line, script_folder(script)),
        )
    except BaseException:
        if begun:
            say_how_to_resume(begun[0])
        raise


def examine(config: PredictionConfig, line: CommandLine) -> None:
    """Say what the prediction would do; write nothing.

    Raises:
        InputError: Something would stop it.
    """
    from incasem_like.prediction.preflight import examine_prediction

    def training() -> RunRecord:
        training_id = config.prediction.run_id_training
        if training_id is None:
            raise InputError(NO_TRAINING)
        return find_training(line, config, training_id)

    def store() -> RunStore | None:
        return None if line.unobserved else open_run_store(line, config, "predictions")

    found = examine_prediction(config, training, store, resume=line.own.resume, workers_file=line.own.workers)
    print("\n".join(found.lines))
    if found.problems:
        raise InputError(
            f"{len(found.problems)} problem{'s' if len(found.problems) > 1 else ''} would stop this prediction, "
            "as listed above: nothing was started."
        )


def find_training(line: CommandLine, config: PredictionConfig, training_id: int) -> RunRecord:
    """Look the training run up; with --offline first among those that wait for the database to come back."""
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
    return open_store_of(line, kind, config.directories, config.tracking, own)


def say_started(run_id: int, plan: PredictionPlan) -> None:
    """Print what predicts what."""
    checkpoint = plan.checkpoint
    iteration = "" if checkpoint.iteration is None else f", iteration {checkpoint.iteration}"
    source = f"training run {plan.training_run_id}{iteration}: {shown_path(checkpoint.path)}"
    print(f"Prediction run {run_id} with {source}", flush=True)


def say_how_to_resume(prediction_id: int) -> None:
    """Print the command that goes on with what was interrupted."""
    from incasem_like.prediction.experiment import resuming_command

    print(f"Go on with: {resuming_command(prediction_id)}", file=sys.stderr)


def say_finished(finished: FinishedPrediction, evaluate_script: Path) -> None:
    """Print where the prediction is, the scores, and the command that measures it."""
    if finished.result["voxels_predicted"] == 0:
        print(f"Prediction {finished.prediction_id} was already complete.")
    for name, value in finished.scores.items():
        print(f"{name}: {value:.4f}")
    first, *others = finished.places.items()
    for name, place in others:
        report_written(f"prediction of {name}", shown_path(place.container / place.group))
    probabilities = f"{shown_path(first[1].container)}/{first[1].probability_map(1)}"
    command = shlex.join(["python", shown_path(evaluate_script), "-p", probabilities, "-l", "YOUR_LABELS"])
    report_written(f"prediction of {first[0]}", shown_path(first[1].container / first[1].group), command)
