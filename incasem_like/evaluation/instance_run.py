"""The evaluation run of instance segmentations: contingency tables of blocks, added up, scored and tracked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block
from incasem_like.blockwise.grid import aligned_parts, grown_block
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import DataError, InputError
from incasem_like.evaluation.evaluate import covered_roi
from incasem_like.evaluation.instances import Contingency, largest_errors, object_scores, partition_scores
from incasem_like.evaluation.threshold_run import prediction_run_id
from incasem_like.formatting.workers import useful_workers
from incasem_like.tracking import run_experiment
from incasem_like.volumes import Roi, Volume, open_volume
from incasem_like.volumes.agreement import check_same_voxels
from incasem_like.volumes.values import check_label_dtype, check_labels, inside

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.tracking import Run, RunStore

VOXELS_AT_ONCE = 1 << 23
COLUMNS = ("voi", "voi_split", "voi_merge", "nvi", "adapted_rand_error", "cremi_score", "f1", "panoptic_quality")


@dataclass(frozen=True, kw_only=True)
class InstanceEvaluation:
    """Evaluation request: the tracked configuration of an evaluation run.

    Attributes:
        labels: Address of the ground truth: instance ids, 0 = not labelled.
        segmentations: Addresses of the segmentations to compare with it, such as those of several thresholds.
        mask: Address of a mask, or None; a voxel counts where it is non-zero.
        both_labelled: Leave out voxels that a segmentation does not label.
        offset, shape: The ROI in absolute voxels (z, y, x); None for all of each segmentation.
        intersect: Evaluate the intersection of all volumes, instead of raising an error when one lacks a part.
    """

    labels: str
    segmentations: tuple[str, ...]
    mask: str | None = None
    both_labelled: bool = False
    offset: tuple[int, int, int] | None = None
    shape: tuple[int, int, int] | None = None
    intersect: bool = False

    def tasks(self) -> list[LedgerTask]:
        """Open and check the volumes, and return a task for each segmentation.

        Raises:
            DataError: The volumes differ in their voxels, do not cover the ROI, or do not hold labels.
            InputError: Only one of ``offset`` and ``shape`` is given.
        """
        if (self.offset is None) != (self.shape is None):
            raise InputError("--offset and --shape belong together: give both, in voxels, or none.")
        labels = open_volume(self.labels)
        masks = [open_volume(self.mask)] if self.mask else []
        return [self._task(open_volume(address), labels, masks) for address in self.segmentations]

    def _task(self, segmentation: Volume, labels: Volume, masks: list[Volume]) -> LedgerTask:
        roi = segmentation.roi
        if self.offset is not None and self.shape is not None:
            roi = covered_roi(segmentation, segmentation, Roi(self.offset, self.shape), self.intersect)
        for volume in (segmentation, labels, *masks):
            check_same_voxels(volume, segmentation)
            check_label_dtype(volume)
            roi = covered_roi(volume, segmentation, roi, self.intersect)
        return LedgerTask(
            "evaluate instances",
            segmentation,
            tuple(str(volume.address) for volume in (segmentation, labels, *masks)),
            count_block,
            {},
            grown_block(segmentation, roi, VOXELS_AT_ONCE),
            roi,
        )


def count_block(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[np.uint64]:
    """Count one block; the inputs are the segmentation, the labels and the mask, if any."""
    segmentation, labels, *masks = block.inputs
    tables = []
    for part in aligned_parts(segmentation, block.write_roi, VOXELS_AT_ONCE):
        truth, predicted = labels.read(part), segmentation.read(part)
        check_labels(truth, str(labels.address), part.begin)
        check_labels(predicted, str(segmentation.address), part.begin)
        valid = inside(masks[0].read(part), str(masks[0].address), part.begin) if masks else None
        tables.append(Contingency.of(truth, predicted, valid, part.begin))
    return Contingency.merged(tables).to_array()


def score(table: Contingency, both_labelled: bool = False) -> dict[str, Any]:
    """Return all scores of a contingency table, as plain values; None where undefined.

    Raises:
        DataError: No voxel has a ground-truth id.
    """
    labelled = table.labelled_by_both if both_labelled else table.labelled
    if not len(labelled.counts):
        raise DataError("The ground truth has no object in the evaluated voxels: check labels, mask and ROI.")
    voxels = int(table.labelled.counts.sum())
    covered = int(table.labelled_by_both.counts.sum())
    found = {
        **partition_scores(labelled),
        **object_scores(table),
        "voxels": int(labelled.counts.sum()),
        "coverage": covered / voxels,
        "largest_splits": largest_errors(labelled, "split"),
        "largest_merges": largest_errors(labelled, "merge"),
    }
    found["f1"] = found["thresholds"][0]["f1"]
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in found.items()}


def evaluate_instances_as_run(
    request: InstanceEvaluation,
    *,
    store: RunStore | None,
    num_workers: int = 1,
    workers: Workers | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate block by block, and track request, inputs, scores and result as a run.

    The tables of finished blocks survive an interruption; the same request resumes from them, as another run.

    Args:
        request: The evaluation request.
        store: Run store, of kind ``evaluations``; None does not track the run.
        num_workers: Maximum number of processes.
        workers: Workers of a workers file, instead of local processes.
        **options: run_name, comment, run_id, as ``tracking.run_experiment`` takes them.

    Returns:
        ``scores`` by address of the segmentation, ``best`` (the address with the lowest VOI), and the ``run_id``, 0 for
        a run that is not tracked.
    """
    tasks = request.tasks()

    def measure(run: Run) -> dict[str, Any]:
        volumes = {address: open_volume(address) for task in tasks for address in task.inputs}
        run.inputs([{**volume.as_input(), "address": name} for name, volume in volumes.items()])
        run.set_info("prediction_run_id", prediction_run_id(volumes[tasks[0].inputs[0]]))
        scores = {}
        for step, task in enumerate(tasks):
            here = useful_workers(num_workers, int(task.grid.roi.size)) if task.grid is not None else 1
            task.run(num_workers=here, workers=workers, description="Evaluating")
            table = Contingency.merged(map(Contingency.from_array, task.results()))
            found = scores[task.inputs[0]] = score(table, request.both_labelled)
            for name, value in found.items():
                if isinstance(value, int | float):
                    run.log_scalar(name, value, step)
        best = min(scores, key=lambda address: scores[address]["voi"])
        return {"scores": scores, "best": best, "run_id": run.id}

    result = run_experiment(name="evaluate_segmentation", config=asdict(request), main=measure, store=store, **options)
    for task in tasks:
        task.forget()  # only after the run has the result
    return result


def instance_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a result as rows of a table: the headings, then a row for each segmentation."""
    rows = [["segmentation", *COLUMNS, "coverage", "objects"]]
    for address, scores in result["scores"].items():
        cells = ["undefined" if scores[name] is None else f"{scores[name]:.4f}" for name in (*COLUMNS, "coverage")]
        rows.append([address.rpartition("/")[2], *cells, str(scores["predicted_objects"])])
    return rows


def error_lines(scores: Mapping[str, Any], most: int = 5) -> list[str]:
    """Return the largest splits and merges of one segmentation as lines of text."""
    lines = []
    for kind, key, one, many in (
        ("split", "largest_splits", "object", "segments"),
        ("merge", "largest_merges", "segment", "objects"),
    ):
        for error in scores[key][:most]:
            parts = ", ".join(
                f"{part['id']} ({part['voxels']} voxels at {part['position']})" for part in error["parts"]
            )
            lines.append(f"{kind} {error['bits']:.4f} bits: {one} {error['id']} has {many} {parts}")
    return lines
