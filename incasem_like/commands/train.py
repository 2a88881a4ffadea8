"""``train.py``: train a network as a tracked run, and print the commands to watch and to use it."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.options import StoreChoice, predict_command
from incasem_like.commands.tracked import run_options, run_tracked, script_folder, stores_of
from incasem_like.commands.training_request import CONTINUE, REPEAT, START, TrainingRequest, add_flags, read_request
from incasem_like.config import TrainingConfig
from incasem_like.config.loading import TRACKED
from incasem_like.errors import DiskFullError, RunTakenError, StoreError
from incasem_like.processes import keep_freed_memory, started_processes
from incasem_like.terminal import report_written, run_guarded, shell_command, shown_path
from incasem_like.training.continuing import differences, with_tracked_data

if TYPE_CHECKING:
    from incasem_like.training.checkpoints import RunFolders
    from incasem_like.training.experiment import FinishedTraining
    from incasem_like.training.start import Beginning

EXAMPLE = """--name mito with config_training.yaml training.data=my_training.json validation.data=my_validation.json
  %(prog)s --continue_run 12 with training.iterations=300000
  %(prog)s --start_from 12 best --name mito_cell_2 with training.data=cell_2.json training.iterations=15000"""


def main(script: Path) -> NoReturn:
    """Run the training that the command line of ``script`` describes."""

    def read(line: CommandLine) -> TrainingRequest:
        request = read_request(line, script)
        return replace(request, config=request.config.with_seed())

    parser = argparse.ArgumentParser(
        description="Train a network, as a tracked run. Exit status: 0 done, 2 bad input, 1 any other error, "
        "130 interrupted.",
        allow_abbrev=False,
    )
    add_flags(parser)
    rank, count = started_processes()
    together: AbstractContextManager[None] = nullcontext()
    if count > 1:
        from incasem_like.training.assembly import follow
        from incasem_like.training.processes import leading

        if rank:
            run_guarded(lambda: follow(rank))
        together = leading()
    with together:
        run_tracked(
            parser, EXAMPLE, read, lambda request, line: run(request, line, script), lambda request: request.config
        )


def run(request: TrainingRequest, line: CommandLine, script: Path) -> None:
    """Train, and print where everything is and the next commands."""
    from incasem_like.training.experiment import train

    config = request.config
    if request.record is not None and request.source is not None:
        source = request.source
        config, copies = with_tracked_data(
            config,
            request.record,
            lambda section: source((section, "data")) == TRACKED,
            exactly=request.mode in (CONTINUE, REPEAT),
        )
        for section, copy in copies.items():
            print(
                f"{section}.data of run {request.record.id} is missing or has changed: the run's own copy is used, "
                f"{shown_path(copy)}"
            )
    if config.torch.device_name == "cpu":
        keep_freed_memory()
    stores = stores_of(line, config.directories, config.tracking)
    begun: int | None = None

    def started(folders: RunFolders, beginning: Beginning) -> None:
        nonlocal begun
        begun = folders.run_id
        _report_started(request, config, folders, beginning)

    try:
        finished = train(
            config,
            store=lambda: None if line.unobserved else stores.open("trainings"),
            trainings=lambda: stores.open("trainings"),
            continued=request.continued,
            repeats=request.record if request.mode == REPEAT else None,
            starts_from=request.record if request.mode == START else None,
            part_of=dict(zip(("sweep_run_id", "trial"), line.own.trial_of, strict=True)) if line.own.trial_of else None,
            started=started,
            **run_options(line, script),
        )
    except (KeyboardInterrupt, SystemExit, OSError, DiskFullError, StoreError) as error:
        if begun is not None and not line.unobserved and not isinstance(error, RunTakenError):
            if isinstance(error, KeyboardInterrupt):
                error.args = ("Interrupted.",)
            print(f"Resume with: {resume_command(stores, begun, script)}", file=sys.stderr)
        raise
    _report_finished(finished, config, None if line.unobserved else stores, script)


def _report_started(
    request: TrainingRequest, config: TrainingConfig, folders: RunFolders, beginning: Beginning
) -> None:
    """Print the run's id, the run it builds on, and how to watch it."""
    name = f"Training run {folders.run_id}" if folders.run_id else "Training without a record"
    place = f"checkpoints go to {shown_path(folders.models)}"
    if beginning.resumption is None:
        print(f"{name}; {place}")
    elif beginning.iteration:
        print(f"{name} resumes after iteration {beginning.iteration}; {place}")
        before = ((request.record.config if request.record else {}).get("training") or {}).get("iterations")
        course, now = config.training.learning_rate_schedule.type, config.training.iterations
        if course != "constant" and before != now:
            print(
                f"training.iterations was {before} and is {now}: the {course} schedule is that of the new length from "
                "here."
            )
    else:
        print(f"{name} starts over, since it had no checkpoint yet; {place}")
    if beginning.start is not None:
        print(f"It starts from {beginning.start.described}: {shown_path(beginning.start.path)}")
    if request.record is not None and request.mode == REPEAT:
        changed = [
            f"{key}={json.dumps(now)} (was {json.dumps(was)})"
            for key, was, now in differences(request.record, config)
            if "data_configs" not in str(now)  # its own copies were reported already
        ]
        print(f"It repeats run {request.record.id}{' with ' + ', '.join(changed) if changed else ''}.")
    print(f"Watch it: tensorboard --logdir {shell_command(shown_path(folders.tensorboard.parent))}", flush=True)


def resume_command(stores: StoreChoice, run_id: int, script: Path, *values: str) -> str:
    """Return the command that resumes a training, with ``key=value`` updates if there are any."""
    words = ["python", shown_path(script), CONTINUE, run_id, *stores.flags(), *(["with", *values] if values else [])]
    return shell_command(*words)


def _report_finished(
    finished: FinishedTraining, config: TrainingConfig, stores: StoreChoice | None, script: Path
) -> None:
    """Print the results and the next commands; ``stores`` is None without a record."""
    result, place, run_id = finished.result, shown_path(finished.folders.models), finished.folders.run_id
    predict_script = script_folder(script).parent / "03_predict" / "predict.py"
    following = None if stores is None else predict_command(stores, run_id, predict_script)
    if finished.was_complete and stores is not None:
        longer = f"training.iterations={2 * config.training.iterations}"
        print(f"Training run {run_id} was already complete: {result['iteration']} iterations in {place}")
        print(f"To train it further: {resume_command(stores, run_id, script, longer)}")
        print(f"Next: {following}")
        return
    print(f"Trained {result['iteration']} iterations, last loss {result['loss']:.4g}.")
    if result["iteration"] < config.training.iterations:
        print(
            f"Stopped early: {result['best_metric']} did not improve in {config.training.early_stopping} validations."
        )
    if result["best_value"] is not None:
        print(f"Best {result['best_metric']}: {result['best_value']:.4f} at iteration {result['best_iteration']}.")
    report_written("checkpoints", place, following)
