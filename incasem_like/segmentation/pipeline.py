"""Segmentation of volumes of any size in stages: fragments, edges, look-up tables, segmentation.

Fragments get ids that are unique in the volume; edges join them within and across blocks; a look-up table gives the
object of each fragment. Each stage is resumed by itself and is skipped once it is complete with the same options.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.done_log import first_difference, read_log
from incasem_like.blockwise.grid import block_grid, shuffled_parts
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.disk import write_whole
from incasem_like.errors import DataError, InputError
from incasem_like.graphs import GraphStore, Table, open_graph
from incasem_like.segmentation.affinities import Offset, check_signs, stored_offsets
from incasem_like.segmentation.label_arrays import consecutive, count_ids, object_rows, relabel
from incasem_like.segmentation.methods.base import BlockReader, Ids
from incasem_like.segmentation.predicted import AsPrepared, PredictedVolume
from incasem_like.segmentation.probabilities import check_probability_map
from incasem_like.segmentation.settings import SegmentationSection, method_named
from incasem_like.segmentation.values import Meaning, Values, offset_channels, read_values
from incasem_like.volumes import Roi, Volume, dataset_exists, describe_roi, make_provenance, open_volume
from incasem_like.volumes.agreement import check_same_voxels
from incasem_like.volumes.values import check_label_dtype

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

TOOL = "segment"
TABLES = "tables"
CHUNK = 64
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
    """

    prediction: Volume
    mask: Volume | None
    meaning: Meaning
    offsets: tuple[Offset, ...]
    section: SegmentationSection
    group: str

    @property
    def inputs(self) -> tuple[Volume, ...]:
        """The volumes that are read."""
        return (self.prediction,) if self.mask is None else (self.prediction, self.mask)

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
        return _graph_of(self.folder, self.graph_options)

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
        _check_mask(mask, prediction)
    group = section.output or f"{prediction.address.dataset}_{section.method}"
    if Path(group).is_absolute() or ".." in Path(group).parts:
        raise InputError(
            f"segmentation.output is {group}, but it must be a group inside of {prediction.container}: give a path "
            "without '/' in front and without '..'."
        )
    plan = Segmentation(prediction, mask, meaning, offsets, section, group)
    if isinstance(prediction, PredictedVolume):  # with the offsets that its network was trained with
        return plan
    parts = shuffled_parts(prediction, prediction.roi, SAMPLE_VOXELS)
    for roi in parts[:SAMPLES]:
        sample = read_values(prediction, mask, meaning, offsets, roi, section.excluded_sections)
        if offsets:
            check_signs(sample.fractions, offsets, str(prediction.address))
    return plan


def _meaning(prediction: Volume, section: SegmentationSection) -> Meaning:
    if section.input != "auto":
        return section.input
    predicted: Meaning | None = {"boundaries": "boundaries", "lsd": "descriptors"}.get(
        str(prediction.attributes.get("target"))
    )  # type: ignore[assignment]
    if predicted is not None:
        return predicted
    return "affinities" if prediction.axes == "czyx" else "objects"


def _check_mask(mask: Volume, prediction: Volume) -> None:
    check_same_voxels(mask, prediction)
    check_label_dtype(mask)
    if not mask.roi.contains(prediction.roi):
        raise DataError(
            f"{mask.address} covers {describe_roi(mask.roi)}, but the prediction {describe_roi(prediction.roi)}: "
            "name a mask that covers all of it, or set segmentation.mask to null."
        )


def segment(
    plan: Segmentation,
    *,
    overwrite: bool = False,
    num_workers: int = 1,
    workers: Workers | None = None,
    run_id: int | None = None,
) -> dict[str, Any]:
    """Run the stages that are not complete yet.

    Labels do not depend on the number and the order of workers, on kills and on retries.

    Args:
        plan: What to segment.
        overwrite: Replace the stages that were made with other options, and those after them.
        num_workers: Number of processes.
        workers: Workers of a workers file, instead of local processes.
        run_id: Id of the tracked run, for the provenance.

    Returns:
        Numbers of fragments and edges, and for each segmentation its address, threshold, number of objects, and number
        of objects and voxels removed by size.

    Raises:
        InputError: A stage was made with other options, and ``overwrite`` is False.
    """
    how: dict[str, Any] = {"num_workers": num_workers, "workers": workers}
    plan.is_finished(overwrite)  # refuses other options before edges of another score are made
    fragments, nodes, edges = make_graph(plan, overwrite=overwrite, run_id=run_id, **how)
    made = []
    for cut, name in plan.names().items():
        segments, removed = segments_at(plan, nodes, edges, cut)
        path = _write_table(plan, name, nodes["id"], segments)
        objects = int(segments.max(initial=0))
        options = {
            **_layout(plan),
            "dtype": np.uint32 if objects < 2**32 else np.uint64,
            "provenance": make_provenance(TOOL, plan.parameters(cut), plan.inputs, run_id),
        }
        task = partial(_segmentation_task, plan, fragments, {**plan.parameters(cut), "table": path.name})
        output = _output(plan, name, options, task, overwrite)
        run_blockwise(task(output), description="Segmentation", **how)
        for other in path.parent.glob(f"{Path(name).name}-*.npz"):  # of a segmentation that was replaced
            if other != path:
                other.unlink()
        made.append({"address": str(output.address), "threshold": cut, "objects": objects, **removed})
    return {
        "fragments": len(nodes["id"]),
        "edges": len(edges["u"]),
        "fragments_address": str(fragments.address),
        "segmentations": made,
    }


def make_graph(
    plan: Segmentation, *, overwrite: bool = False, run_id: int | None = None, **how: Any
) -> tuple[Volume, Table, dict[str, npt.NDArray[Any]]]:
    """Run the stages of fragments and edges, as far as they are not complete; arguments as for ``segment``.

    Returns:
        The fragments, the nodes of the graph in ascending order of their ids, and the edges with indices of nodes.
    """
    fragments = _make_fragments(plan, overwrite, run_id, how)
    _make_edges(plan, fragments, overwrite, how)
    nodes: Table = plan.graph.read_nodes()
    if not nodes:
        ids = np.zeros(0, np.uint64)
        nodes = {"id": ids, "size": np.zeros(0, np.int64), "is_seed": np.zeros(0, bool)}
    return fragments, nodes, _indexed(nodes["id"], plan.graph.read_edges())


def segments_at(
    plan: Segmentation, nodes: Table, edges: dict[str, npt.NDArray[Any]], cut: float | None
) -> tuple[Ids, dict[str, int]]:
    """Return the segment of each fragment at one threshold, 1..n or 0, and what was removed by size.

    Args:
        plan: What is segmented.
        nodes, edges: As ``make_graph`` returns them.
        cut: The threshold, or None for a method that has none.
    """
    segments = plan.section.chosen.segments(nodes["id"], nodes, edges, cut) if len(nodes["id"]) else nodes["id"]
    return _sized(segments, nodes["size"], plan.section)


def _make_fragments(plan: Segmentation, overwrite: bool, run_id: int | None, how: Mapping[str, Any]) -> Volume:
    method = plan.section.chosen
    stage = plan.options(*method.edge_options, *method.table_options)
    context = method.context(plan.offsets)

    def task(output: Volume) -> BlockTask:
        step = block_grid(output, plan.section.block_shape, context, None).step
        parameters = {**stage, **plan.graph_options, "voxels": math.prod(step), "mask": plan.mask is not None}
        parameters.pop("scoring")  # fragments do not depend on it
        shape = plan.section.block_shape
        return BlockTask(
            "fragments", output, plan.reads, fragments_of_block, parameters, shape, context, set_up=plan.set_up
        )

    options = {
        **_layout(plan),
        "dtype": np.uint64,
        "provenance": make_provenance(TOOL, stage, plan.inputs, run_id),
    }
    output = _output(plan, f"{plan.group}/fragments", options, task, overwrite)
    claimed = str(plan.folder.absolute())
    if plan.section.graph is not None:
        plan.graph.claim(claimed)
    if not output.complete and read_log(str(output.address)) is None:
        plan.graph.clear()
        shutil.rmtree(plan.folder / "graph", ignore_errors=True)
        if plan.section.graph is not None:
            plan.graph.claim(claimed)
    run_blockwise(task(output), description="Fragments", **how)
    return open_volume(output.address)


def _make_edges(plan: Segmentation, fragments: Volume, overwrite: bool, how: Mapping[str, Any]) -> None:
    step = block_grid(fragments, plan.section.block_shape, (0, 0, 0), None).step
    parameters = {
        **plan.options(*plan.section.chosen.table_options),
        **plan.graph_options,
        "voxels": math.prod(step),
        "mask": plan.mask is not None,
    }
    task = LedgerTask(
        "edges",
        fragments,
        (*plan.reads, str(fragments.address)),
        edges_of_block,
        parameters,
        plan.section.block_shape,
        place=plan.edges_folder,
        set_up=plan.set_up,
    )
    task.run(overwrite=overwrite and _is_stale(task), description="Edges", **how)


def _segmentation_task(
    plan: Segmentation, fragments: Volume, parameters: Mapping[str, Any], output: Volume
) -> BlockTask:
    inputs = (str(fragments.address),)
    return BlockTask("segmentation", output, inputs, segment_block, parameters, plan.section.block_shape)


def _layout(plan: Segmentation) -> dict[str, Any]:
    prediction = plan.prediction
    sizes = zip(plan.section.block_shape, prediction.spatial_shape, strict=True)
    return {
        "shape": prediction.spatial_shape,
        "voxel_size": prediction.require_voxel_size(),
        "offset": prediction.offset,
        "chunk_shape": tuple(min(CHUNK, block, length) for block, length in sizes),
    }


def _output(
    plan: Segmentation, name: str, options: dict[str, Any], task: Callable[[Volume], BlockTask], overwrite: bool
) -> Volume:
    """Create or open an output; with ``overwrite`` it is replaced only if its task has changed."""
    container = plan.prediction.container
    if overwrite and dataset_exists(container, name):
        there = open_volume(container, name, writable=True, allow_incomplete=True)
        overwrite = there.dtype != options["dtype"] or _is_stale(task(there))
    return create_or_resume_output(container, name, overwrite=overwrite, **options)


def _is_stale(task: BlockTask | LedgerTask) -> bool:
    """Return whether an earlier task with other options, or from other inputs, filled the output."""
    log = read_log(task.folder)
    return log is None or log.fingerprint != json.loads(json.dumps(task.fingerprint()))


def _indexed(ids: Ids, edges: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return the edges with indices into ``ids`` instead of ids."""
    if not edges:
        empty: npt.NDArray[Any] = np.zeros(0, np.int64)
        none = {"merge_score": empty.astype(np.float32)}
        none |= {f"{kind}_{what}": empty for kind in ("attraction", "repulsion") for what in ("sum", "count")}
        return {"u": empty, "v": empty, **none}
    return {**edges, **{end: np.searchsorted(ids, edges[end]) for end in ("u", "v")}}


def _sized(segments: Ids, sizes: npt.NDArray[np.int64], section: SegmentationSection) -> tuple[Ids, dict[str, int]]:
    """Remove segments by their size, renumber the others, and count what was removed."""
    totals = np.bincount(segments.astype(np.int64), sizes, int(segments.max(initial=0)) + 1).astype(np.int64)
    kept = (totals >= max(1, section.min_size)) & (totals <= (section.max_size or np.iinfo(np.int64).max))
    kept[0] = False
    new_ids = np.where(kept, np.cumsum(kept), 0).astype(np.uint64)
    removed = ~kept & (totals > 0)
    removed[0] = False
    counts = {"removed_objects": int(removed.sum()), "removed_voxels": int(totals[removed].sum())}
    return new_ids[segments.astype(np.int64)], counts


def _write_table(plan: Segmentation, name: str, ids: Ids, segments: Ids) -> Path:
    """Write a look-up table beside the outputs, under a name derived from its content, and return its path."""
    digest = hashlib.sha256(ids.tobytes() + segments.tobytes()).hexdigest()[:16]
    path = plan.folder / TABLES / f"{Path(name).name}-{digest}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: np.savez_compressed(file, fragments=ids, segments=segments))
    return path


@lru_cache(maxsize=1)
def _read_table(path: Path) -> tuple[Ids, Ids]:
    """Read a table, once in each process."""
    with np.load(path, allow_pickle=False) as table:
        return table["fragments"], table["segments"]


def fragments_of_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write the fragments of one block, with ids of its own, and their nodes; the inputs are prediction and mask."""
    read_roi = block.read_roi.intersect(block.output.roi)
    values = _values(block, parameters, read_roi)
    if not values.valid.any():
        return
    method = method_named(parameters["method"], parameters["options"])
    core = (block.write_roi - read_roi.begin).to_slices()
    fragments, ids = consecutive(method.fragments(values, block.number)[core])
    if not len(ids):
        return
    within = dataclasses.replace(values, stored=values.stored[(slice(None), *core)], valid=values.valid[core])
    local = np.arange(1, len(ids) + 1, dtype=np.uint64)
    nodes = node_table(fragments, block.write_roi, values.voxel_size)
    nodes.update(method.node_columns(within, fragments, local))
    first = np.uint64(block.number * parameters["voxels"])
    nodes["id"] = nodes["id"] + first
    fragments[fragments > 0] += first
    block.output.write(fragments, block.write_roi)
    _graph_of(block.folder.parent, parameters).write_nodes(block.number, nodes)


def edges_of_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write the edges that one block finds; the inputs are prediction, mask if any, and fragments."""
    fragments = block.inputs[-1]
    first = block.number * parameters["voxels"] + 1
    reader = BlockReader(
        block.write_roi,
        fragments.roi,
        tuple((z, y, x) for z, y, x in parameters["offsets"]),
        first,
        first + parameters["voxels"] - 1,
        lambda roi: _values(block, parameters, roi),
        lambda roi: fragments.read(roi, outside="constant"),
    )
    method = method_named(parameters["method"], parameters["options"])
    _graph_of(block.folder.parent.parent, parameters).write_edges(block.number, method.edges(reader))


def segment_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write one block of the segmentation; the input is the fragments."""
    ids, segments = _read_table(block.folder.parent / TABLES / parameters["table"])
    fragments = block.inputs[0].read(block.write_roi)
    if fragments.any():
        if not np.isin(count_ids(fragments)[0], ids).all():
            raise DataError(
                f"{block.inputs[0].address} has fragments that the graph beside it lacks: remove the group that holds "
                "both, and segment again."
            )
        block.output.write(relabel(fragments, ids, segments.astype(block.output.dtype)), block.write_roi)


def _values(block: Block, parameters: Mapping[str, Any], roi: Roi) -> Values:
    mask = block.inputs[1] if parameters["mask"] else None
    offsets = tuple((z, y, x) for z, y, x in parameters["offsets"])
    prediction = block.inputs[0] if block.prepared is None else block.prepared
    return read_values(prediction, mask, parameters["meaning"], offsets, roi, parameters.get("excluded_sections", ()))


def _graph_of(folder: Path, parameters: Mapping[str, Any]) -> GraphStore:
    return open_graph(parameters["graph"] or folder / "graph", parameters.get("scoring", ""))


def node_table(fragments: Ids, roi: Roi, voxel_size: Sequence[float]) -> dict[str, npt.NDArray[Any]]:
    """Return id, size in voxels, and centre z, y, x in nm of each fragment in an ROI.

    >>> labels = np.array([[[1, 1, 0, 2]]], np.uint64)
    >>> nodes = node_table(labels, Roi((0, 0, 0), (1, 1, 4)), (10, 10, 10))
    >>> nodes["size"].tolist(), nodes["x"].tolist()
    ([2, 1], [10.0, 35.0])
    """
    rows = object_rows(fragments, roi.begin)
    table: dict[str, npt.NDArray[Any]] = {"id": rows["id"], "size": rows["size"]}
    for axis, size in zip("zyx", voxel_size, strict=True):
        table[axis] = (rows[f"{axis}_sum"] / rows["size"] + 0.5) * size
    return table
