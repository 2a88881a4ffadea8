"""Ortho-slice images of a block: raw, labels over raw, prediction over raw, each cut along three planes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.targets import Target, channel_slices

if TYPE_CHECKING:
    from incasem_like.volumes import Roi

Image = npt.NDArray[np.uint8]

# Okabe & Ito's palette, distinguishable with any kind of colour vision; the background has no colour.
PALETTE = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)],
    dtype=np.float32,
)
OPACITY = 0.5
GAP = 4
LONGEST_SIDE = 1024


class OrthoPlanes:
    """The three central planes of a region, gathered from blocks so that the region is never in memory at once.

    Args:
        roi: The region, absolute voxels.
        channels: Number of channels before the spatial axes; None for arrays without.
    """

    def __init__(self, roi: Roi, channels: int | None = None) -> None:
        self.roi = roi
        self.centre = tuple(int(begin + size // 2) for begin, size in zip(roi.begin, roi.shape, strict=True))
        lead = () if channels is None else (channels,)
        self.planes = [
            np.zeros((*lead, *(int(size) for other, size in enumerate(roi.shape) if other != axis)), dtype=np.float32)
            for axis in range(3)
        ]

    def add(self, block: Roi, array: npt.NDArray[Any]) -> None:
        """Copy what the block holds of the planes; ``array`` has the block's shape behind its channels."""
        inside = block.intersect(self.roi)
        if inside.empty:
            return
        source = [slice(int(a - o), int(b - o)) for a, b, o in zip(inside.begin, inside.end, block.begin, strict=True)]
        target = [
            slice(int(a - o), int(b - o)) for a, b, o in zip(inside.begin, inside.end, self.roi.begin, strict=True)
        ]
        for axis, plane in enumerate(self.planes):
            if not inside.begin[axis] <= self.centre[axis] < inside.end[axis]:
                continue
            section = np.take(array, self.centre[axis] - int(block.begin[axis]), axis=axis - 3)
            (row, column) = (other for other in range(3) if other != axis)
            plane[..., target[row], target[column]] = section[..., source[row], source[column]]


def central_crop(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return the central crop of the given shape."""
    begins = [(size - wanted) // 2 for size, wanted in zip(array.shape, shape, strict=True)]
    return array[tuple(slice(begin, begin + wanted) for begin, wanted in zip(begins, shape, strict=True))]


def central_planes(array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Return the central planes across z, y and x of (…, z, y, x)."""
    return [np.take(array, array.shape[axis] // 2, axis=axis) for axis in (-3, -2, -1)]


class Picture:
    """An image of a region, gathered from blocks: raw, then each target and what was predicted of it.

    Args:
        roi: The region, absolute voxels.
        targets: What the network learns, in the order of its channels.
        voxel_size: z, y, x; planes are stretched so that a pixel is as high as it is wide.
    """

    def __init__(self, roi: Roi, targets: Sequence[Target], voxel_size: Sequence[float]) -> None:
        self._targets, self._voxel_size, self._raw = targets, voxel_size, OrthoPlanes(roi)
        self._wanted = [OrthoPlanes(roi, None if one.kind == "classes" else one.channels) for one in targets]
        self._values = [OrthoPlanes(roi, one.channels) for one in targets]

    def add(
        self, block: Roi, raw: npt.NDArray[Any], made: Sequence[npt.NDArray[Any]], values: npt.NDArray[Any]
    ) -> None:
        """Add a block: raw in [0, 1], what each target makes of its labels, and predicted values of all channels."""
        self._raw.add(block, raw)
        for index, channels in enumerate(channel_slices(self._targets)):
            self._wanted[index].add(block, made[index])
            self._values[index].add(block, values[channels])

    def figure(self) -> Image:
        """Return the image, (height, width, 3) uint8."""
        pairs = [
            (target, wanted.planes, values.planes)
            for target, wanted, values in zip(self._targets, self._wanted, self._values, strict=True)
        ]
        return ortho_figure(self._raw.planes, pairs, self._voxel_size)


def ortho_figure(
    raw: Sequence[npt.NDArray[Any]],
    pairs: Sequence[tuple[Target, Sequence[npt.NDArray[Any]], Sequence[npt.NDArray[Any]]]],
    voxel_size: Sequence[float],
) -> Image:
    """Compose one image: a row per plane (xy, xz, yz), in it raw and, for each target, the target and the prediction.

    Classes are drawn over raw; of other channels the first three are red, green and blue.

    Args:
        raw: Three planes of grey values in [0, 1].
        pairs: Targets, each with three planes as `Target.make` returns them, and three with channels in front.
        voxel_size: z, y, x; planes are stretched so that a pixel is as high as it is wide.

    Returns:
        (height, width, 3) uint8.
    """
    rows = []
    for axis in range(3):
        grey = np.clip(np.asarray(raw[axis], dtype=np.float32), 0, 1)[..., None] * np.full(3, 255, dtype=np.float32)
        height, width = (size for other, size in enumerate(voxel_size) if other != axis)
        panels = [grey]
        for target, wanted, values in pairs:
            if target.kind == "classes":
                panels += [_over(grey, _one_hot(wanted[axis])), _over(grey, np.moveaxis(values[axis], 0, -1)[..., 1:])]
            else:
                panels += [_in_colours(wanted[axis]), _in_colours(values[axis])]
        rows.append(_beside([_stretch(np.clip(panel, 0, 255).astype(np.uint8), height / width) for panel in panels]))
    return _thin(_below(rows))


def class_colours(count: int) -> npt.NDArray[np.float32]:
    """Return the colours of classes 1 .. count as (count, 3) in 0..255; the palette repeats when it runs out."""
    return np.asarray(PALETTE[np.arange(count) % len(PALETTE)])


def _one_hot(classes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    whole = np.asarray(classes).astype(np.int64)
    count = max(int(whole.max(initial=0)), 1)
    return np.asarray((whole[..., None] == np.arange(1, count + 1)).astype(np.float32))


def _in_colours(channels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the first three channels (channels, height, width) as red, green and blue; one alone is grey."""
    shown = np.zeros((*channels.shape[1:], 3), dtype=np.float32)
    if len(channels) == 1:
        shown[:] = channels[0][..., None]
    else:
        shown[..., : len(channels)] = np.moveaxis(channels[:3], 0, -1)
    return np.asarray(shown * 255)


def _over(grey: npt.NDArray[np.float32], weights: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Blend class colours over grey by their weights (height, width, classes) in [0, 1]."""
    weights = np.asarray(weights, dtype=np.float32) * OPACITY
    cover = np.clip(weights.sum(axis=-1, keepdims=True), 0, 1)
    return np.asarray(grey * (1 - cover) + weights @ class_colours(weights.shape[-1]))


def _stretch(image: Image, ratio: float) -> Image:
    """Repeat rows (ratio > 1) or columns (ratio < 1) so that anisotropic voxels have the right proportions."""
    if ratio >= 1:
        return np.repeat(image, round(ratio), axis=0)
    return np.repeat(image, round(1 / ratio), axis=1)


def _beside(panels: Sequence[Image]) -> Image:
    height = max(panel.shape[0] for panel in panels)
    padded = [np.pad(panel, ((0, height - panel.shape[0]), (0, GAP), (0, 0)), constant_values=255) for panel in panels]
    return np.concatenate(padded, axis=1)[:, :-GAP]


def _below(rows: Sequence[Image]) -> Image:
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(padded, axis=0)[:-GAP]


def _thin(image: Image) -> Image:
    """Subsample an image that is too large for a browser page."""
    step = -(-max(image.shape[:2]) // LONGEST_SIDE)
    return image[::step, ::step]
