"""Class maps: one mask per class -> one array of class ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from incasem_like.errors import InputError
from incasem_like.volumes.values import foreground

BACKGROUND = 0
MAX_CLASS_ID = 255


def class_map(masks: Mapping[int, NDArray[Any]]) -> NDArray[np.uint8]:
    """Merge one mask per class into a class map.

    A voxel claimed by more than one class is contradictory and becomes background, as in incasem.

    Args:
        masks: Class id (1-255) -> array of one common shape; every nonzero voxel belongs to the class.

    Returns:
        Class ids, 0 = background, of the masks' shape.

    Raises:
        InputError: No mask, an id outside 1-255, masks of different shapes, or negative values in one.

    Example:
        >>> class_map({1: np.array([9, 9, 0, 0]), 2: np.array([0, 1, 1, 0])})
        array([1, 0, 2, 0], dtype=uint8)
    """
    if not masks:
        raise InputError("A class map needs at least one mask, but none was given: name a label dataset.")
    shapes = {mask.shape for mask in masks.values()}
    if len(shapes) > 1:
        raise InputError(
            f"The masks of a class map have different shapes {sorted(shapes)}: crop them to the same region."
        )
    merged = np.zeros(shapes.pop(), dtype=np.uint8)
    claimed = np.zeros(merged.shape, dtype=bool)
    for class_id, mask in masks.items():
        if not 1 <= class_id <= MAX_CLASS_ID:
            raise InputError(
                f"Class id {class_id} is outside 1-{MAX_CLASS_ID}: number the classes from 1, 0 is background."
            )
        found = foreground(mask)
        merged[found] = class_id
        if len(masks) > 1:
            merged[found & claimed] = BACKGROUND
            claimed |= found
    return merged
