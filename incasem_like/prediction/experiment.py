"""Predicting the regions of a data configuration with a tracked checkpoint, as a tracked run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from incasem_like.config import PredictionConfig
from incasem_like.errors import CheckpointError
from incasem_like.networks import count_parameters
from incasem_like.prediction.ahead import Behind
from incasem_like.prediction.outputs import OutputPlace, RegionOutput, chunk_shape_for
from incasem_like.prediction.plan import PredictionPlan, plan_prediction
from incasem_like.prediction.tile_log import TileLog
from incasem_like.prediction.tiles import TiledPredictor
from incasem_like.samples import Region
from incasem_like.terminal import Progress
from incasem_like.tracking import Run, RunRecord, RunStore, run_experiment
from incasem_like.volumes import Roi, make_provenance
from incasem_like.volumes.geometry import nanometres

TOOL = "predict.py"


class TileObserver(Protocol):
    """Sees every tile of one region once, as it is predicted."""

    def observe(self, roi: Roi, probabilities: npt.NDArray[np.float32]) -> None:
        """Take a tile: (classes, z, y, x) probabilities over ``roi``."""
        ...

    def scores(self) -> Mapping[str, float]:
        """Give what was measured over all tiles, by name; NaN where a score is not defined."""
        ...


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
        started: Called with the run's id before the first tile.
        **options: run_name, comment, run_id, sources, as ``tracking.run_experiment`` takes them.

    Raises:
        InputError: As ``plan_prediction``; or what is to be resumed is not there, or was begun with something else.
    """
    config = _with_training_run(config, training.id)
    plan = plan_prediction(config, training)
    if resume is not None:
        _check_resumable(plan, resume)
    finished: list[FinishedPrediction] = []

    def work(run: Run) -> dict[str, Any]:
        started(run.id, plan)
        finished.append(_predict_regions(plan, run, observing if config.prediction.log_metrics else None, resume))
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
    plan: PredictionPlan, run: Run, observing: Observing | None, resume: int | None
) -> FinishedPrediction:
    begun = time.monotonic()
    prediction_id = run.id if resume is None else resume
    places = plan.places(prediction_id)
    run.set_info("parent", _lineage(plan))
    run.set_info("resumes", resume)
    run.inputs([_described(region) for region in plan.regions])
    run.set_info("num_params", count_parameters(plan.network))
    tasks = [
        _prepare(plan, region, place, prediction_id, resume is not None)
        for region, place in zip(plan.regions, places, strict=True)
    ]
    scores: dict[str, float] = {}
    voxels_left = sum(task.voxels_left for task in tasks)
    with Progress("Predicting", voxels_left, "voxels") as progress:
        for index, task in enumerate(tasks):
            observer = observing(task.region, index, plan.training.data.num_classes) if observing else None
            task.run(observer, progress)
            if observer is not None:
                scores.update(_log_scores(run, observer.scores(), plan.checkpoint.iteration or 0))
    by_name = {region.name: place for region, place in zip(plan.regions, places, strict=True)}
    result = {
        "prediction_id": prediction_id,
        "training_run_id": plan.training_run_id,
        "outputs": {name: str(place.container / place.segmentation) for name, place in by_name.items()},
        "voxels": int(sum(region.roi.size for region in plan.regions)),
        "voxels_predicted": voxels_left,
        "seconds": round(time.monotonic() - begun, 2),
        "scores": scores,
    }
    return FinishedPrediction(run.id, prediction_id, by_name, scores, result)


class RegionTask:
    """One region on its way to disk.

    Attributes:
        region: What is predicted.
        output: Where it goes.
        log: Which tiles are there already.
        predictor: What predicts it.
    """

    def __init__(self, region: Region, output: RegionOutput, log: TileLog, predictor: TiledPredictor) -> None:
        self.region, self.output, self.log, self.predictor = region, output, log, predictor
        self._tiles = predictor.tiles(region.roi, region.raw_roi.begin)

    @property
    def voxels_left(self) -> int:
        """Voxels that are not predicted yet."""
        return int(sum(write.size for _, write in self._tiles if write not in self.log))

    def run(self, observer: TileObserver | None, progress: Progress) -> None:
        """Predict and write what is missing, tile by tile; ``observer`` sees the tiles of an earlier run too."""
        if observer is not None:
            for tile, probabilities in self._written():
                observer.observe(tile, probabilities)
        missing = [tile for tile in self._tiles if tile[1] not in self.log]
        with Behind(threaded=self.predictor.read_ahead > 0) as writer:
            for tile, probabilities in self.predictor.predict_tiles(self._read, missing):
                _check_finite(probabilities)
                writer.do(partial(self._store, tile, probabilities))
                if observer is not None:
                    observer.observe(tile, probabilities)
                progress.advance(tile.size, note=self.region.name)
        self.output.mark_complete()

    def _store(self, tile: Roi, probabilities: npt.NDArray[np.float32]) -> None:
        self.output.write(tile, probabilities, self.region.read_mask(tile))
        self.log.add(tile)

    def _read(self, roi: Roi) -> npt.NDArray[np.float32]:
        return self.region.read_raw(roi, outside="reflect")

    def _written(self) -> Iterator[tuple[Roi, npt.NDArray[np.float32]]]:
        for _, write in self._tiles:
            if write in self.log:
                yield write, self.output.read_probabilities(write)


def _check_finite(probabilities: npt.NDArray[np.float32]) -> None:
    if not np.isfinite(probabilities[0]).all():
        raise CheckpointError(
            "The network gives values that are not numbers: its training diverged, choose an earlier checkpoint; "
            "or the precision is too low, set torch.precision=fp32."
        )


def _check_resumable(plan: PredictionPlan, prediction_id: int) -> None:
    """Make sure, before a run is started, that a prediction was begun and goes on with what it was begun with."""
    for region, place in zip(plan.regions, plan.places(prediction_id), strict=True):
        TileLog.read(place.folder).check(_description(plan, region))


def _prepare(plan: PredictionPlan, region: Region, place: OutputPlace, prediction_id: int, resume: bool) -> RegionTask:
    """Create the region's datasets and log, or open those of the run to go on with."""
    if resume:
        log = TileLog.read(place.folder)
        output = RegionOutput.reopen(place, plan.training.data.num_classes)
        return RegionTask(region, output, log, plan.predictor(log.description["input_size"]))
    place.check_free()
    input_size = plan.input_size(region)
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
    log = TileLog.start(place.folder, {**_description(plan, region), "input_size": list(input_size)})
    return RegionTask(region, output, log, predictor)


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
