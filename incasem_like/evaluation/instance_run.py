"""The evaluation run of instance segmentations: contingency tables of blocks, added up, scored and tracked."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import DataError, InputError
from incasem_like.evaluation.blocks import (
    ARTIFACT,
    MOST_ROWS,
    OBJECT_SCORES,
    InstanceParts,
    ObjectParts,
    compare,
    intervals,
    pack,
    part_shape,
    parts_within,
)
from incasem_like.evaluation.evaluate import covered_roi
from incasem_like.evaluation.instances import Contingency, largest_errors, object_scores, partition_scores
from incasem_like.evaluation.seen import OpenStore, Policy, Seen, check_seen, without_boxes
from incasem_like.formatting.workers import useful_workers
from incasem_like.processes import keep_freed_memory
from incasem_like.tracking import run_experiment
from incasem_like.volumes import Roi, Volume, open_volume
from incasem_like.volumes.agreement import check_same_voxels
from incasem_like.volumes.chunk_files import digest
from incasem_like.volumes.parts import aligned_parts, grown_block
from incasem_like.volumes.values import check_label_dtype, check_labels, inside

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.tracking import Run, RunStore

Rows = tuple[npt.NDArray[np.int64], Contingency]  # pairs of ids and the part of each; pairs recur in parts
VOXELS_AT_ONCE = 1 << 23
COLUMNS = ("voi", "voi_split", "voi_merge", "nvi", "adapted_rand_error", "cremi_score", "f1", "panoptic_quality")
POOLED = "all volumes"
ROI_ADVICE = "give --intersect to evaluate the common part {common}, or --offset and --shape."


@dataclass(frozen=True, kw_only=True)
class InstanceEvaluation:
    """Evaluation request: the tracked configuration of an evaluation run.

    Attributes:
        labels: Addresses of the ground truth: instance ids, 0 = not labelled.
        segmentations: Addresses of the segmentations to compare with it, such as those of several thresholds. If there
            are several volumes of labels, one for each, whose counts are pooled.
        mask: Addresses of masks: none, or one for each volume of labels; a voxel counts where it is non-zero.
        both_labelled: Leave out voxels that a segmentation does not label.
        offset, shape: The ROI in absolute voxels (z, y, x); None for all of each segmentation.
        intersect: Evaluate the intersection of all volumes, instead of raising an error when one lacks a part.
        seen: What to do with voxels that the model has seen, see ``evaluation.seen``.
    """

    labels: tuple[str, ...]
    segmentations: tuple[str, ...]
    mask: tuple[str, ...] = ()
    both_labelled: bool = False
    offset: tuple[int, int, int] | None = None
    shape: tuple[int, int, int] | None = None
    intersect: bool = False
    seen: Policy = "refuse"

    def prepare(self, open_store: OpenStore | None = None) -> list[Prepared]:
        """Open and check the volumes, and return what to count for each segmentation.

        Args:
            open_store: Opens the stores in which the lineage of segmentations is looked up; None looks up none.

        Raises:
            DataError: The volumes differ in their voxels, do not cover the ROI, or do not hold labels.
            InputError: The request contradicts itself, or the model has seen voxels; see ``check_seen``.
        """
        if (self.offset is None) != (self.shape is None):
            raise InputError("--offset and --shape belong together: give both, in voxels, or none.")
        if self.shape is not None and min(self.shape) < 1:
            raise InputError(f"--shape is {' '.join(map(str, self.shape))}: give three numbers of voxels above 0.")
        if len(self.labels) > 1 and len(self.labels) != len(self.segmentations):
            raise InputError(
                f"There are {len(self.labels)} volumes of labels and {len(self.segmentations)} segmentations: give one "
                "segmentation for each volume, in the same order, or one volume of labels."
            )
        if len(self.mask) not in (0, len(self.labels)):
            raise InputError(
                f"There are {len(self.mask)} masks and {len(self.labels)} volumes of labels: give as many."
            )
        if len(set(self.segmentations)) < len(self.segmentations) and len(self.labels) == 1:
            raise InputError("A segmentation is named twice: name each once.")
        prepared = []
        for number, address in enumerate(self.segmentations):
            own = number if len(self.labels) > 1 else 0
            segmentation = open_volume(address)
            others = [open_volume(known[own]) for known in (self.labels, self.mask) if known]
            roi = segmentation.roi
            if self.offset is not None and self.shape is not None:
                asked = Roi(self.offset, self.shape)
                roi = covered_roi(segmentation, segmentation, asked, self.intersect, ROI_ADVICE)
            for volume in (segmentation, *others):
                check_same_voxels(volume, segmentation)
                check_label_dtype(volume)
                roi = covered_roi(volume, segmentation, roi, self.intersect, ROI_ADVICE)
            seen = check_seen(segmentation, others, roi, open_store, self.seen)
            task = counting_task("evaluate instances", segmentation, others, roi, seen.left_out)
            about = [[volume.as_input() for volume in others], task.parameters, self.both_labelled]
            prepared.append(Prepared(task, seen, digest(about)))
        return prepared


def counting_task(
    name: str, segmentation: Volume, others: Sequence[Volume], roi: Roi, left_out: Sequence[Any] = ()
) -> LedgerTask:
    """Return the task that counts a segmentation against labels, and a mask if it is given, by ``count_block``."""
    parts = part_shape(roi, segmentation.require_voxel_size())
    return LedgerTask(
        name,
        segmentation,
        tuple(str(volume.address) for volume in (segmentation, *others)),
        count_block,
        {"roi": [list(roi.begin), list(roi.shape)], "parts": list(parts), "left_out": list(left_out)},
        grown_block(segmentation, roi, VOXELS_AT_ONCE),
        roi,
    )


@dataclass(frozen=True)
class Prepared:
    """What to count for one segmentation.

    Attributes:
        task: The blockwise task.
        seen: What of it the model has seen.
        evaluated: Hash of what it is compared with: labels, mask, ROI and parts.
    """

    task: LedgerTask
    seen: Seen
    evaluated: str

    @property
    def segmentation(self) -> str:
        """Address of the segmentation."""
        return self.task.inputs[0]

    def count(self, num_workers: int, workers: Workers | None) -> Rows:
        """Count block by block; return the part of each row, and the rows: pairs of ids, which recur in parts."""
        here = useful_workers(num_workers, int(self.task.grid.roi.size)) if self.task.grid is not None else 1
        self.task.run(num_workers=here, workers=workers, description="Evaluating")
        rows = np.concatenate([np.zeros((0, 7), np.uint64), *self.task.results()])
        return rows[:, 0].astype(np.int64), Contingency.from_array(rows[:, 1:])


def count_block(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[np.uint64]:
    """Count one block; the inputs are the segmentation, the labels and the mask, if any.

    Returns:
        (n, 7): number of the part of the evaluated ROI, and ``Contingency.to_array``.
    """
    keep_freed_memory()
    segmentation, labels, *masks = block.inputs
    whole = Roi(*parameters["roi"])
    tables: dict[int, list[Contingency]] = {}
    for read in aligned_parts(segmentation, block.write_roi, VOXELS_AT_ONCE):
        truth, predicted = labels.read(read), segmentation.read(read)
        check_labels(truth, str(labels.address), read.begin)
        check_labels(predicted, str(segmentation.address), read.begin)
        valid = inside(masks[0].read(read), str(masks[0].address), read.begin) if masks else None
        unseen = without_boxes(truth.shape, read.begin, parameters["left_out"])
        valid = unseen if valid is None else valid if unseen is None else valid & unseen
        for number, part in parts_within(whole, parameters["parts"], read):
            there = (part - read.begin).to_slices()
            chosen = None if valid is None else valid[there]
            tables.setdefault(number, []).append(Contingency.of(truth[there], predicted[there], chosen, part.begin))
    merged = {number: Contingency.merged(found).to_array() for number, found in tables.items()}
    rows = [np.column_stack([np.full(len(table), number, np.uint64), table]) for number, table in merged.items()]
    return np.concatenate(rows)


def score(table: Contingency, both_labelled: bool = False) -> dict[str, Any]:
    """Return all scores of a contingency table, as plain values; None where undefined.

    Raises:
        DataError: No voxel has a ground-truth id.
    """
    labelled = table.labelled_by_both if both_labelled else table.labelled
    return {
        **pooled_score([table], both_labelled),
        "largest_splits": largest_errors(labelled, "split"),
        "largest_merges": largest_errors(labelled, "merge"),
    }


def pooled_score(tables: Sequence[Contingency], both_labelled: bool = False) -> dict[str, Any]:
    """Return the scores of several volumes together, without the largest errors; see ``score``.

    Ids of different volumes are those of different objects.
    """
    voxels = sum(int(table.labelled.counts.sum()) for table in tables)
    if not voxels:
        raise DataError("The ground truth has no object in the evaluated voxels: check labels, mask and ROI.")
    covered = sum(int(table.labelled_by_both.counts.sum()) for table in tables)
    labelled = [table.labelled_by_both if both_labelled else table.labelled for table in tables]
    found = {
        **partition_scores(Contingency.pooled(labelled, with_background=True)),
        **object_scores(Contingency.pooled(tables)),
        "voxels": sum(int(table.counts.sum()) for table in labelled),
        "coverage": covered / voxels,
    }
    found["f1"] = found["thresholds"][0]["f1"]
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in found.items()}


def evaluate_instances_as_run(
    request: InstanceEvaluation,
    *,
    store: RunStore | None,
    open_store: OpenStore | None = None,
    draw: Callable[[str, str, Mapping[str, Any]], bytes | None] | None = None,
    num_workers: int = 1,
    workers: Workers | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate block by block, and track request, inputs, scores and result as a run.

    The tables of finished blocks survive an interruption; the same request resumes from them, as another run.

    Args:
        request: The evaluation request.
        store: Run store, of kind ``evaluations``; None does not track the run.
        open_store: Opens the stores in which the lineage of segmentations is looked up.
        draw: Draws the worst errors of a segmentation, given its address, that of the labels, and its scores.
        num_workers: Maximum number of processes.
        workers: Workers of a workers file, instead of local processes.
        **options: run_name, comment, run_id, as ``tracking.run_experiment`` takes them.

    Returns:
        ``scores`` by address of the segmentation, with ``intervals`` and what the model has ``seen``; if there are
        several volumes, also of all together; ``best`` (the one with the lowest VOI, None if all are undefined, or all
        volumes), ``comparison`` (a sentence on the best two), and the ``run_id``, 0 for a run that is not tracked.
    """
    prepared = request.prepare(open_store)
    pooled = len(request.labels) > 1

    def measure(run: Run) -> dict[str, Any]:
        volumes = {address: open_volume(address) for one in prepared for address in one.task.inputs}
        run.inputs([{**volume.as_input(), "address": name} for name, volume in volumes.items()])
        note_parents(run, prepared[0].seen.runs)
        scores: dict[str, dict[str, Any]] = {}
        tables, rows = [], []
        for one in prepared:
            rows.append(one.count(num_workers, workers))
            tables.append(Contingency.merged([rows[-1][1]]))
            scores[one.segmentation] = {**score(tables[-1], request.both_labelled), "seen": one.seen.record()}
        groups = {one.segmentation: [row] for one, row in zip(prepared, rows, strict=True)}
        if pooled:
            marks = dict.fromkeys(one.seen.mark for one in prepared)
            scores[POOLED] = {**pooled_score(tables, request.both_labelled), "seen": {"held_out": "; ".join(marks)}}
            groups = {POOLED: rows}
        compared = {name: [_compared(*row, request.both_labelled) for row in group] for name, group in groups.items()}
        objects = {name: object_parts(group) for name, group in groups.items()}
        run.add_artifact(pack_parts(compared, objects), ARTIFACT)
        with_parts = {name: found for name, group in compared.items() if (found := instance_parts(group)) is not None}
        for name, found in with_parts.items():
            scores[name]["intervals"] = intervals(found) | (intervals(of) if (of := objects[name]) else {})
        for step, (name, found_scores) in enumerate(scores.items()):
            for key, value in found_scores.items():
                if isinstance(value, int | float):
                    run.log_scalar(key, value, step)
            picture = draw and name != POOLED and draw(name, prepared[step].task.inputs[1], found_scores)
            if picture:
                run.add_artifact(picture, "errors.png" if step == 0 else f"errors_{step}.png")
        ranked = sorted((name for name in groups if scores[name]["voi"] is not None), key=lambda n: scores[n]["voi"])
        two = [with_parts[name] for name in ranked[:2] if name in with_parts]
        comparison = None
        if len(two) == 2 and np.array_equal(two[0].numbers, two[1].numbers):
            comparison = compare(two[0], two[1], "voi").sentence(*short_names(ranked)[:2])
        return {
            "scores": scores,
            "best": ranked[0] if ranked else None,
            "comparison": comparison,
            "evaluated": digest([one.evaluated for one in prepared]) if pooled else prepared[0].evaluated,
            "run_id": run.id,
        }

    result = run_experiment(name="evaluate_segmentation", config=asdict(request), main=measure, store=store, **options)
    for one in prepared:
        one.task.forget()  # only after the run has the result
    return result


def note_parents(run: Run, lineage: Sequence[str]) -> None:
    """Note the segmentation and the prediction that an evaluation is of, the nearest ones of its lineage."""
    for kind, key in (("segmentations", "segmentation_run_id"), ("predictions", "prediction_run_id")):
        ids = [int(one.partition("/")[2]) for one in lineage if one.startswith(f"{kind}/")]
        run.set_info(key, ids[0] if ids else None)


def _compared(parts: npt.NDArray[np.int64], table: Contingency, both_labelled: bool) -> Rows:
    """Return the rows that partition scores count."""
    chosen = (table.truth > 0) & ((table.predicted > 0) | (not both_labelled))
    return parts[chosen], table.where(chosen)


def _pooled(rows: Sequence[Rows], with_background: bool) -> Rows | None:
    """Join the rows of volumes, whose parts and ids differ; None without any, or if memory should not hold them."""
    if not 0 < sum(len(numbers) for numbers, _ in rows) <= MOST_ROWS:
        return None
    starts = np.cumsum([0, *(int(numbers.max(initial=-1)) + 1 for numbers, _ in rows)])
    shifted = [numbers + start for (numbers, _), start in zip(rows, starts[:-1], strict=True)]
    return np.concatenate(shifted), Contingency.pooled([table for _, table in rows], with_background)


def instance_parts(rows: Sequence[Rows]) -> InstanceParts | None:
    """Return the parts of one or more volumes together; None if there are none, or more rows than memory should hold.

    Args:
        rows: For each volume the part of each row, and the rows.
    """
    pooled = _pooled(rows, with_background=True)
    return None if pooled is None else InstanceParts.of(*pooled)


def object_parts(rows: Sequence[Rows]) -> ObjectParts | None:
    """Return the objects of parts, as ``instance_parts``; rows with background in the ground truth count, too."""
    pooled = _pooled(rows, with_background=False)
    return None if pooled is None else ObjectParts.of(*pooled)


def pack_parts(groups: Mapping[str, Sequence[Rows]], objects: Mapping[str, ObjectParts | None]) -> bytes:
    """Return the counts of all parts as an artifact, which ``unpack_parts`` reads."""
    arrays: dict[str, Any] = {"names": np.array(list(groups))}
    for number, (name, group) in enumerate(groups.items()):
        arrays[f"{number}_volumes"] = np.array(len(group))
        if (found := objects[name]) is not None:
            arrays[f"{number}_objects"] = found.to_array()
        if sum(len(numbers) for numbers, _ in group) > MOST_ROWS:
            continue
        for volume, (numbers, table) in enumerate(group):
            arrays[f"{number}_{volume}"] = np.column_stack([numbers.astype(np.uint64), table.to_array()[:, :3]])
    return pack(arrays)


def unpack_parts(packed: bytes, name: str, metric: str | None = None) -> InstanceParts | ObjectParts | None:
    """Return the parts of one segmentation, or of all volumes, from the artifact of a run; None if it has none.

    Args:
        packed: The artifact.
        name: Address of the segmentation, or ``POOLED``.
        metric: A score that they should have; of evaluations of earlier versions, only partition scores are known.
    """
    with np.load(io.BytesIO(packed), allow_pickle=False) as file:
        number = file["names"].tolist().index(name)
        if metric in OBJECT_SCORES and f"{number}_objects" in file:
            return ObjectParts.from_array(file[f"{number}_objects"])
        keys = [f"{number}_{volume}" for volume in range(int(file[f"{number}_volumes"]))]
        arrays = [file[key] for key in keys if key in file]
    tables = [np.column_stack([array[:, 1:], np.zeros((len(array), 3), np.uint64)]) for array in arrays]
    numbers = [array[:, 0].astype(np.int64) for array in arrays]
    return instance_parts(list(zip(numbers, map(Contingency.from_array, tables), strict=True)))


def short_names(addresses: Sequence[str]) -> list[str]:
    """Return addresses without the folders that all have in common, but with their last two parts at least.

    >>> short_names(["/data/a.zarr/one/segmentation", "/data/a.zarr/two/segmentation"])
    ['one/segmentation', 'two/segmentation']
    """
    split = [PurePosixPath(address).parts for address in addresses]
    common = 0
    while all(len(parts) > common + 2 for parts in split) and len({parts[common] for parts in split}) == 1:
        common += 1
    return ["/".join(parts[common:]).replace("//", "/") for parts in split]


def instance_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a result as rows of a table: the headings, then a row for each segmentation."""
    rows = [["segmentation", *COLUMNS, "coverage", "objects", "held out"]]
    addresses = [name for name in result["scores"] if name != POOLED]
    names = dict(zip(addresses, short_names(addresses), strict=True))
    for address, scores in result["scores"].items():
        cells = ["undefined" if scores[name] is None else f"{scores[name]:.4f}" for name in (*COLUMNS, "coverage")]
        mark = scores["seen"]["held_out"]
        rows.append([names.get(address, address), *cells, str(scores["predicted_objects"]), mark])
    return rows


def best_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the largest errors of the best segmentation, its VOI with its interval, and the comparison, as lines."""
    best = result["best"]
    if best is None:
        return ["No segmentation has a VOI: none labels a voxel that the ground truth labels."]
    scores = result["scores"][best]
    bounds = (scores.get("intervals") or {}).get("voi")
    interval = f", 95 % interval {bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else ""
    voi = f"Lowest VOI: {scores['voi']:.4f} ({scores['voi_split']:.4f} + {scores['voi_merge']:.4f}){interval} of {best}"
    comparison = result["comparison"]
    return [*error_lines(scores), voi, *([comparison] if comparison else [])]


def error_lines(scores: Mapping[str, Any], most: int = 5) -> list[str]:
    """Return the largest splits and merges of one segmentation as lines of text."""
    lines = []
    for kind, key, one, many in (
        ("split", "largest_splits", "object", "segments"),
        ("merge", "largest_merges", "segment", "objects"),
    ):
        for error in scores.get(key, ())[:most]:
            parts = ", ".join(
                f"{part['id']} ({part['voxels']} voxels at {part['position']})" for part in error["parts"]
            )
            lines.append(f"{kind} {error['bits']:.4f} bits: {one} {error['id']} has {many} {parts}")
    return lines
