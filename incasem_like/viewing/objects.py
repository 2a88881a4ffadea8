"""Meshes, skeletons and region adjacency graphs as layers of a viewer, in neuroglancer's precomputed formats."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError
from incasem_like.graphs import open_graph
from incasem_like.volumes import NanometreRoi
from incasem_like.volumes.faults import warn_once

if TYPE_CHECKING:
    from incasem_like.evaluation.skeletons import Skeletons

MOST_SHOWN = 500  # objects that are shown at first; others are added by their id
MOST_EDGES = 200_000
SHAPES = {"neuroglancer_legacy_mesh": "meshes", "neuroglancer_skeletons": "skeletons"}
_EDGE_SHADER = """#uicontrol float least slider(min=0, max=1, default=0)
void main() {
  float at = clamp((prop_score() - float(LOW)) / float(HIGH - LOW), 0.0, 1.0);
  if (at < least) discard;
  setColor(vec4(mix(vec3(0.2, 0.45, 0.9), vec3(0.9, 0.3, 0.1), at), 1.0));
  setLineWidth(2.0);
}"""


class ObjectLayer(Protocol):
    """Something beside volumes that a viewer shows.

    Attributes:
        name: On its tab.
    """

    @property
    def name(self) -> str:
        """Text of the tab."""

    @property
    def extent(self) -> NanometreRoi | None:
        """A box around it, or around a part of it; None where that is not known."""

    def state(self, source: str) -> dict[str, Any]:
        """Return the layer for neuroglancer's state; ``source`` is the address that its data come from."""

    def read(self, path: str) -> bytes:
        """Return a file of the precomputed format.

        Raises:
            OSError: There is none of that name.
        """


@dataclass(frozen=True)
class PrecomputedShapes:
    """A folder of meshes or skeletons with one or several files for each object.

    Attributes:
        name: On its tab.
        folder: The folder, with ``info``.
    """

    name: str
    folder: Path

    @cached_property
    def ids(self) -> list[int]:
        """The objects, by their manifests (``7:0``) or skeletons (``7``)."""
        found = (path.name.removesuffix(":0") for path in self.folder.iterdir())
        return sorted(int(name) for name in found if name.isdigit())

    @property
    def extent(self) -> NanometreRoi | None:
        """A box around the first object."""
        if not self.ids:
            return None
        path = self.folder / str(self.ids[0])
        if not path.exists():
            fragments = json.loads((self.folder / f"{self.ids[0]}:0").read_text())["fragments"]
            path = self.folder / fragments[0]
        start = 4 if path.name != str(self.ids[0]) else 8  # a skeleton counts its edges too
        content = path.read_bytes()
        points = np.frombuffer(content, "<f4", 3 * struct.unpack_from("<I", content)[0], start).reshape(-1, 3)
        return box_around(points[:, ::-1]) if len(points) else None

    def state(self, source: str) -> dict[str, Any]:
        """Return a segmentation layer, with objects selected."""
        return segments_state(self.name, source, self.ids)

    def read(self, path: str) -> bytes:
        """Return a file of the folder."""
        return (self.folder / Path(path).name).read_bytes()


@dataclass(frozen=True)
class SwcSkeletons:
    """Skeletons in SWC files.

    Attributes:
        name: On its tab.
        path: A file, or a folder of them; a file with a number as its name is the skeleton of that id.
    """

    name: str
    path: Path

    @cached_property
    def files(self) -> dict[int, Path]:
        """The files by the id of their skeleton."""
        found = sorted(self.path.glob("*.swc")) if self.path.is_dir() else [self.path]
        stems = [path.stem for path in found]
        named = all(stem.isdigit() for stem in stems)
        return {
            int(stem) if named else number: path
            for number, (stem, path) in enumerate(zip(stems, found, strict=True), 1)
        }

    @property
    def extent(self) -> NanometreRoi | None:
        """A box around the first skeleton."""
        return box_around(self._skeleton(next(iter(self.files))).positions)

    def state(self, source: str) -> dict[str, Any]:
        """Return a segmentation layer, with objects selected."""
        return segments_state(self.name, source, list(self.files))

    def read(self, path: str) -> bytes:
        """Return the description or a skeleton."""
        if path == "info":
            return json.dumps(
                {"@type": "neuroglancer_skeletons", "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]}
            ).encode()
        if not path.isdigit() or int(path) not in self.files:
            raise FileNotFoundError(path)
        found = self._skeleton(int(path))
        count = struct.pack("<II", len(found.positions), len(found.edges))
        return count + found.positions[:, ::-1].astype("<f4").tobytes() + found.edges.astype("<u4").tobytes()

    def _skeleton(self, number: int) -> Skeletons:
        from incasem_like.evaluation.skeletons import read_skeletons  # scipy and networkx

        return read_skeletons([str(self.files[number])])


@dataclass(frozen=True)
class GraphEdges:
    """A region adjacency graph: a line between the centres of nodes, coloured by the score of the edge.

    Attributes:
        name: On its tab.
        folder: Folder of a Parquet graph.
        scoring: Scoring function of the edges.
    """

    name: str
    folder: Path
    scoring: str = ""

    @cached_property
    def lines(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Ends of the lines, (n, 2, 3) x, y, z in nm, and the scores (n,), the largest first."""
        graph = open_graph(self.folder, self.scoring)
        nodes, edges = graph.read_nodes(), graph.read_edges()
        if not nodes or not edges:
            raise DataError(f"The graph in {self.folder} has no nodes or no edges: repeat the segmentation.")
        ends = np.stack([np.searchsorted(nodes["id"], edges[end]) for end in ("u", "v")], axis=1)
        if ends.max() >= len(nodes["id"]):
            raise DataError(
                f"An edge of the graph in {self.folder} ends at a node that is missing: repeat with --overwrite."
            )
        measured = [name for name in edges if name not in ("u", "v") and edges[name].dtype.kind in "fui"]
        name = next((one for one in measured if "score" in one), measured[0] if measured else "u")
        scores = np.asarray(edges[name], np.float32)
        if len(scores) > MOST_EDGES:
            warn_once(
                f"The graph in {self.folder} has {len(scores)} edges: those with the {MOST_EDGES} largest are shown."
            )
        order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[:MOST_EDGES]
        centres = np.stack([nodes[axis] for axis in "xyz"], axis=1).astype(np.float32)
        return centres[ends[order]], scores[order]

    @property
    def extent(self) -> NanometreRoi | None:
        """The box around all nodes that have an edge."""
        return box_around(self.lines[0].reshape(-1, 3)[:, ::-1])

    def state(self, source: str) -> dict[str, Any]:
        """Return an annotation layer; low scores are blue, high ones red, and a slider hides low ones."""
        scores = self.lines[1][np.isfinite(self.lines[1])]
        low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)
        shader = _EDGE_SHADER.replace("LOW", f"{low:.6g}").replace("HIGH", f"{high if high > low else low + 1:.6g}")
        return {"type": "annotation", "name": self.name, "source": precomputed(source), "shader": shader}

    def read(self, path: str) -> bytes:
        """Return the description, all lines, or one of them."""
        lines, scores = self.lines
        rows = np.zeros(len(lines), [("ends", "<f4", (2, 3)), ("score", "<f4")])
        rows["ends"], rows["score"] = lines, scores
        if path == "info":
            points = lines.reshape(-1, 3)
            # with a margin: a section through the centres of a flat graph is inside too
            lower, upper = (points.min(axis=0) - 1).tolist(), (points.max(axis=0) + 1).tolist()
            size = [end - begin for begin, end in zip(lower, upper, strict=True)]
            return json.dumps({
                "@type": "neuroglancer_annotations_v1", "dimensions": {axis: [1e-9, "m"] for axis in "xyz"},
                "lower_bound": lower, "upper_bound": upper, "annotation_type": "LINE", "relationships": [],
                "properties": [{"id": "score", "type": "float32"}], "by_id": {"key": "by_id"},
                "spatial": [{"key": "all", "grid_shape": [1, 1, 1], "chunk_size": size, "limit": len(lines)}],
            }).encode()  # fmt: skip
        if path == "all/0_0_0":
            return struct.pack("<Q", len(rows)) + rows.tobytes() + np.arange(len(rows), dtype="<u8").tobytes()
        folder, _, number = path.partition("/")
        if folder != "by_id" or not number.isdigit() or int(number) >= len(rows):
            raise FileNotFoundError(path)
        return bytes(rows[int(number)].tobytes())


def precomputed(source: str) -> str:
    """Return the source of a layer in a precomputed format below an address."""
    return f"{source}/|neuroglancer-precomputed:"


def segments_state(name: str, source: str, ids: Sequence[int]) -> dict[str, Any]:
    """Return a segmentation layer of meshes or skeletons, with the first objects selected."""
    if len(ids) > MOST_SHOWN:
        warn_once(f"{name} has {len(ids)} objects: {MOST_SHOWN} are shown at first, add others in the layer's list.")
    return {
        "type": "segmentation", "name": name, "source": precomputed(source),
        "segments": [str(one) for one in ids[:MOST_SHOWN]],
    }  # fmt: skip


def box_around(points: npt.NDArray[Any]) -> NanometreRoi:
    """Return the box around points (n, 3) in nm, at least 1 nm long along each axis."""
    begin, end = points.min(axis=0), points.max(axis=0)
    return NanometreRoi(tuple(map(float, begin)), tuple(map(float, np.maximum(end - begin, 1))))


def find_objects(place: Path) -> list[ObjectLayer]:
    """Return what a file or folder holds of meshes, skeletons and graphs; empty for anything else.

    Args:
        place: A folder as ``extract_meshes``, ``extract_skeletons`` or a segmentation wrote it, or one of its parts; a
            folder of SWC files, or one of these.
    """
    if place.is_file():
        return [SwcSkeletons(place.stem, place)] if place.suffix.lower() == ".swc" else []
    if (kind := _shapes_in(place)) is not None:
        return [PrecomputedShapes(f"{place.parent.name if place.name == 'precomputed' else place.name} {kind}", place)]
    if (place / "precomputed" / "info").is_file():
        return find_objects(place / "precomputed")
    if (place / "nodes").is_dir():
        scorings = sorted(path.name.removeprefix("edges").removeprefix("_") for path in place.glob("edges*"))
        return [GraphEdges(f"{place.parent.name} edges {scoring}".strip(), place, scoring) for scoring in scorings]
    folder = place / "swc" if (place / "swc").is_dir() else place
    if place.is_dir() and next(folder.glob("*.swc"), None) is not None:
        return [SwcSkeletons(place.name, folder)]
    return []


def _shapes_in(folder: Path) -> str | None:
    try:
        return SHAPES.get(json.loads((folder / "info").read_bytes()).get("@type"))
    except (OSError, ValueError, AttributeError):
        return None
