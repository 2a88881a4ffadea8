"""Volumes as Zarr groups that are made while a viewer reads them: whatever their format, nothing is copied."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError
from incasem_like.volumes import Roi, Volume

MOST_VOXELS = 2**21  # of a chunk that is sent, in all channels: 2 MiB of bytes
FEWEST_VOXELS = 2**15
SENT_TYPES = {"bool": "uint8", "float16": "float32", "float64": "float32", "int64": "uint64"}  # those unknown to WebGL


class ServedVolume:
    """One dataset for a viewer: its scale levels, or one volume for each of several steps.

    Args:
        levels: The volume from fine to coarse.
        steps: Volumes of the same shape, such as the snapshots of a training, which get an axis ``step``; given instead
            of levels.
        step_names: What the steps are called, such as their iterations.

    Attributes:
        finest: The volume, or that of the first step.
        step_names: As given.
        axes: Names of the axes as the viewer knows them; ``c^`` are channels that are shown together.

    Raises:
        DataError: The steps differ in shape or data type.

    Example:
        >>> import numpy as np
        >>> from incasem_like.volumes import create_volume
        >>> raw = create_volume("vnc.zarr/raw", shape=(2, 64, 64), dtype="uint8", voxel_size=(50, 4, 4))
        >>> raw.write(np.full((2, 64, 64), 7, "uint8"))
        >>> served = ServedVolume([raw])
        >>> served.axes, served.array_document(0)["shape"]
        (('z', 'y', 'x'), [2, 64, 64])
        >>> int(np.frombuffer(served.read_chunk(0, "0.0.0"), "uint8").max())
        7
    """

    def __init__(self, levels: Sequence[Volume], steps: Sequence[Volume] = (), step_names: Sequence[str] = ()) -> None:
        self._levels, self._steps = tuple(levels) or tuple(steps[:1]), tuple(steps)
        self.finest, self.step_names = self._levels[0], tuple(step_names)
        for step in self._steps:
            if (step.shape, step.dtype) != (self.finest.shape, self.finest.dtype):
                raise DataError(
                    f"{step.address} has the shape {list(step.shape)} and {self.finest.address} "
                    f"{list(self.finest.shape)}: steps are shown together only if they are alike."
                )
        named = {"c": "c^"}
        self.axes = (("step",) if self._steps else ()) + tuple(named.get(axis, axis) for axis in self.finest.axes)
        self._compressed = (
            self.finest.dtype.kind in "iu" and self.finest.dtype.itemsize >= 4
        )  # ids; images do not shrink
        self.dtype = np.dtype(SENT_TYPES.get(self.finest.dtype.name, self.finest.dtype.name))

    @property
    def level_count(self) -> int:
        """Number of scale levels."""
        return len(self._levels)

    def group_attributes(self) -> dict[str, Any]:
        """Return the OME-NGFF metadata of the levels; sizes and offsets in nm, channels and steps counted."""
        return {
            "multiscales": [
                {
                    "version": "0.4",
                    "axes": [
                        {"name": name, "type": "space", "unit": "nanometer"}
                        if name in "zyx"
                        else {"name": name, "type": "other"}
                        for name in self.axes
                    ],
                    "datasets": [self._dataset(number, volume) for number, volume in enumerate(self._levels)],
                }
            ]
        }

    def _dataset(self, number: int, volume: Volume) -> dict[str, Any]:
        size, offset = volume.voxel_size or (1.0,) * len(volume.spatial_shape), volume.offset
        others = len(self.axes) - len(size)
        # OME-NGFF places the centre of the first voxel, and viewers follow it
        centre = [begin + nm / 2 for begin, nm in zip(offset, size, strict=True)]
        return {
            "path": str(number),
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0] * others + list(size)},
                {"type": "translation", "translation": [0.0] * others + centre},
            ],
        }

    def array_document(self, level: int) -> dict[str, Any]:
        """Return ``.zarray`` of a level; a chunk is one of the volume's, or a part of it.

        Raises:
            IndexError: The level does not exist.
        """
        volume = self._levels[level]
        return {
            "zarr_format": 2,
            "shape": [*self._first(len(self._steps)), *volume.shape],
            "chunks": [*self._first(1), *chunk_to_send(volume)],
            "dtype": self.dtype.newbyteorder("<").str,
            "compressor": {"id": "zlib", "level": 1} if self._compressed else None,
            "fill_value": 0,
            "order": "C",
            "filters": None,
        }

    def _first(self, value: int) -> list[int]:
        return [value] if self._steps else []

    def read_chunk(self, level: int, key: str) -> bytes:
        """Read one chunk, as it is sent.

        Args:
            level: Number of the level.
            key: Name of the chunk, ``2.0.1``.

        Raises:
            IndexError: The level or chunk does not exist.
            DataError: It cannot be read.
        """
        index = [int(part) for part in key.split(".")]
        volume = self._levels[level]
        if self._steps:
            volume = self._steps[index.pop(0)]
        chunk = chunk_to_send(volume)
        if len(index) != len(chunk):
            raise IndexError(key)
        begin = [number * size for number, size in zip(index, chunk, strict=True)]
        end = [min(first + size, all_) for first, size, all_ in zip(begin, chunk, volume.shape, strict=True)]
        if any(first >= last for first, last in zip(begin, end, strict=True)):
            raise IndexError(key)
        dims = len(volume.spatial_shape)
        roi = Roi(begin[-dims:], np.subtract(end, begin)[-dims:]) + volume.roi.begin
        found = volume.read(roi)
        if found.ndim > dims:
            found = found[begin[0] : end[0]]
        sent = np.zeros(chunk, self.dtype)
        sent[tuple(slice(size) for size in found.shape)] = found
        return zlib.compress(sent.tobytes(), 1) if self._compressed else sent.tobytes()


def chunk_to_send(volume: Volume) -> tuple[int, ...]:
    """Return the shape of the chunks that a viewer gets: the volume's own, unless they are very large or small.

    Args:
        volume: A volume, with channels first where there are any.

    Returns:
        Whole chunks are doubled or halved along z, y, x until they have a size that suits a network and a screen.
    """
    shape = list(volume.shape)
    chunk = [min(size, all_) for size, all_ in zip(volume.chunk_shape, shape, strict=True)]
    space = range(len(shape) - len(volume.spatial_shape), len(shape))
    if len(space) < len(shape):
        chunk[0] = shape[0]  # a shader reads all channels of a voxel
    while math.prod(chunk) > MOST_VOXELS and max(chunk[axis] for axis in space) > 1:
        axis = max(space, key=lambda one: chunk[one])
        chunk[axis] = math.ceil(chunk[axis] / 2)
    while math.prod(chunk) < FEWEST_VOXELS and any(chunk[axis] < shape[axis] for axis in space):
        axis = min((one for one in space if chunk[one] < shape[one]), key=lambda one: chunk[one])
        chunk[axis] = min(2 * chunk[axis], shape[axis])
    return tuple(chunk)


def sample_range(volume: Volume) -> tuple[float, float]:
    """Return a grey range for display: percentiles 0.5 and 99.5 of up to 128 voxels an axis in the middle."""
    centre = volume.roi.center
    wanted = Roi(centre - 64, (128,) * len(volume.spatial_shape)).intersect(volume.roi)
    values: npt.NDArray[Any] = volume.read(wanted)
    finite = values[np.isfinite(values)]
    low, high = (float(one) for one in np.percentile(finite, (0.5, 99.5))) if finite.size else (0.0, 1.0)
    return (low, high) if high > low else (low, low + 1)
