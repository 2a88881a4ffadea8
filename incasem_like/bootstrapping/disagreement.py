"""Disagreement of two checkpoints of a model, beside the errors of its segmentation, as a map of where it is unsure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from incasem_like.blockwise import Block, BlockTask, create_or_resume_output, run_blockwise
from incasem_like.errors import InputError
from incasem_like.volumes import Volume, make_provenance, open_volume
from incasem_like.volumes.values import probability_scale

BLOCK = (64, 128, 128)
CHUNK = 64
STORED = 255  # the stored value of 1, as of an error
TOOL = "bootstrap.py"


def other_checkpoint(kept: Sequence[int], used: int | None) -> int:
    """Return the latest checkpoint but the one that predicted.

    Args:
        kept: Iterations of the checkpoints there are.
        used: Iteration of the one that predicted; None for the last.

    Raises:
        InputError: There is only one.

    Example:
        >>> other_checkpoint([100, 200, 300], 200), other_checkpoint([100, 200, 300], None)
        (300, 200)
    """
    others = sorted(set(kept) - {max(kept, default=0) if used is None else used})
    if not others:
        raise InputError(
            "The model has one checkpoint, but where_to_paint.disagreement compares two: lower "
            "model.values.training.save_every, or set where_to_paint.disagreement=false."
        )
    return others[-1]


def write_unsure(errors: Volume, predictions: Sequence[Volume], group: str, **how: Any) -> Volume:
    """Write how unsure a model is of each voxel: the root of the mean of the squares of error and disagreement.

    The disagreement of two predictions is the root of the mean squared difference over their channels, from 0 to 1.

    Args:
        errors: Error map, uint8, 255 is 1.
        predictions: Two predictions of the same channels.
        group: Group of the output in the container of the error map.
        **how: ``num_workers`` and ``workers`` of ``run_blockwise``.
    """
    inputs = (errors, *predictions)
    output = create_or_resume_output(
        errors.container,
        f"{group}/unsure",
        shape=errors.shape,
        dtype=np.uint8,
        voxel_size=errors.require_voxel_size(),
        offset=errors.offset,
        chunk_shape=tuple(min(CHUNK, size) for size in errors.shape),
        attributes={"scale": STORED},
        provenance=make_provenance(TOOL, {}, list(inputs)),
    )
    addresses = tuple(str(volume.address) for volume in inputs)
    task = BlockTask("disagreement", output, addresses, unsure_block, {}, BLOCK)
    run_blockwise(task, description="Disagreement", **how)
    return open_volume(output.address)


def unsure_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write one block; the inputs are the error map and two predictions."""
    errors, *predictions = block.inputs
    one, other = (volume.read(block.write_roi) / np.float32(probability_scale(volume)) for volume in predictions)
    squares = np.square(one - other).mean(axis=0) + np.square(errors.read(block.write_roi) / np.float32(STORED))
    block.output.write(np.rint(np.sqrt(squares / 2).clip(0, 1) * STORED).astype(np.uint8), block.write_roi)
