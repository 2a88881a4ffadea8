"""Segmentation by a threshold on a probability map, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask, create_or_resume_output, run_blockwise
from incasem_like.errors import InputError
from incasem_like.segmentation.probabilities import VOXELS_AT_ONCE, check_mask, check_probability_map, stored_threshold
from incasem_like.tracking import run_experiment
from incasem_like.volumes import (
    Roi,
    Volume,
    check_outputs,
    dataset_exists,
    make_provenance,
    open_volume,
    parse_address,
)
from incasem_like.volumes.parts import shuffled_parts
from incasem_like.volumes.values import check_probabilities, inside, probability_scale

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.tracking import Run, RunStore

DEFAULT_MASK = "volumes/mask"


@dataclass(frozen=True, kw_only=True)
class ThresholdSegmentation:
    """Segmentation request: the tracked configuration of a segmentation run.

    Attributes:
        prediction_filename: Container of the probability map; the segmentation goes into it too.
        dataset: The probability map of one class, zyx.
        out_dataset: The segmentation: uint8, 1 where the probability reaches the threshold and the mask is not 0.
        threshold: Probability in [0, 1].
        mask_filename: Container of the mask; None means that of the prediction, if ``mask`` is given.
        mask: The mask's dataset; None means ``volumes/mask``, if ``mask_filename`` is given. With both None, no mask.
        chunk_shape: Chunk shape of the segmentation, in voxels.
    """

    prediction_filename: str
    dataset: str
    out_dataset: str
    threshold: float
    mask_filename: str | None = None
    mask: str | None = None
    chunk_shape: tuple[int, int, int] = (128, 128, 128)

    def open_inputs(self) -> list[Volume]:
        """Open and check the probability map and the mask, if any.

        Raises:
            InputError: The threshold is outside [0, 1], or the output would replace an input.
            DataError: A volume is missing, the map does not hold probabilities, or the mask has another grid or extent.
            VoxelValueError: In a sampled block, a voxel inside the mask does not hold a probability.
        """
        if not 0 <= self.threshold <= 1:
            raise InputError(f"--threshold is {self.threshold:g}, but must be from 0 to 1.")
        prediction = open_volume(self.prediction_filename, self.dataset)
        prediction.require_zyx()
        check_probability_map(prediction)
        masks = []
        if self.mask or self.mask_filename:
            masks = [open_volume(self.mask_filename or self.prediction_filename, self.mask or DEFAULT_MASK)]
            check_mask(masks[0], prediction, "the probability map", "none")
        output = parse_address(self.prediction_filename, self.out_dataset)
        check_outputs([output], [volume.address for volume in (prediction, *masks)], "choose another --out_dataset")
        # Values in other units appear in any block, so this check comes before an output is created.
        _read_probabilities(prediction, masks, shuffled_parts(prediction, prediction.roi, VOXELS_AT_ONCE)[0])
        return [prediction, *masks]

    def make_task(self, inputs: Sequence[Volume], run_id: int | None, overwrite: bool) -> BlockTask:
        """Create or reopen the output and return the blockwise task that fills it."""
        prediction = inputs[0]
        parameters = {"threshold": self.threshold}
        output = create_or_resume_output(
            self.prediction_filename,
            self.out_dataset,
            shape=prediction.shape,
            dtype=np.uint8,
            voxel_size=prediction.voxel_size,
            offset=prediction.offset,
            chunk_shape=self.chunk_shape,
            attributes={"scale": 1},  # so that it can be evaluated as probabilities 0 and 1
            overwrite=overwrite,
            provenance=make_provenance("extract_segmentation_with_threshold", parameters, inputs, run_id),
        )
        addresses = tuple(str(volume.address) for volume in inputs)
        return BlockTask("threshold", output, addresses, threshold_block, parameters, self.chunk_shape)

    def is_finished(self) -> bool:
        """Return whether an earlier call completed an output of that name, with any parameters."""
        if not dataset_exists(self.prediction_filename, self.out_dataset):
            return False
        return open_volume(self.prediction_filename, self.out_dataset, allow_incomplete=True).complete


def segment_as_run(
    request: ThresholdSegmentation,
    *,
    store: RunStore | None,
    overwrite: bool = False,
    num_workers: int = 1,
    workers: Workers | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Segment block by block, tracked as a run; a second call resumes the remaining blocks, if any.

    Args:
        request: The segmentation request.
        store: Run store, of kind ``segmentations``; None does not track the run.
        overwrite: Replace an existing dataset of the output's name.
        num_workers: Number of processes.
        workers: Workers of a workers file, instead of local processes.
        **options: run_name, comment, run_id, as ``tracking.run_experiment`` takes them.

    Returns:
        The ``address`` of the segmentation, the number of ``blocks`` done by this call, and the ``run_id``; None where
        an earlier call had done all.

    Raises:
        InputError: The output was made with other parameters or from other data.
    """
    inputs = request.open_inputs()
    if not overwrite and request.is_finished():
        return _segment(request.make_task(inputs, None, overwrite=False), num_workers, workers, None)

    def segment(run: Run) -> dict[str, Any]:
        run.inputs([volume.as_input() for volume in inputs])
        run.set_info("prediction_run_id", (inputs[0].provenance or {}).get("run_id"))
        return _segment(request.make_task(inputs, run.id or None, overwrite), num_workers, workers, run.id)

    return run_experiment(name="segment", config=asdict(request), main=segment, store=store, **options)


def threshold_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Segment one block; ``parameters`` holds the ``threshold``, the inputs are the map and, if any, the mask.

    Raises:
        VoxelValueError: A voxel inside the mask does not hold a probability.
    """
    prediction = block.inputs[0]
    probabilities, counted = _read_probabilities(prediction, block.inputs[1:], block.write_roi)
    reached = probabilities >= stored_threshold(
        parameters["threshold"], prediction.dtype, probability_scale(prediction)
    )
    if counted is not None:
        reached &= counted
    block.output.write(reached.view(np.uint8), block.write_roi)


def _read_probabilities(
    prediction: Volume, masks: Sequence[Volume], roi: Roi
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """Read and check stored probabilities and their mask of valid voxels, None for all."""
    counted = None
    for mask in masks:
        counted = inside(mask.read(roi), str(mask.address), roi.begin)
    probabilities = prediction.read(roi)
    check_probabilities(probabilities, probability_scale(prediction), str(prediction.address), roi.begin, counted)
    return probabilities, counted


def _segment(task: BlockTask, num_workers: int, workers: Workers | None, run_id: int | None) -> dict[str, Any]:
    summary = run_blockwise(task, num_workers=num_workers, workers=workers, description="Thresholding")
    return {"address": str(task.output.address), "blocks": summary.done, "run_id": run_id}
