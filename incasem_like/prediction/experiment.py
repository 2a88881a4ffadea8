"""Predicting the regions of a data configuration with a tracked checkpoint, as a tracked run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from incasem_like.config import PredictionConfig
from incasem_like.errors import InputError, RunNotFoundError
from incasem_like.networks import count_parameters
from incasem_like.prediction.blocks import CheckpointPlace, PredictorSetUp
from incasem_like.prediction.outputs import OutputPlace, RegionOutput, chunk_shape_for
from incasem_like.prediction.plan import PredictionPlan, plan_prediction
from incasem_like.prediction.predictor import Predictor
from incasem_like.prediction.region_task import Begun, RegionTask, TileObserver, read_begun
from incasem_like.samples import Region
from incasem_like.tracking import Run, RunRecord, RunStore, run_experiment
from incasem_like.tracking.plain import without_credentials
from incasem_like.volumes import make_provenance
from incasem_like.volumes.geometry import nanometres
from incasem_like.volumes.provenance import command_line

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
        store: Opens the store of prediction runs, once volumes and network are there; None for an untracked run.
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
    runs = store()
    if resume is not None:
        check_resumable(plan, resume, runs)
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
        store=runs,
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
    tasks = [
        _begin(plan, region, place, prediction_id, goes_on=resume is not None)
        for region, place in zip(plan.regions, places, strict=True)
    ]
    voxels, scores = 0, dict[str, float]()
    for index, task in enumerate(tasks):
        observer = observing(task.region, index, plan.training.data.num_classes) if observing else None
        voxels += task.run(observer, workers, resuming_command(prediction_id))
        if observer is not None:
            scores.update(_log_scores(run, observer.scores(), plan.checkpoint.iteration or 0))
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


def resuming_command(prediction_id: int) -> str:
    """Say what to type to go on with a prediction that this command began or goes on with."""
    command = command_line()
    return command if "--resume" in command else f"{command} --resume {prediction_id}"


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
    begun = [read_begun(place) for place in places]
    if not any(begun) and not _was_killed_early(plan, prediction_id, runs):
        raise InputError(f"{places[0].folder} holds no prediction that was begun: predict anew, without --resume.")
    for region, place, left in zip(plan.regions, places, begun, strict=True):
        if left is not None:
            _check_same(place, left, _description(plan, region))


def _was_killed_early(plan: PredictionPlan, prediction_id: int, runs: RunStore | None) -> bool:
    try:
        record = None if runs is None else runs.get(prediction_id)
    except RunNotFoundError:
        return False
    if record is None or record.status in ("RUNNING", "COMPLETED"):
        return False
    return bool(record.config.get("prediction", {}).get("run_id_training") == plan.training_run_id)


def _check_same(place: OutputPlace, begun: Begun, description: Mapping[str, Any]) -> None:
    for key, value in json.loads(json.dumps(description)).items():
        if begun.description.get(key) != value:
            raise InputError(
                f"The prediction in {place.folder} was begun with {key} {_short(begun.description.get(key))}, "
                f"and would go on with {_short(value)}: predict anew, without --resume."
            )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _begin(
    plan: PredictionPlan, region: Region, place: OutputPlace, prediction_id: int, *, goes_on: bool
) -> RegionTask:
    """Create the region's datasets and log, or open those of an earlier run, as far as that came."""
    begun = read_begun(place) if goes_on else None
    if begun is not None:
        input_size = begun.input_size
        predictor = plan.predictor(input_size)
        output = RegionOutput.reopen(place, plan.training.data.num_classes)
    else:
        place.check_free(half_made=goes_on)
        input_size = tuple(plan.choose_tiles(region).input_size)
        predictor = plan.predictor(input_size)
        output = _create(plan, region, place, predictor, prediction_id)
    config, address = plan.config, plan.config.tracking.url
    store = address if address == without_credentials(address) else None
    checkpoint = CheckpointPlace(
        plan.checkpoint.path, plan.checkpoint.sha256, plan.training_run_id, store, config.directories.runs
    )
    set_up = PredictorSetUp(region, plan.training.model, config.torch, config.prediction, checkpoint, input_size)
    return RegionTask(output, set_up, predictor, {**_description(plan, region), "input_size": list(input_size)})


def _create(
    plan: PredictionPlan, region: Region, place: OutputPlace, predictor: Predictor, prediction_id: int
) -> RegionOutput:
    return RegionOutput.create(
        place,
        plan.training.data.num_classes,
        plan.config.prediction.output_dtype,
        {
            "shape": tuple(region.roi.shape),
            "voxel_size": region.voxel_size,
            "offset": nanometres(region.roi.begin, region.voxel_size),
            "chunk_shape": chunk_shape_for(predictor.steps(region.roi, region.raw_roi.begin), region.roi.shape),
            "provenance": _provenance(plan, region, prediction_id),
            "overwrite": True,
        },
    )


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
    return {**provenance, "command": resuming_command(prediction_id)}


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
