"""The prediction of regions to disk: each is created or resumed, predicted and measured."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import BlockTask, run_blockwise
from incasem_like.blockwise.done_log import DoneLog
from incasem_like.errors import InputError
from incasem_like.prediction.blocks import region_blocks, volumes_read
from incasem_like.prediction.computing.loading import PredictorSetUp
from incasem_like.prediction.computing.tiles import Predictor
from incasem_like.prediction.outputs import OutputLocation, RegionOutput, chunk_shape_for, read_begun
from incasem_like.prediction.planning.plan import PredictionPlan
from incasem_like.samples import Region
from incasem_like.volumes import Roi, make_provenance
from incasem_like.volumes.geometry import nanometres

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
    """The options of predicting regions in a run.

    Attributes:
        tool: The script, for the datasets' provenance.
        prediction_id: Id of the run that they belong to.
        command: The command that resumes after an interruption.
        resumes: Whether datasets of an earlier call may exist.
        observing: Makes the observer that measures a region; None measures nothing.
    """

    tool: str
    prediction_id: int
    command: str
    resumes: bool
    observing: Observing | None = None


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
    plan.check_not_read(locations)
    # All are begun before the first is predicted, so that another run can resume any of them.
    begun = [_begin(plan, region, location, request) for region, location in zip(plan.regions, locations, strict=True)]
    voxels, scores = 0, dict[str, float]()
    for index, (region, (task, output, predictor)) in enumerate(zip(plan.regions, begun, strict=True)):
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
    return voxels, _with_means(scores)


def _with_means(scores: Mapping[str, float]) -> dict[str, float]:
    """Add to the scores of regions, ``dice_class_1_ds_0``, their means, ``dice_class_1``."""
    of_regions: dict[str, list[float]] = {}
    for name, value in scores.items():
        if match := _OF_REGION.fullmatch(name):
            of_regions.setdefault(match["name"], []).append(value)
    return {**scores, **{name: float(np.mean(values)) for name, values in of_regions.items()}}


def describe_region(plan: PredictionPlan, region: Region) -> dict[str, Any]:
    """Return everything that the values of a region's prediction depend on."""
    hashes = region.content_hashes
    return {
        **plan.networks_description,
        "region": [list(region.roi.begin), list(region.roi.shape)],
        "origin": list(region.raw_roi.begin),
        "raw": hashes[str(region.raw.address)],
        "mask": None if region.mask is None else hashes[str(region.mask.address)],
        "output_dtype": plan.config.prediction.output_dtype,
        "precision": plan.lead.source.torch.precision,
        "test_time_augmentation": plan.config.prediction.test_time_augmentation,
    }


def check_begun_alike(plan: PredictionPlan, locations: Sequence[OutputLocation], remedy: str) -> bool:
    """Check that predictions are resumed with the settings that they were begun with, precision included once resolved.

    Returns:
        Whether anything was begun.

    Raises:
        InputError: Something differs; the message names it, and gives ``remedy`` as the advice.
    """
    found = [read_begun(location) for location in locations]
    for region, location, begun in zip(plan.regions, locations, found, strict=True):
        if begun is None:
            continue
        description, before = json.loads(json.dumps(describe_region(plan, region))), begun.description
        if not plan.knows_precision:
            description, before = _without_precision(description), _without_precision(before)
        for key, value in description.items():
            if before.get(key) != value:
                raise InputError(
                    f"The prediction in {location.folder} was begun with {key} {_short(before.get(key))}, "
                    f"and would be resumed with {_short(value)}: {remedy}."
                )
    return any(begun is not None for begun in found)


def _without_precision(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_precision(one) for key, one in value.items() if key != "precision"}
    return [_without_precision(one) for one in value] if isinstance(value, list) else value


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _begin(
    plan: PredictionPlan, region: Region, location: OutputLocation, request: Request
) -> tuple[BlockTask, RegionOutput, Predictor]:
    """Create the region's datasets and log, or open those of an earlier run, if it got that far."""
    begun = read_begun(location) if request.resumes else None
    num_classes = plan.training.data.num_classes
    if begun is not None:
        input_size = begun.input_size
        predictor = plan.predictor(input_size)
        output = RegionOutput.reopen(location, num_classes)
    else:
        location.check_free(resuming=request.resumes)
        input_size = plan.choose_tiles(region).input_size
        predictor = plan.predictor(input_size)
        layout = {
            "shape": tuple(region.roi.shape),
            "voxel_size": region.voxel_size,
            "offset": nanometres(region.roi.begin, region.voxel_size),
            "chunk_shape": chunk_shape_for(predictor.steps(region.roi, region.raw_roi.begin), region.roi.shape),
            "provenance": _provenance(plan, region, request),
            "overwrite": True,
        }
        output = RegionOutput.create(location, num_classes, plan.config.prediction.output_dtype, layout)
    set_up = PredictorSetUp(region, plan.sources, plan.config.prediction, input_size)
    description = {**describe_region(plan, region), "input_size": list(input_size)}
    task = region_blocks(output, set_up, predictor, description)
    with DoneLog(task.folder, task.fingerprint(), complete=task.complete):
        pass
    return task, output, predictor


def _provenance(plan: PredictionPlan, region: Region, request: Request) -> dict[str, Any]:
    parameters = {"region": region.name, **plan.networks_description, **plan.lineage}
    provenance = make_provenance(request.tool, parameters, volumes_read(region), run_id=request.prediction_id)
    # A reader of the dataset is shown this command while it is incomplete.
    return {**provenance, "command": request.command}
