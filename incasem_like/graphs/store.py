"""The interface of a graph store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError, InputError
from incasem_like.volumes import NanometreRoi

# Columns of equal length by name. Nodes have ``id`` (uint64), ``size`` in voxels, and the centre ``z``, ``y``, ``x`` in
# nm; edges have the ids ``u`` and ``v``. Further columns are those of the method, such as a merge score.
Table = Mapping[str, npt.NDArray[Any]]
Columns = dict[str, npt.NDArray[Any]]


class GraphStore(Protocol):
    """A region adjacency graph that is written block by block, with a table of edges for each scoring function.

    A block writes its nodes once and its edges once; writing the same again changes nothing.
    """

    def claim(self, segmentation: str) -> None:
        """Note the segmentation that the graph belongs to.

        Raises:
            InputError: The store holds the graph of another one.
        """

    def clear(self) -> None:
        """Remove the nodes, the edges of all scoring functions, and the claim."""

    def write_nodes(self, block: int, nodes: Table) -> None:
        """Write the nodes of one block, replacing what that block wrote before."""

    def write_edges(self, block: int, edges: Table) -> None:
        """Write the edges of one block, replacing what that block wrote before."""

    def read_nodes(self, roi: NanometreRoi | None = None) -> Columns:
        """Return all nodes, or those with their centre in an ROI, in ascending order of their ids."""

    def read_edges(self, nodes: npt.NDArray[np.uint64] | None = None) -> Columns:
        """Return all edges, or those whose ``u`` is among some nodes, in the order of blocks."""


def edges_from(edges: Columns, nodes: npt.NDArray[np.uint64] | None) -> Columns:
    """Return the edges whose ``u`` is among some nodes; all of them for None."""
    if nodes is None or not edges:
        return edges
    chosen = np.isin(edges["u"], nodes)
    return {name: values[chosen] for name, values in edges.items()}


def check_claim(found: str | None, segmentation: str, where: str) -> None:
    """Check that a store belongs to a segmentation, or to none yet.

    Raises:
        InputError: It belongs to another one.
    """
    if found not in (None, segmentation):
        raise InputError(
            f"{where} holds the graph of another segmentation, {found}: name another store in segmentation.graph, "
            f"since this one is for {segmentation}."
        )


def signed_ids(ids: npt.NDArray[Any], where: str) -> npt.NDArray[np.int64]:
    """Return ids as the signed integers of 64 bits that databases have.

    Raises:
        DataError: An id is larger.
    """
    if len(ids) and int(ids.max()) > np.iinfo(np.int64).max:
        raise DataError(
            f"The id {int(ids.max())} does not fit the signed 64-bit integers of {where}: use a graph of Parquet files."
        )
    return ids.astype(np.int64)
