"""Components of volumes of any size: blocks are labelled, joined at their faces, and labelled again to be written.

Labelling a block again costs a fraction of what storing and reading its labels would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask
from incasem_like.blockwise.grid import BlockGrid, chunk_grid
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.segmentation.affinities import neighbour_channels
from incasem_like.segmentation.agglomeration import joined_nodes
from incasem_like.segmentation.components import label_affinities, label_mask
from incasem_like.segmentation.label_arrays import consecutive, unique_pairs
from incasem_like.segmentation.methods.base import Ids, Labelling
from incasem_like.segmentation.planning import Segmentation, block_values
from incasem_like.segmentation.settings import method_named
from incasem_like.segmentation.stages import (
    TABLES,
    is_stale,
    output_layout,
    read_table,
    sized_segments,
    write_segments,
)
from incasem_like.segmentation.values import Values
from incasem_like.volumes import Coordinate, Roi, Volume

Array = npt.NDArray[Any]
Face = tuple[int, int]  # axis, and 0 for the lower or 1 for the upper one
RECORDS_AT_ONCE = 32
FURTHEST = {6: 1, 18: 2, 26: 3}  # axes along which neighbours differ
# For a step along an axis to the neighbouring face: its part that touches, and where that lies in a padded face.
TOUCHING = {-1: (slice(-1, None), slice(0, 1)), 0: (slice(None), slice(1, -1)), 1: (slice(0, 1), slice(-1, None))}

# Labels of a volume of one block, from counting its components to writing them.
_labels_of_the_only_block: dict[Path, Array] = {}


@dataclass(frozen=True)
class ComponentsTask(LedgerTask):
    """Counts the components of each block of an output that is created later, with chunks of ``chunk_shape``."""

    chunk_shape: tuple[int, ...] = ()

    @cached_property
    def grid(self) -> BlockGrid:  # type: ignore[override]
        """The blocks of the output."""
        assert isinstance(self.items, Volume)
        return chunk_grid(self.items, [self.chunk_shape], self.block_shape, (0, 0, 0), None)


@dataclass(frozen=True)
class Components:
    """The components of one block.

    Attributes:
        sizes: (n,) voxels of the components 1..n; 1 where they are not needed.
        is_needed: (n,) whether a component has a voxel that makes it an object.
        faces: The labels on each face that touches another block; on lower ones, only where the affinity joins them.
    """

    sizes: Array
    is_needed: npt.NDArray[np.bool_]
    faces: dict[Face, Array]

    def to_array(self) -> Array:
        """Return all of it as one row of numbers."""
        columns = [[len(self.sizes)], self.sizes, self.is_needed, *(face.ravel() for face in self.faces.values())]
        return np.concatenate([np.asarray(column, np.uint32) for column in columns])

    @classmethod
    def from_array(cls, row: Array, grid: BlockGrid, number: int) -> Components:
        """Return the components of a block from its row; a block without any has no faces."""
        count, roi = int(row[0]), grid.write_roi(number)
        sizes, is_needed, rest = np.split(row[1:], [count, 2 * count])
        found = {}
        for face in _faces(roi, grid.roi) if count else ():
            shape = [length for axis, length in enumerate(roi.shape) if axis != face[0]]
            found[face], rest = rest[: int(np.prod(shape))].reshape(shape), rest[int(np.prod(shape)) :]
        return cls(sizes, is_needed.astype(bool), found)


def label_volume(
    plan: Segmentation, name: str, *, overwrite: bool = False, run_id: int | None = None, **how: Any
) -> tuple[Volume, npt.NDArray[np.int64], dict[str, int]]:
    """Label the components of a volume, and remove objects by their size.

    Args:
        plan: What is segmented, by a ``Labelling``.
        name: Dataset to write.
        overwrite, run_id, how: As for ``pipeline.segment``.

    Returns:
        The objects, the size of each, in voxels where ``min_size`` or ``max_size`` need it, and what was removed.
    """
    (cut,) = plan.section.chosen.cuts()
    parameters = {
        **plan.options(),
        **plan.marks,
        "sizes": bool(plan.section.min_size or plan.section.max_size),
    }
    task = ComponentsTask(
        "components", plan.prediction, plan.reads, components_of_block, parameters, plan.section.block_shape,
        place=plan.folder / "components", set_up=plan.set_up, chunk_shape=output_layout(plan)["chunk_shape"],
    )  # fmt: skip
    task.run(overwrite=overwrite and is_stale(task), description="Components", **how)
    firsts, segments, sizes = _objects(task, plan)
    segments, removed = sized_segments(segments, sizes, plan.section)
    output = write_segments(
        plan,
        name,
        cut,
        (firsts, segments),
        lambda output, parameters: BlockTask(
            "segmentation", output, plan.reads, write_components_of_block,
            {**parameters, **plan.marks}, plan.section.block_shape, set_up=plan.set_up,
        ),
        overwrite=overwrite, run_id=run_id, **how,
    )  # fmt: skip
    return output, np.bincount(segments.astype(np.int64), sizes)[1:].astype(np.int64), removed


def components_of_block(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Count the components of one block; the inputs are prediction and mask."""
    labelled = _label(block, parameters)
    if labelled is None:
        return np.zeros(1, np.uint32)
    labels, values, method, whole = labelled
    count = int(labels.max(initial=0))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:] if parameters["sizes"] else np.ones(count, np.uint32)
    is_needed = np.ones(count, bool)
    core = _core(block.write_roi, values, whole)
    if method.needed is not None:
        is_needed = np.bincount(labels[values.reaches(method.needed)[0][core]], minlength=count + 1)[1:] > 0
    faces = {}
    for axis, side in _faces(block.write_roi, whole):
        faces[axis, side] = labels.take(-side, axis)
        if side == 0 and values.offsets:
            (channel,) = neighbour_channels(values.offsets, (axis,))
            layer = 1 if values.offsets[channel][axis] < 0 else 0
            others = (channel, *(slice(layer, layer + 1) if axis == other else core[other] for other in range(3)))
            faces[axis, side] = faces[axis, side] * values.reaches(method.lowest)[others].squeeze(axis)
    if whole == block.write_roi:
        _labels_of_the_only_block[block.folder] = labels
    return Components(sizes, is_needed, faces).to_array()


def write_components_of_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write the objects of one block."""
    firsts, segments = read_table(block.folder.parent / TABLES / parameters["table"])
    new_ids = segments[int(firsts[block.number]) : int(firsts[block.number + 1])]
    if not new_ids.any():
        return
    labels = _labels_of_the_only_block.pop(block.folder.parent / "components", None)
    if labels is None:
        labelled = _label(block, parameters)
        assert labelled is not None
        labels = labelled[0]
    if new_ids[0] != 1 or (np.diff(new_ids) != 1).any():
        labels = np.concatenate([[0], new_ids]).astype(block.output.dtype)[labels]
    block.output.write(labels.astype(block.output.dtype, copy=False), block.write_roi)


def _label(block: Block, parameters: Mapping[str, Any]) -> tuple[Array, Values, Labelling, Roi] | None:
    """Return the labels of a block, the values that it reads, the method, and the ROI of the volume; None if empty."""
    whole = (block.inputs[0] if block.prepared is None else block.prepared).roi
    method = method_named(parameters["method"], parameters["options"])
    assert isinstance(method, Labelling)
    context = Coordinate(method.context(parameters["offsets"]))
    values = block_values(block, parameters, block.write_roi.grow(context, context).intersect(whole))
    if values is None:
        return None
    reached = values.reaches(method.lowest)
    if method.neighbours is None:
        return reached[0].astype(np.uint8), values, method, whole
    if not values.offsets:
        return label_mask(reached[0], method.neighbours), values, method, whole
    labels = label_affinities(reached, values.offsets)[_core(block.write_roi, values, whole)]
    return consecutive(labels)[0], values, method, whole


def _core(write_roi: Roi, values: Values, whole: Roi) -> tuple[slice, ...]:
    """Return where a block lies in its values, which have one voxel of context if they are affinities."""
    begins = [int(bool(values.offsets) and write_roi.begin[axis] > whole.begin[axis]) for axis in range(3)]
    return tuple(slice(begin, begin + length) for begin, length in zip(begins, write_roi.shape, strict=True))


def _faces(roi: Roi, whole: Roi) -> list[Face]:
    """Return the faces of a block that touch another one."""
    inner = {(axis, 0): roi.begin[axis] > whole.begin[axis] for axis in range(3)}
    inner |= {(axis, 1): roi.end[axis] < whole.end[axis] for axis in range(3)}
    return [face for face, touches in inner.items() if touches]


def _objects(task: ComponentsTask, plan: Segmentation) -> tuple[Ids, Ids, npt.NDArray[np.int64]]:
    """Join the components of all blocks.

    Returns:
        The number of components before each block, and of all; the object of each, 0 for none; the size of each.
    """
    grid, method = task.grid, plan.section.chosen
    assert isinstance(method, Labelling)

    @lru_cache(RECORDS_AT_ONCE)
    def components(number: int) -> Components:
        return Components.from_array(task.result(number), grid, number)

    known = [(one.sizes.astype(np.int64), one.is_needed) for one in map(components, range(len(task)))]
    sizes, is_needed = (np.concatenate(column) for column in zip(*known, strict=True))
    firsts = np.cumsum([0, *(len(one) for one, _ in known)], dtype=np.uint64)
    if method.neighbours is None or not len(sizes):
        return firsts, np.ones(len(sizes), np.uint64), sizes
    connectivity = 6 if plan.offsets else method.neighbours
    pairs = [np.zeros((2, 0), np.uint64)]
    for number in np.flatnonzero(np.diff(firsts)).tolist():
        pairs += [
            _pairs_before(number, axis, grid, components, firsts, connectivity)
            for axis, side in components(number).faces
            if side == 0
        ]
    segments = joined_nodes(len(sizes), *np.concatenate(pairs, axis=1))
    is_object = np.zeros(int(segments.max()) + 1, bool)
    is_object[segments[is_needed]] = True
    return firsts, segments * is_object[segments], sizes


def _pairs_before(
    number: int,
    axis: int,
    grid: BlockGrid,
    components: Callable[[int], Components],
    firsts: Ids,
    connectivity: int,
) -> Ids:
    """Return the (2, n) pairs of components that touch each other across the lower face of a block."""
    own = components(number).faces[axis, 0]
    before = np.zeros([length + 2 for length in own.shape], np.uint64)
    steps = [step for step in product((-1, 0, 1), repeat=2) if 1 + sum(map(abs, step)) <= FURTHEST[connectivity]]
    position = np.unravel_index(number, grid.counts)
    for move in product((-1, 0, 1), repeat=2) if len(steps) > 1 else steps:
        moved = (*move[:axis], -1, *move[axis:])
        place = [int(at) + step for at, step in zip(position, moved, strict=True)]
        if any(not 0 <= at < count for at, count in zip(place, grid.counts, strict=True)):
            continue
        other = int(np.ravel_multi_index(place, grid.counts))
        if (axis, 1) in components(other).faces:
            touching, padded = zip(*(TOUCHING[step] for step in move), strict=True)
            face = components(other).faces[axis, 1][touching]
            before[padded] = np.where(face > 0, face + firsts[other], 0)
    labelled = np.where(own > 0, own + firsts[number], 0)
    pairs = []
    for step in steps:
        other_side = before[tuple(slice(1 + s, 1 + s + length) for s, length in zip(step, own.shape, strict=True))]
        touches = (labelled > 0) & (other_side > 0)
        pairs.append((other_side[touches], labelled[touches]))
    return np.stack(unique_pairs(*np.concatenate(pairs, axis=1))) - np.uint64(1)
