"""Predicting the regions of a data configuration with a tracked checkpoint, as a tracked run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from incasem_like.config import PredictionConfig
from incasem_like.errors import InputError
from incasem_like.networks import count_parameters
from incasem_like.prediction.blocks import CheckpointPlace, PredictorSetUp, WorkersTask
from incasem_like.prediction.outputs import OutputPlace, RegionOutput, chunk_shape_for
from incasem_like.prediction.plan import PredictionPlan, plan_prediction
from incasem_like.prediction.region_task import RegionTask, TileObserver
from incasem_like.prediction.tile_log import TileLog
from incasem_like.samples import Region
from incasem_like.terminal import Progress
from incasem_like.tracking import Run, RunRecord, RunStore, run_experiment
from incasem_like.tracking.plain import without_credentials
from incasem_like.volumes import make_provenance
from incasem_like.volumes.geometry import nanometres

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

TOOL = "predict.py"


Observing = Callable[[Region, int, int], TileObserver]


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
    store: Callable[[], RunStore | None],
    observing: Observing | None = None,
    resume: int | None = None,
    workers: Workers | None = None,
    started: Callable[[int, PredictionPlan], None] = lambda run_id, plan: None,
    **options: Any,
) -> FinishedPrediction:
    """Predict every region of ``prediction.data``, as a tracked run that names its training run.

    Args:
        config: The configuration of the prediction.
        training: The training run whose network predicts.
        store: Opens the store of prediction runs, once all checks have passed; None for an untracked run.
        observing: Makes what measures a region from the region, its place in the data configuration and the number of
            classes; used when ``prediction.log_metrics`` is set.
        resume: Number of an interrupted prediction to go on with.
        workers: Processes, here or elsewhere, that predict block by block; None predicts in this process.
        started: Called with the run's id before the first tile.
        **options: run_name, comment, run_id, sources, as ``tracking.run_experiment`` takes them.

    Raises:
        InputError: As ``plan_prediction``; or what is to be resumed is not there, or was begun with something else.
    """
    config = _with_training_run(config, training.id)
    plan = plan_prediction(config, training)
    if resume is not None:
        check_resumable(plan, resume, workers is not None)
    observing = observing if config.prediction.log_metrics else None
    finished: list[FinishedPrediction] = []

    def work(run: Run) -> dict[str, Any]:
        started(run.id, plan)
        finished.append(_predict_regions(plan, run, observing, resume, workers))
        return finished[0].result

    run_experiment(
        name="predict",
        config=config.model_dump(mode="json"),
        main=work,
        store=store(),
        runs_directory=config.directories.runs,
        artifacts={"prediction_data.json": plan.data.text},
        **options,
    )
    return finished[0]


def _with_training_run(config: PredictionConfig, run_id: int) -> PredictionConfig:
    return config.model_copy(update={"prediction": config.prediction.model_copy(update={"run_id_training": run_id})})


def _predict_regions(
    plan: PredictionPlan, run: Run, observing: Observing | None, resume: int | None, workers: Workers | None
) -> FinishedPrediction:
    begun = time.monotonic()
    prediction_id = run.id if resume is None else resume
    places = plan.places(prediction_id)
    run.set_info("parent", _lineage(plan))
    run.set_info("resumes", resume)
    run.inputs([_described(region) for region in plan.regions])
    run.set_info("num_params", count_parameters(plan.network))
    begin = partial(_reopen if resume is not None else _create, plan, prediction_id=prediction_id, workers=workers)
    tasks = [begin(region, place) for region, place in zip(plan.regions, places, strict=True)]
    voxels, scores = _run_tasks(plan, run, tasks, observing)
    by_name = {region.name: place for region, place in zip(plan.regions, places, strict=True)}
    result = {
        "prediction_id": prediction_id,
        "training_run_id": plan.training_run_id,
        "outputs": {name: str(place.container / place.segmentation) for name, place in by_name.items()},
        "voxels": int(sum(region.roi.size for region in plan.regions)),
        "voxels_predicted": voxels,
        "seconds": round(time.monotonic() - begun, 2),
        "scores": scores,
    }
    return FinishedPrediction(run.id, prediction_id, by_name, scores, result)


def _run_tasks(
    plan: PredictionPlan, run: Run, tasks: Sequence[RegionTask | WorkersTask], observing: Observing | None
) -> tuple[int, dict[str, float]]:
    """Predict all regions; give how many voxels that were, and the scores."""
    scores: dict[str, float] = {}
    voxels = 0
    with Progress("Predicting", sum(task.voxels_left for task in tasks), "voxels") as progress:
        for index, task in enumerate(tasks):
            observer = observing(task.region, index, plan.training.data.num_classes) if observing else None
            voxels += task.run(observer, progress)
            if observer is not None:
                scores.update(_log_scores(run, observer.scores(), plan.checkpoint.iteration or 0))
    return voxels, scores


def check_resumable(plan: PredictionPlan, prediction_id: int, by_workers: bool) -> None:
    """Make sure, before a run is started, that a prediction was begun and goes on with what it was begun with."""
    for region, place in zip(plan.regions, plan.places(prediction_id), strict=True):
        log = TileLog.read(place.folder)
        log.check(_description(plan, region))
        if log.description.get("workers", False) != by_workers:
            flag = "leave out --workers" if by_workers else "add --workers FILE"
            raise InputError(f"The prediction in {place.folder} was begun in the other way: {flag} to go on with it.")


def _create(
    plan: PredictionPlan, region: Region, place: OutputPlace, *, prediction_id: int, workers: Workers | None
) -> RegionTask | WorkersTask:
    """Create the region's datasets and log."""
    place.check_free()
    input_size = plan.choose_tiles(region).input_size
    predictor = plan.predictor(input_size)
    output = RegionOutput.create(
        place,
        plan.training.data.num_classes,
        plan.config.prediction.output_dtype,
        {
            "shape": tuple(region.roi.shape),
            "voxel_size": region.voxel_size,
            "offset": nanometres(region.roi.begin, region.voxel_size),
            "chunk_shape": chunk_shape_for(predictor.steps(region.roi, region.raw_roi.begin), region.roi.shape),
            "provenance": _provenance(plan, region, prediction_id),
        },
    )
    begun_with = {"input_size": list(input_size), "workers": workers is not None}
    log = TileLog.start(place.folder, {**_description(plan, region), **begun_with})
    return _task(plan, region, output, log, workers)


def _reopen(
    plan: PredictionPlan, region: Region, place: OutputPlace, *, prediction_id: int, workers: Workers | None
) -> RegionTask | WorkersTask:
    """Open the region's datasets and log to go on."""
    output = RegionOutput.reopen(place, plan.training.data.num_classes)
    return _task(plan, region, output, TileLog.read(place.folder), workers)


def _task(
    plan: PredictionPlan, region: Region, output: RegionOutput, log: TileLog, workers: Workers | None
) -> RegionTask | WorkersTask:
    input_size = tuple(log.description["input_size"])
    predictor = plan.predictor(input_size)
    if workers is None:
        return RegionTask(region, output, log, predictor)
    config, address = plan.config, plan.config.tracking.url
    store = address if address == without_credentials(address) else None
    checkpoint = CheckpointPlace(
        plan.checkpoint.path, plan.checkpoint.sha256, plan.training_run_id, store, config.directories.runs
    )
    set_up = PredictorSetUp(region, plan.training.model, config.torch, config.prediction, checkpoint, input_size)
    return WorkersTask(output, set_up, predictor, {**_description(plan, region), "input_size": input_size}, workers)


def _description(plan: PredictionPlan, region: Region) -> dict[str, Any]:
    """Say all that the values of a region's prediction depend on."""
    return {
        "checkpoint": plan.checkpoint.sha256,
        "model": plan.training.model.model_dump(mode="json"),
        "region": [list(region.roi.begin), list(region.roi.shape)],
        "origin": list(region.raw_roi.begin),
        "raw": region.raw.content_hash,
        "mask": None if region.mask is None else region.mask.content_hash,
        "output_dtype": plan.config.prediction.output_dtype,
        "precision": plan.config.torch.precision,
        "test_time_augmentation": plan.config.prediction.test_time_augmentation,
    }


def _provenance(plan: PredictionPlan, region: Region, prediction_id: int) -> dict[str, Any]:
    parameters = {"region": region.name, "model": plan.training.model.model_dump(mode="json"), **_lineage(plan)}
    inputs = [region.raw] if region.mask is None else [region.raw, region.mask]
    provenance = make_provenance(TOOL, parameters, inputs, run_id=prediction_id)
    # Whoever reads the dataset before it is complete is told this command.
    return {**provenance, "command": f"{provenance['command']} --resume {prediction_id}"}


def _lineage(plan: PredictionPlan) -> dict[str, Any]:
    checkpoint = plan.checkpoint
    return {
        "training_run_id": plan.training_run_id,
        "checkpoint": str(checkpoint.path),
        "sha256": checkpoint.sha256,
        "iteration": checkpoint.iteration,
    }


def _described(region: Region) -> Mapping[str, Any]:
    return {"name": region.name, "file": str(region.entry.file), "content_hashes": region.content_hashes}


def _log_scores(run: Run, scores: Mapping[str, float], iteration: int) -> dict[str, float]:
    defined = {name: float(value) for name, value in scores.items() if math.isfinite(value)}
    for name, value in defined.items():
        run.log_scalar(name, value, iteration)
    return defined
