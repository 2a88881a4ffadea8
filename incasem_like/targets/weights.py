"""Voxel weights: the weight of each voxel in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from incasem_like.errors import InputError
from incasem_like.targets.boundaries import boundary_labels
from incasem_like.targets.instances import consecutive_ids, one_per_axis
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


def instance_weights(
    instances: NDArray[np.integer], mask: NDArray[Any] | None = None, limit: float = 10.0
) -> NDArray[np.float32]:
    """Return voxel weights that give small objects as much say as large ones.

    With V the number of object voxels inside the mask, n the number of objects there and V_i the size of object i, its
    voxels have the weight ``V / (n * V_i)``: on average over all objects 1, in sum the same for each. The background
    has the weight 1, voxels outside the mask 0.

    Args:
        instances: Instance ids of any integer dtype and shape, 0 = background.
        mask: Same shape; 0 = voxel doesn't count; None: all do.
        limit: Highest weight, so that a fragment of a few voxels doesn't dominate.

    Returns:
        Weights of the instances' shape, 0 to ``limit``, or 1 if that is more.

    Raises:
        InputError: Ids that are not integers, or a limit that is not positive.

    Example:
        >>> print(instance_weights(np.array([0, 4, 4, 4, 9])).round(2))
        [1.   0.67 0.67 0.67 2.  ]
    """
    (highest,) = one_per_axis(limit, 1, "limit", "it is one weight")
    numbers, ids = consecutive_ids(instances)
    inside = np.ones(instances.shape, dtype=bool) if mask is None else foreground(mask)
    sizes = np.bincount(numbers[inside], minlength=len(ids))
    present = (ids != 0) & (sizes > 0)
    weights = np.ones(len(ids), dtype=np.float32)
    weights[present] = np.minimum(sizes[present].sum() / (present.sum() * sizes[present]), highest)
    return weights[numbers] * inside


def boundary_weights(
    instances: NDArray[np.integer],
    weight: float,
    thickness: int = 1,
    axes: Sequence[int] | None = None,
    mask: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    """Return voxel weights that count errors at boundaries more: ``weight`` there, 1 elsewhere, 0 outside the mask.

    Args:
        instances: Instance ids, or a binary mask, of any integer dtype and shape, 0 = background.
        weight: Weight at boundaries, above 0.
        thickness: Voxels on each side that count as boundary, see `boundary_labels`.
        axes: Axes along which boundaries are looked for, all by default; ``(1, 2)``: only within sections.
        mask: Same shape; 0 = voxel doesn't count; None: all do.

    Returns:
        float32 weights of the instances' shape.

    Raises:
        InputError: As `boundary_labels`, and a weight that is not positive.

    Example:
        >>> boundary_weights(np.array([0, 0, 1, 1, 1]), weight=5).tolist()
        [1.0, 5.0, 5.0, 1.0, 1.0]
    """
    (high,) = one_per_axis(weight, 1, "weight", "it is one number")
    weights = np.where(boundary_labels(instances, thickness, axes, mask), np.float32(high), np.float32(1))
    return weights if mask is None else weights * foreground(mask)


def separation_weights(
    instances: NDArray[np.integer],
    sigma: float,
    voxel_size: float | Sequence[float] = 1.0,
    weight: float = 10.0,
) -> NDArray[np.float32]:
    """Return voxel weights that count the background between close objects more, so that they are kept apart.

    Ronneberger et al. 2015, "U-Net": with d1 and d2 the distances of a background voxel to the nearest and the second
    nearest object, its weight is ``1 + weight * exp(-(d1 + d2)^2 / (2 sigma^2))``. Objects have the weight 1. Distances
    are from centre to centre, and objects farther than 5 sigma don't count. Touching objects have no background between
    them: make some by `grow_boundary`.

    Args:
        instances: Instance ids of any integer dtype and dimension, 0 = background.
        sigma: Width of the gaps that count, in world units.
        voxel_size: World units per voxel: a number, or one per axis.
        weight: Added weight of a gap of width 0; the paper has 10, and sigma 5 pixels.

    Returns:
        float32 weights of the instances' shape, 1 to ``1 + weight``.

    Raises:
        InputError: Ids that are not integers, or lengths or a weight that are not positive.

    Example:
        >>> print(separation_weights(np.array([3, 3, 0, 7, 7, 0]), sigma=2).round(1))
        [1.  1.  7.1 1.  1.  1.4]
    """
    sizes = one_per_axis(voxel_size, instances.ndim, "voxel_size", f"the labels have {instances.ndim} axes")
    (width,) = one_per_axis(sigma, 1, "sigma", "it is one length")
    (added,) = one_per_axis(weight, 1, "weight", "it is one number")
    objects, ids = consecutive_ids(instances)
    objects += 1
    nearest, second = (np.full(instances.shape, np.inf, dtype=np.float32) for _ in range(2))
    for number, box in enumerate(ndimage.find_objects(objects), start=1):
        if ids[number - 1] == 0:
            continue
        margins = [int(5 * width / size) + 1 for size in sizes]
        near = tuple(slice(max(0, side.start - far), side.stop + far) for side, far in zip(box, margins, strict=True))
        distance = ndimage.distance_transform_edt(objects[near] != number, sampling=sizes)
        np.minimum(second[near], np.maximum(nearest[near], distance), out=second[near])
        np.minimum(nearest[near], distance, out=nearest[near])
    weights = np.float32(1 + added * np.exp(-((nearest + second) ** 2) / (2 * width**2)))
    return np.where(instances == 0, weights, np.float32(1))
