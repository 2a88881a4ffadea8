"""Evaluation of a probability map against labels: common ROI, masks, and the threshold sweep over blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import DataError, InputError
from incasem_like.evaluation.blocks import part_shape, parts_within
from incasem_like.evaluation.seen import without_boxes
from incasem_like.evaluation.thresholds import ThresholdSweep
from incasem_like.formatting.workers import useful_workers
from incasem_like.segmentation.probabilities import check_probability_map
from incasem_like.volumes import Coordinate, Roi, Volume, describe_roi
from incasem_like.volumes.agreement import check_same_voxels, spaced
from incasem_like.volumes.parts import aligned_parts, grown_block
from incasem_like.volumes.values import (
    check_label_dtype,
    check_labels,
    check_probabilities,
    foreground,
    inside,
    probability_scale,
)

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

Array = npt.NDArray[Any]

VOXELS_AT_ONCE = 2**21


@dataclass(frozen=True)
class Evaluation:
    """Prediction, ground truth, masks and ROI of an evaluation.

    Attributes:
        prediction: Probabilities of one class, zyx.
        labels: Instance ids or classes, zyx, on the same grid.
        masks: Volumes on the same grid; a voxel counts where all are non-zero.
        roi: The evaluated ROI, in absolute voxels.
        label_class: The class in ``labels`` that counts as labelled; None: any non-zero id.
        left_out: Boxes of voxels that do not count: begin and end in absolute voxels.
    """

    prediction: Volume
    labels: Volume
    masks: tuple[Volume, ...]
    roi: Roi
    label_class: int | None = None
    left_out: Sequence[Sequence[Sequence[int]]] = ()

    @property
    def parts(self) -> Coordinate:
        """Shape in voxels of the parts that intervals are computed from."""
        return part_shape(self.roi, self.prediction.require_voxel_size())

    def task(self, thresholds: Sequence[float]) -> LedgerTask:
        """Return the blockwise task; the counts of each block are stored until all are complete."""
        volumes = (self.prediction, self.labels, *self.masks)
        return LedgerTask(
            "evaluate",
            self.prediction,
            tuple(str(volume.address) for volume in volumes),
            count_block,
            {
                "thresholds": list(thresholds),
                "label_class": self.label_class,
                "roi": [list(self.roi.begin), list(self.roi.shape)],
                "parts": list(self.parts),
                "left_out": self.left_out,
            },
            grown_block(self.prediction, self.roi, VOXELS_AT_ONCE),
            self.roi,
        )

    def sweep(
        self, task: LedgerTask, *, num_workers: int = 1, workers: Workers | None = None
    ) -> tuple[ThresholdSweep, Array]:
        """Count at all thresholds, reading every block once; an interrupted call is resumed.

        Counts are whole numbers, so that their sum is the same whatever the number of workers, the order of blocks,
        and interruptions. Memory is about 100 MiB per worker.

        Args:
            task: Result of ``task``; call its ``forget`` once the result is stored safely.
            num_workers: Maximum number of processes.
            workers: Workers of a workers file, instead of local processes.

        Returns:
            The sweep over all blocks, and the ``ThresholdSweep.counts`` of each part of the ROI, (parts, 2, n + 1).

        Raises:
            IncasemError: As ``run_blockwise``.
        """
        here = useful_workers(num_workers, int(self.roi.size))
        task.run(num_workers=here, workers=workers, description="Evaluating")
        thresholds = task.parameters["thresholds"]
        total = ThresholdSweep(thresholds, self.prediction.dtype, probability_scale(self.prediction))
        counts = np.sum(list(task.results()), axis=0)
        total.add_counts(counts.sum(axis=0))
        return total, counts


def count_block(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Count one block; the inputs are the map, the labels and the masks.

    Returns:
        (parts, 2, thresholds + 1): ``ThresholdSweep.counts`` of each part of the evaluated ROI.

    Raises:
        VoxelValueError: A valid voxel does not hold a probability, or a label is negative.
    """
    prediction, labels, *masks = block.inputs
    scale = probability_scale(prediction)
    roi, shape = Roi(*parameters["roi"]), parameters["parts"]
    number_of_parts = math.prod(-(-size // edge) for size, edge in zip(roi.shape, shape, strict=True))
    total = np.zeros((number_of_parts, 2, len(parameters["thresholds"]) + 1), np.int64)
    for part in aligned_parts(prediction, block.write_roi, VOXELS_AT_ONCE):
        valid: Array | None = None
        for mask in masks:
            counted = inside(mask.read(part), str(mask.address), part.begin)
            valid = counted if valid is None else valid & counted
        unseen = without_boxes(part.shape, part.begin, parameters["left_out"])
        if unseen is not None:
            valid = unseen if valid is None else valid & unseen
        if valid is not None and not valid.any():
            continue
        label_class = parameters["label_class"]
        found = labels.read(part)
        if label_class is None:
            target = foreground(found, str(labels.address), part.begin)
        else:
            check_labels(found, str(labels.address), part.begin)
            target = found == label_class
        probabilities = prediction.read(part)
        check_probabilities(probabilities, scale, str(prediction.address), part.begin, valid)
        for number, overlap in parts_within(roi, shape, part):
            sweep = ThresholdSweep(parameters["thresholds"], prediction.dtype, scale)
            there = (overlap - part.begin).to_slices()
            sweep.update(probabilities[there], target[there], None if valid is None else valid[there])
            total[number] += sweep.counts
    return total


def prepare_evaluation(
    prediction: Volume,
    labels: Volume,
    masks: Sequence[Volume] = (),
    *,
    roi_padding: tuple[int, int, int] = (0, 0, 0),
    label_class: int | None = None,
    intersect: bool = False,
) -> Evaluation:
    """Check that the volumes match and determine the ROI to evaluate.

    Args:
        prediction: Probabilities of one class, zyx.
        labels: Instance ids or classes, zyx. If shifted against the prediction by a fraction of a voxel, they are read
            at the nearest voxel, with a warning; masks likewise.
        masks: Mask and metric mask; a voxel counts where all are non-zero.
        roi_padding: Voxels left out at each side of the prediction.
        label_class: See ``Evaluation``.
        intersect: Evaluate only the intersection of all volumes, instead of raising an error when one lacks a part.

    Raises:
        DataError: A volume has channels, another voxel size or type, or does not cover the prediction; or the
            prediction cannot be probabilities.
        InputError: The padding is negative or leaves nothing.
    """
    if min(roi_padding) < 0:
        raise InputError(f"--roi_padding is {spaced(roi_padding)}, but cannot be negative: use 0 for none.")
    for volume in (prediction, labels, *masks):
        check_same_voxels(volume, prediction)
    for volume in (labels, *masks):
        check_label_dtype(volume)
    padding = Coordinate(roi_padding)
    roi = Roi(prediction.roi.begin + padding, prediction.roi.shape - padding * 2)
    if min(roi.shape) <= 0:
        raise InputError(
            f"--roi_padding {spaced(roi_padding)} leaves nothing of {prediction.address} "
            f"with shape {spaced(prediction.spatial_shape)}: choose less."
        )
    for volume in (labels, *masks):
        roi = covered_roi(volume, prediction, roi, intersect)
    check_probability_map(prediction)
    return Evaluation(prediction, labels, tuple(masks), roi, label_class)


ROI_ADVICE = "give --intersect to measure the common part {common}, or a --roi_padding."


def covered_roi(volume: Volume, prediction: Volume, roi: Roi, intersect: bool, advice: str = ROI_ADVICE) -> Roi:
    """Return the ROI to evaluate if a volume covers it, or its part that the volume covers if ``intersect``.

    Raises:
        DataError: The volume covers none of it, or with ``intersect`` False not all.
    """
    common = roi.intersect(volume.roi)
    if common.empty:
        raise DataError(
            f"{volume.address} covers {describe_roi(volume.roi)} and has no voxel in common with "
            f"{prediction.address}, {describe_roi(roi)}: check the offset attributes."
        )
    if common != roi and not intersect:
        raise DataError(
            f"{volume.address} covers {describe_roi(volume.roi)}, but {describe_roi(roi)} is to be evaluated: "
            f"{advice.format(common=describe_roi(common))}"
        )
    return common
