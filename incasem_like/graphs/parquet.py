"""A graph in Parquet files, one of nodes and one of edges for each block: safe on shared file systems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.disk import write_whole
from incasem_like.errors import DataError
from incasem_like.graphs.store import Table
from incasem_like.volumes import NanometreRoi


class ParquetGraph:
    """A graph store of files; a block without nodes, or without edges, has no file.

    Args:
        nodes: Folder of the nodes, ``<block>.parquet`` each.
        edges: Folder of the edges.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> graph = ParquetGraph(folder / "nodes", folder / "edges")
    >>> graph.write_edges(7, {"u": np.array([1], np.uint64), "v": np.array([2], np.uint64)})
    >>> graph.read_edges()
    {'u': array([1], dtype=uint64), 'v': array([2], dtype=uint64)}
    """

    def __init__(self, nodes: Path, edges: Path) -> None:
        self.nodes, self.edges = nodes, edges

    def write_nodes(self, block: int, nodes: Table) -> None:
        """Write the nodes of one block."""
        _write(self.nodes, block, nodes)

    def write_edges(self, block: int, edges: Table) -> None:
        """Write the edges of one block."""
        _write(self.edges, block, edges)

    def read_nodes(self, roi: NanometreRoi | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return all nodes, or those with their centre in an ROI, in ascending order of their ids."""
        nodes = _read(self.nodes)
        if not nodes:
            return nodes
        chosen = np.argsort(nodes["id"], kind="stable")
        if roi is not None:
            inside = np.ones(len(chosen), bool)
            for axis, begin, length in zip("zyx", roi.offset, roi.shape, strict=True):
                inside &= (nodes[axis] >= begin) & (nodes[axis] < begin + length)
            chosen = chosen[inside[chosen]]
        return {name: values[chosen] for name, values in nodes.items()}

    def read_edges(self, nodes: npt.NDArray[np.uint64] | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return all edges, or those whose ``u`` is among some nodes, in the order of blocks."""
        edges = _read(self.edges)
        if nodes is None or not edges:
            return edges
        chosen = np.isin(edges["u"], nodes)
        return {name: values[chosen] for name, values in edges.items()}


def _write(folder: Path, block: int, table: Table) -> None:
    from pyarrow import parquet
    from pyarrow import table as arrow_table

    if not len(next(iter(table.values()))):
        return
    folder.mkdir(parents=True, exist_ok=True)
    content = arrow_table({name: np.ascontiguousarray(values) for name, values in table.items()})
    write_whole(folder / f"{block}.parquet", lambda file: parquet.write_table(content, file))


def _read(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """Read all files of a folder; an empty table has no columns."""
    import pyarrow
    from pyarrow import parquet

    paths = sorted(folder.glob("*.parquet"), key=lambda path: int(path.stem))
    try:
        tables = [parquet.read_table(path) for path in paths]
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            f"A file of the graph in {folder} cannot be read ({error}): repeat with --overwrite."
        ) from error
    if not tables:
        return {}
    whole = pyarrow.concat_tables(tables)
    return {name: whole[name].to_numpy() for name in whole.column_names}
