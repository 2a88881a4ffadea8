"""Predicted values of a block as methods read them: in stored units, inside the volume and the mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError
from incasem_like.segmentation.affinities import Offset, as_backward, ends, neighbour_channels
from incasem_like.segmentation.probabilities import stored_threshold
from incasem_like.volumes import Roi, Volume
from incasem_like.volumes.values import check_probabilities, inside, probability_scale

Array = npt.NDArray[Any]
Meaning = Literal["affinities", "boundaries", "objects", "descriptors"]


@dataclass(frozen=True)
class Values:
    """Affinities or probabilities in an ROI.

    Attributes:
        stored: (channels, z, y, x) as stored; probabilities of boundaries are inverted to those of objects, and shape
            descriptors become such probabilities, see ``interior_of_descriptors``.
        scale: The stored value of 1.
        offsets: Of the channels of affinities; none for probabilities.
        valid: (z, y, x), False outside the volume and where the mask is 0.
        voxel_size: (z, y, x) in nm.
        seeds: (z, y, x) ids of objects that are known in some voxels, 0 elsewhere; None without seeds.
    """

    stored: Array
    scale: float
    offsets: tuple[Offset, ...]
    valid: npt.NDArray[np.bool_]
    voxel_size: tuple[float, ...]
    seeds: npt.NDArray[np.uint64] | None = None

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


def offset_channels(prediction: Volume) -> tuple[int, ...]:
    """Return the channels of shape descriptors that hold the mean offset, z, y, x or y, x.

    They are found by the attribute ``channel_names``, else they are the first of 10 (3-D) or 6 (in sections) channels.

    Raises:
        DataError: There are no such channels.
    """
    names = prediction.attributes.get("channel_names")
    channels = prediction.shape[0] if prediction.axes == "czyx" else 1
    if isinstance(names, list):
        found = tuple(channel for channel, name in enumerate(names) if str(name).startswith("offset_"))
    else:
        found = {10: (0, 1, 2), 6: (0, 1)}.get(channels, ())
    if not found or max(found) >= channels:
        raise DataError(
            f"{prediction.address} has no mean offsets among its {channels} channels ({names or 'without names'}): "
            "name a prediction of shape descriptors with their components 0 to 2, or segment affinities."
        )
    return found


def interior_of_descriptors(offsets: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return how far a voxel lies inside of an object, from 0 to 1, by the mean offset of its shape descriptors.

    The mean offset leads from a voxel to the centre of the part of its object that is near: 0 well inside, and towards
    the inside near a boundary. The result is 1 - its length in units of sigma; 0 also in background, where descriptors
    are 0.

    Args:
        offsets: (2 or 3, z, y, x) from 0 to 1, as descriptors are stored: 0.5 means 0, 0 and 1 are a whole sigma.

    >>> offsets = np.array([[0.5, 0.75, 0.0], [0.5, 0.5, 0.0]], np.float32).reshape(2, 1, 1, 3)
    >>> interior_of_descriptors(offsets).ravel().tolist()
    [1.0, 0.5, 0.0]
    """
    length = np.sqrt(np.square(2 * offsets - 1).sum(axis=0))
    return np.asarray(1 - np.minimum(length, 1), np.float32)


def is_stored(volume: Volume, roi: Roi) -> bool:
    """Return whether an ROI has any stored chunk; True where voxels without one are not 0, or it cannot be known."""
    common = roi.intersect(volume.roi)
    if common.empty:
        return False
    store = volume.open().store
    if getattr(store, "fill_value", 0):
        return True
    try:
        part = store[(..., *(common - volume.roi.begin).to_slices())]
        return not part.storage_statistics(query_not_stored=True).result().not_stored
    except (AttributeError, NotImplementedError, ValueError):
        return True


def read_values(
    prediction: Volume,
    mask: Volume | None,
    meaning: Meaning,
    offsets: tuple[Offset, ...],
    roi: Roi,
    excluded_sections: Sequence[int] = (),
) -> Values:
    """Read the values of an ROI, which may extend beyond the volume.

    Args:
        prediction, mask, meaning, offsets: As of ``pipeline.Segmentation``.
        roi: In absolute voxels.
        excluded_sections: Absolute sections that are not valid.

    Raises:
        VoxelValueError: A valid value is not from 0 to 1.
    """
    stored = prediction.read(roi, outside="constant")
    if stored.ndim == 3:
        stored = stored[None]
    channels = list(offset_channels(prediction)) if meaning == "descriptors" else slice(len(offsets) or 1)
    stored, scale = stored[channels], probability_scale(prediction)
    common = roi.intersect(prediction.roi)
    if common == roi and mask is None:
        valid = np.ones(roi.shape, bool)
    else:
        valid = np.zeros(roi.shape, bool)
        within = (common - roi.begin).to_slices()
        valid[within] = True if mask is None else inside(mask.read(common), str(mask.address), common.begin)
    for section in excluded_sections:
        if roi.begin[0] <= section < roi.end[0]:
            valid[section - roi.begin[0]] = False
    for channel in stored:
        check_probabilities(channel, scale, str(prediction.address), roi.begin, valid)
    if meaning == "boundaries":
        stored = stored.dtype.type(scale) - stored
    elif meaning == "descriptors":
        stored, scale = interior_of_descriptors(stored.astype(np.float32) / np.float32(scale))[None], 1.0
    return Values(stored, scale, offsets, valid, prediction.require_voxel_size())
