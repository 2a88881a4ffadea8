"""The evaluation run of segmentations by skeletons: ids at the nodes, looked up block by block, then scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block
from incasem_like.blockwise.job import private_folder
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.disk import write_whole
from incasem_like.errors import DataError, InputError
from incasem_like.evaluation.instance_run import note_parents, short_names
from incasem_like.evaluation.seen import OpenStore, Policy, Seen, check_seen
from incasem_like.evaluation.skeleton_scores import FragmentGraph, edits_needed, site_scores, skeleton_scores
from incasem_like.evaluation.skeletons import Sites, Skeletons, read_sites, read_skeletons
from incasem_like.formatting.workers import useful_workers
from incasem_like.graphs import open_graph
from incasem_like.tracking import run_experiment
from incasem_like.tracking.values import without_credentials
from incasem_like.volumes import Roi, Volume, dataset_exists, describe_roi, open_volume
from incasem_like.volumes.chunk_files import digest
from incasem_like.volumes.parts import aligned_parts, grown_block
from incasem_like.volumes.values import check_label_dtype

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.tracking import Run, RunStore

VOXELS_AT_ONCE, VOXELS_PER_READ = 1 << 23, 1 << 18
COLUMNS = ("voi_split", "voi_merge", "expected_run_length", "normalized_erl", "merging_segments", "split_skeletons")
EDITS = ("splits_needed", "merges_needed", "edits_needed")


@dataclass(frozen=True, kw_only=True)
class SkeletonEvaluation:
    """Evaluation request: the tracked configuration of an evaluation run.

    Attributes:
        skeletons: Files, a folder of SWC files, or a MongoDB URL, see ``read_skeletons``.
        segmentations: Addresses of the segmentations.
        sites: CSV of synaptic sites, or None.
        scale: Length in nm of one unit of the positions.
        node_mask, node_components: Of skeletons in MongoDB: which nodes count, and which skeleton each belongs to.
        edits: Count the edits that would correct the segmentation; it needs fragments and graph beside it.
        graph: Graph store, if it is not beside the segmentation.
        intersect: Leave out nodes outside of a segmentation, instead of raising an error.
        seen: What to do if the model has seen the voxels of nodes.
    """

    skeletons: tuple[str, ...]
    segmentations: tuple[str, ...]
    sites: str | None = None
    scale: float = 1.0
    node_mask: str | None = None
    node_components: str | None = None
    edits: bool = False
    graph: str | None = None
    intersect: bool = False
    seen: Policy = "refuse"

    def read(self) -> tuple[Skeletons, Sites | None]:
        """Read the skeletons and the sites.

        Raises:
            DataError: A file is missing or wrong.
            InputError: The scale is not above 0, a segmentation is named twice, or an option has no effect.
        """
        if len(set(self.segmentations)) < len(self.segmentations):
            raise InputError("A segmentation is named twice: name each once.")
        if self.graph is not None and not self.edits:
            raise InputError("--graph is the graph for --edits: add --edits, or leave --graph out.")
        if (self.node_mask or self.node_components) and not self.skeletons[0].startswith("mongodb"):
            raise InputError("--node_mask and --node_components are for skeletons in MongoDB: leave them out.")
        if not self.scale > 0 or not math.isfinite(self.scale):
            raise InputError(f"--scale is {self.scale:g}: give the length in nm of one unit of the positions.")
        options = {"node_mask": self.node_mask, "node_components": self.node_components}
        skeletons = read_skeletons(self.skeletons, self.scale, **options)
        return skeletons, read_sites(self.sites, self.scale) if self.sites else None


def ids_at(
    volume: Volume, voxels: npt.NDArray[np.int64], num_workers: int = 1, workers: Workers | None = None
) -> npt.NDArray[np.uint64]:
    """Return the ids of a label volume at some voxels, reading only the blocks that contain any.

    Args:
        volume: The labels.
        voxels: (n, 3) absolute voxels inside the volume.
        num_workers, workers: As for ``run_blockwise``.
    """
    path = private_folder("nodes") / f"{digest(voxels.tolist())[:24]}.npy"
    write_whole(path, lambda file: np.save(file, voxels, allow_pickle=False))
    block_shape = grown_block(volume, volume.roi, VOXELS_AT_ONCE)
    task = LedgerTask("nodes", volume, (str(volume.address),), look_up_block, {"nodes": str(path)}, block_shape)
    task.run(num_workers=useful_workers(num_workers, volume.roi.size), workers=workers, description="Nodes")
    found = np.zeros(len(voxels), np.uint64)
    for rows in task.results():
        found[rows[:, 0].astype(np.int64)] = rows[:, 1]
    task.forget()
    path.unlink(missing_ok=True)
    return found


@lru_cache(maxsize=1)
def _nodes(path: str) -> npt.NDArray[np.int64]:
    return np.asarray(np.load(path, allow_pickle=False), np.int64)


def look_up_block(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[np.uint64]:
    """Return (n, 2): the index of each node in the block, and its id; the input is the label volume."""
    nodes = _nodes(parameters["nodes"])
    rows = [np.zeros((0, 2), np.uint64)]
    inside = _inside(nodes, block.write_roi)
    if len(inside):
        for part in aligned_parts(block.inputs[0], block.write_roi, VOXELS_PER_READ):
            chosen = inside[_inside(nodes[inside], part)]
            if len(chosen):
                ids = block.inputs[0].read(part)[tuple((nodes[chosen] - np.array(part.begin)).T)]
                rows.append(np.column_stack([chosen.astype(np.uint64), ids.astype(np.uint64)]))
    return np.concatenate(rows)


def _inside(nodes: npt.NDArray[np.int64], roi: Roi) -> npt.NDArray[np.intp]:
    return np.flatnonzero(((nodes >= np.array(roi.begin)) & (nodes < np.array(roi.end))).all(axis=1))


def evaluate_skeletons_as_run(
    request: SkeletonEvaluation,
    *,
    store: RunStore | None,
    open_store: OpenStore | None = None,
    num_workers: int = 1,
    workers: Workers | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Score segmentations by skeletons, and track request, inputs, scores and result as a run.

    Args:
        request: The evaluation request.
        store: Run store, of kind ``evaluations``; None does not track the run.
        open_store: Opens the stores in which the lineage of segmentations is looked up.
        num_workers: Maximum number of processes.
        workers: Workers of a workers file, instead of local processes.
        **options: run_name, comment, run_id, as ``tracking.run_experiment`` takes them.

    Returns:
        ``scores`` by address of the segmentation, ``best`` (the one with the highest normalised expected run length,
        with ``edits`` the fewest edits), and the ``run_id``, 0 for a run that is not tracked.

    Raises:
        DataError: Nodes lie outside of a segmentation, or it is not one of labels, or it lacks its graph.
    """
    skeletons, sites = request.read()
    placed = [_Placed.of(address, skeletons, sites, request, open_store) for address in request.segmentations]

    def measure(run: Run) -> dict[str, Any]:
        run.inputs([one.volume.as_input() for one in placed])
        note_parents(run, placed[0].seen.runs)
        scores: dict[str, dict[str, Any]] = {}
        for step, one in enumerate(placed):
            found = {**one.scores(request, num_workers, workers), "seen": one.seen.record()}
            plain = {key: None if isinstance(value, float) and math.isnan(value) else value
                     for key, value in found.items()}  # fmt: skip
            scores[str(one.volume.address)] = plain
            for name, value in plain.items():
                if isinstance(value, int | float):
                    run.log_scalar(name, value, step)
        if request.edits:
            best = min(scores, key=lambda name: scores[name]["edits_needed"])
        else:
            best = max(scores, key=lambda name: scores[name]["normalized_erl"] or 0.0)
        return {"scores": scores, "best": best, "run_id": run.id}

    config = without_credentials(asdict(request))
    return run_experiment(name="evaluate_skeletons", config=config, main=measure, store=store, **options)


@dataclass(frozen=True)
class _Placed:
    """Skeletons and sites in the voxels of a segmentation.

    Attributes:
        volume: The segmentation.
        skeletons: Those inside, with their voxels ``nodes``; ``left_out`` is the number of nodes outside.
        sites: Those inside, with their voxels ``site_nodes``, or None.
        seen: What the model has seen of the nodes' bounding box.
    """

    volume: Volume
    skeletons: Skeletons
    nodes: npt.NDArray[np.int64]
    left_out: int
    sites: Sites | None
    site_nodes: npt.NDArray[np.int64]
    seen: Seen

    @classmethod
    def of(
        cls, address: str, skeletons: Skeletons, sites: Sites | None, request: SkeletonEvaluation,
        open_store: OpenStore | None,
    ) -> _Placed:  # fmt: skip
        volume = open_volume(address)
        volume.require_zyx()
        check_label_dtype(volume)
        nodes, inside = _voxels_of(volume, skeletons.positions)
        outside = int(np.count_nonzero(~inside))
        if not inside.any() or (outside and not request.intersect):
            first = np.flatnonzero(~inside)[0]
            raise DataError(
                f"{outside} of {len(inside)} skeleton nodes lie outside of {address}, the first in voxel "
                f"{nodes[first].tolist()} (it covers {describe_roi(volume.roi)}): correct --scale (nm per unit), or "
                "add --intersect to leave them out."
            )
        box = Roi(nodes[inside].min(axis=0).tolist(), (np.ptp(nodes[inside], axis=0) + 1).tolist())
        seen = check_seen(volume, [], box, open_store, request.seen)
        for begin, end in seen.left_out:
            inside &= ~((nodes >= np.array(begin)) & (nodes < np.array(end))).all(axis=1)
        if not inside.any():
            raise InputError(f"The model behind {address} has seen all skeleton nodes: add --seen score.")
        site_nodes = np.zeros((0, 3), np.int64)
        if sites is not None:
            site_nodes, kept = _voxels_of(volume, sites.positions)
            if not kept.all() and not request.intersect:
                raise DataError(
                    f"{np.count_nonzero(~kept)} of {len(kept)} synaptic sites lie outside of {address}: correct "
                    "--scale, or add --intersect to leave them out."
                )
            sites, site_nodes = sites.where(kept), site_nodes[kept]
        return cls(volume, skeletons.where(inside), nodes[inside], outside, sites, site_nodes, seen)

    def scores(self, request: SkeletonEvaluation, num_workers: int, workers: Workers | None) -> dict[str, Any]:
        segments = ids_at(self.volume, self.nodes, num_workers, workers)
        found = {**skeleton_scores(self.skeletons, segments), "nodes_outside": self.left_out}
        if self.sites is not None and len(self.sites.skeletons):
            found |= site_scores(self.sites, ids_at(self.volume, self.site_nodes, num_workers, workers))
        if request.edits:
            fragments, graph, threshold = graph_beside(self.volume, request.graph)
            at_nodes = ids_at(fragments, self.nodes, num_workers, workers)
            if not np.isin(at_nodes[at_nodes > 0], graph.ids).all():
                raise DataError(
                    f"The graph lacks fragments of {self.volume.address}, so it is that of another segmentation: name "
                    "the right one with --graph."
                )
            found |= edits_needed(self.skeletons, at_nodes, segments, graph, threshold)
        return found


def _voxels_of(
    volume: Volume, positions: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the voxel of each position in nm, and whether it lies inside the volume."""
    voxels = np.floor(positions / np.array(volume.require_voxel_size()) + 1e-9).astype(np.int64)
    inside = (voxels >= np.array(volume.roi.begin)) & (voxels < np.array(volume.roi.end))
    return voxels, inside.all(axis=1)


def graph_beside(segmentation: Volume, graph: str | None = None) -> tuple[Volume, FragmentGraph, float]:
    """Return fragments, their graph, and the threshold that a segmentation was made with.

    Args:
        segmentation: A segmentation of this package, in one group with its fragments.
        graph: Its graph store; None for the files in the group.

    Raises:
        DataError: It lacks fragments, threshold, or edges with scores.
        InputError: The store holds the graph of another segmentation.
    """
    group = segmentation.dataset.rpartition("/")[0]
    made = (segmentation.provenance or {}).get("parameters") or {}
    threshold, scoring = made.get("threshold"), str((made.get("options") or {}).get("scoring") or "")
    if threshold is None or not dataset_exists(segmentation.container, f"{group}/fragments"):
        raise DataError(
            f"{segmentation.address} has no fragments beside it, or was made without a threshold, so edits cannot be "
            "counted: leave --edits out, or segment with segmentation.method=watershed."
        )
    store = open_graph(graph or Path(segmentation.container) / group / "graph", scoring)
    nodes, edges = store.read_nodes(), store.read_edges()
    if not nodes or "merge_score" not in edges:
        raise DataError(f"The graph of {segmentation.address} has no edges with scores: name its store with --graph.")
    if graph is not None and "://" in graph:
        store.claim(str((Path(segmentation.container) / group).absolute()))
    ids = nodes["id"]
    if not (np.isin(edges["u"], ids) & np.isin(edges["v"], ids)).all():
        raise DataError(f"The graph of {segmentation.address} has edges of unknown fragments: segment again.")
    indices = np.stack([np.searchsorted(ids, edges[end]) for end in ("u", "v")], axis=1)
    scores = edges["merge_score"].astype(np.float64)
    return (
        open_volume(segmentation.container, f"{group}/fragments"),
        FragmentGraph(ids, indices.astype(np.int64), scores),
        float(threshold),
    )


def skeleton_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a result as rows of a table: the headings, then a row for each segmentation."""
    first = next(iter(result["scores"].values()))
    columns = [name for name in (*COLUMNS, *EDITS, "synapse_voi_split", "synapse_voi_merge") if name in first]
    rows = [["segmentation", *columns, "held out"]]
    for name, scores in zip(short_names(list(result["scores"])), result["scores"].values(), strict=True):
        cells = [_cell(scores[column]) for column in columns]
        rows.append([name, *cells, scores["seen"]["held_out"]])
    return rows


def _cell(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
