"""Predicting the regions of a data configuration with tracked checkpoints, as a tracked run; and its dry run."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import BlockTask, run_blockwise
from incasem_like.blockwise.done_log import DoneLog
from incasem_like.blockwise.workers_file import Workers
from incasem_like.config import PredictionConfig
from incasem_like.errors import InputError, RunNotFoundError
from incasem_like.prediction.blocks import region_blocks, region_offset
from incasem_like.prediction.outputs import OutputLocation, RegionOutput, read_begun
from incasem_like.prediction.planning.dry_run import report_networks, report_regions
from incasem_like.prediction.planning.plan import PlannedRegion, PredictionPlan
from incasem_like.prediction.planning.planner import Findings, plan_prediction
from incasem_like.samples import Region
from incasem_like.tracking import Run, RunRecord, RunStore, tracked_run
from incasem_like.volumes import Roi
from incasem_like.volumes.provenance import command_line, first_difference

TOOL = "predict.py"
_OF_REGION = re.compile(r"(?P<name>.+)_ds_\d+")


class TileObserver(Protocol):
    """Measures a region: sees every tile once, as it is stored."""

    def observe(self, roi: Roi, probabilities: npt.NDArray[np.float32]) -> None:
        """Take a tile: (classes, z, y, x) probabilities over ``roi``."""
        ...

    def scores(self) -> Mapping[str, float]:
        """Return what was measured over all tiles, by name; NaN where a score is not defined."""
        ...


# From a region, its index in the data configuration and the number of classes; None where it is not measured.
Observing = Callable[[Region, int, int], TileObserver | None]


@dataclass(frozen=True)
class Request:
    """The options of predicting regions in a run."""

    tool: str  # for the datasets' provenance, as the id of the run that they belong to
    prediction_id: int
    command: str  # resumes after an interruption
    resumes: bool  # datasets of an earlier call may exist
    observing: Observing | None = None


@dataclass(frozen=True)
class FinishedPrediction:
    """The results of a prediction."""

    run_id: int  # 0 if it is not tracked
    prediction_id: int  # in the datasets' names; after ``--resume`` that of the resumed run
    locations: dict[str, OutputLocation]  # by name of the entry
    scores: dict[str, float]  # of all regions by name; undefined ones are left out
    result: dict[str, Any]  # as stored in the run


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
        further: Further training runs; then the mean of all probabilities is predicted.
        store: Opens the store of prediction runs, once volumes and networks were found; None for an untracked run.
        observing: Makes the observer that measures a region; used if ``prediction.log_metrics`` is set.
        resume: Number of an interrupted prediction to resume.
        workers: Workers, on this or other machines, that predict block by block; None predicts in this process.
        started: Called with the run's id before the first tile.
        **options: run_name, comment, run_id, sources, as ``tracking.run_experiment`` takes them.

    Raises:
        InputError: As ``plan_prediction``; or the output cannot be written; or the prediction to be resumed does not
            exist, or was begun with other settings.
    """
    records = [training, *further]
    ids = tuple(record.id for record in records)
    changes = {"run_id_training": ids if len(ids) > 1 else ids[0]}
    config = config.model_copy(update={"prediction": config.prediction.model_copy(update=changes)})
    found = Findings(workers=workers)
    plan = plan_prediction(config, records, found=found)
    plan.check_outputs(plan.locations(resume or 0))
    runs = found.runs = store()
    plan = _resolved(found, plan, resume)
    if runs is not None and options.get("run_id") is not None:
        runs.check_unused(options["run_id"], "--resume")
    observing = observing if config.prediction.log_metrics else None
    with tracked_run(
        name="predict",
        config=config.model_dump(mode="json"),
        store=runs,
        runs_directory=config.directories.runs,
        artifacts={"prediction_data.json": plan.data.text},
        **options,
    ) as run:
        started(run.id, plan)
        number = run.id if resume is None else resume
        if resume is not None:
            run.set_info("prediction_run_id", resume)  # among its parents: either run leads to the other
        request = Request(TOOL, number, resuming_command(number), resume is not None, observing)
        finished = _predict(plan, run, request)
        run.result = finished.result
    return finished


def _resolved(found: Findings, plan: PredictionPlan, resume: int | None, *, probe: bool = True) -> PredictionPlan:
    """Resolve what depends on the device, quick checks first: a worker that has to be asked may wait in a queue."""
    known = plan.knows_precision
    if resume is not None:
        with found.collecting():
            _check_resumable(plan, resume, found.runs)
    with found.collecting():
        plan = plan.resolved(probe=probe)
    if resume is not None and not known:  # so it was left out of the comparison
        with found.collecting():
            _check_resumable(plan, resume, found.runs)
    return plan


def _predict(plan: PredictionPlan, run: Run, request: Request) -> FinishedPrediction:
    started = time.monotonic()
    locations = plan.locations(request.prediction_id)
    record_plan(run, plan, plan.lineage)
    voxels, scores = predict_regions(plan, locations, request)
    for name, value in scores.items():
        run.log_scalar(name, value, plan.iteration)
    by_name = {region.name: location for region, location in zip(plan.regions, locations, strict=True)}
    trained = plan.training_run_ids
    result = {
        "prediction_id": request.prediction_id,
        "training_run_id": trained[0] if len(trained) == 1 else list(trained),
        "outputs": {name: str(location.container / location.main) for name, location in by_name.items()},
        "voxels": int(sum(region.roi.size for region in plan.regions)),
        "voxels_predicted": voxels,
        "seconds": round(time.monotonic() - started, 2),
        "scores": scores,
    }
    return FinishedPrediction(run.id, request.prediction_id, by_name, scores, result)


def record_plan(run: Run, plan: PredictionPlan, parent: dict[str, Any]) -> None:
    """Record networks, checkpoints and regions in the run."""
    run.set_info("parent", parent)
    run.inputs([region.record for region in plan.regions])
    run.set_info("num_params", plan.num_params)
    if plan.lead.precision is not None:
        run.set_info("precision", asdict(plan.lead.precision))


def resuming_command(prediction_id: int) -> str:
    """Return the command that resumes a prediction that this command began or resumes.

    Each call is a run of its own, so an id given for this one is taken by then and is left out.
    """
    return f"{command_line({'-i': 1, '--id': 1, '--resume': 1})} --resume {prediction_id}"


def _check_resumable(plan: PredictionPlan, prediction_id: int, runs: RunStore | None) -> None:
    """Check, before a run is started, that a prediction was begun and is resumed with what it was begun with.

    Raises:
        InputError: It was not begun, or something differs, precision included once resolved; the message names it.
    """
    locations = plan.locations(prediction_id)
    found = [read_begun(location) for location in locations]
    for region, location, begun in zip(plan.regions, locations, found, strict=True):
        if begun is None:
            continue
        description, before = json.loads(json.dumps(plan.describe(region))), begun.description
        if not plan.knows_precision:
            description, before = _without_precision(description), _without_precision(before)
        if difference := first_difference({key: before.get(key) for key in description}, description):
            raise InputError(
                f"The prediction in {location.folder} was begun with {difference}: predict anew, without --resume."
            )
    if any(found):
        return
    record = None
    with contextlib.suppress(RunNotFoundError):
        record = None if runs is None else runs.get(prediction_id)
    if record is not None and record.status not in ("RUNNING", "COMPLETED"):  # killed before its first dataset
        trained = record.config.get("prediction", {}).get("run_id_training")
        if (trained if isinstance(trained, list) else [trained]) == list(plan.training_run_ids):
            return
    raise InputError(f"{locations[0].folder} holds no prediction that was begun: predict anew, without --resume.")


def examine_prediction(
    config: PredictionConfig,
    trainings: Callable[[], Sequence[RunRecord]],
    store: Callable[[], RunStore | None],
    *,
    resume: int | None = None,
    workers_file: Path | None = None,
) -> Findings:
    """Examine what a prediction would do; only the measured speed is written, into the user's cache.

    The arguments are those of ``predict_data``; ``trainings`` finds the training runs.
    """
    found = Findings.collected(store, workers_file)
    with found.collecting():
        plan = _resolved(found, plan_prediction(config, trainings(), found=found), resume, probe=False)
        report_networks(found, plan)
        report_regions(found, plan, plan.locations(resume or found.next_id), resumes=resume is not None)
    return found


def predict_regions(
    plan: PredictionPlan, locations: Sequence[OutputLocation], request: Request
) -> tuple[int, dict[str, float]]:
    """Predict all regions of a plan, or their missing parts, each to its output.

    Returns:
        The number of voxels that were missing, and the defined scores by name: of each region, and their means.

    Raises:
        InputError: A prediction exists already, or an output is an input of any region.
        CheckpointError: The network's output is not finite.
        IncasemError: Blocks failed; all others are done.
    """
    plan.check_outputs(locations)
    planned = [
        PlannedRegion.find(plan, region, location, resumes=request.resumes)
        for region, location in zip(plan.regions, locations, strict=True)
    ]
    # All are begun before the first is predicted, so that another run can resume any of them.
    begun = [_begin(one, request) for one in planned]
    voxels, scores = 0, dict[str, float]()
    for index, (one, (task, output)) in enumerate(zip(planned, begun, strict=True)):
        region, predictor = one.region, one.predictor
        observer = request.observing(region, index, plan.training.data.num_classes) if request.observing else None
        voxels += run_blockwise(
            task,
            workers=plan.workers,
            description=f"Predicting {region.name}",
            prepared=(region, predictor),
            command=request.command,
        ).voxels
        if observer is not None:
            for tile in predictor.tiles(region.roi, region.raw_roi.begin):
                observer.observe(tile.write_roi, output.read_probabilities(tile.write_roi))
            found = {name: float(value) for name, value in observer.scores().items()}
            scores.update({name: value for name, value in found.items() if math.isfinite(value)})
    of_regions: dict[str, list[float]] = {}  # of dice_class_1_ds_0, ... the mean is dice_class_1
    for name, value in scores.items():
        if match := _OF_REGION.fullmatch(name):
            of_regions.setdefault(match["name"], []).append(value)
    return voxels, {**scores, **{name: float(np.mean(values)) for name, values in of_regions.items()}}


def _without_precision(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_precision(one) for key, one in value.items() if key != "precision"}
    return [_without_precision(one) for one in value] if isinstance(value, list) else value


def _begin(planned: PlannedRegion, request: Request) -> tuple[BlockTask, RegionOutput]:
    """Create the region's datasets and log, or open those of an earlier run, if it got that far."""
    plan, region, location = planned.plan, planned.region, planned.location
    num_classes = plan.training.data.num_classes
    if planned.begun is not None:
        output = RegionOutput.reopen(location, num_classes)
    else:
        layout = {
            "shape": tuple(region.roi.shape),
            "voxel_size": region.voxel_size,
            "offset": region_offset(region),
            "chunk_shape": planned.chunk_shape,
            # A reader of the dataset is shown this command while it is incomplete.
            "provenance": {**plan.provenance(region, request.tool, request.prediction_id), "command": request.command},
            "overwrite": True,
        }
        output = RegionOutput.create(location, num_classes, plan.config.prediction.output_dtype, layout)
    input_size = planned.tiles.input_size
    set_up, description = plan.set_up(region, input_size), plan.describe(region, input_size)
    task = region_blocks(output, set_up, planned.predictor, description)
    with DoneLog(task.folder, task.fingerprint(), complete=task.complete):
        pass
    return task, output
