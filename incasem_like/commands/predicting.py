"""The work of ``predict.py``, and what is printed of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.prediction_request import find_training, prediction_store, training_ids
from incasem_like.commands.tracked import Resumable, run_options
from incasem_like.errors import InputError
from incasem_like.evaluation.prediction_metrics import PredictionMetrics
from incasem_like.prediction.experiment import examine_prediction, predict_data, resuming_command
from incasem_like.terminal import counted, report_written, shell_command, shown_path
from incasem_like.tracking.model.summaries import origins

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.config import PredictionConfig
    from incasem_like.prediction.experiment import FinishedPrediction
    from incasem_like.prediction.planning.plan import PredictionPlan
    from incasem_like.prediction.planning.planner import Findings
    from incasem_like.tracking import RunRecord


def predict(
    config: PredictionConfig, trainings: Sequence[RunRecord], workers: Workers | None, line: CommandLine, script: Path
) -> FinishedPrediction:
    """Predict with the networks of training runs."""

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
