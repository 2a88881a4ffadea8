"""Where to paint next: places of one section with the largest errors, spread over the volume, and what was painted."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import tifffile

from incasem_like.blockwise import Block
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.disk import write_whole
from incasem_like.errors import DataError
from incasem_like.volumes import Roi, Volume, create_volume, dataset_exists, open_volume
from incasem_like.volumes.parts import aligned_parts, grown_block

CROPS, TABLE = "crops.zarr", "places.csv"
VOXELS_AT_ONCE = 1 << 22
APART = 2.0  # edges of a place between the centres of two


@dataclass(frozen=True)
class Place:
    """A place to paint.

    Attributes:
        rank: 1 = where painting helps most.
        z, y, x: First voxel, absolute.
        height, width: Its pixels, y and x.
        error: Root of the mean squared error there, from 0 to 1.
    """

    rank: int
    z: int
    y: int
    x: int
    height: int
    width: int
    error: float

    @property
    def roi(self) -> Roi:
        """The place in absolute voxels."""
        return Roi((self.z, self.y, self.x), (1, self.height, self.width))

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"place_{self.rank:02d}"


def find_places(errors: Volume, painted: Volume | None, count: int, size: int, **how: Any) -> list[Place]:
    """Return the places with the largest errors, largest first, no two near each other.

    Sections are divided into tiles; a tile's error is its root mean square, and half painted ones are left out.
    Centres are at least two edges apart, in world units, so also across sections, as long as there are enough tiles.

    Args:
        errors: Error map, uint8.
        painted: Mask of what is painted already.
        count: How many.
        size: Edge of a tile in pixels.
        **how: ``num_workers`` and ``workers`` of ``LedgerTask.run``.
    """
    inputs = (str(errors.address), *([str(painted.address)] if painted is not None else []))
    task = LedgerTask(
        "tile errors", errors, inputs, tile_block, {"size": size}, grown_block(errors, errors.roi, VOXELS_AT_ONCE)
    )
    task.run(description="Where to paint", **how)
    rows = np.concatenate([found.reshape(-1, 6) for found in task.results()])
    task.forget()
    tiles, index = np.unique(rows[:, :3], axis=0, return_inverse=True)
    sums = np.zeros((len(tiles), 3), np.int64)
    np.add.at(sums, index.ravel(), rows[:, 3:])
    voxels, squares, known = sums.T
    error = np.sqrt(squares / np.maximum(voxels, 1)) / 255
    # Half tiles at the end of a section, and those that are painted, come last or not at all.
    error[(known * 2 > voxels) | (voxels * 2 < min(size, errors.shape[1]) * min(size, errors.shape[2]))] = 0
    begin = np.array(errors.roi.begin)
    scale = np.array(errors.require_voxel_size())
    centres = (begin + tiles * [1, size, size] + [0.5, size / 2, size / 2]) * scale
    chosen: list[int] = []
    distance = APART * size * float(scale[2])
    order = [int(at) for at in np.argsort(-error, kind="stable") if error[at] > 0]
    while len(chosen) < count and order and distance > scale.min() / 2:
        for at in order:
            if len(chosen) == count:
                break
            if at not in chosen and all(np.linalg.norm(centres[at] - centres[one]) >= distance for one in chosen):
                chosen.append(at)
        distance /= 2  # a small volume has fewer places that far apart
    places = []
    for rank, at in enumerate(sorted(chosen, key=lambda one: -error[one]), start=1):
        z, y, x = (int(first) for first in begin + tiles[at] * [1, size, size])
        height, width = (int(min(size, end - first)) for first, end in zip((y, x), errors.roi.end[1:], strict=True))
        places.append(Place(rank, z, y, x, height, width, round(float(error[at]), 4)))
    return places


def tile_block(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Return tile (z, y, x), voxels, sum of squares and painted voxels of the tiles in a block."""
    errors, *painted = block.inputs
    size, origin, rows = parameters["size"], errors.roi.begin, []
    for part in aligned_parts(errors, block.write_roi, VOXELS_AT_ONCE):
        squares = errors.read(part).astype(np.int64) ** 2
        known = np.zeros(part.shape, bool)
        for mask in painted:
            common = part.intersect(mask.roi)
            if not common.empty:
                known[(common - part.begin).to_slices()] = mask.read(common) > 0
        edges = []
        for axis in (1, 2):
            first, last = part.begin[axis] - origin[axis], part.end[axis] - origin[axis]
            edges.append([max(first, tile * size) - first for tile in range(first // size, math.ceil(last / size))])
        counted = [
            np.add.reduceat(np.add.reduceat(values, edges[0], axis=1), edges[1], axis=2)
            for values in (np.ones(part.shape, np.int64), squares, known.astype(np.int64))
        ]
        first_tiles = [(part.begin[axis] - origin[axis]) // size for axis in (1, 2)]
        z, y, x = np.indices(counted[0].shape)
        tiles = (z + part.begin[0] - origin[0], y + first_tiles[0], x + first_tiles[1])
        rows.append(np.stack([one.ravel() for one in (*tiles, *counted)], axis=1))
    return np.concatenate(rows).astype(np.int64)


def write_places(folder: Path, places: Sequence[Place], raw: Volume, guess: Volume, context: int) -> None:
    """Write a table of places, and each as crops to paint: a pair of TIFFs and a Zarr group of raw and labels.

    Crops that someone may have painted already are left alone.

    Args:
        folder: Of this round.
        places: The places.
        raw: Raw volume.
        guess: The segmentation, in the Zarr group under ``segmentation`` for orientation.
        context: Sections of raw that the crops show above and below.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for place in places:
        roi, around = place.roi, place.roi.grow((context, 0, 0), (context, 0, 0)).intersect(raw.roi)
        pair = {"raw": raw.read(around), "labels": np.zeros(roi.shape, np.uint16)}
        for name, array in pair.items():
            path = folder / f"{place.name}_{name}.tif"
            if not path.exists():
                write_whole(path, lambda file, array=array: _write_tiff(file, array))  # type: ignore[misc]
        arrays = {"raw": (pair["raw"], around), "labels": (pair["labels"].astype(np.uint32), roi)}
        arrays["segmentation"] = (guess.read(roi.intersect(guess.roi)), roi.intersect(guess.roi))
        for name, (array, where) in arrays.items():
            _write_crop(folder / CROPS, f"{place.name}/{name}", array, where, raw.require_voxel_size())
    write_whole(folder / TABLE, lambda file: file.write(table_of(places).encode()))


def _write_tiff(file: IO[bytes], array: npt.NDArray[Any]) -> None:
    tifffile.imwrite(file, array, photometric="minisblack", metadata={"axes": "ZYX"})  # else three sections are colours


def table_of(places: Sequence[Place]) -> str:
    """Return the places as CSV.

    >>> print(table_of([Place(1, 5, 0, 64, 64, 64, 0.25)]), end="")
    rank,z,y,x,height,width,error
    1,5,0,64,64,64,0.25
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Place.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(place) for place in places)
    return text.getvalue()


def _write_crop(container: Path, name: str, array: npt.NDArray[Any], roi: Roi, voxel_size: Sequence[float]) -> None:
    if dataset_exists(container, name) and open_volume(container, name, allow_incomplete=True).complete:
        return
    offset = tuple(begin * size for begin, size in zip(roi.begin, voxel_size, strict=True))
    volume = create_volume(
        container, name, shape=array.shape, dtype=array.dtype, voxel_size=tuple(voxel_size), offset=offset,
        chunk_shape=tuple(array.shape), overwrite=True,
    )  # fmt: skip
    volume.write(array)
    volume.mark_complete()


@dataclass(frozen=True)
class PaintedCrop:
    """A group with ``labels`` to paint, and perhaps a ``mask`` of painted voxels: a place of a round, or another crop.

    Attributes:
        container: Its container.
        group: Path inside it.
    """

    container: str
    group: str

    @property
    def tiff(self) -> Path | None:
        """The TIFF that a place of a round has beside its labels."""
        path = Path(self.container).parent / f"{self.group}_labels.tif"
        return path if Path(self.container).name == CROPS and path.exists() else None

    def labels(self) -> Volume:
        """Open the labels for writing; what was painted in the TIFF is copied into them.

        Raises:
            DataError: There are none, or the TIFF has another shape, or no whole numbers.
        """
        crop = open_volume(self.container, f"{self.group}/labels", writable=True)
        if (path := self.tiff) is None:
            return crop
        labels = np.atleast_3d(tifffile.imread(path))
        labels = labels[None, ..., 0] if labels.shape[2] == 1 else labels
        if labels.shape != tuple(crop.shape) or labels.dtype.kind not in "iu":
            raise DataError(
                f"{path} is {list(labels.shape)} of {labels.dtype}, but the place is {list(crop.shape)} of whole "
                "numbers: paint the file as it was written, without cropping or colours."
            )
        if labels.any() and not np.array_equal(labels, crop.read()):
            crop.write(labels.astype(crop.dtype))
        return crop

    def save(self, labels: npt.NDArray[Any]) -> int:
        """Write labels, the TIFF where there is one, and the mask: 1 where something was painted, 0 where erased.

        Args:
            labels: Of the crop's shape.

        Returns:
            How many voxels changed.
        """
        crop = self.labels()
        before = crop.read()
        changed = labels != before
        if not changed.any():
            return 0
        if (path := self.tiff) is not None:  # first: it overrules the labels
            painted = labels.astype(np.min_scalar_type(max(int(labels.max()), 256)))
            write_whole(path, lambda file: _write_tiff(file, painted))
        crop.write(labels)
        if dataset_exists(self.container, f"{self.group}/mask"):
            mask = open_volume(self.container, f"{self.group}/mask", writable=True)
            part = mask.read(crop.roi)
            part[changed] = labels[changed] > 0
            mask.write(part, crop.roi)
        return int(changed.sum())


def painted_crops(folder: Path) -> list[Volume]:
    """Return what was painted at the places of a round: its Zarr crops, into which painted TIFFs are copied.

    Raises:
        DataError: The folder is missing; else as ``PaintedCrop.labels``.
    """
    table = folder / TABLE
    if not table.exists():
        raise DataError(
            f"{table} of an earlier round is missing, and with it what was painted there: restore the folder, or "
            "repeat that round from where_to_paint."
        )
    found = []
    for row in csv.DictReader(io.StringIO(table.read_text())):
        place = Place(**{key: float(value) if key == "error" else int(value) for key, value in row.items()})  # type: ignore[arg-type]
        crop = PaintedCrop(str(folder / CROPS), place.name).labels()
        if crop.read().any():
            found.append(open_volume(crop.address))
    return found
