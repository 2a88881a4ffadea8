"""Ids of a whole volume counted; labels divided into parts of equal size, as if less had been annotated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import InputError
from incasem_like.formatting.derive import DatasetWritten, Derivation, OfLabels, Operation, derive
from incasem_like.volumes import Coordinate, Roi, Volume
from incasem_like.volumes.values import check_label_dtype, check_labels

BLOCK = (256, 256, 256)  # a block is held three times over, in up to 64 bits


@dataclass(frozen=True)
class LabelCounts:
    """The objects of a volume.

    Attributes:
        ids: Ids above 0, ascending.
        sizes: Voxels of each.
        box: Smallest box that holds all labelled voxels, in absolute voxels; None if there is none.
        voxels: Voxels of the volume.
    """

    ids: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.int64]
    box: Roi | None
    voxels: int

    def document(self) -> dict[str, Any]:
        """Return the counts for JSON."""
        labelled = int(self.sizes.sum())
        return {
            "objects": len(self.ids),
            "labelled_voxels": labelled,
            "labelled_share": labelled / self.voxels,
            "smallest_object": int(self.sizes.min()) if len(self.sizes) else 0,
            "largest_object": int(self.sizes.max(initial=0)),
            "box": None if self.box is None else {"offset": list(self.box.begin), "shape": list(self.box.shape)},
        }


def count_labels(labels: Volume, **run: Any) -> LabelCounts:
    """Count the voxels of every object.

    Args:
        labels: Labels, (z, y, x).
        **run: ``num_workers`` and ``workers`` of ``run_blockwise``.

    Raises:
        DataError: The volume does not hold labels.
    """
    labels.require_zyx()
    check_label_dtype(labels)
    task = LedgerTask("count labels", labels, (str(labels.address),), count_block, {}, BLOCK)
    task.run(**run, description=f"Counting {labels.dataset}")
    found = [np.zeros((0, 2), np.uint64), *task.results()]
    task.forget()
    boxes = [part[:3].astype(np.int64) for part in found[1:] if len(part) > 3]
    pairs = np.concatenate([part[3:] for part in found])
    ids, where = np.unique(pairs[:, 0], return_inverse=True)
    sizes = np.zeros(len(ids), np.int64)
    np.add.at(sizes, where, pairs[:, 1].astype(np.int64))
    box = None
    if boxes:
        begin, end = np.min(boxes, axis=0)[:, 0], np.max(boxes, axis=0)[:, 1]
        box = Roi(labels.roi.begin + Coordinate(begin.tolist()), (end - begin).tolist())
    return LabelCounts(ids, sizes, box, labels.roi.size)


def count_block(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[np.uint64]:
    """Return the box of a block's labels, three rows from the volume's first voxel, then a row per id: id, voxels."""
    source = block.inputs[0]
    values = source.read(block.write_roi)
    check_labels(values, str(source.address), block.write_roi.begin)
    inside = values != 0
    ids, counts = np.unique(values[inside], return_counts=True)  # background, most of many volumes, is not sorted
    rows = np.stack([ids.astype(np.uint64), counts.astype(np.uint64)], axis=1)
    box = np.zeros((3, 2), np.uint64)
    first = block.write_roi.begin - source.roi.begin
    for axis in range(3) if len(rows) else ():
        along = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        box[axis] = first[axis] + along[0], first[axis] + along[-1] + 1
    return np.concatenate([box, rows])


def balanced_parts(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Divide objects into parts of about equal size: the largest first, each into the part that is smallest so far.

    Args:
        sizes: Voxels of each object.
        parts: Number of parts.

    Returns:
        The numbers of the objects in each part, ascending.

    Example:
        >>> balanced_parts([5, 4, 3, 3, 3], 2)
        [[0, 3], [1, 2, 4]]
    """
    found: list[list[int]] = [[] for _ in range(parts)]
    totals = [0] * parts
    for index in sorted(range(len(sizes)), key=lambda each: (-sizes[each], each)):
        smallest = totals.index(min(totals))
        found[smallest].append(index)
        totals[smallest] += int(sizes[index])
    return [sorted(part) for part in found]


def only_ids(labels: npt.NDArray[Any], ids: Sequence[int]) -> npt.NDArray[Any]:
    """Return labels with all ids but some set to 0.

    Example:
        >>> only_ids(np.array([0, 1, 2, 3]), [1, 3])
        array([0, 1, 0, 3])
    """
    return np.where(np.isin(labels, np.asarray(ids, np.uint64).astype(labels.dtype)), labels, 0)


def partition(derivation: Derivation, *, parts: int) -> list[DatasetWritten]:
    """Divide labels into parts with about as many labelled voxels each; an object stays whole.

    Part i is written to the dataset ``<out_dataset>/part_<i>``.

    Args:
        derivation: Labels and output.
        parts: Number of parts.

    Raises:
        InputError: Fewer than 2 parts, or fewer objects than parts.
        DataError: The source is missing or does not hold labels.
    """
    source = derivation.open_source()
    counts = count_labels(source, **derivation.run_options(source))
    if not 2 <= parts <= len(counts.ids):
        raise InputError(
            f"--parts is {parts}, but {source.address} has {len(counts.ids)} objects: give 2 to that many."
        )
    written = []
    for number, members in enumerate(balanced_parts(counts.sizes.tolist(), parts), 1):
        operation = Operation(
            "partition",
            OfLabels(only_ids),
            {"ids": [int(counts.ids[index]) for index in members]},
            labels=True,
            recorded={"part": number, "parts": parts, "objects": len(members)},
        )
        step = replace(derivation, out_dataset=f"{derivation.out_dataset}/part_{number}")
        one = derive(step, lambda *_, planned=operation: planned)
        note = f"Part {number}: {len(members)} objects, {int(counts.sizes[members].sum())} voxels"
        written.append(replace(one, note=note))
    return written
