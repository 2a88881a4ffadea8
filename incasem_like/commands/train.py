"""``train.py``: train a network as a tracked run, and say how to watch it and what to do with it."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from incasem_like.commands.cpu_memory import keep_freed_memory
from incasem_like.commands.tracked import run_tracked, script_folder
from incasem_like.terminal import report_written, shown_path

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.tracking import CommandLine, RunStore
    from incasem_like.training.experiment import FinishedTraining, RunFolders

EXAMPLE = "--name mito with config_training.yaml training.data=my_training.json validation.data=my_validation.json"


def main(script: Path) -> NoReturn:
    """Train as the command line of ``script`` says."""
    folder = script_folder(script)

    def read_config(line: CommandLine) -> TrainingConfig:
        from incasem_like.config import load_training_config
        from incasem_like.training.experiment import with_seed

        return with_seed(load_training_config(line.files, line.updates, folder))

    def work(config: TrainingConfig, line: CommandLine) -> None:
        from incasem_like.training.experiment import train

        if config.torch.device_name == "cpu":
            keep_freed_memory()
        finished = train(
            config,
            store=lambda: open_run_store(line, config),
            started=say_started,
            run_name=line.name,
            comment=line.comment,
            run_id=line.id,
            sources=[script],
        )
        predict_script = folder.parent / "03_predict" / "predict.py"
        say_finished(finished, None if line.unobserved else next_command(finished, config, predict_script))

    parser = argparse.ArgumentParser(description="Train a network, as a tracked run.", allow_abbrev=False)
    run_tracked(parser, EXAMPLE, read_config, work)


def open_run_store(line: CommandLine, config: TrainingConfig) -> RunStore | None:
    """Open the store that the command line names, else the configuration's; None for an unobserved run."""
    from incasem_like.tracking import open_store

    if line.unobserved:
        return None
    return open_store(line.store or config.tracking.url, "trainings", config.directories.runs)


def say_started(folders: RunFolders) -> None:
    """Print the run's id and how to watch it."""
    print(f"Training run {folders.run_id}; checkpoints go to {shown_path(folders.models)}")
    print(f"Watch it: tensorboard --logdir {shlex.quote(shown_path(folders.tensorboard.parent))}", flush=True)


def next_command(finished: FinishedTraining, config: TrainingConfig, predict_script: Path) -> str:
    """The command that predicts with what was trained."""
    from incasem_like.config import default_runs_directory

    command = ["python", shown_path(predict_script), "--run_id", str(finished.folders.run_id)]
    command += ["with", "config_prediction.yaml", "prediction.data=YOUR_DATA.json"]
    if config.directories.runs != default_runs_directory():
        command.append(f"directories.runs={shown_path(config.directories.runs)}")
    return shlex.join(command)


def say_finished(finished: FinishedTraining, next_command: str | None) -> None:
    """Print what came out and what to do with it."""
    result = finished.result
    print(f"Trained {result['iteration']} iterations, last loss {result['loss']:.4g}.")
    if result["best_value"] is not None:
        print(f"Best {result['best_metric']}: {result['best_value']:.4f} at iteration {result['best_iteration']}.")
    report_written("checkpoints", shown_path(finished.folders.models), next_command)
