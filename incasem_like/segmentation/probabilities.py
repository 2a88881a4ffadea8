"""How probabilities are stored, and which stored value is the least that reaches a threshold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from incasem_like.errors import DataError
from incasem_like.volumes import Volume


def probability_scale(volume: Volume) -> float:
    """Say which stored value means probability 1: the ``scale`` attribute, else 255 for uint8 and 1 for floats.

    Raises:
        DataError: The values cannot be probabilities: another integer type without a scale, or channels.
    """
    dtype = np.dtype(volume.dtype)
    scale = volume.attributes.get("scale")
    if isinstance(scale, int | float) and scale > 0:
        return float(scale)
    if dtype == np.uint8:
        return 255.0
    if dtype.kind == "f":
        return 1.0
    raise DataError(
        f"{volume.address} holds {dtype} without a scale attribute, which cannot be probabilities: "
        "name a float or uint8 probability map."
    )


def stored_threshold(threshold: float, dtype: np.dtype[Any], scale: float) -> int | float:
    """Say which stored value is the least whose probability reaches the threshold.

    Both sides are probabilities in float64 for integers: k / scale reaches t, so 0.2 of uint8 is 51 and not, by the
    rounding error of a product, 52. Floats are compared in their own precision, so a stored float32 0.7 reaches 0.7.

    Args:
        threshold: Probability in [0, 1].
        dtype: How probabilities are stored.
        scale: The stored value of probability 1: 255 for uint8, 1 for floats.
    """
    if dtype.kind in "ui":
        level = math.ceil(threshold * scale)
        if (level - 1) / scale >= threshold:
            return level - 1
        return level if level / scale >= threshold else level + 1
    return float(dtype.type(threshold * scale))
