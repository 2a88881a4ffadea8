"""Predict volumes with a tracked network: ``python predict.py --run_id ID [--checkpoint best] with key=value ...``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.terminal import report_written, run_guarded

if TYPE_CHECKING:
    from incasem_like.config import PredictionConfig
    from incasem_like.prediction.experiment import FinishedPrediction
    from incasem_like.prediction.plan import PredictionPlan
    from incasem_like.tracking import CommandLine, RunStore

HERE = Path(__file__).resolve().parent
EVALUATE = HERE.parent / "04_postprocessing" / "05_evaluate_metric.py"
EXAMPLE = "--run_id 12 --name mito with config_prediction.yaml prediction.data=my_data.json"


def own_parser() -> argparse.ArgumentParser:
    """Make the parser of the flags that only this script has."""
    parser = argparse.ArgumentParser(
        description="Predict volumes with a tracked network, as a tracked run.", allow_abbrev=False
    )
    add = parser.add_argument
    add("-r", "--run_id", type=int, metavar="ID", help="training run whose network predicts; its config comes along")
    add("--checkpoint", metavar="WHICH", help="best, last, an iteration, or a file; otherwise best, or last if none is")
    add(
        "--resume",
        type=int,
        metavar="ID",
        help="go on with the interrupted prediction of that id; else a new one starts",
    )
    add("--mongodb_training", metavar="URL", help="store of the training run, where it is not that of the prediction")
    add(
        "--mongodb_predictions", metavar="URL", help="store of the prediction run, where it is not that of the training"
    )
    return parser


def main(line: CommandLine) -> int:
    """Predict as the command line says."""
    import logging

    from incasem_like.tracking import format_config

    if line.loglevel is not None:
        logging.getLogger().setLevel(line.loglevel)
    config = read_config(line)
    if line.print_config or line.command == "print_config":
        print(format_config(config.model_dump(mode="json")))
    if line.command == "print_config":
        return 0
    finished = predict(config, line)
    say_finished(finished)
    return 0


def read_config(line: CommandLine) -> PredictionConfig:
    """Read the configuration; that of the interrupted prediction where nothing but ``--resume`` is given."""
    from incasem_like.config import PredictionConfig, load_prediction_config

    config = load_prediction_config(line.files, line.updates, HERE)
    if line.own.resume is not None and not line.files and not line.updates:
        tracked = open_run_store(line, config, "predictions").get(line.own.resume).config
        config = PredictionConfig.model_validate(tracked)
    changes = {}
    if line.own.run_id is not None:
        changes["run_id_training"] = line.own.run_id
    if line.own.checkpoint is not None:
        changes["checkpoint"] = line.own.checkpoint
    return config.model_copy(update={"prediction": config.prediction.model_copy(update=changes)})


def predict(config: PredictionConfig, line: CommandLine) -> FinishedPrediction:
    """Find the training run and predict with it."""
    from incasem_like.errors import InputError

    training_id = config.prediction.run_id_training
    if training_id is None:
        raise InputError("No training run is named: add --run_id ID, the id that train.py printed.")
    training = open_run_store(line, config, "trainings").get(training_id)

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
            started=started,
            run_name=line.name,
            comment=line.comment,
            run_id=line.id,
            sources=[Path(__file__)],
        )
    except BaseException:
        if begun:
            say_how_to_resume(begun[0])
        raise


def open_run_store(line: CommandLine, config: PredictionConfig, kind: str) -> RunStore:
    """Open the store that the command line names, else the configuration's."""
    from incasem_like.tracking import open_store

    own = {"trainings": line.own.mongodb_training, "predictions": line.own.mongodb_predictions}[kind]
    return open_store(own or line.store or config.tracking.url, kind, config.directories.runs)


def say_started(run_id: int, plan: PredictionPlan) -> None:
    """Print what predicts what."""
    checkpoint = plan.checkpoint
    iteration = "" if checkpoint.iteration is None else f", iteration {checkpoint.iteration}"
    print(
        f"Prediction run {run_id} with training run {plan.training_run_id}{iteration}: {shown(checkpoint.path)}",
        flush=True,
    )


def say_how_to_resume(prediction_id: int) -> None:
    """Print the command that goes on with what was interrupted."""
    from incasem_like.volumes.provenance import command_line

    command = command_line()
    print(f"Go on with: {command}{'' if '--resume' in command else f' --resume {prediction_id}'}", file=sys.stderr)


def say_finished(finished: FinishedPrediction) -> None:
    """Print where the prediction is, the scores, and the command that measures it."""
    if finished.result["voxels_predicted"] == 0:
        print(f"Prediction {finished.prediction_id} was already complete.")
    for name, value in finished.scores.items():
        print(f"{name}: {value:.4f}")
    first, *others = finished.places.items()
    for name, place in others:
        report_written(f"prediction of {name}", shown(place.container / place.group))
    probabilities = f"{shown(first[1].container)}/{first[1].probability_map(1)}"
    command = ["python", shown(EVALUATE), "-p", probabilities, "-l", "YOUR_LABELS"]
    report_written(f"prediction of {first[0]}", shown(first[1].container / first[1].group), shlex.join(command))


def shown(path: Path) -> str:
    """Write a path relative to the current folder where it lies below or beside it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.path.join("..", "..", "..")) else relative


if __name__ == "__main__":
    from incasem_like.tracking.command_line import parse_command_line

    def start() -> int:
        """Read the command line and predict."""
        return main(parse_command_line(sys.argv[1:], own_parser(), example=EXAMPLE))

    run_guarded(start, debug=bool({"-d", "--debug"} & set(sys.argv)))
