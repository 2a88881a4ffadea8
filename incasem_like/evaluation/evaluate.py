"""A probability map measured against labels: the region they share, what counts in it, the sweep over blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError, InputError
from incasem_like.evaluation.thresholds import ThresholdSweep
from incasem_like.segmentation.probabilities import probability_scale
from incasem_like.terminal import Progress
from incasem_like.volumes import Coordinate, Roi, Volume, describe_roi

Array = npt.NDArray[Any]

VOXELS_PER_BLOCK = 2**21


@dataclass(frozen=True)
class Evaluation:
    """What is measured against what, and where.

    Attributes:
        prediction: Probabilities of one class, zyx.
        labels: Instance ids or classes, zyx, on the same grid.
        masks: Volumes on the same grid; a voxel counts where all are non-zero.
        roi: The region measured, in absolute voxels.
        label_class: The class in ``labels`` that counts as labelled; None: any non-zero id.
    """

    prediction: Volume
    labels: Volume
    masks: tuple[Volume, ...]
    roi: Roi
    label_class: int | None = None

    def sweep(self, thresholds: Sequence[float], *, num_workers: int = 1) -> ThresholdSweep:
        """Count at all thresholds, every block read once; memory is some 100 MiB per worker."""
        total = self._empty_sweep(thresholds)
        blocks = list(aligned_blocks(self.prediction, self.roi))
        with (
            Progress("Evaluating", float(self.roi.size), "voxels") as progress,
            ThreadPoolExecutor(max_workers=max(1, num_workers)) as pool,
        ):
            pending = {pool.submit(self._sweep_block, block, thresholds): block for block in blocks}
            try:
                for finished in as_completed(pending):
                    total.add(finished.result())
                    progress.advance(float(pending.pop(finished).size))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return total

    def _empty_sweep(self, thresholds: Sequence[float]) -> ThresholdSweep:
        return ThresholdSweep(thresholds, self.prediction.dtype, probability_scale(self.prediction))

    def _sweep_block(self, block: Roi, thresholds: Sequence[float]) -> ThresholdSweep:
        sweep = self._empty_sweep(thresholds)
        valid: Array | None = None
        for mask in self.masks:
            inside = mask.read(block) != 0
            valid = inside if valid is None else valid & inside
        if valid is not None and not valid.any():
            return sweep
        labels = self.labels.read(block)
        target = labels != 0 if self.label_class is None else labels == self.label_class
        sweep.update(self.prediction.read(block), target, valid)
        return sweep


def prepare_evaluation(
    prediction: Volume,
    labels: Volume,
    masks: Sequence[Volume] = (),
    *,
    roi_padding: tuple[int, int, int] = (0, 0, 0),
    label_class: int | None = None,
    intersect: bool = False,
) -> Evaluation:
    """Check that the volumes belong together and find the region to measure.

    Args:
        prediction: Probabilities of one class, zyx.
        labels: Instance ids or classes, zyx.
        masks: Mask and metric mask; a voxel counts where all are non-zero.
        roi_padding: Voxels left out at each side of the prediction.
        label_class: See ``Evaluation``.
        intersect: Measure only what all volumes cover, instead of refusing when one lacks a part.

    Raises:
        DataError: A volume has channels, another voxel size, or does not cover the prediction.
        InputError: The padding is negative or leaves nothing.
    """
    if min(roi_padding) < 0:
        raise InputError(f"--roi_padding is {_spaced(roi_padding)}, but cannot be negative: use 0 for none.")
    for volume in (prediction, labels, *masks):
        _check_grid(volume, prediction)
    padding = Coordinate(roi_padding)
    roi = Roi(prediction.roi.begin + padding, prediction.roi.shape - padding * 2)
    if min(roi.shape) <= 0:
        raise InputError(
            f"--roi_padding {_spaced(roi_padding)} leaves nothing of {prediction.address} "
            f"with shape {_spaced(prediction.spatial_shape)}: choose less."
        )
    for volume in (labels, *masks):
        roi = _covered(volume, prediction, roi, intersect)
    return Evaluation(prediction, labels, tuple(masks), roi, label_class)


def _check_grid(volume: Volume, prediction: Volume) -> None:
    if len(volume.shape) != 3:
        raise DataError(
            f"{volume.address} has shape {tuple(volume.shape)} ({volume.axes}), but a 3-D dataset is needed: "
            "name one class's dataset, such as prob_maps/class_1."
        )
    if not np.allclose(volume.voxel_size, prediction.voxel_size, rtol=1e-6):
        raise DataError(
            f"{volume.address} has voxels of {_spaced(volume.voxel_size)} nm, but {prediction.address} has "
            f"{_spaced(prediction.voxel_size)} nm: resample one, or correct its resolution attribute."
        )


def _covered(volume: Volume, prediction: Volume, roi: Roi, intersect: bool) -> Roi:
    common = roi.intersect(volume.roi)
    if common.empty:
        raise DataError(
            f"{volume.address} covers {describe_roi(volume.roi)} and has no voxel in common with "
            f"{prediction.address}, {describe_roi(roi)}: check the offset attributes."
        )
    if common != roi and not intersect:
        raise DataError(
            f"{volume.address} covers {describe_roi(volume.roi)}, but the prediction asks for {describe_roi(roi)}: "
            f"give --intersect to measure the common part {describe_roi(common)}, or a --roi_padding."
        )
    return common


def aligned_blocks(volume: Volume, roi: Roi, voxels: int = VOXELS_PER_BLOCK) -> Iterator[Roi]:
    """Split a region into blocks of whole chunks of a volume, so that every chunk is read by one block only.

    Args:
        volume: The volume whose chunk grid decides.
        roi: The region, within the volume, in absolute voxels.
        voxels: Blocks grow from one chunk to about this many voxels.
    """
    shape = [int(size) for size in volume.chunk_shape[-3:]]
    while 2 * int(np.prod(shape)) <= voxels:
        shape[shape.index(min(shape))] *= 2
    block_shape, origin = Coordinate(shape), volume.roi.begin
    first = (roi.begin - origin) // block_shape
    last = (roi.end - origin - 1) // block_shape
    for index in product(*(range(low, high + 1) for low, high in zip(first, last, strict=True))):
        yield Roi(origin + Coordinate(index) * block_shape, block_shape).intersect(roi)


def _spaced(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
