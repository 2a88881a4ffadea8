"""Painted pixels kept from training: some tiles of the painted sections, by which checkpoints are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import DataError
from incasem_like.volumes import Roi, Volume, make_provenance

BLOCK = (16, 256, 256)
EDGES = (32, 16, 8, 4)  # of a tile in pixels: the largest edge that leaves enough tiles
TILES = 2  # to hold out, at least
TOOL = "bootstrap.py"


@dataclass(frozen=True)
class HeldOut:
    """Painted pixels, divided.

    Attributes:
        learnt: Mask of the pixels to learn.
        held_out: Mask of those that are kept from training.
        boxes: Boxes of the runs of sections that hold the latter.
        sections: Sections with pixels to learn.
        voxels: Number of pixels that are kept from training.
    """

    learnt: Volume
    held_out: Volume
    boxes: list[Roi]
    sections: frozenset[int]
    voxels: int


def hold_out(painted: Volume, share: float, seed: int, parameters: Mapping[str, Any], **how: Any) -> HeldOut:
    """Divide painted pixels into those to learn and those of random tiles, whole in their section.

    Args:
        painted: Mask of painted voxels; the two masks are written beside it.
        share: Share of the painted pixels to hold out, about; above 0 and below 1.
        seed: Seed of the choice.
        parameters: What the masks are made of, for their provenance.
        **how: ``num_workers`` and ``workers`` of ``run_blockwise``.

    Raises:
        DataError: Too little is painted to hold out a part of it.
    """
    address = (str(painted.address),)
    count = LedgerTask("painted tiles", painted, address, count_tiles, {}, BLOCK)
    count.run(description="Painted tiles", **how)
    rows = np.concatenate([found.reshape(-1, 4) for found in count.results()])
    count.forget()
    edge, tiles, voxels = _tiles_of(rows, share)
    chosen = choose_tiles(voxels, share, seed)
    group = painted.dataset.rpartition("/")[0]
    outputs = [
        create_or_resume_output(
            painted.container,
            f"{group}/{name}",
            shape=painted.shape,
            dtype=np.uint8,
            voxel_size=painted.require_voxel_size(),
            offset=painted.offset,
            chunk_shape=painted.open().chunk_shape,
            provenance=make_provenance(TOOL, {**parameters, "share": share, "seed": seed}, [painted]),
        )
        for name in ("learnt", "held_out")
    ]
    known = {"edge": edge, "tiles": tiles[chosen].tolist()}
    task = BlockTask("held-out pixels", outputs[0], address, divide_block, known, BLOCK, further_outputs=(outputs[1],))
    run_blockwise(task, description="Held-out pixels", **how)
    begin = painted.roi.begin
    sections = frozenset(int(z) + begin[0] for z in np.unique(tiles[~chosen][:, 0]))
    boxes = boxes_of_runs([_roi_of(tile, edge) + begin for tile in tiles[chosen]], painted.roi)
    return HeldOut(outputs[0], outputs[1], boxes, sections, int(voxels[chosen].sum()))


def _tiles_of(rows: npt.NDArray[np.int64], share: float) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return edge, positions (z, y, x) and painted pixels of the largest tiles that are enough in number."""
    for edge in EDGES:
        coarser = edge // EDGES[-1]
        coarse = rows[:, :3] // np.array([1, coarser, coarser])
        tiles, index = np.unique(coarse, axis=0, return_inverse=True)
        if len(tiles) * share >= TILES or (edge == EDGES[-1] and len(tiles) > 1):
            return edge, tiles, np.bincount(index.ravel(), rows[:, 3], len(tiles)).astype(np.int64)
    raise DataError(
        f"Only {int(rows[:, 3].sum())} pixels are painted, too few to keep some from training: paint more, or set "
        "round.validation_share=0."
    )


def choose_tiles(voxels: npt.NDArray[np.int64], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return which tiles are held out: random ones, up to the share of all painted pixels, at least one, never all.

    >>> choose_tiles(np.full(100, 16), 0.1, 1).sum()
    np.int64(10)
    """
    order = np.random.default_rng(seed).permutation(len(voxels))
    below = np.cumsum(voxels[order]) <= share * voxels.sum()
    chosen = np.zeros(len(voxels), bool)
    chosen[order[: max(1, min(int(below.sum()), len(voxels) - 1))]] = True
    return chosen


def boxes_of_runs(rois: Sequence[Roi], within: Roi) -> list[Roi]:
    """Return the box of each run of consecutive sections that tiles of one section lie in.

    >>> tiles = [Roi((z, y, 0), (1, 4, 4)) for z, y in ((2, 0), (3, 8), (7, 4))]
    >>> [(tuple(box.begin), tuple(box.shape)) for box in boxes_of_runs(tiles, Roi((0, 0, 0), (9, 11, 9)))]
    [((2, 0, 0), (2, 11, 4)), ((7, 4, 0), (1, 4, 4))]
    """
    boxes: list[Roi] = []
    for roi in sorted((roi.intersect(within) for roi in rois), key=lambda roi: roi.begin[0]):
        if boxes and roi.begin[0] <= boxes[-1].end[0]:
            boxes[-1] = boxes[-1].union(roi)
        else:
            boxes.append(roi)
    return boxes


def count_tiles(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Return tile (z, y, x), in the smallest tiles from the begin of the volume, and its painted pixels."""
    painted = block.inputs[0].read(block.write_roi) > 0
    begin, edge = block.write_roi.begin - block.inputs[0].roi.begin, EDGES[-1]
    where = (np.argwhere(painted) + begin) // [1, edge, edge]
    tiles, voxels = np.unique(where, axis=0, return_counts=True)
    return np.concatenate([tiles, voxels[:, None]], axis=1).astype(np.int64)


def divide_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write both masks of one block; the input is the mask of painted voxels."""
    painted, held = block.inputs[0].read(block.write_roi) > 0, np.zeros(block.write_roi.shape, bool)
    begin = block.inputs[0].roi.begin
    for tile in parameters["tiles"]:
        common = (_roi_of(tile, parameters["edge"]) + begin).intersect(block.write_roi)
        if not common.empty:
            held[(common - block.write_roi.begin).to_slices()] = True
    block.outputs[0].write((painted & ~held).view(np.uint8), block.write_roi)
    block.outputs[1].write((painted & held).view(np.uint8), block.write_roi)


def _roi_of(tile: Sequence[int], edge: int) -> Roi:
    z, y, x = (int(at) for at in tile)
    return Roi((z, y * edge, x * edge), (1, edge, edge))
