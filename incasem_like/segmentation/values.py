"""Predicted values of a block as methods read them: in stored units, inside the volume and the mask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from incasem_like.segmentation.affinities import Offset, as_backward, ends, neighbour_channels
from incasem_like.segmentation.probabilities import stored_threshold
from incasem_like.volumes import Roi, Volume
from incasem_like.volumes.values import check_probabilities, inside, probability_scale

Array = npt.NDArray[Any]
Meaning = Literal["affinities", "boundaries", "objects"]


@dataclass(frozen=True)
class Values:
    """Affinities or probabilities in an ROI.

    Attributes:
        stored: (channels, z, y, x) as stored; probabilities of boundaries are inverted to those of objects.
        scale: The stored value of 1.
        offsets: Of the channels of affinities; none for probabilities.
        valid: (z, y, x), False outside the volume and where the mask is 0.
        voxel_size: (z, y, x) in nm.
    """

    stored: Array
    scale: float
    offsets: tuple[Offset, ...]
    valid: npt.NDArray[np.bool_]
    voxel_size: tuple[float, ...]

    def reaches(self, threshold: float) -> npt.NDArray[np.bool_]:
        """Return (channels, z, y, x), where a valid value is at least the threshold, compared in its stored type.

        An affinity is valid if both of its voxels are.
        """
        reached = self.stored >= stored_threshold(threshold, self.stored.dtype, self.scale)
        return reached & self._valid_values

    @cached_property
    def fractions(self) -> npt.NDArray[np.float32]:
        """(channels, z, y, x) from 0 to 1; 0 where a value is not valid."""
        values = self.stored.astype(np.float32)
        values /= np.float32(self.scale)
        values[~self._valid_values] = 0  # a product would keep NaN
        return values

    @cached_property
    def interior(self) -> npt.NDArray[np.float32]:
        """(z, y, x) from 0 to 1: the mean affinity with the neighbours along z, y and x, or the probability."""
        return self.mean_of((0, 1, 2))

    def mean_of(self, axes: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return ``interior`` of some axes: (1, 2) for sections."""
        channels = neighbour_channels(self.offsets, axes) if self.offsets else (0,)
        return np.asarray(self.fractions[list(channels)].mean(axis=0))

    @cached_property
    def backward(self) -> npt.NDArray[np.float32]:
        """(3, z, y, x) affinities with the voxel before along z, y, x; of probabilities, the lower of both."""
        if self.offsets:
            return as_backward(self.fractions, self.offsets)
        pairs = np.zeros((3, *self.interior.shape), np.float32)
        for axis in range(3):
            here, there = ends(self.interior.shape, [-int(axis == other) for other in range(3)])
            pairs[axis][here] = np.minimum(self.interior[here], self.interior[there])
        return pairs

    @cached_property
    def _valid_values(self) -> npt.NDArray[np.bool_]:
        if not self.offsets or self.valid.all():
            return np.broadcast_to(self.valid, self.stored.shape)
        both = np.zeros(self.stored.shape, bool)
        for channel, offset in enumerate(self.offsets):
            here, there = ends(self.valid.shape, offset)
            both[channel][here] = self.valid[here] & self.valid[there]
        return both


def read_values(
    prediction: Volume, mask: Volume | None, meaning: Meaning, offsets: tuple[Offset, ...], roi: Roi
) -> Values:
    """Read the values of an ROI, which may extend beyond the volume.

    Raises:
        VoxelValueError: A valid value is not from 0 to 1.
    """
    stored = prediction.read(roi, outside="constant")
    if stored.ndim == 3:
        stored = stored[None]
    stored, scale = stored[: len(offsets) or 1], probability_scale(prediction)
    common = roi.intersect(prediction.roi)
    if common == roi and mask is None:
        valid = np.ones(roi.shape, bool)
    else:
        valid = np.zeros(roi.shape, bool)
        within = (common - roi.begin).to_slices()
        valid[within] = True if mask is None else inside(mask.read(common), str(mask.address), common.begin)
    for channel in stored:
        check_probabilities(channel, scale, str(prediction.address), roi.begin, valid)
    if meaning == "boundaries":
        stored = stored.dtype.type(scale) - stored
    return Values(stored, scale, offsets, valid, prediction.require_voxel_size())
