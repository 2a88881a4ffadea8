"""What to segment: a prediction, the options and the outputs, checked before anything is written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from incasem_like.blockwise import Block
from incasem_like.blockwise.done_log import refuse_remote
from incasem_like.errors import InputError
from incasem_like.graphs import GraphStore, open_graph
from incasem_like.segmentation.affinities import Offset, check_signs, stored_offsets
from incasem_like.segmentation.methods.base import Labelling
from incasem_like.segmentation.predicted import AsPrepared, PredictedVolume
from incasem_like.segmentation.probabilities import check_mask, check_probability_map
from incasem_like.segmentation.settings import SegmentationSection, method_named
from incasem_like.segmentation.values import Meaning, Values, is_stored, offset_channels, read_values
from incasem_like.volumes import Roi, Volume, check_outputs, dataset_exists, open_volume, parse_address
from incasem_like.volumes.agreement import check_same_voxels
from incasem_like.volumes.faults import warn_once
from incasem_like.volumes.parts import shuffled_parts
from incasem_like.volumes.provenance import first_difference
from incasem_like.volumes.values import check_label_dtype, check_labels

SAMPLES, SAMPLE_VOXELS = 4, 1 << 20


@dataclass(frozen=True)
class Segmentation:
    """An instance segmentation: its input, options and outputs; made by ``plan_segmentation``.

    Attributes:
        prediction: Affinities (channels, z, y, x) or probabilities (z, y, x).
        mask: Mask on the same grid, or None.
        meaning: What the prediction holds.
        offsets: Of the affinities; none for probabilities.
        section: The options.
        group: Group of the outputs, in the container of the prediction.
        seeds: Labels of objects that are known in some voxels, or None.
    """

    prediction: Volume
    mask: Volume | None
    meaning: Meaning
    offsets: tuple[Offset, ...]
    section: SegmentationSection
    group: str
    seeds: Volume | None = None

    @property
    def inputs(self) -> tuple[Volume, ...]:
        """The volumes that are read."""
        return tuple(volume for volume in (self.prediction, self.mask, self.seeds) if volume is not None)

    @property
    def marks(self) -> dict[str, bool]:
        """Which inputs follow the prediction, as parameters of tasks."""
        return {"mask": self.mask is not None, "seeds": self.seeds is not None}

    @property
    def reads(self) -> tuple[str, ...]:
        """Addresses of the volumes that blocks open; of affinities that are not stored, the raw volume's."""
        first = self.prediction.region.raw if isinstance(self.prediction, PredictedVolume) else self.prediction
        return tuple(str(volume.address) for volume in (first, *self.inputs[1:]))

    @property
    def set_up(self) -> AsPrepared | None:
        """Hands affinities that are not stored to workers."""
        return AsPrepared(self.prediction) if isinstance(self.prediction, PredictedVolume) else None

    @cached_property
    def graph(self) -> GraphStore:
        """The region adjacency graph."""
        return graph_of(self.folder, self.graph_options)

    @property
    def graph_options(self) -> dict[str, Any]:
        """The graph store, as blocks open it: its URL, or None for files in the group, and the score of its edges."""
        method = self.section.chosen
        scoring = "_".join(str(getattr(method, name)) for name in method.edge_options)
        return {"graph": self.section.graph, "scoring": scoring}

    @property
    def edges_folder(self) -> Path:
        """Folder of the log of finished blocks of edges, and of edges in files."""
        scoring = self.graph_options["scoring"]
        return self.folder / "graph" / (f"edges_{scoring}" if scoring else "edges")

    @property
    def folder(self) -> Path:
        """Folder of the outputs."""
        return Path(self.prediction.container) / self.group

    def options(self, *without: str) -> dict[str, Any]:
        """Return all that a stage depends on beside its inputs, except some options of the method."""
        options = self.section.chosen.model_dump(mode="json", exclude=set(without))
        stage: dict[str, Any] = {
            "method": self.section.method,
            "options": options,
            "meaning": self.meaning,
            "offsets": [list(offset) for offset in self.offsets],
        }
        if isinstance(self.prediction, PredictedVolume):
            stage["predicted"] = self.prediction.content_hash
        if self.section.excluded_sections:
            stage["excluded_sections"] = sorted(set(self.section.excluded_sections))
        return stage

    def names(self) -> dict[float | None, str]:
        """Return the dataset of the segmentation at each threshold."""
        cuts = self.section.chosen.cuts()
        short = [f"{cut:g}" for cut in cuts if cut is not None]
        if len(set(short)) < len(cuts):  # thresholds that differ only beyond six digits
            short = [str(cut) for cut in cuts]
        suffixes = [""] if len(cuts) == 1 else [f"_{digits}" for digits in short]
        return {cut: f"{self.group}/segmentation{suffix}" for cut, suffix in zip(cuts, suffixes, strict=True)}

    def parameters(self, cut: float | None) -> dict[str, Any]:
        """Return what the segmentation at one threshold depends on."""
        sizes = {"min_size": self.section.min_size, "max_size": self.section.max_size}
        options = self.options(*self.section.chosen.table_options)
        return {**options, **sizes, "threshold": cut, "block_shape": list(self.section.block_shape)}

    def is_finished(self, overwrite: bool = False) -> bool:
        """Return whether all outputs are complete and were made with the same options from the same inputs.

        Raises:
            InputError: An output was made with other options or from other inputs, and ``overwrite`` is False.
        """
        made = [
            is_made(self.prediction.container, name, self.parameters(cut), self.inputs, overwrite)
            for cut, name in self.names().items()
        ]
        return all(made)


def is_made(
    container: str, dataset: str, parameters: Mapping[str, Any], inputs: Sequence[Volume], overwrite: bool
) -> bool:
    """Return whether a dataset is complete and was made with the same parameters from the same inputs.

    Raises:
        InputError: It was made with other parameters or from other inputs, and ``overwrite`` is False.
    """
    if not dataset_exists(container, dataset):
        return False
    made = open_volume(container, dataset, allow_incomplete=True)
    before = made.provenance or {}
    found = {
        "parameters": before.get("parameters"),
        "inputs": [
            {"address": item.get("address"), "content": item.get("content_hash")} for item in before.get("inputs", ())
        ],
    }
    wanted = {
        "parameters": parameters,
        "inputs": [{"address": str(volume.address), "content": volume.content_hash} for volume in inputs],
    }
    difference = first_difference(found, json.loads(json.dumps(wanted)))
    if difference and not overwrite:
        raise InputError(
            f"{made.address} was made with {difference}: add --overwrite to replace it, or name another output."
        )
    return made.complete and not difference


def plan_segmentation(prediction: Volume, section: SegmentationSection) -> Segmentation:
    """Check a prediction and the options before anything is written.

    Raises:
        DataError: The prediction cannot be segmented by the method: no offsets, too few channels, a wrong sign of the
            offsets, or values that are not from 0 to 1; or the mask has another grid.
        InputError: The options do not suit it.
    """
    meaning = _meaning(prediction, section)
    method = section.chosen
    if meaning not in method.reads:
        raise InputError(
            f"segmentation.method {section.method} needs {' or '.join(method.reads)}, but {prediction.address} holds "
            f"{meaning}: choose another method, or set segmentation.input."
        )
    prediction.require_voxel_size()
    offsets: tuple[Offset, ...] = ()
    if meaning == "affinities":
        offsets = stored_offsets(prediction)
        method.check(offsets)
    elif meaning == "descriptors":
        offset_channels(prediction)
    else:
        if prediction.axes == "czyx" and prediction.shape[0] == 1:
            if isinstance(prediction, PredictedVolume):
                raise InputError("Probabilities that are not stored cannot be segmented: predict, and segment its id.")
            prediction = open_volume(f"{prediction.address}@c=0")
        prediction.require_zyx()
        check_probability_map(prediction)
    mask = open_volume(section.mask) if section.mask else None
    if mask is not None:
        check_mask(mask, prediction, "the prediction", "set segmentation.mask to null")
    seeds = open_volume(method.seed_labels) if method.seed_labels else None
    if seeds is not None:
        check_same_voxels(seeds, prediction)
        check_label_dtype(seeds)
    if section.graph is not None and isinstance(method, Labelling):
        raise InputError(f"segmentation.graph is a store of graphs, but {section.method} makes none: leave it out.")
    group = section.output or f"{prediction.address.dataset}_{section.method}"
    if Path(group).is_absolute() or ".." in Path(group).parts:
        raise InputError(
            f"segmentation.output is {group}, but it must be a group inside of {prediction.container}: give a path "
            "without '/' in front and without '..'."
        )
    plan = Segmentation(prediction, mask, meaning, offsets, section, group, seeds)
    _check_outputs(plan)
    if isinstance(prediction, PredictedVolume):  # with the offsets that its network was trained with
        return plan
    begin, end = prediction.roi.begin[0], prediction.roi.end[0]
    if section.excluded_sections and not any(begin <= z < end for z in section.excluded_sections):
        warn_once(
            f"segmentation.excluded_sections {list(section.excluded_sections)} has no section of {prediction.address}, "
            f"z {begin}-{end - 1}: they are absolute indices."
        )
    doubtful = offsets and not _from_training(prediction, offsets)
    parts = shuffled_parts(prediction, prediction.roi, SAMPLE_VOXELS)
    for roi in parts[:SAMPLES]:
        sample = read_values(prediction, mask, meaning, offsets, roi, section.excluded_sections)
        if doubtful:
            check_signs(sample.fractions, offsets, str(prediction.address))
    return plan


def _check_outputs(plan: Segmentation) -> None:
    """Check, before anything is written, that the group can be made and that no output is an input."""
    container, parts = plan.prediction.container, plan.group.split("/")
    if Path(container).is_file():
        raise InputError(f"{container} is a file, beside whose datasets nothing is written: import it into a .zarr.")
    for depth in range(1, len(parts) + 1):
        if dataset_exists(container, name := "/".join(parts[:depth])):
            raise InputError(f"segmentation.output is {plan.group}, but {name} is a dataset: name a new group.")
    outputs = [parse_address(container, name) for name in (f"{plan.group}/fragments", *plan.names().values())]
    refuse_remote(outputs[0])
    check_outputs(outputs, [volume.address for volume in plan.inputs], "name another segmentation.output")


def _from_training(prediction: Volume, offsets: Sequence[Offset]) -> bool:
    """Return whether the offsets are those that the network was trained with, whose sign needs no check."""
    model = ((prediction.provenance or {}).get("parameters") or {}).get("model") or {}
    outputs = model.get("outputs") or ()
    trained = [one["attributes"].get("offsets") for one in outputs if isinstance(one.get("attributes"), dict)]
    return [list(offset) for offset in offsets] in trained


def _meaning(prediction: Volume, section: SegmentationSection) -> Meaning:
    if section.input != "auto":
        return section.input
    predicted: Meaning | None = {"boundaries": "boundaries", "lsd": "descriptors"}.get(
        str(prediction.attributes.get("target"))
    )  # type: ignore[assignment]
    if predicted is not None:
        return predicted
    return "affinities" if prediction.axes == "czyx" else "objects"


def graph_of(folder: Path, parameters: Mapping[str, Any]) -> GraphStore:
    """Open the graph store of a task, see ``Segmentation.graph_options``."""
    return open_graph(parameters["graph"] or folder / "graph", parameters.get("scoring", ""))


def read_block(block: Block, parameters: Mapping[str, Any], roi: Roi) -> Values:
    """Read the values of an ROI in a task with the parameters ``Segmentation.options`` and ``marks``."""
    mask = block.inputs[1] if parameters["mask"] else None
    offsets = tuple((z, y, x) for z, y, x in parameters["offsets"])
    prediction = block.inputs[0] if block.prepared is None else block.prepared
    excluded = parameters.get("excluded_sections", ())
    values = read_values(prediction, mask, parameters["meaning"], offsets, roi, excluded)
    if not parameters["seeds"]:
        return values
    source = block.inputs[1 + parameters["mask"]]
    seeds = source.read(roi, outside="constant")
    check_labels(seeds, str(source.address), roi.begin)
    return dataclasses.replace(values, seeds=seeds.astype(np.uint64) * values.valid)


def block_values(block: Block, parameters: Mapping[str, Any], roi: Roi) -> Values | None:
    """Read the values of an ROI as ``read_block``; None if they are 0, or not valid, and the method finds nothing.

    Where no chunk is stored, nothing is read.
    """
    skips = method_named(parameters["method"], parameters["options"]).skips_zeros
    skips_missing = skips and parameters["meaning"] != "boundaries" and block.prepared is None
    if skips_missing and not is_stored(block.inputs[0], roi):
        return None
    values = read_block(block, parameters, roi)
    return values if values.valid.any() and not (skips and not values.stored.any()) else None
