"""``train.py``: train a network as a tracked run, and print the commands to watch and to use it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from incasem_like.commands.cpu_memory import keep_freed_memory
from incasem_like.commands.records import open_run_store, run_options, runs_directory, store_flags
from incasem_like.commands.tracked import run_tracked, script_folder
from incasem_like.commands.training_order import CONTINUE, REPEAT, START, TrainingOrder, add_flags, read_order
from incasem_like.errors import DiskFullError, RunTakenError, StoreError
from incasem_like.terminal import report_written, shell_command, shown_path

if TYPE_CHECKING:
    from incasem_like.commands.command_line import CommandLine
    from incasem_like.config import TrainingConfig
    from incasem_like.training.beginning import Beginning
    from incasem_like.training.experiment import FinishedTraining
    from incasem_like.training.folders import RunFolders

EXAMPLE = """--name mito with config_training.yaml training.data=my_training.json validation.data=my_validation.json
  %(prog)s --continue_run 12 with training.iterations=300000
  %(prog)s --start_from 12 best --name mito_cell_2 with training.data=cell_2.json training.iterations=15000"""


def main(script: Path) -> NoReturn:
    """Run the training that the command line of ``script`` describes."""
    orders: list[TrainingOrder] = []

    def read_config(line: CommandLine) -> TrainingConfig:
        from incasem_like.training.experiment import with_seed

        order = read_order(line, script)
        orders.append(order)
        return with_seed(order.config)

    parser = argparse.ArgumentParser(
        description="Train a network, as a tracked run. Exit status: 0 done, 2 bad input, 1 any other error, "
        "130 interrupted.",
        allow_abbrev=False,
    )
    add_flags(parser)
    run_tracked(parser, EXAMPLE, read_config, lambda config, line: _train(orders[-1], config, line, script))


def _train(order: TrainingOrder, config: TrainingConfig, line: CommandLine, script: Path) -> None:
    from incasem_like.training.experiment import train

    config = _with_data_of_the_run(order, config)
    if config.torch.device_name == "cpu":
        keep_freed_memory()
    begun: list[RunFolders] = []

    def started(folders: RunFolders, beginning: Beginning) -> None:
        begun.append(folders)
        _report_started(order, config, folders, beginning)

    try:
        finished = train(
            config,
            store=lambda: (
                None if line.unobserved else open_run_store(line, "trainings", config.directories, config.tracking)
            ),
            trainings=lambda: open_run_store(line, "trainings", config.directories, config.tracking),
            continued=order.continued,
            repeats=order.record if order.mode == REPEAT else None,
            starts_from=order.record if order.mode == START else None,
            started=started,
            **run_options(line, script),
        )
    except (KeyboardInterrupt, SystemExit, OSError, DiskFullError, StoreError) as error:
        if begun and not line.unobserved and not isinstance(error, RunTakenError):
            if isinstance(error, KeyboardInterrupt):
                error.args = ("Interrupted.",)
            print(f"Go on with: {continue_command(line, config, begun[0].run_id, script)}", file=sys.stderr)
        raise
    _report_finished(finished, config, line, script)


def _with_data_of_the_run(order: TrainingOrder, config: TrainingConfig) -> TrainingConfig:
    """Use the tracked run's own copies of data configurations whose files are missing or have changed."""
    if order.record is None or order.source is None:
        return config
    from incasem_like.config.tracked import TRACKED
    from incasem_like.training.data_configs import with_tracked_data

    source = order.source
    config, copies = with_tracked_data(
        config,
        order.record,
        lambda section: source((section, "data")) == TRACKED,
        exactly=order.mode in (CONTINUE, REPEAT),
    )
    for section, copy in copies.items():
        print(
            f"{section}.data of run {order.record.id} is gone or says something else by now: its own copy is used, "
            f"{shown_path(copy)}"
        )
    return config


def _report_started(order: TrainingOrder, config: TrainingConfig, folders: RunFolders, beginning: Beginning) -> None:
    """Print the run's id, the run it builds on, and how to watch it."""
    name = f"Training run {folders.run_id}" if folders.run_id else "Training without a record"
    place = f"checkpoints go to {shown_path(folders.models)}"
    if beginning.resumption is None:
        print(f"{name}; {place}")
    elif beginning.iteration:
        print(f"{name} resumes after iteration {beginning.iteration}; {place}")
        _report_schedule(order, config)
    else:
        print(f"{name} starts over, since it had no checkpoint yet; {place}")
    if beginning.start is not None:
        print(f"It starts from {beginning.start.described}: {shown_path(beginning.start.path)}")
    if order.record is not None and order.mode == REPEAT:
        from incasem_like.training.continuing import differences

        changed = [
            f"{key}={json.dumps(now)} (was {json.dumps(was)})"
            for key, was, now in differences(order.record, config)
            if "data_configs" not in str(now)  # its own copies were reported already
        ]
        print(f"It repeats run {order.record.id}{' with ' + ', '.join(changed) if changed else ''}.")
    print(f"Watch it: tensorboard --logdir {shell_command(shown_path(folders.tensorboard.parent))}", flush=True)


def _report_schedule(order: TrainingOrder, config: TrainingConfig) -> None:
    """Warn that a changed length changes the schedule of the learning rate."""
    before = ((order.record.config if order.record else {}).get("training") or {}).get("iterations")
    course, now = config.training.learning_rate_schedule.type, config.training.iterations
    if course != "constant" and before != now:
        print(
            f"training.iterations was {before} and is {now}: the {course} schedule is that of the new length from here."
        )


def continue_command(line: CommandLine, config: TrainingConfig, run_id: int, script: Path) -> str:
    """Return the command that resumes a training."""
    return shell_command("python", shown_path(script), CONTINUE, run_id, *store_flags(line), *_where(config))


def _where(config: TrainingConfig) -> list[str]:
    values = runs_directory(config)
    return ["with", *values] if values else []


def predict_command(line: CommandLine, config: TrainingConfig, run_id: int, predict_script: Path) -> str:
    """Return the command that predicts with the trained network."""
    run = ("--run_id", run_id, *store_flags(line))
    values = ("config_prediction.yaml", "prediction.data=YOUR_DATA.json", *runs_directory(config))
    return shell_command("python", shown_path(predict_script), *run, "with", *values)


def _report_finished(finished: FinishedTraining, config: TrainingConfig, line: CommandLine, script: Path) -> None:
    """Print the results and the next commands."""
    result, place = finished.result, shown_path(finished.folders.models)
    predict_script = script_folder(script).parent / "03_predict" / "predict.py"
    following = None if line.unobserved else predict_command(line, config, finished.folders.run_id, predict_script)
    if finished.was_complete:
        further = continue_command(line, config, finished.folders.run_id, script)
        further += f"{'' if ' with ' in further else ' with'} training.iterations={2 * config.training.iterations}"
        print(
            f"Training run {finished.folders.run_id} was already complete: {result['iteration']} iterations in {place}"
        )
        print(f"To train it further: {further}")
        print(f"Next: {following}")
        return
    print(f"Trained {result['iteration']} iterations, last loss {result['loss']:.4g}.")
    if result["best_value"] is not None:
        print(f"Best {result['best_metric']}: {result['best_value']:.4f} at iteration {result['best_iteration']}.")
    report_written("checkpoints", place, following)
