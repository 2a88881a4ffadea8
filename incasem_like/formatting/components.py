"""Connected parts of a volume that does not fit into memory: labelled block by block, joined across faces.

Each block is labelled once, which gives its parts (connected voxels of one value) with value, size and the ids on its
faces; these are joined by a union over pairs of ids in one process. What becomes of a part is then one entry of a
table, which blocks look up when they are labelled again.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block
from incasem_like.blockwise.grid import BlockGrid
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.volumes import Roi, Volume
from incasem_like.volumes.values import check_labels

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """The parts of all blocks, numbered block by block, and the components that they make up.

    Attributes:
        first: Number of the first part of each block, and the number of all parts.
        values: Value of each part.
        sizes: Voxels of each part.
        component: Component of each part; components are numbered in the order of their first part.
        touching: Pairs of parts of different values that share a face, (n, 2).
        at_border: Whether each part touches the border of the volume.
    """

    first: Ids
    values: Array
    sizes: Ids
    component: Ids
    touching: Ids
    at_border: npt.NDArray[np.bool_]

    @property
    def component_sizes(self) -> Ids:
        """Voxels of each component."""
        return np.bincount(self.component, self.sizes).astype(np.int64)

    @property
    def component_values(self) -> Array:
        """Value of each component."""
        values = np.zeros(int(self.component.max()) + 1, self.values.dtype)
        values[self.component] = self.values
        return values


def find_parts(
    volume: Volume, output: Volume, block_shape: tuple[int, ...], *, roi: Roi | None = None, **workers: Any
) -> Parts:
    """Find the connected parts of equal values, 0 included; voxels are connected through their faces.

    Args:
        volume: Labels or a mask, (z, y, x).
        output: Volume of the same extent; its blocks are labelled, and the same must look up what becomes of them.
        block_shape: Wanted block size, voxels.
        roi: Part of the volume, in absolute voxels; None for all.
        **workers: ``num_workers`` and ``workers`` of ``run_blockwise``.
    """
    task = LedgerTask("find parts", output, (str(volume.address),), parts_of_block, {}, block_shape, roi)
    task.run(**workers, description="Finding connected parts")
    grid = task.grid
    assert grid is not None
    first, values, sizes, at_border = [0], [], [], []
    for result in task.results():
        found = _unpacked(result)
        values.append(found["values"])
        sizes.append(found["sizes"])
        at_border.append(found["at_border"])
        first.append(first[-1] + len(found["sizes"]))
    links = [np.zeros((0, 2), np.int64)]
    touching = [np.zeros((0, 2), np.int64)]
    for number in range(len(grid)):
        own = _unpacked(task.result(number))
        touching.append(first[number] + own["touching"])
        for axis, neighbour in _preceding(grid, number):
            other = _unpacked(task.result(neighbour))
            pairs = different_pairs(own[f"low{axis}"], other[f"high{axis}"])
            same = own["values"][pairs[:, 0]] == other["values"][pairs[:, 1]]
            pairs += [first[number], first[neighbour]]
            links.append(pairs[same])
            touching.append(pairs[~same])
    component = joined(np.concatenate(links), first[-1])
    return Parts(
        np.asarray(first, np.int64),
        np.concatenate(values),
        np.concatenate(sizes),
        component,
        np.concatenate(touching),
        np.concatenate(at_border),
    )


def different_pairs(ones: Array, others: Array) -> Ids:
    """Return each pair of ids that occurs, once, sorted; the ids are below 2^31.

    Example:
        >>> different_pairs(np.array([5, 5, 4]), np.array([1, 1, 2])).tolist()
        [[4, 2], [5, 1]]
    """
    both = np.unique(ones.ravel().astype(np.int64) << 32 | others.ravel().astype(np.int64))  # faster than rows
    return np.stack([both >> 32, both & 0xFFFFFFFF], 1)


def joined(pairs: Ids, count: int) -> Ids:
    """Return the component of each of ``count`` nodes that pairs connect, numbered in the order of their first node.

    Example:
        >>> joined(np.array([[3, 1]]), 4)
        array([0, 1, 2, 1])
    """
    from scipy import sparse

    graph = sparse.coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    found = sparse.csgraph.connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return order[inverse].astype(np.int64)


def _preceding(grid: BlockGrid, number: int) -> list[tuple[int, int]]:
    """Return the axis and number of the neighbours of a block with smaller numbers."""
    _, rows, columns = grid.counts
    position = np.unravel_index(number, grid.counts)
    steps = (rows * columns, columns, 1)
    return [(axis, number - step) for axis, step in enumerate(steps) if position[axis] > 0]


def label_equal(values: Array) -> Ids:
    """Label the connected parts of equal values, 0 included, from 0; the same for the same array."""
    from skimage.measure import label

    if (values == values.flat[0]).all():  # most blocks of a sparse volume
        return np.zeros(values.shape, np.int64)
    return np.asarray(label(values.astype(np.int64), background=-1, connectivity=1), np.int64) - 1


def parts_of_block(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Return value and size of each part of a block, the ids on its faces, and which parts touch."""
    values = block.inputs[0].read(block.write_roi)
    check_labels(values, str(block.inputs[0].address), block.write_roi.begin)
    parts = label_equal(values)
    of_part = np.zeros(int(parts.max()) + 1, values.dtype)
    of_part[parts] = values
    found: dict[str, Array] = {"values": of_part, "sizes": np.bincount(parts.ravel())}
    touching = [np.zeros((0, 2), np.int64)]
    at_border = found["at_border"] = np.zeros(len(of_part), bool)
    whole, roi = block.inputs[0].roi, block.write_roi
    for axis in range(parts.ndim):
        along = np.moveaxis(parts, axis, 0)
        if roi.begin[axis] == whole.begin[axis]:
            at_border[along[0]] = True
        if roi.end[axis] == whole.end[axis]:
            at_border[along[-1]] = True
        found[f"low{axis}"], found[f"high{axis}"] = along[0].astype(np.uint32), along[-1].astype(np.uint32)
        if len(of_part) > 1:
            differs = along[:-1] != along[1:]
            touching.append(different_pairs(along[:-1][differs], along[1:][differs]))
    found["touching"] = different_pairs(*np.concatenate(touching).T)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **found)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _unpacked(result: Array) -> Mapping[str, Array]:
    return np.load(io.BytesIO(result.tobytes()))  # type: ignore[no-any-return]


def save_table(parts: Parts, values: Array, path: Path) -> None:
    """Write what becomes of each part, for ``looked_up``; the files appear whole."""
    for name, array in ((f"{path.name}.first.npy", parts.first), (path.name, values)):
        partial = path.with_name(f".{name}")
        with partial.open("wb") as file:
            np.save(file, array)
        partial.replace(path.with_name(name))


def looked_up(values: Array, number: int, path: Path) -> Array:
    """Return what becomes of the voxels of a block.

    Args:
        values: The block as ``parts_of_block`` saw it.
        number: Its number.
        path: The table.
    """
    first = np.load(path.with_name(f"{path.name}.first.npy"), mmap_mode="r")
    table = np.load(path, mmap_mode="r")[first[number] : first[number + 1]]
    return np.asarray(np.asarray(table)[label_equal(values)])
