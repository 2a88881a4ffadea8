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
from incasem_like.segmentation.components import Connectivity
from incasem_like.segmentation.values import Meaning, Values
from incasem_like.volumes import Roi

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

    @property
    def skips_zeros(self) -> bool:
        """Whether nothing is found where all values are 0."""
        return self.seed_labels is None

    @property
    def seed_labels(self) -> str | None:
        """Dataset with labels of objects that must not merge, and whose ids survive."""
        return None

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


class Labelling(Method):
    """A method whose objects are components of voxels, the same whatever the blocks; see ``labelling``."""

    @property
    def neighbours(self) -> Connectivity | None:
        """Voxels that touch by a face (6), also an edge (18), also a corner (26); None: all are one object."""
        return None

    @property
    def lowest(self) -> float:
        """Voxels, or pairs of voxels, of at least this belong to an object."""
        raise NotImplementedError

    @property
    def needed(self) -> float | None:
        """An object has a voxel of at least this; None for all objects."""
        return None

    @property
    def skips_zeros(self) -> bool:
        """Whether nothing is found where all values are 0."""
        return self.lowest > 0

    def context(self, offsets: Sequence[Offset]) -> tuple[int, int, int]:
        """Return one voxel for affinities: a voxel may be connected across the border alone."""
        return (1, 1, 1) if offsets else (0, 0, 0)


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
