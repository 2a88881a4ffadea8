"""Snapshots: blocks of a training, and predictions of a validation, as Zarr containers for neuroglancer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.targets import Target, channel_slices
from incasem_like.volumes import Roi, Volume, create_volume
from incasem_like.volumes.geometry import nanometres

if TYPE_CHECKING:
    from incasem_like.samples import Region

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
