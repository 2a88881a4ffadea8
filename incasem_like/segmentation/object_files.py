"""Files of single objects: skeletons as SWC, meshes as PLY and OBJ, and both as neuroglancer's precomputed formats.

Positions are z, y, x in nm here, and x, y, z in nm in the files.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

from incasem_like.disk import write_whole

Array = npt.NDArray[Any]
RADIUS = {"id": "radius", "data_type": "float32", "num_components": 1}


def write_swc(path: Path, nodes: Array, edges: Array, radii: Array) -> None:
    """Write a skeleton as SWC: a row for each node with its parent; every connected part begins with a root, parent -1.

    Args:
        path: The file.
        nodes: (n, 3) positions.
        edges: (m, 2) indices of nodes, a forest.
        radii: (n,) in nm.
    """
    count = len(nodes)
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count)).tocsr()
    numbers, lines = np.zeros(count, np.int64), ["# positions and radii in nm"]
    _, roots = np.unique(connected_components(graph, directed=False)[1], return_index=True)
    for root in roots:
        order, parents = breadth_first_order(graph, root, directed=False)
        for node in order:
            numbers[node] = len(lines)
            parent = -1 if node == root else numbers[parents[node]]
            z, y, x = nodes[node]
            lines.append(f"{numbers[node]} 0 {x:g} {y:g} {z:g} {radii[node]:g} {parent}")
    write_whole(path, lambda file: file.write(("\n".join(lines) + "\n").encode()))


def write_precomputed_skeleton(path: Path, nodes: Array, edges: Array, radii: Array) -> None:
    """Write a skeleton in neuroglancer's precomputed format; see ``write_skeleton_info``."""
    parts = (nodes[:, ::-1].astype("<f4"), edges.astype("<u4"), radii.astype("<f4"))
    content = struct.pack("<II", len(nodes), len(edges)) + b"".join(part.tobytes() for part in parts)
    write_whole(path, lambda file: file.write(content))


def write_skeleton_info(folder: Path) -> None:
    """Write the description of a folder of precomputed skeletons."""
    about = {
        "@type": "neuroglancer_skeletons",
        "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
        "vertex_attributes": [RADIUS],
    }
    (folder / "info").write_text(json.dumps(about), encoding="utf-8")


def write_mesh_fragment(path: Path, vertices: Array, faces: Array) -> None:
    """Write a part of a mesh in neuroglancer's legacy precomputed format; see ``write_mesh_manifest``."""
    content = (
        struct.pack("<I", len(vertices)) + vertices[:, ::-1].astype("<f4").tobytes() + faces.astype("<u4").tobytes()
    )
    write_whole(path, lambda file: file.write(content))


def read_mesh_fragment(path: Path) -> tuple[Array, Array]:
    """Return the vertices (n, 3) and faces (m, 3) of a part of a mesh."""
    content = path.read_bytes()
    (count,) = struct.unpack_from("<I", content)
    vertices = np.frombuffer(content, "<f4", 3 * count, 4).reshape(-1, 3)[:, ::-1]
    return vertices, np.frombuffer(content, "<u4", -1, 4 + 12 * count).reshape(-1, 3)


def write_mesh_info(folder: Path) -> None:
    """Write the description of a folder of meshes in the legacy precomputed format."""
    (folder / "info").write_text(json.dumps({"@type": "neuroglancer_legacy_mesh"}), encoding="utf-8")


def write_mesh_manifest(folder: Path, number: int, fragments: Sequence[str]) -> None:
    """Write which fragments make up the mesh of an object."""
    (folder / f"{number}:0").write_text(json.dumps({"fragments": list(fragments)}), encoding="utf-8")


def joined_mesh(parts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Join the parts of a mesh: vertices at the same position become one.

    >>> square = [(np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0]]), np.array([[0, 1, 2]])),
    ...           (np.array([[0, 1, 1], [0, 1, 0], [0, 0, 1]]), np.array([[0, 1, 2]]))]
    >>> [len(part) for part in joined_mesh(square)]
    [4, 2]
    """
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in parts)])
    vertices = np.concatenate([vertices for vertices, _ in parts])
    faces = np.concatenate([faces.astype(np.int64) + start for (_, faces), start in zip(parts, starts, strict=False)])
    unique, index = np.unique(vertices, axis=0, return_inverse=True)
    return unique, index.reshape(-1)[faces]


def write_ply(path: Path, vertices: Array, faces: Array) -> None:
    """Write a mesh as binary PLY."""
    header = (
        f"ply\nformat binary_little_endian 1.0\ncomment positions in nm\nelement vertex {len(vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.zeros(len(faces), [("count", "u1"), ("indices", "<i4", 3)])
    rows["count"], rows["indices"] = 3, faces
    content = header.encode() + vertices[:, ::-1].astype("<f4").tobytes() + rows.tobytes()
    write_whole(path, lambda file: file.write(content))


def write_obj(path: Path, vertices: Array, faces: Array) -> None:
    """Write a mesh as Wavefront OBJ."""
    lines = ["# positions in nm", *(f"v {x:.9g} {y:.9g} {z:.9g}" for z, y, x in vertices.tolist())]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    write_whole(path, lambda file: file.write(("\n".join(lines) + "\n").encode()))
