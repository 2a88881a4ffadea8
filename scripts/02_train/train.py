"""Train a network, as a tracked run: ``python train.py [--name X] with config_training.yaml key=value ...``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.terminal import report_written, run_guarded

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.tracking import CommandLine, RunStore
    from incasem_like.training.experiment import FinishedTraining, RunFolders

HERE = Path(__file__).resolve().parent
PREDICT = HERE.parent / "03_predict" / "predict.py"
EXAMPLE = "--name mito with config_training.yaml training.data=my_training.json validation.data=my_validation.json"


def main(line: CommandLine) -> int:
    """Train as the command line says."""
    import logging

    from incasem_like.config import load_training_config
    from incasem_like.tracking import format_config
    from incasem_like.training.experiment import train, with_seed

    if line.loglevel is not None:
        logging.getLogger().setLevel(line.loglevel)
    config = with_seed(load_training_config(line.files, line.updates, HERE))
    if line.print_config or line.command == "print_config":
        print(format_config(config.model_dump(mode="json")))
    if line.command == "print_config":
        return 0
    finished = train(
        config,
        store=lambda: open_run_store(line, config),
        started=say_started,
        run_name=line.name,
        comment=line.comment,
        run_id=line.id,
        sources=[Path(__file__)],
    )
    say_finished(finished, config, line)
    return 0


def open_run_store(line: CommandLine, config: TrainingConfig) -> RunStore | None:
    """Open the store that the command line names, else the configuration's; None for an unobserved run."""
    from incasem_like.tracking import open_store

    if line.unobserved:
        return None
    return open_store(line.store or config.tracking.url, "trainings", config.directories.runs)


def say_started(folders: RunFolders) -> None:
    """Print the run's id and how to watch it."""
    print(f"Training run {folders.run_id}; checkpoints go to {shown(folders.models)}")
    print(f"Watch it: tensorboard --logdir {shlex.quote(shown(folders.tensorboard.parent))}", flush=True)


def say_finished(finished: FinishedTraining, config: TrainingConfig, line: CommandLine) -> None:
    """Print what came out and the command that predicts with it."""
    from incasem_like.config import default_runs_directory

    result = finished.result
    print(f"Trained {result['iteration']} iterations, last loss {result['loss']:.4g}.")
    if result["best_value"] is not None:
        print(f"Best {result['best_metric']}: {result['best_value']:.4f} at iteration {result['best_iteration']}.")
    command = ["python", shown(PREDICT), "--run_id", str(finished.folders.run_id), "with", "config_prediction.yaml"]
    command.append("prediction.data=YOUR_DATA.json")
    if config.directories.runs != default_runs_directory():
        command.append(f"directories.runs={shown(config.directories.runs)}")
    report_written("checkpoints", shown(finished.folders.models), None if line.unobserved else shlex.join(command))


def shown(path: Path) -> str:
    """Write a path relative to the current folder where it lies below or beside it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.path.join("..", "..", "..")) else relative


if __name__ == "__main__":
    from incasem_like.tracking.command_line import parse_command_line

    parser = argparse.ArgumentParser(description="Train a network, as a tracked run.", allow_abbrev=False)

    def start() -> int:
        """Read the command line and train."""
        return main(parse_command_line(sys.argv[1:], parser, example=EXAMPLE))

    run_guarded(start, debug=bool({"-d", "--debug"} & set(sys.argv)))
