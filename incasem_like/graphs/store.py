"""The interface of a graph store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from incasem_like.volumes import NanometreRoi

# Columns of equal length by name. Nodes have ``id`` (uint64), ``size`` in voxels, and the centre ``z``, ``y``, ``x`` in
# nm; edges have the ids ``u`` and ``v``. Further columns are those of the method, such as a merge score.
Table = Mapping[str, npt.NDArray[Any]]


class GraphStore(Protocol):
    """A region adjacency graph that is written block by block.

    A block writes its nodes once and its edges once; writing the same again changes nothing.
    """

    def write_nodes(self, block: int, nodes: Table) -> None:
        """Write the nodes of one block, replacing what that block wrote before."""

    def write_edges(self, block: int, edges: Table) -> None:
        """Write the edges of one block, replacing what that block wrote before."""

    def read_nodes(self, roi: NanometreRoi | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return all nodes, or those with their centre in an ROI, in ascending order of their ids."""

    def read_edges(self, nodes: npt.NDArray[np.uint64] | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return all edges, or those whose ``u`` is among some nodes, in the order of blocks."""
