"""Regions: the opened data-config entries, read on one voxel grid as raw, classes and masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from incasem_like.config import DataEntry
from incasem_like.errors import DataError, VoxelValueError
from incasem_like.targets import class_map
from incasem_like.volumes import Address, Coordinate, Roi, Volume, parse_address
from incasem_like.volumes.geometry import exact, nanometres
from incasem_like.volumes.padding import read_extended
from incasem_like.volumes.values import check_labels, first_where, foreground, inside, probability_scale

Outside = Literal["error", "constant", "reflect"]
RAW_SCALES = {"uint8": 1 / 255, "uint16": 1 / 65535, "float16": 1.0, "float32": 1.0, "float64": 1.0}


@dataclass(frozen=True)
class Region:
    """One entry of a data configuration with its volumes, opened and consistent with each other.

    Regions of interest are in absolute voxels after downsampling: voxel k of the region is voxel
    ``k * downsample_factor`` of the volumes.

    Attributes:
        entry: The entry as configured.
        roi: Extent of the region.
        raw: Intensities.
        labels: Class id -> volume whose voxels belong to that class unless they are 0; empty = all background.
        mask: Voxels where it is 0 are not learnt; None = everywhere 1.
        metric_masks: Voxels where any of them is 0 are excluded from metrics.
        downsample_factor: Every n-th voxel is taken along each axis.
        further_raw: Volumes whose channels follow those of raw, for a network that reads predictions.
        weights: Weights of voxels in the loss; None = everywhere 1.
    """

    entry: DataEntry
    roi: Roi
    raw: Volume
    labels: dict[int, Volume]
    mask: Volume | None
    metric_masks: tuple[Volume, ...]
    downsample_factor: int = 1
    further_raw: tuple[Volume, ...] = ()
    weights: Volume | None = None

    @property
    def name(self) -> str:
        """Name of the entry in the data configuration."""
        return self.entry.name

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Voxel size in nm after downsampling, z, y, x."""
        z, y, x = nanometres((self.downsample_factor,) * 3, self.entry.voxel_size)
        return z, y, x

    @property
    def raw_roi(self) -> Roi:
        """ROI of the raw volume; it contains ``roi`` and is usually larger."""
        return downsampled(self.raw.roi, self.downsample_factor)

    @property
    def offset(self) -> tuple[float, ...]:
        """Position in nm (z, y, x) of the first corner of ``roi``; between voxels where the raw volume lies there."""
        size, factor = self.entry.voxel_size, self.downsample_factor
        return tuple(
            float(exact(begin) + (voxel * factor - first) * exact(edge))
            for begin, voxel, first, edge in zip(self.raw.offset, self.roi.begin, self.raw.roi.begin, size, strict=True)
        )

    @property
    def raw_scale(self) -> float:
        """Factor that scales stored raw to 0-1: by the range of an integer dtype, 1 for floats."""
        return RAW_SCALES[self.raw.dtype.name]

    @cached_property
    def content_hashes(self) -> dict[str, str]:
        """Address -> content hash of every volume of the region, computed once at first use, since it lists all
        chunk files."""
        return {str(volume.address): volume.content_hash for volume in self.volumes}

    @property
    def record(self) -> dict[str, Any]:
        """Name, file and content of its volumes, for the record of a run."""
        return {"name": self.name, "file": str(self.entry.file), "content_hashes": self.content_hashes}

    @property
    def addresses(self) -> list[Address]:
        """Addresses of all volumes that the entry names, including those not opened."""
        entry = self.entry
        masks = [*filter(None, [entry.mask, entry.voxel_weights]), *entry.metric_masks]
        names = [entry.raw, *entry.further_raw, *entry.labels, *masks]
        return [parse_address(entry.file, name) for name in names]

    @property
    def volumes(self) -> list[Volume]:
        """All volumes of the region, raw first."""
        masks = [volume for volume in (self.mask, self.weights) if volume is not None]
        return [self.raw, *self.further_raw, *self.labels.values(), *masks, *self.metric_masks]

    def read_raw(self, roi: Roi, outside: Outside = "error", fill: float = 0) -> NDArray[np.float32]:
        """Read raw as float32 from 0 to 1, with channels where it has any; ``fill`` is in stored units.

        Raises:
            DataError: Float raw outside 0-1, or ``roi`` extends outside the volume and ``outside`` is "error".
        """
        if not self.further_raw:
            return self.normalised(self.read_stored_raw(roi, outside, fill))
        parts = [replace(self, raw=volume, further_raw=()) for volume in (self.raw, *self.further_raw)]
        return np.concatenate([part.read_raw(roi, outside, fill) for part in parts])

    def read_stored_raw(self, roi: Roi, outside: Outside = "error", fill: float = 0) -> NDArray[Any]:
        """Read raw in the dtype it is stored in, without further volumes of it."""
        return self._read(self.raw, roi, outside, fill)

    def normalised(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Convert stored raw to float32 from 0 to 1, in a new array.

        Raises:
            DataError: Float raw outside 0-1.
        """
        if stored.dtype.kind == "f" and stored.size:
            lowest, highest = float(stored.min()), float(stored.max())
            if not (lowest >= 0 and highest <= 1):
                raise DataError(
                    f"{self.entry.raw} of {self.name} holds floats from {lowest:g} to {highest:g}, but float raw has "
                    f"to lie in 0 to 1: {'replace NaN' if lowest != lowest else 'rescale it'}, or store it as uint8 or "
                    "uint16."
                )
        normalised: NDArray[np.float32] = np.multiply(stored, np.float32(self.raw_scale), dtype=np.float32)
        return normalised

    def read_labels(self, roi: Roi) -> NDArray[np.uint8]:
        """Read class ids; 0 = background and beyond the label volumes.

        Raises:
            VoxelValueError: A label is negative.
        """
        if not self.labels:
            return np.zeros(tuple(roi.shape), dtype=np.uint8)
        return class_map(
            {
                class_id: foreground(self._read(volume, roi), *self._where(volume, roi))
                for class_id, volume in self.labels.items()
            }
        )

    def instance_dtype(self, class_id: int) -> np.dtype[Any]:
        """Return the data type of ``read_instances``."""
        return self.labels[class_id].dtype if class_id in self.labels else np.dtype(np.uint8)

    def read_instances(self, class_id: int, roi: Roi) -> NDArray[Any]:
        """Read the ids of one class's label dataset as stored; 0 beyond it, and everywhere if the entry has none.

        Raises:
            VoxelValueError: A label is negative.
        """
        if class_id not in self.labels:
            return np.zeros(tuple(roi.shape), dtype=self.instance_dtype(class_id))
        volume = self.labels[class_id]
        ids = self._read(volume, roi)
        check_labels(ids, *self._where(volume, roi))
        return ids

    def read_mask(self, roi: Roi) -> NDArray[np.uint8]:
        """Read the mask as 0 and 1; 0 beyond the mask volume, 1 everywhere if the entry has no mask."""
        return self._conjunction(roi, [] if self.mask is None else [self.mask])

    def read_weights(self, roi: Roi) -> NDArray[np.float32]:
        """Read the weights of voxels in the loss; 0 beyond the volume of weights, 1 everywhere if there is none.

        Raises:
            VoxelValueError: A weight is negative, NaN or Inf.
        """
        if self.weights is None:
            return np.ones(tuple(roi.shape), dtype=np.float32)
        stored = self._read(self.weights, roi)
        invalid = ~(np.isfinite(stored) & (stored >= 0))
        if invalid.any():
            value, position = first_where(stored, invalid, *self._where(self.weights, roi)[1:])
            raise VoxelValueError(
                f"{self.weights.dataset} of {self.name} holds the weight {value:g} at {position}, but weights are at "
                "least 0: correct it."
            )
        return (stored / probability_scale(self.weights)).astype(np.float32)

    def read_metric_mask(self, roi: Roi) -> NDArray[np.uint8]:
        """Read the mask of measured voxels as 0 and 1: inside the mask and every metric mask."""
        return self._conjunction(roi, [*([] if self.mask is None else [self.mask]), *self.metric_masks])

    def _conjunction(self, roi: Roi, volumes: list[Volume]) -> NDArray[np.uint8]:
        everywhere = np.ones(tuple(roi.shape), dtype=bool)
        for volume in volumes:
            everywhere &= inside(self._read(volume, roi), *self._where(volume, roi))
        return everywhere.view(np.uint8)

    def _where(self, volume: Volume, roi: Roi) -> tuple[str, Coordinate, int]:
        """Return a volume's name, the first voxel read from it, and the step between voxels, for errors."""
        return f"{volume.dataset} of {self.name}", roi.begin * self.downsample_factor, self.downsample_factor

    def _read(self, volume: Volume, roi: Roi, outside: Outside = "constant", fill: float = 0) -> NDArray[Any]:
        factor = self.downsample_factor
        if factor == 1:
            return volume.read(roi, outside=outside, fill=fill)
        if outside == "reflect":
            # Mirrored at the outermost sampled voxel, not at the outermost stored one.
            grid = downsampled(volume.roi, factor)
            return read_extended(
                lambda part: self._read(volume, part + grid.begin, "error"), roi - grid.begin, tuple(grid.shape)
            )
        # Only the first voxel of the last group is needed; the rest need not exist.
        stored = Roi(roi.begin * factor, (roi.shape - Coordinate(1, 1, 1)) * factor + Coordinate(1, 1, 1))
        # Copied, so that the skipped voxels do not stay in memory.
        return volume.read(stored, outside=outside, fill=fill)[::factor, ::factor, ::factor].copy()


def downsampled(roi: Roi, factor: int) -> Roi:
    """Return the voxels of the grid coarser by ``factor`` whose first stored voxel lies in ``roi``."""
    begin = Coordinate(-(-first // factor) for first in roi.begin)
    end = Coordinate(-(-last // factor) for last in roi.end)
    return Roi(begin, end - begin)
