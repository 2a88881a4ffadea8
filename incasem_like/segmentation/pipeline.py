"""Segmentation of volumes of any size in stages: fragments, edges, look-up tables, segmentation.

Fragments get ids that are unique in the volume; edges join them within and across blocks; a look-up table gives the
object of each fragment. Each stage is resumed by itself and is skipped once it is complete with the same options.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask, run_blockwise
from incasem_like.blockwise.done_log import read_log
from incasem_like.blockwise.grid import block_grid
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.disk import only_writer
from incasem_like.errors import DataError
from incasem_like.graphs import Table
from incasem_like.segmentation.label_arrays import consecutive, object_rows, relabel
from incasem_like.segmentation.labelling import label_volume
from incasem_like.segmentation.methods.base import BlockReader, Ids, Labelling
from incasem_like.segmentation.mutex_watershed import seeds_of, with_seed_ids
from incasem_like.segmentation.planning import Segmentation, block_values, graph_of, read_block
from incasem_like.segmentation.settings import method_named
from incasem_like.segmentation.stages import (
    TABLES,
    TOOL,
    is_stale,
    output_layout,
    read_table,
    sized_segments,
    stage_output,
    write_segments,
)
from incasem_like.segmentation.values import is_stored
from incasem_like.volumes import Roi, Volume, make_provenance, open_volume

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers


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
        InputError: A stage was made with other options, and ``overwrite`` is False; or another process is writing it.
    """
    how: dict[str, Any] = {"num_workers": num_workers, "workers": workers}
    with only_writer(plan.folder):
        plan.is_finished(overwrite)  # refuses other options before edges of another score are made
        if isinstance(plan.section.chosen, Labelling):
            ((cut, name),) = plan.names().items()
            output, sizes, removed = label_volume(plan, name, overwrite=overwrite, run_id=run_id, **how)
            made = [{"address": str(output.address), "threshold": cut, "objects": len(sizes), **removed}]
            return {"segmentations": made}
        fragments, nodes, edges = make_graph(plan, overwrite=overwrite, run_id=run_id, **how)
        made = []
        for cut, name in plan.names().items():
            segments, removed = segments_at(plan, nodes, edges, cut)
            table, task = (nodes["id"], segments), partial(_segmentation_task, plan, fragments)
            output = write_segments(plan, name, cut, table, task, overwrite=overwrite, run_id=run_id, **how)
            objects = len(np.unique(segments[segments > 0]))
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
    if isinstance(plan.section.chosen, Labelling):  # whole objects, before any is removed by its size
        section = plan.section.model_copy(update={"min_size": 1, "max_size": None})
        unfiltered = dataclasses.replace(plan, section=section)
        name = f"{plan.group}/fragments"
        fragments, sizes, _ = label_volume(unfiltered, name, overwrite=overwrite, run_id=run_id, **how)
        nodes = {"id": np.arange(1, len(sizes) + 1, dtype=np.uint64), "size": sizes}
        return fragments, nodes, _indexed(nodes["id"], {})
    fragments = _make_fragments(plan, overwrite, run_id, how)
    _make_edges(plan, fragments, overwrite, how)
    nodes = plan.graph.read_nodes() or {"id": np.zeros(0, np.uint64), "size": np.zeros(0, np.int64)}
    return fragments, nodes, _indexed(nodes["id"], plan.graph.read_edges())


def segments_at(
    plan: Segmentation, nodes: Table, edges: dict[str, npt.NDArray[Any]], cut: float | None
) -> tuple[Ids, dict[str, int]]:
    """Return the segment of each fragment at one threshold, 1..n or 0, and what was removed by size.

    With seeds, an object has the id of its seed, others have larger ones.

    Args:
        plan: What is segmented.
        nodes, edges: As ``make_graph`` returns them.
        cut: The threshold, or None for a method that has none.
    """
    segments = plan.section.chosen.segments(nodes["id"], nodes, edges, cut) if len(nodes["id"]) else nodes["id"]
    segments, removed = sized_segments(segments, nodes["size"], plan.section)
    return with_seed_ids(segments, nodes["seed"]) if "seed" in nodes else segments, removed


def _make_fragments(plan: Segmentation, overwrite: bool, run_id: int | None, how: Mapping[str, Any]) -> Volume:
    method = plan.section.chosen
    stage = plan.options(*method.edge_options, *method.table_options)
    context = method.context(plan.offsets)

    def task(output: Volume) -> BlockTask:
        step = block_grid(output, plan.section.block_shape, context, None).step
        parameters = {**stage, **plan.marks, "graph": plan.section.graph, "voxels": math.prod(step)}
        shape = plan.section.block_shape
        return BlockTask(
            "fragments", output, plan.reads, fragments_of_block, parameters, shape, context, set_up=plan.set_up
        )

    layout = output_layout(plan)
    sizes = zip(plan.section.block_shape, layout["chunk_shape"], layout["shape"], strict=True)
    steps = [(-(-block // chunk) * chunk, length) for block, chunk, length in sizes]  # blocks are of whole chunks
    highest = math.prod(-(-length // step) * step for step, length in steps)
    options = {
        **layout,
        "dtype": np.uint32 if highest < 2**32 else np.uint64,
        "provenance": make_provenance(TOOL, stage, plan.inputs, run_id),
    }
    claimed = str(plan.folder.absolute())
    if plan.section.graph is not None:
        plan.graph.claim(claimed)
    output = stage_output(plan, f"{plan.group}/fragments", options, task, overwrite)
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
        **plan.marks,
        "voxels": math.prod(step),
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
    task.run(overwrite=overwrite and is_stale(task), description="Edges", **how)


def _segmentation_task(
    plan: Segmentation, fragments: Volume, output: Volume, parameters: Mapping[str, Any]
) -> BlockTask:
    inputs = (str(fragments.address),)
    return BlockTask("segmentation", output, inputs, segment_block, parameters, plan.section.block_shape)


def _indexed(ids: npt.NDArray[Any], edges: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return the edges with indices into ``ids`` instead of ids."""
    if not edges:
        empty: npt.NDArray[Any] = np.zeros(0, np.int64)
        none = {"merge_score": empty.astype(np.float32)}
        none |= {f"{kind}_{what}": empty for kind in ("attraction", "repulsion") for what in ("sum", "count")}
        return {"u": empty, "v": empty, **none}
    return {**edges, **{end: np.searchsorted(ids, edges[end]) for end in ("u", "v")}}


def fragments_of_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write the fragments of one block, with ids of its own, and their nodes; the inputs are prediction and mask."""
    read_roi = block.read_roi.intersect(block.output.roi)
    values = block_values(block, parameters, read_roi)
    if values is None:
        return
    method = method_named(parameters["method"], parameters["options"])
    core = (block.write_roi - read_roi.begin).to_slices()
    fragments, ids = consecutive(method.fragments(values, block.number)[core])
    if not len(ids):
        return
    nodes = node_table(fragments, block.write_roi, values.voxel_size)
    first = np.uint64(block.number * parameters["voxels"])
    if values.seeds is not None:
        nodes["seed"] = seeds_of(fragments, values.seeds[core], len(ids))
    nodes["id"] = nodes["id"] + first
    fragments[fragments > 0] += first
    block.output.write(fragments.astype(block.output.dtype), block.write_roi)
    graph_of(block.folder.parent, parameters).write_nodes(block.number, nodes)


def edges_of_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write the edges that one block finds; the inputs are prediction, mask if any, and fragments."""
    fragments = block.inputs[-1]
    if not is_stored(fragments, block.write_roi):
        return
    first = block.number * parameters["voxels"] + 1
    reader = BlockReader(
        block.write_roi,
        fragments.roi,
        tuple((z, y, x) for z, y, x in parameters["offsets"]),
        first,
        first + parameters["voxels"] - 1,
        lambda roi: read_block(block, parameters, roi),
        lambda roi: fragments.read(roi, outside="constant"),
    )
    method = method_named(parameters["method"], parameters["options"])
    graph_of(block.folder.parent.parent, parameters).write_edges(block.number, method.edges(reader))


def segment_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write one block of the segmentation; the input is the fragments."""
    if not is_stored(block.inputs[0], block.write_roi):
        return
    ids, segments = read_table(block.folder.parent / TABLES / parameters["table"])
    fragments = block.inputs[0].read(block.write_roi)
    try:
        found = relabel(fragments, ids, segments.astype(block.output.dtype), strict=True)
    except KeyError as error:
        raise DataError(
            f"{block.inputs[0].address} has the fragment {error}, which the graph beside it lacks: remove the group "
            "that holds both, and segment again."
        ) from error
    block.output.write(found, block.write_roi)


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
