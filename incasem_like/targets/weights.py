"""Voxel weights: the weight of each voxel in the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from incasem_like.errors import InputError
from incasem_like.volumes.values import foreground


def class_fractions(labels: NDArray[np.integer], mask: NDArray[Any], num_classes: int) -> NDArray[np.float64]:
    """Return each class's share of the voxels inside the mask.

    Args:
        labels: Class ids 0 to ``num_classes - 1``.
        mask: Same shape; 0 = voxel doesn't count.
        num_classes: Number of classes with background.

    Returns:
        ``num_classes`` shares that sum to 1, or zeros where the mask is empty.

    Raises:
        InputError: A class id inside the mask is not below ``num_classes``.
    """
    inside = labels[foreground(mask)]
    counts = np.bincount(inside.ravel(), minlength=num_classes)
    if counts.size > num_classes:
        raise InputError(
            f"The labels hold class {counts.size - 1}, but there are {num_classes} classes with background: "
            f"set data.num_classes to {counts.size} or leave that label dataset out."
        )
    return counts / max(inside.size, 1)


def balance_weights(
    labels: NDArray[np.integer],
    mask: NDArray[Any],
    num_classes: int,
    clipmin: float = 0.01,
    clipmax: float = 0.99,
) -> NDArray[np.float32]:
    """Return voxel weights that balance the classes present in a block.

    With frac_c the share of class c among the voxels inside the mask, clipped to [clipmin, clipmax], and C the number
    of classes, a voxel of class c has the weight ``1 / (C * frac_c)``, a voxel outside the mask 0. Clipping keeps a
    class of a few voxels from dominating the others.

    Args:
        labels: Class ids 0 to ``num_classes - 1``, any shape.
        mask: Same shape; 0 = voxel doesn't count.
        num_classes: Number of classes with background.
        clipmin: Lower bound of a class's share, above 0.
        clipmax: Upper bound of a class's share, at most 1.

    Returns:
        Weights >= 0, of the labels' shape; all 0 where the mask is empty.

    Raises:
        InputError: Clip bounds that are not 0 < clipmin <= clipmax <= 1, or a class id too high.

    Example:
        >>> balance_weights(np.array([0, 0, 0, 1, 1]), np.array([1, 1, 1, 1, 0]), num_classes=2)
        array([0.6666667, 0.6666667, 0.6666667, 2.       , 0.       ],
              dtype=float32)
    """
    if not 0 < clipmin <= clipmax <= 1:
        raise InputError(
            f"Class shares cannot be clipped to [{clipmin}, {clipmax}]: 0 < clipmin <= clipmax <= 1 is needed."
        )
    fractions = class_fractions(labels, mask, num_classes)
    weights = 1.0 / (num_classes * np.clip(fractions, clipmin, clipmax))
    weights[fractions == 0] = 0.0
    # Labels outside the mask may have any value; class 0 replaces them.
    inside = foreground(mask)
    scale = weights.astype(np.float32)[np.where(inside, labels, 0)]
    scale *= inside
    return scale
