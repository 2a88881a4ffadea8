"""A graph in a MongoDB database, with the collections and fields that the ``lsd`` package reads and writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pymongo
from pymongo.collection import Collection
from pymongo.database import Database

from incasem_like.errors import IncasemError, InputError
from incasem_like.graphs.store import Columns, Table, check_claim, edges_from, signed_ids
from incasem_like.tracking.values import without_credentials
from incasem_like.volumes import NanometreRoi

AT_ONCE = 50_000
SECONDS_TO_CONNECT = 20
CENTRES = {"center_z": "z", "center_y": "y", "center_x": "x"}
STORED = {ours: theirs for theirs, ours in CENTRES.items()}
IDS = ("id", "u", "v")


class MongoGraph:
    """A graph store in a MongoDB database of its own: ``nodes``, ``edges_<scoring>`` or ``edges``, ``meta``.

    A node has ``id`` and ``center_z``, ``center_y``, ``center_x`` in nm, an edge ``u``, ``v`` and ``merge_score``, null
    for never. What the ``lsd`` package wrote is read too; it has no sizes.

    Args:
        url: ``mongodb://host:port/database``.
        scoring: Scoring function of the edges.
    """

    def __init__(self, url: str, scoring: str = "") -> None:
        self.url, self.scoring = url, scoring

    def __str__(self) -> str:
        return str(without_credentials(self.url))

    @cached_property
    def database(self) -> Database[Any]:
        """The database of this process."""
        name = urlsplit(self.url).path.strip("/")
        if not name:
            raise InputError(f"{self} names no database: write mongodb://host:port/database.")
        try:
            client: Any = pymongo.MongoClient(self.url, serverSelectionTimeoutMS=SECONDS_TO_CONNECT * 1000)
            client.admin.command("ping")
        except pymongo.errors.PyMongoError as error:
            raise IncasemError(f"The graph store {self} cannot be reached: {error}") from error
        return client[name]

    @property
    def edges(self) -> Collection[Any]:
        """The collection of edges."""
        return self.database[f"edges_{self.scoring}" if self.scoring else "edges"]

    def claim(self, segmentation: str) -> None:
        """Note the segmentation that the graph belongs to; see ``GraphStore``."""
        meta = self.database["meta"]
        found = meta.find_one({}) or {}
        known = found.get("segmentation") or ("one of another program" if found else None)
        check_claim(known, segmentation, str(self))
        if not found:  # another process may be claiming it now: the first one of this id has it
            claim = {"$setOnInsert": {"directed": False, "segmentation": segmentation}}
            meta.update_one({"_id": "claim"}, claim, upsert=True)
            check_claim(meta.find_one({"_id": "claim"})["segmentation"], segmentation, str(self))

    def clear(self) -> None:
        """Remove nodes, edges of all scoring functions, and the claim."""
        for name in self.database.list_collection_names():
            if name in ("meta", "nodes", "edges") or name.startswith("edges_"):
                self.database[name].drop()

    def write_nodes(self, block: int, nodes: Table) -> None:
        """Write the nodes of one block, replacing what that block wrote before."""
        self._write(self.database["nodes"], block, nodes, [["id"], ["block"], list(CENTRES)])

    def write_edges(self, block: int, edges: Table) -> None:
        """Write the edges of one block, replacing what that block wrote before."""
        more = {"agglomerated": np.ones(len(edges["u"]), bool)} if "merge_score" in edges else {}
        self._write(self.edges, block, {**edges, **more}, [["u", "v"], ["block"]])

    def read_nodes(self, roi: NanometreRoi | None = None) -> Columns:
        """Return all nodes, or those with their centre in an ROI, in ascending order of their ids."""
        query = {}
        if roi is not None:
            limits = zip(CENTRES, roi.offset, roi.shape, strict=True)
            query = {name: {"$gte": begin, "$lt": begin + length} for name, begin, length in limits}
        return self._read(self.database["nodes"], query, "id")

    def read_edges(self, nodes: npt.NDArray[np.uint64] | None = None) -> Columns:
        """Return all edges, or those whose ``u`` is among some nodes, in the order of blocks."""
        query = {}
        if nodes is not None and len(nodes):
            query = {"u": {"$gte": int(nodes.min()), "$lte": int(nodes.max())}}
        return edges_from(self._read(self.edges, query, "block", "u", "v"), nodes)

    def _write(self, collection: Collection[Any], block: int, columns: Table, indices: list[list[str]]) -> None:
        stored = {
            STORED.get(name, name): signed_ids(values, str(self)) if name in IDS else values
            for name, values in columns.items()
        }
        lists = [[None if value != value else value for value in values.tolist()] for values in stored.values()]
        with _translated(self):
            for index in indices:
                collection.create_index([(name, pymongo.ASCENDING) for name in index])
            collection.delete_many({"block": block})
            for begin in range(0, len(lists[0]), AT_ONCE):
                rows = zip(*(column[begin : begin + AT_ONCE] for column in lists), strict=True)
                collection.insert_many([dict(zip(stored, row, strict=True), block=block) for row in rows])

    def _read(self, collection: Collection[Any], query: Mapping[str, Any], *order: str) -> Columns:
        with _translated(self):
            one = collection.find_one({}, {"_id": 0, "block": 0, "agglomerated": 0})
            rows = list(collection.find(query, {"_id": 0}).sort([(name, 1) for name in order])) if one else []
        names = [name for name in one or {} if name not in ("block", "agglomerated")]
        found = {name: [row.get(name) for row in rows] for name in names}
        return {CENTRES.get(name, name): _array(name, values, (one or {})[name]) for name, values in found.items()}


@contextlib.contextmanager
def _translated(graph: MongoGraph) -> Iterator[None]:
    try:
        yield
    except pymongo.errors.PyMongoError as error:
        reason = " ".join(str(error).split())[:300]
        raise IncasemError(f"The graph store {graph} cannot be read or written: {reason}") from error


def _array(name: str, values: Sequence[Any], example: Any) -> npt.NDArray[Any]:
    if isinstance(example, bool):
        return np.array(values, bool)
    if isinstance(example, int):
        return np.array(values, np.int64).astype(np.uint64 if name in IDS else np.int64)
    kind = np.float32 if name == "merge_score" else np.float64
    return np.array([np.nan if value is None else value for value in values], kind)
