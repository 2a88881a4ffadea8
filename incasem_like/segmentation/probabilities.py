"""Checks of probability maps, and the lowest stored value that reaches a threshold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from incasem_like.errors import DataError
from incasem_like.volumes import Volume, describe_roi
from incasem_like.volumes.agreement import check_same_voxels
from incasem_like.volumes.parts import shuffled_parts
from incasem_like.volumes.values import check_label_dtype, probability_scale, stated_scale

VOXELS_AT_ONCE = 1 << 22
MOST_VOXELS = 1 << 31  # read at most to distinguish a map from a segmentation, some minutes at worst


def check_probability_map(volume: Volume) -> None:
    """Check that a volume holds probabilities, as far as possible without reading all of it.

    Of uint8 without the attribute ``scale``, which means x255, blocks are read in random order up to the first value
    above 1. If only 0 and 1 are found, it may be a segmentation, whose scores as a map would be close to 0.

    Raises:
        DataError: It cannot be probabilities, or is uint8 that holds only 0 and 1 and has no ``scale``.
    """
    probability_scale(volume)
    if volume.dtype != np.uint8 or stated_scale(volume) is not None:
        return
    has_one, read = False, 0
    for part in shuffled_parts(volume, volume.roi, VOXELS_AT_ONCE):
        highest = int(volume.read(part).max())
        if highest > 1:
            return
        has_one, read = has_one or highest == 1, read + part.size
        if read > MOST_VOXELS:
            break
    if has_one:
        raise DataError(
            f"{volume.address} holds only 0 and 1 as uint8, so it may be a segmentation or probabilities x255: add "
            f'"scale": 1 (segmentation) or "scale": 255 (probabilities) to its attributes, '
            f"{volume.format.attributes_file}."
        )


def check_mask(mask: Volume, prediction: Volume, called: str, otherwise: str) -> None:
    """Check that a mask holds labels on the grid of a prediction, and covers all of it.

    Args:
        mask, prediction: The volumes.
        called: What the prediction is, for the error: ``the probability map``.
        otherwise: What to do without such a mask.

    Raises:
        DataError: It does not.
    """
    check_same_voxels(mask, prediction)
    check_label_dtype(mask)
    if not mask.roi.contains(prediction.roi):
        raise DataError(
            f"{mask.address} covers {describe_roi(mask.roi)}, but {called} {describe_roi(prediction.roi)}: "
            f"name a mask that covers all of it, or {otherwise}."
        )


def stored_threshold(threshold: float, dtype: np.dtype[Any], scale: float) -> int | float:
    """Return the lowest stored value whose probability reaches the threshold.

    Both sides are probabilities in float64 for integers: k / scale reaches t, so 0.2 of uint8 is 51 and not, by the
    rounding error of a product, 52. Floats are compared in their own precision, so a stored float32 0.7 reaches 0.7.

    Args:
        threshold: Probability in [0, 1].
        dtype: Data type of the stored probabilities.
        scale: The stored value of probability 1: 255 for uint8, 1 for floats.
    """
    if dtype.kind in "ui":
        level = math.ceil(threshold * scale)
        if (level - 1) / scale >= threshold:
            return level - 1
        return level if level / scale >= threshold else level + 1
    return float(dtype.type(threshold * scale))
