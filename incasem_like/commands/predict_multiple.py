"""``predict_multiple.py``: predict with many checkpoints of one training, as one tracked run that can be resumed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.cpu_settings import share_the_cores
from incasem_like.commands.options import given_workers
from incasem_like.commands.prediction_request import add_flags, find_trainings, with_given
from incasem_like.commands.tracked import run_tracked, script_folder
from incasem_like.config import SeriesConfig, load_series_config

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
    run_tracked(parser, EXAMPLE, lambda line: read_config(line, folder), lambda config, line: run(config, line, script))


def run(config: SeriesConfig, line: CommandLine, script: Path) -> None:
    """Predict with all checkpoints, or print what would be done for ``--dry_run``."""
    if line.own.dry_run:
        from incasem_like.commands.predicting_series import examine

        examine(config, line)
        return
    workers, (training,) = given_workers(line.own), find_trainings(line, config, script)
    from incasem_like.commands.predicting_series import predict, report_finished  # torch would slow refusals down

    report_finished(predict(config, training, workers, line, script), line, script.with_name("predict.py"))


def read_config(line: CommandLine, folder: Path) -> SeriesConfig:
    """Read the configuration; flags override it."""
    config = load_series_config(line.files, line.updates, folder)
    given = {name: getattr(line.own, name) for name, *_ in SERIES_FLAGS}
    if given["checkpoint_dir"] is not None:
        given["checkpoint_dir"] = str(Path(given["checkpoint_dir"]).expanduser().absolute())
    return with_given(with_given(config, "prediction", {"run_id_training": line.own.run_id}), "series", given)
