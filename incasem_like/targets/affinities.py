"""Affinities: whether two voxels at a fixed offset belong to the same object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from incasem_like.errors import InputError
from incasem_like.targets.instances import pair_slices
from incasem_like.volumes.values import foreground


def affinities(
    instances: NDArray[np.integer],
    offsets: Sequence[Sequence[int]],
    labelled: NDArray[Any] | None = None,
    mask: NDArray[Any] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the affinities of all pairs of voxels at the given offsets, and which of them are known.

    Channel k at voxel v describes the pair v, v + offsets[k] (Turaga et al. 2010; long offsets: Lee et al. 2017). Its
    affinity is 1 if both voxels have the same id and it is not 0, else 0: the background has no affinity to anything,
    itself included. Objects count by their ids, also where they are unlabelled.

    A pair is valid, that is, counts in the loss, if

    - it lies in the block: no id is known beyond (make the labels larger than the block by the offsets where all
      pairs are needed, and crop);
    - at least one of its voxels is labelled. Pairs of a labelled and an unlabelled voxel count, so that sparsely
      painted objects have a boundary: paint them completely up to it;
    - both of its voxels are inside the mask.

    Args:
        instances: Instance ids of any integer dtype, 2-D or 3-D, 0 = background.
        offsets: Voxels from the first to the second of a pair, one per axis; ``(0, -1, 0)`` is the previous voxel
            along y.
        labelled: 0 = unlabelled voxel; None: all are labelled.
        mask: 0 = voxel does not count in any pair; None: all do.

    Returns:
        Affinities and validity, both uint8, 0 or 1, of shape (offsets, \\*instances.shape).

    Raises:
        InputError: No offset; one of another dimension, of length 0, or as long as the block along some axis; masks
            of another shape.

    Example:
        >>> same, valid = affinities(np.array([[3, 3, 0, 0, 5]]), [(0, -1)])
        >>> same[0].tolist(), valid[0].tolist()
        ([[0, 1, 0, 0, 0]], [[0, 1, 1, 1, 1]])
        >>> _, valid = affinities(np.array([[3, 3, 0, 0, 5]]), [(0, -1)], labelled=np.array([[1, 1, 0, 0, 0]]))
        >>> valid[0].tolist()
        [[0, 1, 1, 0, 0]]
    """
    steps = _checked_offsets(offsets, instances.shape)
    known = [None if part is None else _of_shape(part, instances.shape) for part in (labelled, mask)]
    objects = instances != 0
    same, valid = (np.zeros((len(steps), *instances.shape), dtype=np.bool_) for _ in range(2))
    for channel, offset in enumerate(steps):
        here, there = pair_slices(instances.shape, offset)
        pairs, counted = same[channel][here], valid[channel][here]
        np.equal(instances[here], instances[there], out=pairs)
        pairs &= objects[here]
        counted[...] = True
        if known[0] is not None:
            np.logical_or(known[0][here], known[0][there], out=counted)
        if known[1] is not None:
            counted &= known[1][here]
            counted &= known[1][there]
    return same.view(np.uint8), valid.view(np.uint8)


def _checked_offsets(offsets: Sequence[Sequence[int]], shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    if len(offsets) == 0:
        raise InputError(
            "Affinities need at least one offset, but none was given: [-1, 0, 0] links neighbours along z."
        )
    steps = [tuple(int(step) for step in offset) for offset in offsets]
    for offset in steps:
        if len(offset) != len(shape):
            raise InputError(
                f"The affinity offset {list(offset)} has {len(offset)} values, but the labels have {len(shape)} axes: "
                "give one per axis."
            )
        if not any(offset):
            raise InputError(f"The affinity offset {list(offset)} links each voxel to itself: give another offset.")
        if any(abs(step) >= size for step, size in zip(offset, shape, strict=True)):
            raise InputError(
                f"The affinity offset {list(offset)} is as long as the block or longer: the block has "
                f"{' x '.join(map(str, shape))} voxels; shorten the offset or enlarge the block."
            )
    return steps


def _of_shape(mask: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if mask.shape != shape:
        raise InputError(f"The labels have the shape {shape}, but their mask {mask.shape}: crop them to the same ROI.")
    return foreground(mask)
