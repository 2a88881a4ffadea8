"""Images and snapshots of samples and validations: ortho-slices for TensorBoard, Zarr containers for neuroglancer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.targets import Target, activate, channel_slices, targets_of
from incasem_like.volumes import Roi, Volume, create_volume
from incasem_like.volumes.geometry import nanometres

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.samples import Region
    from incasem_like.training.log import Step
    from incasem_like.training.tensorboard import TensorBoardLog

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
        stretched = [_stretch(np.clip(panel, 0, 255).astype(np.uint8), height / width) for panel in panels]
        rows.append(_joined(stretched, axis=1))
    image = _joined(rows, axis=0)
    step = -(-max(image.shape[:2]) // LONGEST_SIDE)  # larger ones are too large for a browser page
    return image[::step, ::step]


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


def _joined(images: Sequence[Image], axis: int) -> Image:
    """Join images along an axis, with white gaps between them and beside smaller ones."""
    extent = max(image.shape[1 - axis] for image in images)
    padded = []
    for image in images:
        sides = [(0, GAP), (0, extent - image.shape[1 - axis])]
        padded.append(np.pad(image, (sides[axis], sides[1 - axis], (0, 0)), constant_values=255))
    whole = np.concatenate(padded, axis=axis)
    return np.asarray(np.delete(whole, np.s_[-GAP:], axis=axis))


Array = npt.NDArray[Any]
SCALE = 255  # probabilities and grey values in [0, 1] are stored as uint8
CHUNK = 64


def to_bytes(values: Array) -> npt.NDArray[np.uint8]:
    """Convert values in [0, 1] to 0..255, rounded."""
    whole: npt.NDArray[np.uint8] = np.rint(np.clip(values, 0, 1) * SCALE).astype(np.uint8)
    return whole


def dataset_of(name: str, target: Target, targets: Sequence[Target]) -> str:
    """Return the dataset of a target's ``name``: ``predictions``, or ``predictions/affinities`` of several."""
    return name if len(targets) == 1 else f"{name}/{target.name}"


def write_training_snapshot(
    container: Path,
    sample: Mapping[str, Any],
    predicted: Sequence[Array],
    targets: Sequence[Target],
    voxel_size: Sequence[float],
    loss: float,
    *,
    as_floats: bool = False,
) -> None:
    """Write one training sample and the network's prediction of it.

    Augmentation has rotated and deformed the sample, so it has no position in the volume: the raw block begins at 0,
    and the other arrays are centred in it.

    Args:
        container: ``snapshots/<id>/training/<iteration>.zarr``; an existing one is replaced.
        sample: As `TrainingSamples` makes it.
        predicted: Values (channels, z', y', x') of each target.
        targets: What the network learns.
        voxel_size: Voxel size z, y, x in nm.
        loss: Loss of the batch, stored as an attribute.
        as_floats: Store raw and predictions as float32, in which NaN and Inf survive.
    """
    raw, labels = sample["raw"][0], sample["labels"]
    inset = [(a - b) // 2 for a, b in zip(raw.shape, labels.shape, strict=True)]
    of_loss = {"loss": loss if math.isfinite(loss) else str(loss)}  # JSON has neither NaN nor Inf
    grey = raw * 0.5 + 0.5
    stored, scale = (grey, 1) if as_floats else (to_bytes(grey), SCALE)
    _write(container, "raw", stored, [0, 0, 0], voxel_size, {**of_loss, "scale": scale})
    arrays = {"labels": labels, "mask": sample["mask"]}
    if "instances" in sample:
        arrays["instances"] = sample["instances"].astype(np.uint64)
    for name, array in arrays.items():
        _write(container, name, array, inset, voxel_size, of_loss)
    for target, values in zip(targets, predicted, strict=True):
        made = sample["targets"][target.name]
        attributes = {**of_loss, **target.describe()}
        of_target = {"loss_scalings": made["weight"]}
        if target.kind != "classes":  # those are the labels
            of_target["targets"] = made["target"]
        for name, array in of_target.items():
            _write(container, dataset_of(name, target, targets), array, inset, voxel_size, attributes)
        stored, scaled = (values.astype(np.float32), {"scale": 1}) if as_floats else _stored(values, target)
        _write(
            container, dataset_of("predictions", target, targets), stored, inset, voxel_size, {**attributes, **scaled}
        )


class ValidationSnapshot:
    """A validation entry on disk, written tile by tile: raw, labels, mask, metric_mask, predictions."""

    def __init__(self, container: Path, region: Region, targets: Sequence[Target]) -> None:
        shape, position = tuple(map(int, region.roi.shape)), (region.offset, region.voxel_size)
        self._targets = targets
        self._volumes: dict[str, Volume] = {
            name: _create(
                container, name, shape, np.dtype(np.uint8), *position, {"scale": SCALE} if name == "raw" else {}
            )
            for name in ("raw", "labels", "mask", "metric_mask")
        }
        self._predictions = []
        for target in targets:
            empty, scale = _stored(np.zeros(0, dtype=np.float32), target)
            name, attributes = dataset_of("predictions", target, targets), {**target.describe(), **scale}
            sizes = (target.channels, *shape)
            self._predictions.append(_create(container, name, sizes, empty.dtype, *position, attributes))

    def add(self, roi: Roi, arrays: Mapping[str, Array], values: Array) -> None:
        """Write a tile: raw in [0, 1], labels and masks as they are, and predicted values of all channels."""
        for name, array in arrays.items():
            self._volumes[name].write(to_bytes(array) if name == "raw" else array.astype(np.uint8), roi)
        for volume, target, channels in zip(
            self._predictions, self._targets, channel_slices(self._targets), strict=True
        ):
            volume.write(_stored(values[channels], target)[0], roi)

    def close(self) -> None:
        """Mark the snapshot complete."""
        for volume in (*self._volumes.values(), *self._predictions):
            volume.mark_complete()


def _stored(values: Array, target: Target) -> tuple[Array, dict[str, Any]]:
    """Return values as stored and their scale: in bytes if they lie in [0, 1]."""
    if target.activation == "none":
        return values.astype(np.float32), {"scale": 1}
    return to_bytes(values), {"scale": SCALE}


def _write(
    container: Path,
    name: str,
    array: Array,
    begin: Sequence[int],
    voxel_size: Sequence[float],
    attributes: Mapping[str, Any],
) -> None:
    offset = nanometres(begin, voxel_size)
    volume = _create(container, name, array.shape, array.dtype, offset, voxel_size, attributes)
    volume.write(array)
    volume.mark_complete()


def _create(
    container: Path,
    name: str,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    offset: Sequence[float],
    voxel_size: Sequence[float],
    attributes: Mapping[str, Any],
) -> Volume:
    channels = len(shape) == 4
    chunk = tuple(min(CHUNK, size) for size in shape[-3:])
    return create_volume(
        container,
        name,
        shape=tuple(shape),
        dtype=dtype,
        voxel_size=tuple(voxel_size),
        offset=tuple(offset),
        axes="czyx" if channels else "zyx",
        chunk_shape=(shape[0], *chunk) if channels else chunk,
        attributes=dict(attributes),
        overwrite=True,
    )


class SampleShow:
    """Writes images and snapshots of the first sample of a batch at the configured intervals.

    Args:
        config: The run's configuration: intervals, targets and voxel size.
        tensorboard: Receives the images.
        snapshots: ``snapshots/<id>``.
    """

    def __init__(self, config: TrainingConfig, tensorboard: TensorBoardLog, snapshots: Path) -> None:
        self._image_every, self._snapshot_every = config.training.image_every, config.training.snapshot.every
        self._voxel_size = [size * config.data.downsample_factor for size in config.data.voxel_size]
        self._tensorboard, self._snapshots, self._targets = tensorboard, snapshots, targets_of(config)

    def __call__(self, step: Step) -> None:
        """Write the step's first sample if an image or snapshot is due at its iteration."""
        with_image = self._image_every and step.iteration % self._image_every == 0
        with_snapshot = self._snapshot_every and step.iteration % self._snapshot_every == 0
        if not with_image and not with_snapshot:
            return
        sample, predicted = _sample(step.batch, 0), self._predicted(step, 0)
        if with_image:
            self._tensorboard.image("training", "ortho_slices", self._figure(sample, predicted), step.iteration)
        if with_snapshot:
            container = self._snapshots / "training" / f"{step.iteration}.zarr"
            write_training_snapshot(container, sample, predicted, self._targets, self._voxel_size, step.loss)

    def keep(self, step: Step) -> Path:
        """Write the samples that made an update fail, so that they can be viewed; return the path of the first.

        Those are the ones whose prediction is not finite, else all of the batch.
        """
        folder = self._snapshots / "not_finite" / str(step.iteration)
        count = len(step.logits)  # fewer than samples if a later part of the batch was not reached
        broken = [number for number in range(count) if not step.logits[number].isfinite().all()] or list(range(count))
        for number in broken:
            write_training_snapshot(
                folder / f"sample_{number}.zarr", _sample(step.batch, number), self._predicted(step, number),
                self._targets, self._voxel_size, step.loss, as_floats=True,
            )  # fmt: skip
        return folder / f"sample_{broken[0]}.zarr"

    def _predicted(self, step: Step, number: int) -> list[npt.NDArray[Any]]:
        logits = step.logits[number : number + 1].float()
        return [
            activate(logits[:, channels], target.activation)[0].cpu().numpy()
            for target, channels in zip(self._targets, channel_slices(self._targets), strict=True)
        ]

    def _figure(self, sample: Mapping[str, Any], predicted: Sequence[npt.NDArray[Any]]) -> Image:
        raw = central_crop(sample["raw"][0], sample["labels"].shape) * 0.5 + 0.5
        pairs = [
            (target, central_planes(sample["targets"][target.name]["target"]), central_planes(values))
            for target, values in zip(self._targets, predicted, strict=True)
        ]
        return ortho_figure(central_planes(raw), pairs, self._voxel_size)


def _sample(batch: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return one sample of a batch as arrays."""
    return {
        name: _sample(value, number) if isinstance(value, Mapping) else value[number].numpy()
        for name, value in batch.items()
        if name != "info"
    }
