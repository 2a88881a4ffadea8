"""Refinement of a segmentation: what becomes of each object, decided on the whole volume before anything is written."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block
from incasem_like.disk import write_whole
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.components import Parts, looked_up
from incasem_like.segmentation.agglomeration import joined_nodes
from incasem_like.segmentation.label_arrays import count_ids, relabel
from incasem_like.segmentation.morphology import MORPHOLOGY
from incasem_like.volumes.values import check_labels

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.uint64]
Table = Mapping[str, Array]


@dataclass(frozen=True)
class Decision:
    """What a refinement does to the objects of a volume.

    Attributes:
        ids: All objects before, ascending.
        sizes: Their voxels.
        new_ids: What each becomes; 0 removes it.
        reasons: Why objects were removed: for each reason, which.
        unknown: Ids of a list that are not in the volume.
    """

    ids: Ids
    sizes: npt.NDArray[np.int64]
    new_ids: Ids
    reasons: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    unknown: int = 0

    @property
    def removed(self) -> npt.NDArray[np.bool_]:
        """Which objects are removed."""
        return np.asarray(self.new_ids == 0)

    def report(self) -> dict[str, Any]:
        """Return how many objects and voxels there were, and how many were removed and why."""
        found: dict[str, Any] = {
            "objects": len(self.ids),
            "voxels": int(self.sizes.sum()),
            "objects_after": len(np.unique(self.new_ids[~self.removed])),
            "removed_objects": int(self.removed.sum()),
            "removed_voxels": int(self.sizes[self.removed].sum()),
        }
        for reason, chosen in self.reasons.items():
            found[f"removed: {reason}"] = {"objects": int(chosen.sum()), "voxels": int(self.sizes[chosen].sum())}
        return {**found, **({"unknown_ids": self.unknown} if self.unknown else {})}


def filtered(
    objects: Table,
    *,
    min_size: int = 0,
    max_size: int | None = None,
    outliers: float | None = None,
    min_sections: int = 0,
) -> Decision:
    """Remove objects by their size and extent.

    Args:
        objects: ``id``, ``size``, ``z_first`` and ``z_last`` of each, as of ``label_arrays.object_rows``.
        min_size, max_size: Voxels of the smallest and largest objects that remain.
        outliers: Objects whose size differs from the mean by more than this many standard deviations are removed; both
            are those of objects that ``min_size`` and ``max_size`` leave.
        min_sections: Objects that extend over fewer sections are removed.

    >>> objects = {"id": np.array([1, 2, 9]), "size": np.array([1, 8, 9])}
    >>> objects |= {"z_first": np.zeros(3), "z_last": np.array([0, 0, 3])}
    >>> filtered(objects, min_size=2, min_sections=2).new_ids.tolist()
    [0, 0, 9]
    """
    sizes = objects["size"]
    reasons = {"too small": sizes < min_size, "too large": sizes > (max_size or np.iinfo(np.int64).max)}
    remaining = ~np.any(list(reasons.values()), axis=0)
    if outliers is not None and remaining.any():
        of = sizes[remaining].astype(np.float64)
        reasons["outlier"] = remaining & (np.abs(sizes - of.mean()) > outliers * of.std())
        remaining &= ~reasons["outlier"]
    reasons["too few sections"] = remaining & (objects["z_last"] - objects["z_first"] + 1 < min_sections)
    remaining &= ~reasons["too few sections"]
    ids = objects["id"].astype(np.uint64)
    return Decision(ids, sizes, np.where(remaining, ids, np.uint64(0)), {k: v for k, v in reasons.items() if v.any()})


def read_remap(path: Path) -> dict[int, int]:
    """Read a list of ids and what they become, ``id,new_id`` in each row; 0 removes. A first row of titles is skipped.

    Raises:
        InputError: The file cannot be read, a row is not two ids, or an id is there twice with different new ids.
    """
    table: dict[int, int] = {}
    for number, row in _rows_of_ids(path):
        if len(row) != 2:
            raise InputError(f"{path} has {len(row)} values in row {number}: a remap list has rows of id,new_id.")
        if table.setdefault(row[0], row[1]) != row[1]:
            raise InputError(f"{path} gives the id {row[0]} twice, in row {number} as {row[1]}: correct it.")
    return table


def read_merges(path: Path) -> dict[int, int]:
    """Read groups of ids that become one object, a group in each row; they get the first id of their first row.

    Groups that share an id are one.

    Raises:
        InputError: The file cannot be read, or a value is not an id.
    """
    groups = [row for _, row in _rows_of_ids(path)]
    ids = list(dict.fromkeys(one for row in groups for one in row))
    at = {one: number for number, one in enumerate(ids)}
    pairs = np.array([(at[row[0]], at[one]) for row in groups for one in row], np.int64).reshape(-1, 2)
    components = joined_nodes(len(ids), pairs[:, 0], pairs[:, 1])
    first: dict[int, int] = {}
    return {one: first.setdefault(int(number), one) for one, number in zip(ids, components, strict=True)}


def _rows_of_ids(path: Path) -> list[tuple[int, list[int]]]:
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}): name a CSV file of ids.") from error
    found = []
    for number, row in enumerate(rows, 1):
        values = [value.strip() for value in row if value.strip()]
        if number == 1 and not any(value.isdigit() for value in values):
            continue  # titles
        if not all(value.isdigit() and int(value) < 2**64 for value in values):
            raise InputError(f"{path} has {','.join(row)} in row {number}: give ids, whole numbers below 2^64.")
        if values:
            found.append((number, [int(value) for value in values]))
    if not found:
        raise InputError(f"{path} has no ids: name a CSV file of ids.")
    return found


def remapped(objects: Table, table: Mapping[int, int], name: str) -> Decision:
    """Replace the ids of objects; 0 removes them, and objects of the same new id are merged.

    Args:
        objects: ``id`` and ``size`` of each.
        table: New id of some ids.
        name: The list, for the error.

    Raises:
        DataError: None of the ids is in the volume.

    >>> remapped({"id": np.array([1, 2, 9]), "size": np.ones(3, int)}, {2: 1, 9: 0}, "list.csv").new_ids.tolist()
    [1, 1, 0]
    """
    ids = objects["id"].astype(np.uint64)
    given = np.array(list(table), np.uint64)
    known = np.isin(given, ids)
    if not known.any():
        raise DataError(f"None of the {len(given)} ids of {name} is in the segmentation: is it of another one?")
    new_ids = ids.copy()
    new_ids[np.searchsorted(ids, given[known])] = np.array(list(table.values()), np.uint64)[known]
    reasons = {"by the list": new_ids == 0}
    return Decision(ids, objects["size"], new_ids, reasons, int((~known).sum()))


def filled_values(parts: Parts) -> Array:
    """Return the value of each part once holes belong to their object.

    A hole is background that touches one object only, through faces, and not the border of the volume.
    """
    own, other = np.concatenate([parts.touching, parts.touching[:, ::-1]]).T
    background = parts.values[own] == 0  # then the other part is of an object
    component, value = parts.component[own[background]], parts.values[other[background]].astype(np.uint64)
    lowest = np.full(len(parts.component_sizes), np.iinfo(np.uint64).max)
    highest = np.zeros(len(lowest), np.uint64)
    np.minimum.at(lowest, component, value)
    np.maximum.at(highest, component, value)
    is_hole = lowest == highest
    is_hole[parts.component[parts.at_border]] = False
    filled = is_hole[parts.component] & (parts.values == 0)
    return np.where(filled, highest[parts.component].astype(parts.values.dtype), parts.values)


@lru_cache(maxsize=1)
def _table(path: Path) -> tuple[Ids, Array]:
    """Read a table, once in each process."""
    with np.load(path, allow_pickle=False) as table:
        return table["ids"], table["new_ids"]


def relabel_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write one block with other ids; objects that are not in the table become 0."""
    labels = block.inputs[0].read(block.write_roi)
    if labels.any():
        block.output.write(relabel(labels, *_table(block.folder.parent / parameters["table"])), block.write_roi)


def filled_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write one block with its holes filled."""
    labels = block.inputs[0].read(block.write_roi)
    block.output.write(looked_up(labels, block.number, block.folder.parent / parameters["table"]), block.write_roi)


def morphology_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write one block after morphology."""
    block.output.write(_changed(block, parameters)[1], block.write_roi)


def count_changes(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Return id, voxels before and voxels after morphology of each object in a block, (n, 3)."""
    before, after = _changed(block, parameters)
    ids, sizes = count_ids(before)
    left, remaining = count_ids(after)
    all_ids = np.union1d(ids, left)
    table = np.zeros((len(all_ids), 3), np.uint64)
    table[:, 0] = all_ids
    table[np.searchsorted(all_ids, ids), 1] = sizes
    table[np.searchsorted(all_ids, left), 2] = remaining
    return table


def _changed(block: Block, parameters: Mapping[str, Any]) -> tuple[Array, Array]:
    """Return a block before and after morphology."""
    function, reach = MORPHOLOGY[parameters["operation"]]
    source, steps, in_plane = block.inputs[0], parameters["steps"], parameters["in_plane"]
    margin = (0 if in_plane else reach * steps, reach * steps, reach * steps)
    seen = block.write_roi.grow(margin, margin).intersect(source.roi)
    labels = source.read(seen)
    check_labels(labels, str(source.address), seen.begin)
    inner = (block.write_roi - seen.begin).to_slices()
    return labels[inner], np.ascontiguousarray(function(labels, steps, in_plane)[inner])


def changed_sizes(tables: Sequence[Array]) -> tuple[Ids, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the ids of several tables of ``count_changes``, and the voxels of each before and after."""
    rows = np.concatenate([np.zeros((0, 3), np.uint64), *tables])
    ids, index = np.unique(rows[:, 0], return_inverse=True)
    before, after = (np.bincount(index, rows[:, column], len(ids)).astype(np.int64) for column in (1, 2))
    return ids, before, after


def write_removed(decision: Decision, path: Path) -> None:
    """Write the objects that are removed, and why, as CSV."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["id", "size", "reason"])
    for reason, chosen in decision.reasons.items():
        listed = zip(decision.ids[chosen].tolist(), decision.sizes[chosen].tolist(), strict=True)
        rows.writerows([one, size, reason] for one, size in listed)
    write_whole(path, lambda file: file.write(text.getvalue().encode()))
