"""Masks made from labels: borders of objects, annotated voxels, seeded disks; and where labels lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.derive import Derivation, OfLabels, Operation
from incasem_like.volumes import Coordinate, Roi, Volume
from incasem_like.volumes.values import RESERVED_IDS, check_label_dtype, foreground


def metric_mask(labels: npt.NDArray[Any], outwards: int, inwards: int) -> npt.NDArray[np.uint8]:
    """Return a mask of the voxels that count in scores.

    A voxel is left out when it lies outside all objects at a city-block distance of at most ``outwards`` from one, or
    inside at a city-block distance of at most ``inwards`` from the outside. All ids are one object; what lies beyond
    the array counts as outside.

    Args:
        labels: Labels of any integer type, 0 = outside.
        outwards: Voxels left out around objects, 0 or more.
        inwards: Voxels left out within objects, 0 or more.

    Returns:
        uint8: 1 counts, 0 is left out.
    """
    objects = foreground(labels)
    dilated = grow(objects, outwards)
    # Voxels beyond the array are background: a border of background erodes objects at the array's edge.
    outside = np.pad(~objects, 1, constant_values=True) if inwards > 0 else ~objects
    eaten = grow(outside, inwards)
    if inwards > 0:
        eaten = eaten[(slice(1, -1),) * labels.ndim]
    return (~(dilated & eaten)).view(np.uint8)


def grow(mask: npt.NDArray[np.bool_], steps: int) -> npt.NDArray[np.bool_]:
    """Dilate a mask by face neighbours, ``steps`` times."""
    for _ in range(steps):
        grown = mask.copy()
        for axis in range(mask.ndim):
            source, target = np.moveaxis(mask, axis, 0), np.moveaxis(grown, axis, 0)
            target[:-1] |= source[1:]
            target[1:] |= source[:-1]
        mask = grown
    return mask


MASK_BLOCK = (512, 512, 512)


def is_labelled(labels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return 1 where labels are not 0, else 0."""
    return foreground(labels).astype(np.uint8)


def labelled_mask(source: Volume, derivation: Derivation) -> Operation:
    """Mask the labelled voxels: 1 where a label is not 0, so that all others are left out of training."""
    return Operation("labelled_mask", OfLabels(is_labelled), dtype=np.uint8, labels=True)


def is_one_of(labels: npt.NDArray[Any], ids: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Return 1 where a label is one of ``ids``, else 0."""
    return np.isin(labels, np.asarray(ids, np.uint64)).astype(np.uint8)


def select(source: Volume, derivation: Derivation, *, ids: Sequence[int]) -> Operation:
    """Make the class map of some ids: 1 where a label is one of them, as for volumes that store many classes as ids.

    Args:
        source, derivation: As for every operation.
        ids: Label ids of the class.

    Raises:
        InputError: An id is below 1, or beyond 64 bits.
    """
    if min(ids) < 1 or max(ids) >= RESERVED_IDS:
        raise InputError(f"--ids are {list(ids)}, but labels are from 1 to {RESERVED_IDS - 1}: leave out the others.")
    return Operation("select", OfLabels(is_one_of), {"ids": sorted(set(ids))}, dtype=np.uint8, labels=True)


def disks(source: Volume, derivation: Derivation, *, count: int, radius: float, seed: int = 0) -> Operation:
    """Mask disks at random places: 1 inside, as if only they had been annotated.

    Each section has its own disks, whose centres are uniform in the section. They depend on seed, section and size of
    the volume alone, not on blocks.

    Args:
        source, derivation: As for every operation; of the source only the extent matters.
        count: Disks per section.
        radius: Radius in voxels.
        seed: Random seed.

    Raises:
        InputError: No disk, a radius that is not above 0, or a negative seed.
    """
    if count < 1 or not radius > 0 or seed < 0:
        raise InputError(
            f"Got --count {count}, --radius {radius:g}, --seed {seed}: give 1 or more, above 0, 0 or more."
        )
    return Operation("disks", disks_block, {"count": count, "radius": radius, "seed": seed}, dtype=np.uint8)


def disks_block(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Return the disks of a block."""
    whole, roi = block.inputs[0].roi, block.write_roi
    found = np.zeros(tuple(roi.shape), np.uint8)
    for section, mask in enumerate(found):
        number = int(roi.begin[0] - whole.begin[0]) + section
        rng = np.random.default_rng([parameters["seed"], number])
        centres = rng.uniform(whole.begin[1:], whole.end[1:], (parameters["count"], 2)) - 0.5
        mask[inside_disks(mask.shape, centres - tuple(roi.begin[1:]), parameters["radius"])] = 1
    return found


def inside_disks(shape: Sequence[int], centres: npt.NDArray[np.float64], radius: float) -> npt.NDArray[np.bool_]:
    """Return which pixels (y, x) have their centre in one of some disks.

    >>> inside_disks((1, 4), np.array([[0, 1.0]]), 1).tolist()
    [[True, True, True, False]]
    """
    inside = np.zeros(tuple(shape), bool)
    y, x = np.ogrid[: inside.shape[0], : inside.shape[1]]
    for centre in centres:
        inside |= (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2
    return inside


def bounding_box(labels: Volume, derivation: Derivation, margin: Sequence[int] = (0, 0, 0)) -> Roi:
    """Return the smallest box that holds all labelled voxels, in absolute voxels.

    Args:
        labels: The labels.
        derivation: Workers that look.
        margin: Voxels to add on each side (z, y, x); the box may then extend beyond the labels.

    Raises:
        DataError: No voxel is labelled.
    """
    labels.require_zyx()
    check_label_dtype(labels)
    task = LedgerTask("bounding box", labels, (str(labels.address),), bounds_of_block, {}, MASK_BLOCK)
    task.run(**derivation.run_options(labels), description=f"Finding labelled voxels of {labels.dataset}")
    bounds = np.array([found for found in task.results() if found.size])
    if not len(bounds):
        raise DataError(f"{labels.address} is 0 everywhere, so that nothing can be cut out: choose other labels.")
    begin, end = bounds[:, 0].min(0), bounds[:, 1].max(0)
    box = Roi([int(low) for low in begin], [int(size) for size in end - begin])
    return box.grow(Coordinate(margin), Coordinate(margin))


def bounds_of_block(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Return first and last-plus-one labelled voxel of a block, (2, 3); empty if there is none."""
    labels = block.inputs[0].read(block.write_roi)
    inside = foreground(labels, str(block.inputs[0].address), block.write_roi.begin)
    bounds = []
    for axis in range(3):
        along = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        if not len(along):
            return np.zeros(0, np.int64)
        bounds.append(block.write_roi.begin[axis] + np.array([along[0], along[-1] + 1]))
    return np.array(bounds, np.int64).T
