"""Measuring a whole volume for CLAHE, tile by tile: range of values, look-up tables, range of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, WorkItem
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import DataError
from incasem_like.formatting.clahe import GreyScale, interpolate, tables_round, tile_grid, tile_table
from incasem_like.processes import process_pool
from incasem_like.volumes import Coordinate, Roi, Volume, open_volume
from incasem_like.volumes.parts import aligned_parts, grown_block

Triple = tuple[int, int, int]
LevelRanges = Callable[["list[Box]"], Iterator[tuple[float, float]]]
LEAST_BLOCK = 2**21  # voxels
GROUP_SIDE = 256  # voxels: small tiles are grouped to about this side length, so that chunks are decoded rarely
VOXELS_AT_ONCE = 2**23


@dataclass(frozen=True)
class Equalization:
    """A volume and the parameters of its equalisation.

    Attributes:
        address: The volume.
        kernel: Tile size, voxels.
        clip_limit: Largest share of a tile's voxels in one bin.
        scale: Mapping of grey values to bins; its range is that of the whole volume.
    """

    address: str
    kernel: Triple
    clip_limit: float
    scale: GreyScale


@dataclass(frozen=True)
class Box:
    """A box of indices; may extend beyond the volume's end."""

    begin: Triple
    end: Triple

    def sections(self) -> Iterator[Box]:
        """Split the box along z into boxes that fit in memory."""
        area = (self.end[1] - self.begin[1]) * (self.end[2] - self.begin[2])
        depth = max(1, VOXELS_AT_ONCE // area)
        for z in range(self.begin[0], self.end[0], depth):
            yield Box((z, *self.begin[1:]), (min(z + depth, self.end[0]), *self.end[1:]))

    @property
    def shape(self) -> Triple:
        """Voxels along each axis."""
        z, y, x = (stop - start for start, stop in zip(self.begin, self.end, strict=True))
        return z, y, x


@lru_cache(maxsize=4)
def _volume(address: str) -> Volume:
    return open_volume(address)


@lru_cache(maxsize=2)
def _tables(path: str) -> npt.NDArray[np.uint16]:
    loaded: npt.NDArray[np.uint16] = np.load(path, mmap_mode="r")
    return loaded


def read_box(address: str, box: Box) -> npt.NDArray[Any]:
    """Read a box, mirrored beyond the volume's end."""
    volume = _volume(address)
    return volume.read(Roi(volume.roi.begin + Coordinate(box.begin), box.shape), outside="reflect")


def _boxes(end: tuple[int, ...], step: tuple[int, ...]) -> list[Box]:
    starts = product(*(range(0, stop, by) for stop, by in zip(end, step, strict=True)))
    return [
        Box((z, y, x), (min(z + step[0], end[0]), min(y + step[1], end[1]), min(x + step[2], end[2])))
        for z, y, x in starts
    ]


def value_range(volume: Volume, folder: Path | None, **workers: Any) -> tuple[float, float]:
    """Return the minimum and maximum of a volume.

    Args:
        volume: The volume to equalise.
        folder: Folder in which finished blocks are recorded; None for the folder of job records.
        **workers: ``num_workers`` and ``workers`` of ``run_blockwise``.

    Raises:
        DataError: Floats outside [0, 1] or not finite.
    """
    blocks = grown_block(volume, volume.roi, LEAST_BLOCK)
    place = None if folder is None else folder / ".clahe_range"
    task = LedgerTask("find range of values", volume, (str(volume.address),), range_block, {}, blocks, place=place)
    task.run(description="Finding the range of values", **workers)
    ranges = np.array(list(task.results()))  # NaN propagates
    low, high = float(ranges[:, 0].min()), float(ranges[:, 1].max())
    if folder is None:
        task.forget()
    if volume.dtype.kind == "f" and not (low >= 0 and high <= 1):
        raise DataError(
            f"{volume.address} holds floats from {low:g} to {high:g}, but only 0 to 1 can be equalised: "
            f"{'replace NaN' if low != low else 'rescale them'}."
        )
    return low, high


def range_block(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return the minimum and maximum of one block."""
    volume = block.inputs[0]
    ranges = []
    for part in aligned_parts(volume, block.write_roi, LEAST_BLOCK):
        values = volume.read(part)
        ranges.append((values.min(), values.max()))
    found = np.array(ranges)
    return np.array([found[:, 0].min(), found[:, 1].max()])


def make_tables(work: Equalization, path: Path, **workers: Any) -> npt.NDArray[Any]:
    """Compute the look-up tables of all tiles and save them.

    Args:
        work: The volume and its parameters.
        path: File to write, ``.npy``, shape (tz, ty, tx, bins), uint16; memory-mapped, never loaded whole. Finished
            groups of tiles are recorded beside it.
        **workers: ``num_workers`` and ``workers`` of ``run_blockwise``.

    Returns:
        Lowest and highest bin in each tile, shape (tz, ty, tx, 2).
    """
    grid = tile_grid(_volume(work.address).spatial_shape, work.kernel)
    how = {"kernel": work.kernel, "clip_limit": work.clip_limit, "scale": asdict(work.scale), "side": GROUP_SIDE}
    groups = _groups(work, GROUP_SIDE)
    names = tuple(f"tiles {list(group.begin)} to {list(group.end)}" for group in groups)
    task = LedgerTask(
        "measure histograms", names, (work.address,), tables_block, how, unit="groups of tiles",
        place=path.with_name(".clahe_histograms"),
    )  # fmt: skip
    task.run(description="Measuring histograms", **workers)
    tables = np.lib.format.open_memmap(path, "w+", dtype=np.uint16, shape=(*grid, work.scale.bins))
    edges = np.empty((*grid, 2), dtype=np.uint16)
    for group, measured in zip(groups, task.results(), strict=True):
        place = tuple(slice(start, stop) for start, stop in zip(group.begin, group.end, strict=True))
        tables[place], edges[place] = measured[..., :-2], measured[..., -2:]
    tables.flush()
    return edges


def _groups(work: Equalization, side: int) -> list[Box]:
    grid = tile_grid(_volume(work.address).spatial_shape, work.kernel)
    return _boxes(grid, tuple(max(1, side // length) for length in work.kernel))


def tables_block(item: WorkItem, parameters: Mapping[str, Any]) -> npt.NDArray[np.uint16]:
    """Return tables of one group of tiles, followed by lowest and highest bin: shape (tz, ty, tx, bins + 2)."""
    address, scale = str(item.inputs[0].address), GreyScale(**parameters["scale"])
    work = Equalization(address, tuple(parameters["kernel"]), parameters["clip_limit"], scale)
    return np.concatenate(_tables_of_group(work, _groups(work, parameters["side"])[item.number]), axis=-1)


def _tables_of_group(work: Equalization, group: Box) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """Return tables and bin ranges of a box of tiles; ``group`` counts tiles, not voxels."""
    kernel, bins = work.kernel, work.scale.bins
    histograms = np.zeros((*group.shape, bins), dtype=np.int64)
    begin = tuple(index * length for index, length in zip(group.begin, kernel, strict=True))
    end = tuple(index * length for index, length in zip(group.end, kernel, strict=True))
    for part in Box(begin, end).sections():  # type: ignore[arg-type]
        binned = work.scale.bin_of(read_box(work.address, part))
        for z in range(part.begin[0] // kernel[0], -(-part.end[0] // kernel[0])):
            first, last = max(z * kernel[0], part.begin[0]), min((z + 1) * kernel[0], part.end[0])
            layer = binned[first - part.begin[0] : last - part.begin[0]]
            for y, x in np.ndindex(*group.shape[1:]):
                rows, columns = (
                    slice(i * length, (i + 1) * length) for i, length in zip((y, x), kernel[1:], strict=True)
                )
                for section in layer[:, rows, columns]:
                    histograms[z - group.begin[0], y, x] += np.bincount(section.ravel(), minlength=bins)
    tables = np.empty(histograms.shape, dtype=np.uint16)
    edges = np.empty((*group.shape, 2), dtype=np.uint16)
    for tile in np.ndindex(*group.shape):
        filled = np.flatnonzero(histograms[tile])
        edges[tile] = filled[0], filled[-1]
        tables[tile] = tile_table(histograms[tile], work.clip_limit)
    return tables, edges


def result_range(work: Equalization, path: Path, edges: npt.NDArray[Any], num_workers: int) -> tuple[float, float]:
    """Return the exact minimum and maximum grey level of the whole equalised volume.

    A voxel's level is bounded by the levels of its bin in the tables around its tile, and tables are monotone: a tile
    whose bound does not exceed a level already found can be skipped. Each search step depends on the result of the
    previous one, so this does not run as scheduled blocks.

    Args:
        work: The volume and its parameters.
        path: File of the tables.
        edges: Lowest and highest bin in each tile.
        num_workers: Number of processes; 1 is the current one.
    """
    at_once = 4 * num_workers
    with process_pool(num_workers) if num_workers > 1 else nullcontext() as pool:
        ranges = partial(_level_ranges, pool, work, str(path))
        low = _best(work, ranges, _bounds(path, edges[..., 0], np.minimum), at_once, sign=1)
        high = _best(work, ranges, _bounds(path, edges[..., 1], np.maximum), at_once, sign=-1)
    return low, high


def _bounds(path: Path, bins: npt.NDArray[Any], extreme: np.ufunc) -> npt.NDArray[np.int64]:
    """Bound the levels in each tile by those of its bin in the 27 surrounding tables."""
    tables = _tables(str(path))
    bounds: npt.NDArray[np.int64] | None = None
    for shift in product((-1, 0, 1), repeat=3):
        index = [np.clip(np.arange(size) + by, 0, size - 1) for size, by in zip(bins.shape, shift, strict=True)]
        levels = tables[(*np.ix_(*index), bins)].astype(np.int64)
        bounds = levels if bounds is None else extreme(bounds, levels)
    assert bounds is not None
    return bounds


def _best(work: Equalization, ranges: LevelRanges, bounds: npt.NDArray[np.int64], at_once: int, sign: int) -> float:
    """Search tiles from the best bound on until no remaining one can be better; ``sign`` -1 finds the maximum."""
    signed = sign * bounds.ravel()
    order = np.argsort(signed, kind="stable")
    best, at = np.inf, 0
    while at < len(order) and signed[order[at]] < best:
        tiles = [np.unravel_index(int(index), bounds.shape) for index in order[at : at + at_once]]
        boxes = [_tile_box(work, tuple(int(i) for i in tile)) for tile in tiles]
        best = min(best, *(low if sign > 0 else -high for low, high in ranges(boxes)))
        at += len(tiles)
    return float(sign * best)


def _tile_box(work: Equalization, tile: tuple[int, ...]) -> Box:
    shape = _volume(work.address).spatial_shape
    begin = tuple(index * length for index, length in zip(tile, work.kernel, strict=True))
    end = tuple(min(start + length, size) for start, length, size in zip(begin, work.kernel, shape, strict=True))
    return Box(begin, end)  # type: ignore[arg-type]


def levels_of(work: Equalization, path: str, box: Box) -> npt.NDArray[np.float32]:
    """Return the grey levels, 0 to 16383, of a box within the volume."""
    binned = work.scale.bin_of(read_box(work.address, box))
    return interpolate(binned, box.begin, tables_round(_tables(path), box.begin, box.shape, work.kernel), work.kernel)


def _level_ranges(
    pool: Executor | None, work: Equalization, path: str, boxes: list[Box]
) -> Iterator[tuple[float, float]]:
    measure = partial(_level_range, work, path)
    return map(measure, boxes) if pool is None else pool.map(measure, boxes)


def _level_range(work: Equalization, path: str, box: Box) -> tuple[float, float]:
    ranges = [
        (float(levels.min()), float(levels.max()))
        for levels in (levels_of(work, path, part) for part in box.sections())
    ]
    return min(low for low, _ in ranges), max(high for _, high in ranges)
