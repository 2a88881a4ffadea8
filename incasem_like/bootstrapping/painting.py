"""Painted labels: checked, brought together in one dataset with its mask, and described as training data."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import DataError
from incasem_like.formatting.label_masks import bounds_of_block
from incasem_like.volumes import Roi, Volume, describe_roi, make_provenance
from incasem_like.volumes.agreement import check_same_voxels
from incasem_like.volumes.values import check_label_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

BLOCK = (16, 256, 256)
CHUNK = (16, 128, 128)
OWN_IDS = 40  # bits: the ids of crops that were painted each by itself are above those of labels
TOOL = "bootstrap.py"


@dataclass(frozen=True)
class Painting:
    """Painted labels of a volume.

    Attributes:
        raw: The raw volume.
        labels: Label datasets in which an id means the same object.
        crops: Label datasets that were painted each by itself, with ids of their own.
    """

    raw: Volume
    labels: tuple[Volume, ...]
    crops: tuple[Volume, ...] = ()

    @property
    def sources(self) -> tuple[Volume, ...]:
        """All label datasets."""
        return (*self.labels, *self.crops)

    @cached_property
    def crop_ids(self) -> list[list[list[int]]]:
        """For each crop the pairs of its ids and those of the same objects in labels and earlier crops.

        An object of a crop is one that was painted before if it covers more than half of what the crop shows of it.
        """
        pairs: list[list[list[int]]] = []
        for crop in self.crops:
            here, before = crop.read(), np.zeros(crop.shape, np.uint64)
            earlier = [*((one, None) for one in self.labels), *zip(self.crops, enumerate(pairs), strict=False)]
            for volume, known in earlier:
                if not (common := crop.roi.intersect(volume.roi)).empty:
                    read = ids_of_crop(volume.read(common), *known) if known else volume.read(common)
                    part = before[(common - crop.roi.begin).to_slices()]
                    part[read > 0] = read[read > 0]
            found: dict[int, tuple[int, int]] = {}
            for there in np.unique(before[before > 0]):
                ids, voxels = np.unique(here[before == there], return_counts=True)
                one, most = int(ids[voxels.argmax()]), int(voxels.max())
                if one and most * 2 > voxels.sum() and most > found.get(one, (0, 0))[0]:
                    found[one] = (most, int(there))
            pairs.append([[one, there] for one, (_, there) in sorted(found.items())])
        return pairs

    def check(self) -> Roi:
        """Check the labels, and return the smallest box that holds all painted voxels.

        Raises:
            DataError: Nothing is painted, something outside raw, or a voxel twice with different ids; or voxels differ.
        """
        boxes = []
        for volume in self.sources:
            check_same_voxels(volume, self.raw)
            check_label_dtype(volume)
            task = LedgerTask("painted box", volume, (str(volume.address),), bounds_of_block, {}, BLOCK)
            task.run(description=f"Painted voxels of {volume.dataset}")
            found = [bounds for bounds in task.results() if bounds.size]
            if found:
                begin, end = np.min(found, axis=0)[0], np.max(found, axis=0)[1]
                boxes.append(Roi(begin.tolist(), (end - begin).tolist()))
                if not self.raw.roi.contains(boxes[-1]):
                    raise DataError(
                        f"{volume.address} is painted in {describe_roi(boxes[-1])}, but {self.raw.address} covers "
                        f"{describe_roi(self.raw.roi)}: correct its offset attribute, or repaint inside raw."
                    )
        if not boxes:
            names = ", ".join(str(volume.address) for volume in self.sources) or "round.labels is empty"
            raise DataError(f"No voxel is painted ({names}): paint some objects completely, up to their membranes.")
        return reduce(Roi.union, boxes)

    def sections(self, box: Roi) -> list[tuple[Roi, int]]:
        """Return the box of each run of painted sections, and the number of its painted voxels.

        Raises:
            DataError: A voxel is painted twice with different ids.
        """
        addresses = tuple(str(volume.address) for volume in self.sources)
        task = LedgerTask("painted sections", self.raw, addresses, count_sections, {"crops": self.crop_ids}, BLOCK, box)
        task.run(description="Painted sections")
        rows = np.concatenate([found.reshape(-1, 12) for found in task.results()])
        if (twice := rows[rows[:, 6] > 0]).size:
            z, y, x, one, other = (int(twice[0, column]) for column in (0, 7, 8, 9, 10))
            raise DataError(
                f"Section {z} is painted twice with different ids ({int(twice[:, 6].sum())} voxels, the first at "
                f"{[z, y, x]}: {one} and {other}): give an object the same id in all of round.labels."
            )
        if len(np.unique(rows[:, 9:11][rows[:, 5] > 0])) == 1:
            log.warning("Only one object is painted: a model may learn its boundary, but no boundary between two.")
        found: list[tuple[Roi, int]] = []
        for z in np.unique(rows[:, 0]):
            here = rows[rows[:, 0] == z]
            begin = (int(z), int(here[:, 1].min()), int(here[:, 3].min()))
            end = (int(z) + 1, int(here[:, 2].max()), int(here[:, 4].max()))
            section = Roi(begin, [b - a for a, b in zip(begin, end, strict=True)])
            voxels = int(here[:, 5].sum())
            if found and found[-1][0].end[0] == z:
                found[-1] = (found[-1][0].union(section), found[-1][1] + voxels)
            else:
                found.append((section, voxels))
        return found

    def write(self, group: str, box: Roi, parameters: Mapping[str, Any], **how: Any) -> tuple[Volume, Volume]:
        """Write all labels, and a mask of painted voxels, into the container of raw; return both."""
        raw = self.raw
        outputs = [
            create_or_resume_output(
                raw.container,
                f"{group}/{name}",
                shape=tuple(box.shape),
                dtype=dtype,
                voxel_size=raw.require_voxel_size(),
                offset=tuple(b * s for b, s in zip(box.begin, raw.require_voxel_size(), strict=True)),
                chunk_shape=tuple(min(one, size) for one, size in zip(CHUNK, box.shape, strict=True)),
                provenance=make_provenance(TOOL, parameters, self.sources),
            )
            for name, dtype in (("labels", np.uint64), ("mask", np.uint8))
        ]
        addresses = tuple(str(volume.address) for volume in self.sources)
        task = BlockTask(
            "painted labels", outputs[0], addresses, merge_block, {"crops": self.crop_ids}, BLOCK,
            further_outputs=(outputs[1],),
        )  # fmt: skip
        run_blockwise(task, description="Painted labels", **how)
        return outputs[0], outputs[1]


def ids_of_crop(labels: npt.NDArray[Any], number: int, known: Sequence[Sequence[int]]) -> npt.NDArray[np.uint64]:
    """Return labels of a crop with ids that no other crop has, but for objects that were painted before.

    >>> ids_of_crop(np.array([0, 1, 2]), 0, [[2, 7]]).tolist() == [0, 1 + (1 << OWN_IDS), 7]
    True
    """
    own = np.where(labels > 0, labels.astype(np.uint64) + np.uint64((number + 1) << OWN_IDS), np.uint64(0))
    for here, there in known:
        own[labels == here] = there
    return own


def _read_sources(
    block: Block, crops: Sequence[Sequence[Sequence[int]]]
) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_], bool]]:
    """Yield the ids of each source in a block, which of them count, and whether it is a crop.

    An object may go on beyond its crop, where nobody looked: the outermost pixels of a crop do not count, so that its
    edge is learnt as no boundary.
    """
    first_crop = len(block.inputs) - len(crops)
    for number, volume in enumerate(block.inputs):
        read = np.zeros(block.write_roi.shape, np.uint64)
        counts = np.zeros(block.write_roi.shape, bool)
        crop, inside = number - first_crop, volume.roi
        if crop >= 0:
            inside = inside.grow((0, -1, -1), (0, -1, -1))
        if not (common := block.write_roi.intersect(volume.roi)).empty:
            labels = volume.read(common)
            read[(common - block.write_roi.begin).to_slices()] = (
                ids_of_crop(labels, crop, crops[crop]) if crop >= 0 else labels
            )
        if not (common := block.write_roi.intersect(inside)).empty:
            part = (common - block.write_roi.begin).to_slices()
            counts[part] = read[part] > 0
        yield read, counts, crop >= 0


def count_sections(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Return a row for each painted section of a block: box, voxels, voxels painted twice, their place and ids."""
    merged, other = (np.zeros(block.write_roi.shape, np.uint64) for _ in range(2))
    twice = np.zeros(block.write_roi.shape, bool)
    for read, _, is_crop in _read_sources(block, parameters["crops"]):
        if not is_crop:
            differs = (merged > 0) & (read > 0) & (merged != read)
            other[differs & ~twice] = read[differs & ~twice]
            twice |= differs
        merged = np.where(merged > 0, merged, read)
    rows, begin = [], block.write_roi.begin
    for z in range(block.write_roi.shape[0]):
        y, x = np.nonzero(merged[z])
        if not len(y):
            continue
        conflicts = np.argwhere(twice[z])
        at = tuple(conflicts[0]) if len(conflicts) else (y[0], x[0])
        ids = (merged[z][at], other[z][at] if len(conflicts) else merged[z][y, x].max())
        box = (y.min() + begin[1], y.max() + 1 + begin[1], x.min() + begin[2], x.max() + 1 + begin[2])
        place = (at[0] + begin[1], at[1] + begin[2])
        rows.append((z + begin[0], *box, len(y), len(conflicts), *place, *map(int, ids), 0))
    return np.array(rows, np.int64).reshape(-1, 12)


def merge_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write labels and mask of one block; the inputs are the label datasets, of which later ones win."""
    merged, mask = np.zeros(block.write_roi.shape, np.uint64), np.zeros(block.write_roi.shape, bool)
    for read, counts, _ in _read_sources(block, parameters["crops"]):
        merged = np.where(read > 0, read, merged)
        mask |= counts
    block.outputs[0].write(merged, block.write_roi)
    block.outputs[1].write(mask.view(np.uint8), block.write_roi)


def data_config_text(
    raw: Volume, labels: str, mask: str, boxes: Sequence[Roi], further: Mapping[str, Any] | None = None
) -> str:
    """Return the data configuration (JSON) of regions of a volume, an entry each."""
    entries = {
        f"part_{number}": {
            "file": str(Path(raw.container).resolve()),
            "offset": list(map(int, box.begin)),
            "shape": list(map(int, box.shape)),
            "voxel_size": list(raw.require_voxel_size()),
            "raw": raw.dataset,
            "labels": {labels: 1},
            "mask": mask,
            **(further or {}),
        }
        for number, box in enumerate(boxes)
    }
    return json.dumps(entries, indent=4)
