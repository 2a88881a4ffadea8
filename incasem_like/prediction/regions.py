"""The regions of a prediction on their way to disk: begun or taken up again, predicted one by one, measured."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from incasem_like.errors import InputError
from incasem_like.prediction.computing.predictor import Predictor
from incasem_like.prediction.computing.weights import PredictorSetUp
from incasem_like.prediction.outputs import OutputPlace, RegionOutput, chunk_shape_for
from incasem_like.prediction.planning.plan import PredictionPlan
from incasem_like.prediction.region_task import RegionTask, TileObserver, read_begun
from incasem_like.samples import Region
from incasem_like.volumes import Address, check_outputs, make_provenance
from incasem_like.volumes.geometry import nanometres

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

_OF_REGION = re.compile(r"(?P<name>.+)_ds_\d+")

Observing = Callable[[Region, int, int], TileObserver | None]


@dataclass(frozen=True)
class Order:
    """On whose behalf regions are predicted, and how.

    Attributes:
        tool: The script, for the datasets' provenance.
        prediction_id: The run that they belong to.
        command: What to type to go on after an interruption.
        goes_on: Whether datasets of an earlier call may be there.
        observing: Makes what measures a region from the region, its place in the data configuration and the number of
            classes, or None for one that is not measured; None measures nothing.
        workers: Processes, here or elsewhere, that predict block by block; None predicts in this process.
    """

    tool: str
    prediction_id: int
    command: str
    goes_on: bool
    observing: Observing | None = None
    workers: Workers | None = None


def predict_regions(plan: PredictionPlan, places: Sequence[OutputPlace], order: Order) -> tuple[int, dict[str, float]]:
    """Predict all regions of a plan, or what is missing of them.

    Args:
        plan: What predicts what.
        places: Where each region's prediction goes.
        order: How.

    Returns:
        How many voxels were missing, and the defined scores by name: of each region, and their means.

    Raises:
        InputError: A prediction is there that was not to be, or an output is an input of any region.
        CheckpointError: The network gives values that are not numbers.
        IncasemError: Blocks failed; all others are done.
    """
    check_not_read(plan, places)
    tasks = [_begin(plan, region, place, order) for region, place in zip(plan.regions, places, strict=True)]
    voxels, scores = 0, dict[str, float]()
    for index, task in enumerate(tasks):
        observer = order.observing(task.region, index, plan.training.data.num_classes) if order.observing else None
        voxels += task.run(observer, order.workers, order.command)
        if observer is not None:
            found = {name: float(value) for name, value in observer.scores().items()}
            scores.update({name: value for name, value in found.items() if math.isfinite(value)})
    return voxels, _with_means(scores)


def check_not_read(plan: PredictionPlan, places: Sequence[OutputPlace]) -> None:
    """Check that predictions replace no volume of the data configuration.

    Raises:
        InputError: One does.
    """
    groups = [Address(str(place.container), place.group) for place in places]
    inputs = [address for region in plan.regions for address in region.addresses]
    check_outputs(groups, inputs, "set prediction.directories.prefix to another folder, or name other inputs")


def _with_means(scores: Mapping[str, float]) -> dict[str, float]:
    """Add to the scores of regions, ``dice_class_1_ds_0``, their means, ``dice_class_1``."""
    of_regions: dict[str, list[float]] = {}
    for name, value in scores.items():
        if match := _OF_REGION.fullmatch(name):
            of_regions.setdefault(match["name"], []).append(value)
    return {**scores, **{name: float(np.mean(values)) for name, values in of_regions.items()}}


def described(region: Region) -> Mapping[str, Any]:
    """Say which data a region is, for the record of a run."""
    return {"name": region.name, "file": str(region.entry.file), "content_hashes": region.content_hashes}


def describe_region(plan: PredictionPlan, region: Region) -> dict[str, Any]:
    """Say all that the values of a region's prediction depend on."""
    hashes = region.content_hashes
    return {
        **plan.networks_description,
        "region": [list(region.roi.begin), list(region.roi.shape)],
        "origin": list(region.raw_roi.begin),
        "raw": hashes[str(region.raw.address)],
        "mask": None if region.mask is None else hashes[str(region.mask.address)],
        "output_dtype": plan.config.prediction.output_dtype,
        "precision": plan.config.torch.precision,
        "test_time_augmentation": plan.config.prediction.test_time_augmentation,
    }


def check_begun_alike(plan: PredictionPlan, places: Sequence[OutputPlace], remedy: str) -> bool:
    """Make sure that what was begun goes on with what it was begun with; in precision too, once it is settled.

    Args:
        plan: What is to be predicted now.
        places: Where.
        remedy: What to do otherwise.

    Returns:
        Whether anything was begun.

    Raises:
        InputError: Something differs; it is named.
    """
    begun = [read_begun(place) for place in places]
    for region, place, left in zip(plan.regions, places, begun, strict=True):
        if left is not None:
            description, before = json.loads(json.dumps(describe_region(plan, region))), left.description
            if not plan.knows_precision:
                description, before = _without_precision(description), _without_precision(before)
            _check_same(place, before, description, remedy)
    return any(left is not None for left in begun)


def _without_precision(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_precision(one) for key, one in value.items() if key != "precision"}
    return [_without_precision(one) for one in value] if isinstance(value, list) else value


def _check_same(place: OutputPlace, begun: Mapping[str, Any], description: Mapping[str, Any], remedy: str) -> None:
    for key, value in description.items():
        if begun.get(key) != value:
            raise InputError(
                f"The prediction in {place.folder} was begun with {key} {_short(begun.get(key))}, "
                f"and would go on with {_short(value)}: {remedy}."
            )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _begin(plan: PredictionPlan, region: Region, place: OutputPlace, order: Order) -> RegionTask:
    """Create the region's datasets and log, or open those of an earlier run, as far as that came."""
    begun = read_begun(place) if order.goes_on else None
    if begun is not None:
        input_size = begun.input_size
        predictor = plan.predictor(input_size)
        output = RegionOutput.reopen(place, plan.training.data.num_classes)
    else:
        place.check_free(half_made=order.goes_on)
        input_size = tuple(plan.choose_tiles(region, order.workers).input_size)
        predictor = plan.predictor(input_size)
        output = _create(plan, region, place, predictor, order)
    set_up = PredictorSetUp(region, plan.network_places, plan.config.prediction, input_size)
    return RegionTask(output, set_up, predictor, {**describe_region(plan, region), "input_size": list(input_size)})


def _create(
    plan: PredictionPlan, region: Region, place: OutputPlace, predictor: Predictor, order: Order
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
            "provenance": _provenance(plan, region, order),
            "overwrite": True,
        },
    )


def _provenance(plan: PredictionPlan, region: Region, order: Order) -> dict[str, Any]:
    parameters = {"region": region.name, **plan.networks_description, **plan.lineage}
    inputs = [region.raw] if region.mask is None else [region.raw, region.mask]
    provenance = make_provenance(order.tool, parameters, inputs, run_id=order.prediction_id)
    # Whoever reads the dataset before it is complete is told this command.
    return {**provenance, "command": order.command}
