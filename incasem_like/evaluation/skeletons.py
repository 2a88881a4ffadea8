"""Skeletons and synaptic sites: read from SWC, GraphML, CSV, and the collections of the ``lsd`` package in MongoDB."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from incasem_like.errors import DataError, InputError
from incasem_like.tracking.values import without_credentials

Array = npt.NDArray[Any]
SKELETON_NAMES = ("skeleton_id", "skeleton", "neuron_id", "component_id")
ENDS = (("source", "target"), ("u", "v"))
SITE_KINDS = ("pre", "post")


@dataclass(frozen=True)
class Skeletons:
    """Skeletons of neurons.

    Attributes:
        positions: (n, 3) nodes, z, y, x in nm.
        skeletons: (n,) the skeleton of each node.
        edges: (m, 2) indices of nodes.
    """

    positions: npt.NDArray[np.float64]
    skeletons: npt.NDArray[np.int64]
    edges: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.float64]:
        """(m,) length of each edge in nm."""
        ends = self.positions[self.edges]
        return np.asarray(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1))

    def where(self, chosen: npt.NDArray[np.bool_]) -> Skeletons:
        """Return the chosen nodes with the edges between them."""
        index = np.cumsum(chosen) - 1
        kept = chosen[self.edges].all(axis=1)
        return Skeletons(self.positions[chosen], self.skeletons[chosen], index[self.edges[kept]])


@dataclass(frozen=True)
class Sites:
    """Synaptic sites.

    Attributes:
        positions: (n, 3), z, y, x in nm.
        skeletons: (n,) the skeleton of each site.
        kinds: (n,) ``pre``, ``post``, or empty where it is not known.
        synapses: (n,) the synapse that a pre- and its postsynaptic sites belong to; -1 where it is not known.
    """

    positions: npt.NDArray[np.float64]
    skeletons: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.str_]
    synapses: npt.NDArray[np.int64]

    def where(self, chosen: npt.NDArray[np.bool_]) -> Sites:
        """Return the chosen sites."""
        return Sites(self.positions[chosen], self.skeletons[chosen], self.kinds[chosen], self.synapses[chosen])


def read_skeletons(paths: Sequence[str], scale: float = 1.0, **options: str | None) -> Skeletons:
    """Read skeletons.

    - ``*.swc``: columns id, type, x, y, z, radius, parent. Of several files, or in a folder, each is a skeleton; in a
      single file, each tree.
    - ``*.graphml``: nodes with ``z``, ``y``, ``x``, or ``position_z`` and so on, and a skeleton; else each connected
      component is one.
    - ``*.csv``: columns ``id``, ``z``, ``y``, ``x``, ``parent`` (empty for a root), and a skeleton, or none as above.
    - ``mongodb://host/database/name``: the collections ``name.nodes`` (id, z, y, x) and ``name.edges`` (source,
      target), with the options ``node_mask`` and ``node_components``.

    The column of a skeleton is ``skeleton_id``, ``skeleton``, ``neuron_id`` or ``component_id``.

    Args:
        paths: Files of one kind, a folder of SWC files, or one URL.
        scale: Length in nm of one unit of the positions.
        **options: Of MongoDB.

    Raises:
        DataError: A file is missing, or lacks a column, a node or a number.
        InputError: The kind of file is unknown.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "neuron.swc"
    >>> _ = path.write_text("# x, y, z in um\\n1 0 1.0 2.0 3.0 1 -1\\n2 0 1.0 2.0 4.0 1 1\\n")
    >>> found = read_skeletons([str(path)], scale=1000)
    >>> found.positions[1].tolist(), found.lengths.tolist()
    ([4000.0, 2000.0, 1000.0], [1000.0])
    """
    if len(paths) == 1 and paths[0].startswith("mongodb"):
        return _read_mongo(paths[0], scale, **options)
    files = [found for path in paths for found in _files_of(Path(path))]
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) != 1 or not kinds <= set(READERS):
        raise InputError(
            f"Skeletons are one or more files {', '.join(READERS)}, a folder of .swc files, or mongodb://host/database/"
            f"name, but found {', '.join(map(str, paths))}."
        )
    tables = [READERS[file.suffix.lower()](file) for file in files]
    if not sum(map(len, (table[0] for table in tables))):
        raise DataError(f"{files[0]} has no skeleton node: check the file.")
    starts = np.cumsum([0, *(len(positions) for positions, _, _ in tables)])
    edges = np.concatenate([pairs + start for (_, _, pairs), start in zip(tables, starts[:-1], strict=True)])
    positions = np.concatenate([positions for positions, _, _ in tables]) * scale
    if kinds == {".swc"} and len(files) > 1:
        ids = np.repeat(np.arange(len(files)), np.diff(starts))
    elif all(given is not None for _, given, _ in tables):
        ids = np.concatenate([given for _, given, _ in tables if given is not None])
    else:
        ids = _components(len(positions), edges)
    return Skeletons(positions, ids.astype(np.int64), edges.astype(np.int64))


def read_sites(path: str, scale: float = 1.0) -> Sites:
    """Read synaptic sites: a CSV with ``z``, ``y``, ``x``, a skeleton, and optionally ``kind`` and ``synapse``.

    Args:
        path: The file; ``kind`` is ``pre`` or ``post``, ``synapse`` the number that a pre- and its postsynaptic sites
            have in common.
        scale: Length in nm of one unit of the positions.

    Raises:
        DataError: The file is missing or lacks a column.
    """
    rows = _csv_rows(Path(path))
    skeleton = _first_of(SKELETON_NAMES, rows[0])
    if skeleton is None:
        raise DataError(f"{path} has no column of skeletons: add skeleton_id.")
    kinds = np.array([row.get("kind") or "" for row in rows])
    if unknown := set(kinds.tolist()) - {*SITE_KINDS, ""}:
        raise DataError(f"{path} has sites of the kind {sorted(unknown)[0]}: use pre or post.")
    positions = _numbers(rows, ("z", "y", "x"), Path(path)) * scale
    synapses = [{"synapse": row.get("synapse") or "-1"} for row in rows]
    return Sites(positions, _ids(rows, skeleton, Path(path)), kinds, _ids(synapses, "synapse", Path(path)))


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(path.glob("*.swc")) or sorted(path.glob("swc/*.swc"))  # as extract_skeletons writes them
        if not found:
            raise DataError(f"The folder {path} has no .swc file: name a file.")
        return found
    if not path.is_file():
        raise DataError(f"{path} does not exist: correct the path of the skeletons.")
    return [path]


Read = tuple[npt.NDArray[np.float64], Array | None, npt.NDArray[np.int64]]


def _read_swc(path: Path) -> Read:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            x, y, z = map(float, words[2:5])
            rows.append((int(words[0]), z, y, x, int(float(words[6]))))
        except (ValueError, IndexError):
            raise DataError(
                f"Line {number} of {path} is not 'id type x y z radius parent': {line.strip()[:60]}"
            ) from None
    positions = np.array([row[1:4] for row in rows], np.float64).reshape(-1, 3)
    return positions, None, _edges_to_parents([row[0] for row in rows], [row[4] for row in rows], path)


def _read_csv(path: Path) -> Read:
    rows = _csv_rows(path)
    skeleton = _first_of(SKELETON_NAMES, rows[0])
    for name in ("id", "parent"):
        if name not in rows[0]:
            raise DataError(f"{path} has no column {name}: skeletons have the columns id, z, y, x, parent.")
    parents = [{"parent": row["parent"] or "-1"} for row in rows]
    edges = _edges_to_parents(_ids(rows, "id", path).tolist(), _ids(parents, "parent", path).tolist(), path)
    return _numbers(rows, ("z", "y", "x"), path), _ids(rows, skeleton, path) if skeleton else None, edges


def _read_graphml(path: Path) -> Read:
    try:
        graph = networkx.read_graphml(path)
    except Exception as error:  # of its XML parser, of many kinds
        raise DataError(f"{path} cannot be read as GraphML: {error}") from error
    nodes = [attributes for _, attributes in graph.nodes(data=True)]
    axes = ("z", "y", "x") if all("z" in node for node in nodes) else ("position_z", "position_y", "position_x")
    positions = _numbers(nodes, axes, path)
    skeleton = _first_of(SKELETON_NAMES, nodes[0] if nodes else {})
    index = {name: number for number, name in enumerate(graph.nodes)}
    edges = np.array([(index[u], index[v]) for u, v in graph.edges()], np.int64).reshape(-1, 2)
    return positions, _ids(nodes, skeleton, path) if skeleton else None, edges


READERS = {".swc": _read_swc, ".csv": _read_csv, ".graphml": _read_graphml}


def _read_mongo(url: str, scale: float, node_mask: str | None = None, node_components: str | None = None) -> Skeletons:
    import pymongo

    address, _, name = url.rpartition("/")
    database, where = address.rpartition("/")[2], without_credentials(url)
    if address.count("/") < 3 or not name:
        raise InputError(f"{where} does not name skeletons: write mongodb://host/database/name.")
    try:
        with pymongo.MongoClient(address, serverSelectionTimeoutMS=20_000) as client:
            there = client[database]
            nodes = list(there[f"{name}.nodes"].find({}, {"_id": 0}))
            edges = list(there[f"{name}.edges"].find({}, {"_id": 0}))
            masked = {row["id"]: row["masked"] for row in there[f"nodes_{node_mask}"].find()} if node_mask else None
            components = (
                {row["id"]: row["component_id"] for row in there[f"nodes_{node_components}"].find()}
                if node_components
                else None
            )
    except pymongo.errors.PyMongoError as error:
        raise DataError(f"The skeletons in {where} cannot be read: {error}") from error
    if masked is not None:
        nodes = [node for node in nodes if masked.get(node["id"])]
    if components is not None:
        nodes = [{**node, "component_id": components[node["id"]]} for node in nodes if node["id"] in components]
    if not nodes:
        raise DataError(f"{where}.nodes has no node that is chosen: check the names of collections.")
    ids = {node["id"]: index for index, node in enumerate(nodes)}
    source, target = next(((a, b) for a, b in ENDS if edges and a in edges[0]), ENDS[0])
    pairs = [(ids[edge[source]], ids[edge[target]]) for edge in edges if edge[source] in ids and edge[target] in ids]
    found = np.array(pairs, np.int64).reshape(-1, 2)
    positions = _numbers(nodes, ("z", "y", "x"), Path(name)) * scale
    skeleton = "component_id" if components is not None else _first_of(SKELETON_NAMES, nodes[0])
    given = _ids(nodes, skeleton, Path(name)) if skeleton else _components(len(nodes), found)
    return Skeletons(positions, given, found)


def _edges_to_parents(ids: Sequence[int], parents: Sequence[int], path: Path) -> npt.NDArray[np.int64]:
    index = {node: number for number, node in enumerate(ids)}
    if len(index) < len(ids):
        raise DataError(f"{path} has a node id more than once: correct it.")
    missing = [parent for parent in parents if parent >= 0 and parent not in index]
    if missing:
        raise DataError(f"{path} has the parent {missing[0]}, but no such node: correct it, or -1 for a root.")
    pairs = [(number, index[parent]) for number, parent in enumerate(parents) if parent >= 0]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _components(count: int, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    graph = coo_matrix((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _csv_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise DataError(f"{path} does not exist: correct the path.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [{str(key).strip(): (value or "").strip() for key, value in row.items()} for row in csv.DictReader(file)]
    if not rows:
        raise DataError(f"{path} has no row below its header: check the file.")
    return rows


def _first_of(names: Iterable[str], row: Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in row), None)


def _numbers(rows: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path) -> npt.NDArray[np.float64]:
    """Return columns as numbers; names them if one is missing or not a number."""
    try:
        table = np.array([[float(row[name]) for name in names] for row in rows], np.float64).reshape(-1, len(names))
    except KeyError as error:
        raise DataError(f"{path} has a node without {error.args[0]}: add it to every node.") from None
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} has a node with a value that is not a number ({error}): correct it.") from None
    if not np.isfinite(table).all():
        raise DataError(f"{path} has a node with NaN or Inf: correct it.")
    return table


def _ids(rows: Sequence[Mapping[str, Any]], name: str, path: Path) -> npt.NDArray[np.int64]:
    try:
        return np.array([int(row[name]) for row in rows], np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} has a {name} that is not a whole number of 64 bits ({error}): correct it.") from None
