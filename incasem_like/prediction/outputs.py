"""The datasets of a prediction, written tile by tile: a class map and a map per class, or other channels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import InputError
from incasem_like.prediction.channels import ChannelGroup
from incasem_like.volumes import Roi, Volume, create_volume, dataset_exists, open_volume

LONGEST_CHUNK_EDGE = 128
SHORTEST_CHUNK_EDGE = 32
# What probability 1 is stored as; said in the attribute "scale".
SCALES = {"uint8": 255, "float16": 1, "float32": 1}


def prediction_group(training_run_id: int, prediction_run_id: int) -> str:
    """Name the group, inside a container, of what one prediction run wrote with one training run's network."""
    return f"volumes/predictions/train_{training_run_id:04d}/predict_{prediction_run_id:04d}"


@dataclass(frozen=True)
class OutputPlace:
    """Where a region's prediction goes.

    Attributes:
        container: The Zarr or N5 container.
        group: The group in it: ``volumes/predictions/train_0001/predict_0002``, and below that the entry's name when
            another entry of the same prediction goes to the same container.
        channels: What is written, a dataset (channels, z, y, x) each; none where all channels are classes.
    """

    container: Path
    group: str
    channels: tuple[ChannelGroup, ...] = ()

    @property
    def folder(self) -> Path:
        """The group's folder on disk."""
        return self.container / self.group

    @property
    def main(self) -> str:
        """Dataset that tells whether a prediction is there: the class map, else the first of the channels."""
        return self.segmentation if not self.channels else f"{self.group}/{self.channels[0].name}"

    @property
    def segmentation(self) -> str:
        """Dataset of the class map."""
        return f"{self.group}/segmentation"

    def probability_map(self, class_id: int) -> str:
        """Dataset of one class's probabilities."""
        return f"{self.group}/prob_maps/class_{class_id}"

    def check_free(self, *, half_made: bool = False) -> None:
        """Make sure that nothing is overwritten.

        Args:
            half_made: Whether what a killed run has left may be: datasets that are not complete.

        Raises:
            InputError: A prediction of that number is there already.
        """
        if dataset_exists(self.container, self.main) and not (
            half_made and not open_volume(self.container, self.main, allow_incomplete=True).complete
        ):
            raise InputError(
                f"{self.folder} already holds a prediction, made under another run store: move it away, "
                "or set prediction.directories.prefix to another folder."
            )

    def check_writable(self) -> None:
        """Make sure, as far as can be told without writing, that something can be written there.

        Raises:
            InputError: It cannot.
        """
        folder = nearest_folder(self.folder)
        if not os.access(folder, os.W_OK):
            raise InputError(
                f"Nothing can be written into {folder}: change its permissions, or set prediction.directories.prefix."
            )


def nearest_folder(path: Path) -> Path:
    """Give the innermost folder on the way to a path that exists."""
    return next(folder for folder in [path, *path.parents] if folder.is_dir())


class RegionOutput:
    """The open datasets of one region's prediction.

    Args:
        datasets: The main one first: the class map, uint8, the class of the highest probability, 0 where the mask is 0,
            with a probability map per class behind it; or, of other channels, a dataset with channels for each group.
            Values are floats, or uint8 holding value x 255. The mask leaves them alone.
    """

    def __init__(self, datasets: Sequence[Volume]) -> None:
        self.main, *further = datasets
        self.further = tuple(further)
        self._of_classes = self.main.axes == "zyx"
        self._values = self.further if self._of_classes else (self.main, *self.further)

    @classmethod
    def create(cls, place: OutputPlace, num_classes: int, output_dtype: str, layout: Mapping[str, Any]) -> RegionOutput:
        """Create the datasets, incomplete and full of zeros; the main one last.

        Args:
            place: Where.
            num_classes: Number of classes with background.
            output_dtype: Of the values: float32, float16 or uint8.
            layout: shape, voxel_size, offset, chunk_shape and provenance, as ``create_volume`` takes them, of a dataset
                without channels.
        """
        values: dict[str, Any] = {"dtype": output_dtype, "attributes": {"scale": SCALES[output_dtype]}, **layout}
        if not place.channels:
            maps = [create_volume(place.container, place.probability_map(c), **values) for c in range(num_classes)]
            # With one class the map can be evaluated as its probabilities 0 and 1.
            scale: dict[str, Any] = {"attributes": {"scale": 1}} if num_classes == 2 else {}
            return cls([create_volume(place.container, place.segmentation, dtype="uint8", **scale, **layout), *maps])
        made = []
        for group in reversed(place.channels):
            in_front = {key: (group.channels, *layout[key]) for key in ("shape", "chunk_shape")}
            name = f"{place.group}/{group.name}"
            made.append(create_volume(place.container, name, **{**values, **in_front, "axes": "czyx"}))
        return cls(made[::-1])

    @classmethod
    def reopen(cls, place: OutputPlace, num_classes: int) -> RegionOutput:
        """Open the datasets of an earlier run to go on writing."""
        if place.channels:
            names = [f"{place.group}/{group.name}" for group in place.channels]
        else:
            names = [place.segmentation, *(place.probability_map(c) for c in range(num_classes))]
        return cls([open_volume(place.container, name, writable=True, allow_incomplete=True) for name in names])

    def write(self, tile: Roi, probabilities: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8]) -> None:
        """Write one tile.

        Args:
            tile: Where, in absolute voxels.
            probabilities: (channels, z, y, x) in [0, 1].
            mask: (z, y, x), 0 or 1.
        """
        at = 0
        for volume in self._values:
            if self._of_classes:
                values, at = probabilities[at], at + 1
            else:
                values, at = probabilities[at : at + volume.shape[0]], at + volume.shape[0]
            volume.write(stored_probabilities(values, volume.dtype), tile)
        if self._of_classes:
            self.main.write(most_probable(probabilities) * mask, tile)

    def read_probabilities(self, tile: Roi) -> npt.NDArray[np.float32]:
        """Read (channels, z, y, x) values in [0, 1] of what is written."""
        parts = [volume.read(tile) for volume in self._values]
        stored = np.stack(parts) if self._of_classes else np.concatenate(parts)
        return stored.astype(np.float32) / np.float32(SCALES[stored.dtype.name])


def most_probable(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Give the class of the highest of (classes, z, y, x) probabilities, the first of equals.

    ``numpy.argmax`` over the first axis takes ten times as long, which is felt beside a small network.
    """
    highest, classes = probabilities[0].copy(), np.zeros(probabilities.shape[1:], dtype=np.uint8)
    for class_id, values in enumerate(probabilities[1:], start=1):
        np.copyto(classes, class_id, where=values > highest)
        np.maximum(highest, values, out=highest)
    return classes


def stored_probabilities(values: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Turn probabilities in [0, 1] into what is stored: floats as they are, uint8 x 255 and rounded."""
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    return np.rint(values * SCALES[dtype.name]).astype(dtype)


def chunk_shape_for(step: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Choose the chunks of a dataset that is written in tiles a ``step`` apart, so that no two tiles share a chunk.

    Along each axis the tile itself if its edge is at most 128, else its largest divisor from 32 to 128, or again the
    tile itself where it has none. Tiles that would give chunks below 32 share chunks of several tiles.

    Args:
        step: Distance of the tiles in voxels.
        shape: Shape of the dataset.
    """
    return tuple(min(_chunk_edge(tile), length) for tile, length in zip(step, shape, strict=True))


def fills_chunks(step: int) -> bool:
    """Say whether tiles that far apart along an axis make chunks of a usual size."""
    return _chunk_edge(step) <= LONGEST_CHUNK_EDGE


def _chunk_edge(tile: int) -> int:
    fitting = [edge for edge in range(SHORTEST_CHUNK_EDGE, LONGEST_CHUNK_EDGE + 1) if tile % edge == 0]
    if fitting:
        return fitting[-1]
    return LONGEST_CHUNK_EDGE // tile * tile if tile < SHORTEST_CHUNK_EDGE else tile
