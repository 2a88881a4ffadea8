"""Repeated reading of blocks of a region: raw with context, labels and mask, cached in memory if they fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from incasem_like.samples.regions import Region
from incasem_like.volumes import Coordinate, Roi
from incasem_like.volumes.padding import read_extended


class BlockReader:
    """Blocks of one region, anywhere in space.

    Beyond the raw volume raw is mirrored about its outermost voxel, as prediction does. Beyond the region the mask is
    0, so that nothing there counts, neither as background nor as anything else.

    Small regions are cached in memory at first use: labels and mask as 2 bytes per voxel of the region, raw in its own
    dtype with ``margin`` around the region. The cache affects only speed, never a value.
    """

    def __init__(self, region: Region, margin: Coordinate, raw_bytes: int, label_bytes: int) -> None:
        """Prepare to read; nothing is read yet.

        Args:
            region: The region.
            margin: Voxels beyond the region that blocks of raw usually reach.
            raw_bytes: Memory limit of raw; a region that needs more is read from its volume each time.
            label_bytes: Memory limit of labels and mask.
        """
        self.region = region
        near = region.roi.grow(margin, margin).intersect(region.raw_roi)
        self.raw_bytes_held = near.size * region.raw.dtype.itemsize
        self._raw: _Held | None = _Held(near)
        if self.raw_bytes_held > raw_bytes:
            self._raw, self.raw_bytes_held = None, 0
        self.label_bytes_held = 2 * region.roi.size
        self._labels: _Held | None = _Held(region.roi)
        if self.label_bytes_held > label_bytes:
            self._labels, self.label_bytes_held = None, 0
        self._latest: tuple[Roi, NDArray[np.uint8], NDArray[np.uint8]] | None = None

    def read_raw(self, roi: Roi) -> NDArray[np.float32]:
        """Read raw as float32 from 0 to 1, mirrored beyond the volume."""
        within = self.region.raw_roi
        if within.contains(roi):
            return self.region.normalised(self._stored(roi))
        origin = within.begin
        stored = read_extended(lambda part: self._stored(part + origin), roi - origin, tuple(within.shape))
        return self.region.normalised(stored)

    def read_labels_and_mask(self, roi: Roi) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read class ids and mask; both are 0 beyond the region."""
        labels, mask = (np.zeros(tuple(roi.shape), dtype=np.uint8) for _ in range(2))
        inside = roi.intersect(self.region.roi)
        if not inside.empty:
            place = (inside - roi.begin).to_slices()
            labels[place], mask[place] = self.known_labels_and_mask(inside)
        return labels, mask

    def known_labels_and_mask(self, inside: Roi) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read class ids and mask of a part of the region."""
        if self._labels is None:
            # The block that a position is judged by is the one that is read once it is accepted.
            if self._latest is None or self._latest[0] != inside:
                self._latest = (inside, self.region.read_labels(inside), self.region.read_mask(inside))
            return self._latest[1:]
        if self._labels.array is None:
            everywhere = self.region.roi
            self._labels.array = np.stack([self.region.read_labels(everywhere), self.region.read_mask(everywhere)])
        part = (slice(None), *self._labels.place(inside))
        labels, mask = self._labels.array[part]
        return labels, mask

    def _stored(self, roi: Roi) -> NDArray[Any]:
        if self._raw is None or not self._raw.roi.contains(roi):
            return self.region.read_stored_raw(roi)
        if self._raw.array is None:
            self._raw.array = self.region.read_stored_raw(self._raw.roi)
        stored: NDArray[Any] = self._raw.array[self._raw.place(roi)]
        return stored


class _Held:
    """An array cached in memory once it is read, and its ROI."""

    def __init__(self, roi: Roi) -> None:
        self.roi = roi
        self.array: NDArray[Any] | None = None

    def place(self, roi: Roi) -> tuple[slice, ...]:
        """Return the slices of an ROI in the cached array."""
        return tuple((roi - self.roi.begin).to_slices())
