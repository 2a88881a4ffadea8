"""Predicting the regions of a data configuration with tracked checkpoints, as a tracked run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from incasem_like.config import PredictionConfig
from incasem_like.errors import InputError, RunNotFoundError
from incasem_like.prediction.outputs import OutputPlace
from incasem_like.prediction.planning.ensemble_plan import plan_ensemble
from incasem_like.prediction.planning.plan import PredictionPlan
from incasem_like.prediction.planning.settling import settled
from incasem_like.prediction.region_task import read_begun
from incasem_like.prediction.regions import (
    Observing,
    Order,
    check_begun_alike,
    check_not_read,
    described,
    predict_regions,
)
from incasem_like.tracking import Run, RunRecord, RunStore, run_experiment
from incasem_like.volumes.provenance import command_line

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

TOOL = "predict.py"


@dataclass(frozen=True)
class FinishedPrediction:
    """What a prediction came to.

    Attributes:
        run_id: The id of its run; 0 for one that is not tracked.
        prediction_id: The number in the datasets' names; that of the run gone on with, after ``--resume``.
        places: Where each region's prediction is, by name of the entry.
        scores: Of all regions by name; undefined ones left out.
        result: All of it as plain values, as the run keeps it.
    """

    run_id: int
    prediction_id: int
    places: dict[str, OutputPlace]
    scores: dict[str, float]
    result: dict[str, Any]


def predict_data(
    config: PredictionConfig,
    training: RunRecord,
    *,
    further: Sequence[RunRecord] = (),
    store: Callable[[], RunStore | None],
    observing: Observing | None = None,
    resume: int | None = None,
    workers: Workers | None = None,
    started: Callable[[int, PredictionPlan], None] = lambda run_id, plan: None,
    **options: Any,
) -> FinishedPrediction:
    """Predict every region of ``prediction.data``, as a tracked run that names its training runs.

    Args:
        config: The configuration of the prediction.
        training: The training run whose network predicts.
        further: More of them; then the mean of the probabilities of all is predicted.
        store: Opens the store of prediction runs, once volumes and networks are there; None for an untracked run.
        observing: Makes what measures a region; used when ``prediction.log_metrics`` is set.
        resume: Number of an interrupted prediction to go on with.
        workers: Processes, here or elsewhere, that predict block by block; None predicts in this process.
        started: Called with the run's id before the first tile.
        **options: run_name, comment, run_id, sources, as ``tracking.run_experiment`` takes them.

    Raises:
        InputError: As ``plan_ensemble``; or nothing can be written where the prediction goes; or what is to be resumed
            is not there, or was begun with something else.
    """
    records = [training, *further]
    config = _with_training_runs(config, records)
    plan, runs = _checked_plan(config, records, store, resume, workers)
    if runs is not None and options.get("run_id") is not None:
        runs.check_unused(options["run_id"], "--resume")
    observing = observing if config.prediction.log_metrics else None
    finished: list[FinishedPrediction] = []

    def work(run: Run) -> dict[str, Any]:
        started(run.id, plan)
        number = run.id if resume is None else resume
        order = Order(TOOL, number, resuming_command(number), resume is not None, observing, workers)
        if resume is not None:
            run.set_info("prediction_run_id", resume)  # among what it comes from: either run leads to the other
        finished.append(_predict(plan, run, order))
        return finished[0].result

    run_experiment(
        name="predict",
        config=config.model_dump(mode="json"),
        main=work,
        store=runs,
        runs_directory=config.directories.runs,
        artifacts={"prediction_data.json": plan.data.text},
        **options,
    )
    return finished[0]


def _checked_plan(
    config: PredictionConfig,
    records: Sequence[RunRecord],
    store: Callable[[], RunStore | None],
    resume: int | None,
    workers: Workers | None,
) -> tuple[PredictionPlan, RunStore | None]:
    """Plan, all that is quickly checked first: a worker that has to be asked may wait in a queue."""
    plan = plan_ensemble(config, records, workers)
    places = plan.places(resume or 0)
    for place in places:
        place.check_writable()
    runs = store()
    if resume is None:
        return settled(plan, workers), runs
    check_not_read(plan, places)
    check_resumable(plan, resume, runs)
    known = plan.knows_precision
    plan = settled(plan, workers, tiles=any(read_begun(place) is None for place in places))
    if not known:  # and so was left out of what was compared
        check_resumable(plan, resume, runs)
    return plan, runs


def _with_training_runs(config: PredictionConfig, records: Sequence[RunRecord]) -> PredictionConfig:
    ids = tuple(record.id for record in records)
    changes = {"run_id_training": ids if len(ids) > 1 else ids[0]}
    return config.model_copy(update={"prediction": config.prediction.model_copy(update=changes)})


def _predict(plan: PredictionPlan, run: Run, order: Order) -> FinishedPrediction:
    begun = time.monotonic()
    places = plan.places(order.prediction_id)
    run.set_info("parent", plan.lineage)
    run.inputs([described(region) for region in plan.regions])
    run.set_info("num_params", plan.num_params)
    if plan.precision is not None:
        run.set_info("precision", asdict(plan.precision))
    voxels, scores = predict_regions(plan, places, order)
    for name, value in scores.items():
        run.log_scalar(name, value, plan.iteration)
    by_name = {region.name: place for region, place in zip(plan.regions, places, strict=True)}
    trained = plan.training_run_ids
    result = {
        "prediction_id": order.prediction_id,
        "training_run_id": trained[0] if len(trained) == 1 else list(trained),
        "outputs": {name: str(place.container / place.main) for name, place in by_name.items()},
        "voxels": int(sum(region.roi.size for region in plan.regions)),
        "voxels_predicted": voxels,
        "seconds": round(time.monotonic() - begun, 2),
        "scores": scores,
    }
    return FinishedPrediction(run.id, order.prediction_id, by_name, scores, result)


def resuming_command(prediction_id: int) -> str:
    """Say what to type to go on with a prediction that this command began or goes on with.

    Each call is a run of its own, so that an id that was given for this one is taken by then.
    """
    return f"{command_line({'-i': 1, '--id': 1, '--resume': 1})} --resume {prediction_id}"


def check_resumable(plan: PredictionPlan, prediction_id: int, runs: RunStore | None) -> None:
    """Make sure, before a run is started, that a prediction was begun and goes on with what it was begun with.

    Args:
        plan: What is to be predicted now.
        prediction_id: Number of the prediction.
        runs: Knows also those that were killed before they came to the first dataset.

    Raises:
        InputError: It was not, or something differs; it is named.
    """
    places = plan.places(prediction_id)
    begun = check_begun_alike(plan, places, "predict anew, without --resume")
    if not begun and not _was_killed_early(plan, prediction_id, runs):
        raise InputError(f"{places[0].folder} holds no prediction that was begun: predict anew, without --resume.")


def _was_killed_early(plan: PredictionPlan, prediction_id: int, runs: RunStore | None) -> bool:
    try:
        record = None if runs is None else runs.get(prediction_id)
    except RunNotFoundError:
        return False
    if record is None or record.status in ("RUNNING", "COMPLETED"):
        return False
    trained = record.config.get("prediction", {}).get("run_id_training")
    return (trained if isinstance(trained, list) else [trained]) == list(plan.training_run_ids)
