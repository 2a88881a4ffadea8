"""Repeated reading of blocks of a region: raw with context, labels and mask, cached in memory if they fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from incasem_like.samples.regions import Region
from incasem_like.samples.settings import Size
from incasem_like.targets import LabelBlock
from incasem_like.volumes import Coordinate, Roi
from incasem_like.volumes.padding import read_extended

Arrays = dict[str, NDArray[Any]]
# Names of the arrays that labels consist of; the instance ids of a class are under ``instances_of``.
CLASSES, MASK, INSIDE, WEIGHTS = "classes", "mask", "inside", "weights"


def instances_of(class_id: int) -> str:
    """Return the name of the array of a class's instance ids."""
    return f"instances_{class_id}"


def label_block(
    arrays: Arrays, instance_classes: Sequence[int], voxel_size: tuple[float, float, float], context: Size
) -> LabelBlock:
    """Return the block that targets are made of, from the arrays of ``BlockReader.read_labels``, augmented or not."""
    instances = {one: arrays[instances_of(one)] for one in instance_classes}
    inside = arrays.get(INSIDE, arrays[MASK])
    return LabelBlock(arrays[CLASSES], instances, arrays[MASK], inside, voxel_size, context, arrays.get(WEIGHTS))


class BlockReader:
    """Blocks of one region, anywhere in space.

    Beyond the raw volume raw is mirrored about its outermost voxel, as prediction does. Beyond the region the mask is
    0, so that nothing there counts, neither as background nor as anything else.

    Small regions are cached in memory at first use: classes and mask as 2 bytes per voxel of the region, instance ids
    and raw in their own dtype, raw with ``margin`` around the region. The cache affects only speed, never a value.
    """

    def __init__(
        self,
        region: Region,
        margin: Coordinate,
        raw_bytes: int,
        label_bytes: int,
        instance_classes: Sequence[int] = (),
        weighted: bool = False,
    ) -> None:
        """Prepare to read; nothing is read yet.

        Args:
            region: The region.
            margin: Voxels beyond the region that blocks of raw usually reach.
            raw_bytes: Memory limit of raw; a region that needs more is read from its volume each time.
            label_bytes: Memory limit of labels and mask.
            instance_classes: Classes whose instance ids are read too.
            weighted: Whether weights of voxels are read too; where they are 0, the mask is 0.
        """
        self.weighted = weighted
        self.region, self.instance_classes = region, tuple(instance_classes)
        self.dtypes: dict[str, np.dtype[Any]] = {CLASSES: np.dtype(np.uint8), MASK: np.dtype(np.uint8)}
        self.dtypes |= {instances_of(one): region.instance_dtype(one) for one in self.instance_classes}
        if weighted:
            self.dtypes[WEIGHTS] = np.dtype(np.float32)
        near = region.roi.grow(margin, margin).intersect(region.raw_roi)
        self.raw_bytes_held = near.size * region.raw.dtype.itemsize
        self._raw: _Held | None = _Held(near)
        if self.raw_bytes_held > raw_bytes:
            self._raw, self.raw_bytes_held = None, 0
        self.label_bytes_held = sum(dtype.itemsize for dtype in self.dtypes.values()) * region.roi.size
        self._labels: _Held | None = _Held(region.roi)
        if self.label_bytes_held > label_bytes:
            self._labels, self.label_bytes_held = None, 0
        self._latest: tuple[Roi, Arrays] | None = None

    def read_raw(self, roi: Roi) -> NDArray[np.float32]:
        """Read raw as float32 from 0 to 1, mirrored beyond the volume."""
        within = self.region.raw_roi
        if within.contains(roi):
            return self.region.normalised(self._stored(roi))
        origin = within.begin
        stored = read_extended(lambda part: self._stored(part + origin), roi - origin, tuple(within.shape))
        return self.region.normalised(stored)

    def read_labels(self, roi: Roi) -> Arrays:
        """Read class ids, mask, the extent of the region, and instance ids; all are 0 beyond the region."""
        arrays = {name: np.zeros(tuple(roi.shape), dtype=dtype) for name, dtype in self.dtypes.items()}
        arrays[INSIDE] = np.zeros(tuple(roi.shape), dtype=np.uint8)
        inside = roi.intersect(self.region.roi)
        if not inside.empty:
            place = (inside - roi.begin).to_slices()
            arrays[INSIDE][place] = 1
            for name, known in self.known_labels(inside).items():
                arrays[name][place] = known
        return arrays

    def known_labels(self, inside: Roi) -> Arrays:
        """Read class ids, mask and instance ids of a part of the region."""
        if self._labels is None:
            # The block that a position is judged by is the one that is read once it is accepted.
            if self._latest is None or self._latest[0] != inside:
                self._latest = (inside, self._read_labels(inside))
            return self._latest[1]
        if not self._labels.arrays:
            self._labels.arrays = self._read_labels(self.region.roi)
        part = self._labels.place(inside)
        return {name: array[part] for name, array in self._labels.arrays.items()}

    def _read_labels(self, roi: Roi) -> Arrays:
        instances = {instances_of(one): self.region.read_instances(one, roi) for one in self.instance_classes}
        read = {CLASSES: self.region.read_labels(roi), MASK: self.region.read_mask(roi), **instances}
        if self.weighted:
            read[WEIGHTS] = self.region.read_weights(roi)
            read[MASK] = read[MASK] * (read[WEIGHTS] > 0)
        return read

    def _stored(self, roi: Roi) -> NDArray[Any]:
        if self._raw is None or not self._raw.roi.contains(roi):
            return self.region.read_stored_raw(roi)
        if not self._raw.arrays:
            self._raw.arrays["raw"] = self.region.read_stored_raw(self._raw.roi)
        return self._raw.arrays["raw"][self._raw.place(roi)]


class _Held:
    """Arrays cached in memory once they are read, and their ROI."""

    def __init__(self, roi: Roi) -> None:
        self.roi = roi
        self.arrays: Arrays = {}

    def place(self, roi: Roi) -> tuple[slice, ...]:
        """Return the slices of an ROI in the cached arrays."""
        return tuple((roi - self.roi.begin).to_slices())
