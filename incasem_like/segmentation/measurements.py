"""Measurements of objects, block by block: partial tables that add up to those of the volume, whatever the blocks.

All that is added up is a whole number, so that sums do not depend on their order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
from pyarrow import parquet
from scipy.spatial import SphericalVoronoi

from incasem_like.blockwise import Block
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.disk import write_whole
from incasem_like.segmentation.affinities import ends
from incasem_like.segmentation.label_arrays import consecutive, object_rows
from incasem_like.volumes import Coordinate, Roi, Volume
from incasem_like.volumes.parts import aligned_parts, grown_block
from incasem_like.volumes.values import check_labels, check_probabilities, probability_scale

Array = npt.NDArray[Any]
Table = Mapping[str, Array]

# Half of the 26 steps to neighbours; the first three lead through faces.
DIRECTIONS = tuple(
    sorted(
        (step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0)),
        key=lambda step: (sum(map(abs, step)), tuple(-abs(length) for length in step), step),
    )
)
PAIRS = tuple(f"pairs_{number}" for number in range(len(DIRECTIONS)))
EXTENT = tuple(f"{axis}_{what}" for what in ("first", "last") for axis in "zyx")
ONE = Coordinate(1, 1, 1)
FRACTION_STEPS = 1 << 24  # a float is added up as its whole part and this many steps of the rest
VOXELS_AT_ONCE = 1 << 22
ROWS_IN_GROUP = 1 << 14  # unit of reading a part of a partial table
ROWS_AT_ONCE = 1 << 21  # of partial tables that are added up together
SAMPLE = 64  # every how many ids are looked at to divide them


@lru_cache(maxsize=8)
def pair_areas(voxel_size: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Return the area that a pair of voxels on both sides of a surface stands for, along each of ``DIRECTIONS``.

    By the formula of Crofton, the area of a surface is the mean number of its crossings by lines of all directions;
    13 directions are weighted by the part of the sphere that is nearest to each (Lehmann and Legland 2012).

    Args:
        voxel_size: (z, y, x) in nm.

    Returns:
        (13,) in nm^2.

    >>> areas = pair_areas((1.0, 1.0, 1.0))
    >>> bool(np.isclose(areas[0], 2 * 2 * 0.0457779))  # of one axis, both ways
    True
    """
    steps = np.array(DIRECTIONS) * voxel_size
    lengths = np.linalg.norm(steps, axis=1)
    units = steps / lengths[:, None]
    cells = SphericalVoronoi(np.concatenate([units, -units]), threshold=1e-9)
    shares = 2 * cells.calculate_areas()[: len(steps)] / (4 * np.pi)
    return np.asarray(2 * shares * np.prod(voxel_size) / lengths)


def count_pairs(labels: Array, roi: Roi, whole: Roi) -> tuple[Array, Array, Array]:
    """Count the pairs of neighbouring voxels with different ids, along each of ``DIRECTIONS``.

    A pair counts for the ROI of its first voxel; where that lies outside of the volume, for that of the other.

    Args:
        labels: (z, y, x) of the ROI and one voxel around it; 0 outside of the volume.
        roi: The ROI, in absolute voxels.
        whole: The volume.

    Returns:
        (n,) lower id, 0 for background; (n,) higher id; (n, 13) pairs. Sorted, each pair of ids once.

    >>> box = Roi((0, 0, 0), (1, 1, 2))
    >>> low, high, pairs = count_pairs(np.pad([[[3, 5]]], 1), box, box)
    >>> low.tolist(), high.tolist(), pairs[:, :3].tolist()
    ([0, 0, 3], [3, 5, 5], [[2, 2, 1], [2, 2, 1], [0, 0, 1]])
    """
    local, ids = consecutive(labels)
    known = np.concatenate([np.zeros(1, np.uint64), ids])
    core = np.zeros(labels.shape, bool)
    core[1:-1, 1:-1, 1:-1] = True
    inside = np.zeros(labels.shape, bool)
    around = roi.grow(ONE, ONE)
    inside[(whole.intersect(around) - around.begin).to_slices()] = True
    keys, counts = [], []
    for step in DIRECTIONS:
        here, there = ends(labels.shape, step)
        counted = (local[here] != local[there]) & (core[here] | (core[there] & ~inside[here]))
        one, other = local[here][counted], local[there][counted]
        key, count = np.unique(
            np.minimum(one, other) * np.uint64(len(known)) + np.maximum(one, other), return_counts=True
        )
        keys.append(key)
        counts.append(count)
    found = np.unique(np.concatenate(keys))
    pairs = np.zeros((len(found), len(DIRECTIONS)), np.int64)
    for number, (key, count) in enumerate(zip(keys, counts, strict=True)):
        pairs[np.searchsorted(found, key), number] = count
    return known[found // len(known)], known[found % len(known)], pairs


def sums_of_values(labels: Array, values: Array, ids: Array) -> dict[str, npt.NDArray[np.int64]]:
    """Return, for each id, the sum of values in whole numbers: ``whole``, and ``steps`` of 1 / ``FRACTION_STEPS``.

    >>> sums_of_values(np.array([[[1, 1]]]), np.array([[[1.5, 2.25]]]), np.array([1]))["whole"].tolist()
    [3]
    """
    local, known = consecutive(labels)
    index, at = local.ravel(), np.searchsorted(ids, known)
    whole = np.floor(values) if values.dtype.kind == "f" else values
    sums = {name: np.zeros(len(ids), np.int64) for name in ("whole", "steps")}
    sums["whole"][at] = np.bincount(index, whole.ravel(), len(known) + 1)[1:].astype(np.int64)
    if values.dtype.kind == "f":
        steps = np.rint((values.astype(np.float64) - whole) * FRACTION_STEPS)
        sums["steps"][at] = np.bincount(index, steps.ravel(), len(known) + 1)[1:].astype(np.int64)
    return sums


def measure_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write the partial tables of a block; the inputs are the segmentation and the volumes that ``values`` names."""
    segmentation, *volumes = block.inputs
    objects, contacts = [], []
    for part in aligned_parts(segmentation, block.write_roi, VOXELS_AT_ONCE):
        labels = segmentation.read(part.grow(ONE, ONE), outside="constant")
        if not labels.any():
            continue
        check_labels(labels, str(segmentation.address), part.begin - ONE)
        core = np.ascontiguousarray(labels[1:-1, 1:-1, 1:-1])
        table = dict(object_rows(core, part.begin))
        for name, volume in zip(parameters["values"], volumes, strict=True):
            values = volume.read(part)
            if name == "probability":
                check_probabilities(values, probability_scale(volume), str(volume.address), part.begin, core > 0)
            found = sums_of_values(core, np.where(core > 0, values, 0), table["id"])
            table.update({f"{name}_{what}": column for what, column in found.items()})
        objects.append(table)
        if parameters["surfaces"]:
            low, high, pairs = count_pairs(labels, part, segmentation.roi)
            pairs_of = dict(zip(PAIRS, pairs.T, strict=True))
            objects += [{"id": ids[ids > 0], **{name: column[ids > 0] for name, column in pairs_of.items()}}
                        for ids in (low, high)]  # fmt: skip
            contacts.append({name: column[low > 0] for name, column in {"u": low, "v": high, **pairs_of}.items()})
    _write(block.folder / "objects" / f"{block.number}.parquet", added_up(objects, ("id",)))
    _write(block.folder / "contacts" / f"{block.number}.parquet", added_up(contacts, ("u", "v")))


def measure_task(
    segmentation: Volume,
    values: Mapping[str, Volume],
    surfaces: bool = True,
    block_shape: Sequence[int] | None = None,
    place: Path | None = None,
) -> LedgerTask:
    """Return the task whose blocks write partial tables, ``FOLDER/objects`` and ``FOLDER/contacts``.

    Args:
        segmentation: Instance labels, (z, y, x).
        values: Volumes on the same grid whose means are measured, by the name of the column.
        surfaces: Whether surfaces and contacts are measured too.
        block_shape: Voxels; None chooses.
        place: The folder; None as of a ``LedgerTask``.
    """
    return LedgerTask(
        "measure objects",
        segmentation,
        tuple(str(volume.address) for volume in (segmentation, *values.values())),
        measure_block,
        {"values": list(values), "surfaces": surfaces},
        tuple(block_shape or grown_block(segmentation, segmentation.roi, 1 << 23)),
        place=place,
    )


def added_up(tables: Sequence[Table], keys: Sequence[str]) -> dict[str, Array]:
    """Add up the rows of several tables that have the same keys; first and last voxels become the lowest and highest.

    A table may lack columns: sums are 0 there.

    >>> rows = added_up([{"id": np.array([2, 1]), "size": np.array([3, 4])}, {"id": np.array([2])}], ("id",))
    >>> {name: column.tolist() for name, column in rows.items()}
    {'id': [1, 2], 'size': [4, 3]}
    """
    tables = [table for table in tables if len(table[keys[0]])]
    if not tables:
        return {}
    columns = list(dict.fromkeys(name for table in tables for name in table))
    joined = {
        name: np.concatenate(
            [table[name] if name in table else np.full(len(table[keys[0]]), _neutral(name)) for table in tables]
        )
        for name in columns
    }
    order = np.lexsort([joined[key] for key in reversed(keys)])
    ordered = [joined[key][order] for key in keys]
    new = np.ones(len(order), bool)
    new[1:] = np.any([key[1:] != key[:-1] for key in ordered], axis=0)
    starts = np.flatnonzero(new)
    rows = {key: column[starts] for key, column in zip(keys, ordered, strict=True)}
    for name in columns:
        if name not in keys:
            add = np.minimum if name.endswith("_first") else np.maximum if name.endswith("_last") else np.add
            rows[name] = add.reduceat(joined[name][order], starts)
    return rows


def _neutral(name: str) -> int:
    limits = np.iinfo(np.int64)
    return int(limits.max if name.endswith("_first") else limits.min if name.endswith("_last") else 0)


def read_added_up(folder: Path, keys: Sequence[str], rows_at_once: int = ROWS_AT_ONCE) -> Iterator[dict[str, Array]]:
    """Yield the sum of all partial tables of a folder in ascending order of the keys, part by part in bounded memory.

    Args:
        folder: Of ``BLOCK.parquet``, each sorted.
        keys: The columns that name a row; the rows of one value of the first are added up together.
        rows_at_once: Rows of partial tables in memory, about.
    """
    paths = sorted(folder.glob("*.parquet"), key=lambda path: int(path.stem))
    samples = [parquet.read_table(path, columns=[keys[0]])[keys[0]].to_numpy()[::SAMPLE] for path in paths]
    ids = np.sort(np.concatenate([np.zeros(0, np.uint64), *samples]))
    cuts = np.unique(ids[:: max(1, rows_at_once // SAMPLE)])[1:].tolist()
    for low, high in itertools.pairwise([0, *cuts, 2**64]):
        bounds = [(keys[0], ">=", np.uint64(low)), *([(keys[0], "<", np.uint64(high))] if high < 2**64 else [])]
        tables = [parquet.read_table(path, filters=bounds) for path in paths]
        rows = added_up([{name: one[name].to_numpy() for name in one.column_names} for one in tables], keys)
        if rows:
            yield rows


def _write(path: Path, table: Table) -> None:
    path.parent.mkdir(exist_ok=True)
    if table:
        content = pyarrow.table({name: np.ascontiguousarray(column) for name, column in table.items()})
        write_whole(path, lambda file: parquet.write_table(content, file, row_group_size=ROWS_IN_GROUP))
