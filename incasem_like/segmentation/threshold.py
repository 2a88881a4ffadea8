"""Segmentation by a threshold on a probability map, block by block."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


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
