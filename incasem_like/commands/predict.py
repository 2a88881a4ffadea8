"""``predict.py``: predict volumes with the network of a tracked training, as a tracked run of its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.cpu_settings import share_the_cores
from incasem_like.commands.options import given_workers
from incasem_like.commands.prediction_request import add_flags, find_trainings, open_run_store, with_given
from incasem_like.commands.tracked import run_tracked, script_folder
from incasem_like.config import PredictionConfig, load_prediction_config

EXAMPLE = "--run_id 12 --name mito with config_prediction.yaml prediction.data=my_data.json"
# Several values, in one flag or in several of the same name.
MANY: dict[str, Any] = {"nargs": "+", "action": "extend"}


def main(script: Path) -> NoReturn:
    """Run the prediction that the command line of ``script`` describes."""
    share_the_cores()
    folder = script_folder(script)

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
    run_tracked(parser, EXAMPLE, lambda line: read_config(line, folder), lambda config, line: run(config, line, script))


def run(config: PredictionConfig, line: CommandLine, script: Path) -> None:
    """Predict, or print what would be done for ``--dry_run``."""
    if line.own.dry_run:
        from incasem_like.commands.predicting import examine

        examine(config, line)
        return
    workers, trainings = given_workers(line.own), find_trainings(line, config, script)
    from incasem_like.commands.predicting import predict, report_finished  # torch would slow refusals down

    evaluate_script = script_folder(script).parent / "04_postprocessing" / "05_evaluate_metric.py"
    report_finished(predict(config, trainings, workers, line, script), evaluate_script)


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
