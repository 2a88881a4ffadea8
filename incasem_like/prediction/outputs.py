"""The datasets of a prediction, written tile by tile: a class map and a map per class, or other channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise.done_log import read_log
from incasem_like.config.network_sections import OutputSection
from incasem_like.errors import InputError
from incasem_like.volumes import Roi, Volume, create_volume, dataset_exists, open_volume

LONGEST_CHUNK_EDGE = 128
SHORTEST_CHUNK_EDGE = 32
# The stored value of probability 1; the attribute "scale" of the dataset.
SCALES = {"uint8": 255, "float16": 1, "float32": 1}


def prediction_group(training_run_id: int, prediction_run_id: int) -> str:
    """Return the group, inside a container, of what one prediction run wrote with one training run's network."""
    return f"volumes/predictions/train_{training_run_id:04d}/predict_{prediction_run_id:04d}"


@dataclass(frozen=True)
class OutputLocation:
    """The output of a region's prediction, in a Zarr or N5 container.

    The group is ``volumes/predictions/train_0001/predict_0002``, and below that the entry's name where several entries
    go to the same container. It has a dataset (channels, z, y, x) for each group of channels that are not classes.
    """

    container: Path
    group: str
    channels: tuple[OutputSection, ...] = ()

    @property
    def folder(self) -> Path:
        """The group's folder on disk."""
        return self.container / self.group

    @property
    def main(self) -> str:
        """Dataset that shows whether a prediction exists: the class map, or the first of the channels."""
        return self.segmentation if not self.channels else f"{self.group}/{self.channels[0].name}"

    @property
    def segmentation(self) -> str:
        """Dataset of the class map."""
        return f"{self.group}/segmentation"

    def probability_map(self, class_id: int) -> str:
        """Dataset of one class's probabilities."""
        return f"{self.group}/prob_maps/class_{class_id}"

    def datasets(self, num_classes: int) -> list[str]:
        """Names of all datasets, the main one first; ``num_classes`` counts the background."""
        if self.channels:
            return [f"{self.group}/{channel.name}" for channel in self.channels]
        return [self.segmentation, *map(self.probability_map, range(num_classes))]

    def check_free(self, *, resuming: bool = False) -> None:
        """Raise InputError if a prediction exists already; ``resuming`` may overwrite an incomplete one."""
        if dataset_exists(self.container, self.main) and not (
            resuming and not open_volume(self.container, self.main, allow_incomplete=True).complete
        ):
            refuse_foreign_prediction(self.folder)


def refuse_foreign_prediction(folder: Path) -> None:
    """Raise InputError: another run's prediction occupies the output of this one."""
    raise InputError(
        f"{folder} already holds a prediction, made under another run store: move it away, "
        "or set prediction.directories.prefix to another folder."
    )


@dataclass(frozen=True)
class Begun:
    """The state of a prediction begun by an earlier run: the parameters, and the number of finished blocks."""

    description: Mapping[str, Any]
    done: int

    @property
    def input_size(self) -> tuple[int, ...]:
        """Input size of the tiles that it was begun with, in voxels."""
        return tuple(self.description["input_size"])


def read_begun(location: OutputLocation) -> Begun | None:
    """Read the state of an earlier run's prediction; None if it was not begun."""
    log = read_log(location.container / location.main)
    return None if log is None else Begun(log.fingerprint["parameters"], len(log.done))


class RegionOutput:
    """The open datasets of one region's prediction.

    Args:
        datasets: The main one first: the class map, uint8, the class of the highest probability, 0 where the mask is 0,
            followed by a probability map per class; or, of other channels, a dataset with channels for each group.
            Values are floats, or uint8 holding value x 255. The mask does not change them.
    """

    def __init__(self, datasets: Sequence[Volume]) -> None:
        self.main, *further = datasets
        self.further = tuple(further)
        self._of_classes = self.main.axes == "zyx"
        self._values = self.further if self._of_classes else (self.main, *self.further)

    @classmethod
    def create(
        cls, location: OutputLocation, num_classes: int, output_dtype: str, layout: Mapping[str, Any]
    ) -> RegionOutput:
        """Create the datasets, incomplete and full of zeros; the main one last.

        ``layout`` is what ``create_volume`` takes, of a dataset without channels.
        """
        values: dict[str, Any] = {"dtype": output_dtype, "attributes": {"scale": SCALES[output_dtype]}, **layout}
        if output_dtype != "uint8" and location.container.suffix != ".n5":  # some readers of N5 support gzip only
            values["compression"] = "lz4"  # zstd takes five times as long for noisy floats and saves little
        created = []
        for index, name in reversed(list(enumerate(location.datasets(num_classes)))):
            options = values
            if location.channels:
                group = location.channels[index]
                sizes = {key: (group.channels, *layout[key]) for key in ("shape", "chunk_shape")}
                attributes = {**group.attributes, "activation": group.activation, **values["attributes"]}
                options = {**values, **sizes, "axes": "czyx", "attributes": attributes}
            elif name == location.segmentation:
                options = {"dtype": "uint8", **layout}
                if num_classes == 2:  # the map can be evaluated as probabilities 0 and 1 of its only class
                    options["attributes"] = {"scale": 1}
            created.append(create_volume(location.container, name, **options))
        return cls(created[::-1])

    @classmethod
    def reopen(cls, location: OutputLocation, num_classes: int) -> RegionOutput:
        """Open the datasets of an earlier run to continue writing."""
        names = location.datasets(num_classes)
        return cls([open_volume(location.container, name, writable=True, allow_incomplete=True) for name in names])

    def write(self, tile: Roi, probabilities: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8]) -> None:
        """Write one tile: (channels, z, y, x) in [0, 1], and its mask (z, y, x), 0 or 1."""
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
        """Read the written values, (channels, z, y, x) in [0, 1]."""
        parts = [volume.read(tile) for volume in self._values]
        stored = np.stack(parts) if self._of_classes else np.concatenate(parts)
        return stored.astype(np.float32) / np.float32(SCALES[stored.dtype.name])


def most_probable(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return the class of the highest of (classes, z, y, x) probabilities, the first of equals.

    ``numpy.argmax`` over the first axis takes ten times as long, which is noticeable with a small network.
    """
    highest, classes = probabilities[0].copy(), np.zeros(probabilities.shape[1:], dtype=np.uint8)
    for class_id, values in enumerate(probabilities[1:], start=1):
        np.copyto(classes, class_id, where=values > highest)
        np.maximum(highest, values, out=highest)
    return classes


def stored_probabilities(values: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Convert probabilities in [0, 1] to the stored type: floats unscaled, uint8 x 255 and rounded."""
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    return np.rint(values * SCALES[dtype.name]).astype(dtype)


def chunk_shape_for(step: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Choose the chunks of a dataset that is written in tiles a ``step`` apart, so that no two tiles share a chunk.

    Along each axis, the chunk edge is the tile's if that is at most 128, else its largest divisor from 32 to 128, or
    again the tile's if there is none. Tiles that would give chunks below 32 share chunks of several tiles.
    """
    return tuple(min(_chunk_edge(tile), length) for tile, length in zip(step, shape, strict=True))


def fills_chunks(step: int) -> bool:
    """Return whether tiles ``step`` apart along an axis make chunks of a usual size."""
    return _chunk_edge(step) <= LONGEST_CHUNK_EDGE


def _chunk_edge(tile: int) -> int:
    fitting = [edge for edge in range(SHORTEST_CHUNK_EDGE, LONGEST_CHUNK_EDGE + 1) if tile % edge == 0]
    if fitting:
        return fitting[-1]
    return LONGEST_CHUNK_EDGE // tile * tile if tile < SHORTEST_CHUNK_EDGE else tile
