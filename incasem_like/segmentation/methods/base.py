"""The interface of a method: its options, and what it does in each stage of a blockwise segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from incasem_like.config.section import Section
from incasem_like.graphs import Table
from incasem_like.segmentation.affinities import Offset
from incasem_like.segmentation.agglomeration import joined_nodes
from incasem_like.segmentation.label_arrays import unique_pairs
from incasem_like.segmentation.values import Meaning, Values
from incasem_like.volumes import Coordinate, Roi

Ids = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class BlockReader:
    """What a method reads while it finds the edges of a block.

    Attributes:
        write_roi: The block, in absolute voxels.
        volume_roi: The whole volume.
        offsets: Of the affinities; none for probabilities.
        first_id, last_id: The ids that fragments of this block have.
        values: Reads predicted values in an ROI, also beyond the volume.
        fragments: Reads fragments; 0 beyond the volume.
    """

    write_roi: Roi
    volume_roi: Roi
    offsets: tuple[Offset, ...]
    first_id: int
    last_id: int
    values: Callable[[Roi], Values]
    fragments: Callable[[Roi], Ids]

    def owns(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Return which fragments belong to this block."""
        return (ids >= self.first_id) & (ids <= self.last_id)

    def lower_faces(self) -> list[tuple[int, Roi]]:
        """Return each axis along which a block lies before this one, and the ROI of the two layers at their border.

        Along the other axes the ROI extends by one voxel, for neighbours that share an edge or a corner.
        """
        faces = []
        for axis in range(3):
            if self.write_roi.begin[axis] > self.volume_roi.begin[axis]:
                begin, end = list(self.write_roi.begin), list(self.write_roi.end)
                begin, end = [first - 1 for first in begin], [last + 1 for last in end]
                end[axis] = begin[axis] + 2
                faces.append((axis, Roi(begin, Coordinate(end) - Coordinate(begin))))
        return faces


class Method(Section):
    """Options of a method, and what it does in each stage.

    Attributes:
        reads: The kinds of values it can segment.
        edge_options, table_options: Options that only the stage of edges, or the one of tables, depends on; with other
            values of them, earlier stages need not be repeated.
    """

    reads: ClassVar[tuple[Meaning, ...]] = ("affinities", "boundaries", "objects", "descriptors")
    edge_options: ClassVar[tuple[str, ...]] = ()
    table_options: ClassVar[tuple[str, ...]] = ()

    def check(self, offsets: Sequence[Offset]) -> None:
        """Check that the method can segment affinities with these offsets.

        Raises:
            DataError: It cannot.
        """

    def context(self, offsets: Sequence[Offset]) -> tuple[int, int, int]:
        """Return the voxels that it reads around a block, on each side along z, y, x."""
        return 0, 0, 0

    def fragments(self, values: Values, seed: int) -> Ids:
        """Return fragments of a block and its context, any ids; 0 = none."""
        raise NotImplementedError

    def node_columns(self, values: Values, fragments: Ids, ids: Ids) -> dict[str, npt.NDArray[Any]]:
        """Return further columns of the table of nodes, for the fragments of a block without its context."""
        return {}

    def edges(self, reader: BlockReader) -> Table:
        """Return the edges that the block finds; each edge of the graph is found by one block at least."""
        empty = np.zeros(0, np.uint64)
        return {"u": empty, "v": empty}

    def cuts(self) -> tuple[float | None, ...]:
        """Return the thresholds of the segmentations to make; None for one that has none."""
        return (None,)

    def segments(self, ids: Ids, nodes: Table, edges: Mapping[str, npt.NDArray[Any]], cut: float | None) -> Ids:
        """Return the segment of each fragment, 1..n, or 0 where it is removed; by default, all edges join.

        Args:
            ids: Ids of the fragments, ascending.
            nodes: Their table.
            edges: All edges; ``u`` and ``v`` are indices into ``ids``.
            cut: One of ``cuts``.
        """
        return joined_nodes(len(ids), edges["u"], edges["v"])


def without_debris(fragments: Ids, interior: npt.NDArray[np.float32], least_mean: float, min_size: int) -> Ids:
    """Return the fragments that have a mean interior, such as the mean affinity, and a size of at least so much.

    >>> fragments, interior = np.array([[[1, 1, 2, 3, 3]]], np.uint64), np.array([[[0.9, 0.8, 0.9, 0.1, 0.2]]], "f4")
    >>> without_debris(fragments, interior, 0.5, 2).tolist()
    [[[1, 1, 0, 0, 0]]]
    """
    if least_mean == 0 and min_size <= 1:
        return fragments
    sizes = np.bincount(fragments.ravel())
    kept = sizes >= min_size
    if least_mean:
        means = np.bincount(fragments.ravel(), interior.ravel()) / np.maximum(sizes, 1)
        kept &= means >= least_mean
    kept[0] = False
    return fragments * kept[fragments]


def face_pairs(reader: BlockReader, connectivity: int) -> Table:
    """Return the pairs of fragments that touch each other across the lower faces of a block.

    Args:
        reader: Reads the fragments.
        connectivity: 6, 18 or 26.
    """
    furthest = {6: 1, 18: 2, 26: 3}[connectivity]
    steps = [(b, c) for b in (-1, 0, 1) for c in (-1, 0, 1) if 1 + abs(b) + abs(c) <= furthest]
    pairs = []
    for axis, roi in reader.lower_faces():
        before, own = np.moveaxis(reader.fragments(roi), axis, 0)
        core = own[1:-1, 1:-1]
        for b, c in steps:
            other = before[1 + b : 1 + b + core.shape[0], 1 + c : 1 + c + core.shape[1]]
            touching = (core > 0) & (other > 0)
            pairs.append(np.stack([other[touching], core[touching]], axis=1))
    return pair_table(pairs)


def pair_table(pairs: Sequence[npt.NDArray[Any]]) -> Table:
    """Return a table of edges ``u < v``, each once, from arrays (n, 2) of ids."""
    found = np.concatenate([np.zeros((0, 2), np.uint64), *pairs])
    u, v = unique_pairs(found.min(axis=1), found.max(axis=1))
    return {"u": u, "v": v}
