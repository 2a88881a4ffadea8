"""Snapshots: blocks of a training, and predictions of a validation, as Zarr containers for neuroglancer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.volumes import Roi, Volume, create_volume
from incasem_like.volumes.geometry import nanometres

Array = npt.NDArray[Any]
SCALE = 255  # probabilities and grey values in [0, 1] are stored as uint8
CHUNK = 64


def to_bytes(values: Array) -> npt.NDArray[np.uint8]:
    """Convert values in [0, 1] to 0..255, rounded."""
    whole: npt.NDArray[np.uint8] = np.rint(np.clip(values, 0, 1) * SCALE).astype(np.uint8)
    return whole


def write_training_snapshot(
    container: Path, sample: Mapping[str, Array], probabilities: Array, voxel_size: Sequence[float], loss: float
) -> None:
    """Write one training sample and the network's prediction of it.

    Augmentation has rotated and deformed the sample, so it has no position in the volume: the raw block begins at 0,
    and the other arrays are centred in it.

    Args:
        container: ``snapshots/<id>/training/<iteration>.zarr``; an existing one is replaced.
        sample: raw (1, z, y, x) in [-1, 1]; labels, mask, scale (z', y', x').
        probabilities: (classes, z', y', x') in [0, 1].
        voxel_size: Voxel size z, y, x in nm.
        loss: Loss of the batch, stored as an attribute.
    """
    raw = sample["raw"][0]
    inset = [(a - b) // 2 for a, b in zip(raw.shape, sample["labels"].shape, strict=True)]
    arrays: dict[str, Array] = {
        "raw": to_bytes(raw * 0.5 + 0.5),
        "labels": sample["labels"].astype(np.uint8),
        "mask": sample["mask"].astype(np.uint8),
        "loss_scalings": sample["scale"].astype(np.float32),
        "predictions": to_bytes(probabilities),
    }
    for name, array in arrays.items():
        begin = [0, 0, 0] if name == "raw" else inset
        volume = _create(container, name, array.shape, array.dtype, begin, voxel_size, {"loss": loss})
        volume.write(array)
        volume.mark_complete()


class ValidationSnapshot:
    """A validation entry on disk, written tile by tile: raw, labels, mask, metric_mask, predictions."""

    def __init__(self, container: Path, roi: Roi, num_classes: int, voxel_size: Sequence[float]) -> None:
        shape, begin = tuple(map(int, roi.shape)), list(map(int, roi.begin))
        self._volumes: dict[str, Volume] = {
            name: _create(container, name, shape, np.dtype(np.uint8), begin, voxel_size, {})
            for name in ("raw", "labels", "mask", "metric_mask")
        }
        self._volumes["predictions"] = _create(
            container, "predictions", (num_classes, *shape), np.dtype(np.uint8), begin, voxel_size, {}
        )

    def add(self, roi: Roi, arrays: Mapping[str, Array]) -> None:
        """Write a tile: raw and predictions in [0, 1], the rest as they are."""
        for name, array in arrays.items():
            whole = to_bytes(array) if name in ("raw", "predictions") else array.astype(np.uint8)
            self._volumes[name].write(whole, roi)

    def close(self) -> None:
        """Mark the snapshot complete."""
        for volume in self._volumes.values():
            volume.mark_complete()


def _create(
    container: Path,
    name: str,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    begin: Sequence[int],
    voxel_size: Sequence[float],
    attributes: Mapping[str, Any],
) -> Volume:
    channels = len(shape) == 4
    scale = {"scale": SCALE} if name in ("raw", "predictions") else {}
    chunk = tuple(min(CHUNK, size) for size in shape[-3:])
    return create_volume(
        container,
        name,
        shape=tuple(shape),
        dtype=dtype,
        voxel_size=tuple(voxel_size),
        offset=nanometres(begin, voxel_size),
        axes="czyx" if channels else "zyx",
        chunk_shape=(shape[0], *chunk) if channels else chunk,
        attributes={**scale, **attributes},
        overwrite=True,
    )
