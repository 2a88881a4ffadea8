"""A graph in Parquet files, one of nodes and one of edges for each block: safe on shared file systems."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow
from pyarrow import parquet

from incasem_like.disk import write_whole
from incasem_like.errors import DataError
from incasem_like.graphs.store import Columns, Table, check_claim, edges_from
from incasem_like.volumes import NanometreRoi

CLAIM = "segmentation.txt"


class ParquetGraph:
    """A graph store of files: folders ``nodes`` and ``edges_<scoring>``, or ``edges``, with ``<block>.parquet`` each.

    A block without nodes, or without edges, has no file.

    Args:
        folder: Folder of the graph.
        scoring: Scoring function of the edges.

    >>> import tempfile
    >>> graph = ParquetGraph(Path(tempfile.mkdtemp()))
    >>> graph.write_edges(7, {"u": np.array([1], np.uint64), "v": np.array([2], np.uint64)})
    >>> graph.read_edges()
    {'u': array([1], dtype=uint64), 'v': array([2], dtype=uint64)}
    """

    def __init__(self, folder: Path, scoring: str = "") -> None:
        self.folder, self.nodes = folder, folder / "nodes"
        self.edges = folder / (f"edges_{scoring}" if scoring else "edges")

    def claim(self, segmentation: str) -> None:
        """Note the segmentation that the graph belongs to; see ``GraphStore``."""
        path = self.folder / CLAIM
        found = path.read_text("utf-8").strip() if path.exists() else None
        check_claim(found, segmentation, str(self.folder))
        if found is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file: file.write(segmentation.encode()))

    def clear(self) -> None:
        """Remove nodes, edges of all scoring functions, and the claim."""
        for part in (self.nodes, *self.folder.glob("edges"), *self.folder.glob("edges_*")):
            shutil.rmtree(part, ignore_errors=True)
        (self.folder / CLAIM).unlink(missing_ok=True)

    def write_nodes(self, block: int, nodes: Table) -> None:
        """Write the nodes of one block."""
        _write(self.nodes, block, nodes)

    def write_edges(self, block: int, edges: Table) -> None:
        """Write the edges of one block."""
        _write(self.edges, block, edges)

    def read_nodes(self, roi: NanometreRoi | None = None) -> Columns:
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

    def read_edges(self, nodes: npt.NDArray[np.uint64] | None = None) -> Columns:
        """Return all edges, or those whose ``u`` is among some nodes, in the order of blocks."""
        return edges_from(_read(self.edges), nodes)


def _write(folder: Path, block: int, table: Table) -> None:
    if not len(next(iter(table.values()))):
        return
    folder.mkdir(parents=True, exist_ok=True)
    content = pyarrow.table({name: np.ascontiguousarray(values) for name, values in table.items()})
    write_whole(folder / f"{block}.parquet", lambda file: parquet.write_table(content, file))


def _read(folder: Path) -> Columns:
    """Read all files of a folder; an empty table has no columns."""
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
