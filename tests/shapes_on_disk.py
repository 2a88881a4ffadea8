"""Meshes and skeletons of objects on disk, as the scripts leave them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from incasem_like.segmentation.object_files import (
    write_mesh_fragment,
    write_mesh_info,
    write_mesh_manifest,
    write_precomputed_skeleton,
    write_skeleton_info,
    write_swc,
)


def write_meshes(folder: Path, meshes: Mapping[int, tuple[Any, Any]]) -> None:
    """Write meshes in neuroglancer's format: by id, vertices z, y, x in nm and faces."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (vertices, faces) in meshes.items():
        write_mesh_fragment(folder / f"{number}:0:0", np.array(vertices, float), np.array(faces))
        write_mesh_manifest(folder, number, [f"{number}:0:0"])
    write_mesh_info(folder)


def write_skeletons(folder: Path, skeletons: Mapping[int, tuple[Any, Any]], *, swc: bool = False) -> None:
    """Write skeletons in neuroglancer's format, or as SWC: by id, nodes z, y, x in nm and edges."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (nodes, edges) in skeletons.items():
        if swc:
            write_swc(folder / f"{number}.swc", nodes, edges, np.ones(len(nodes)))
        else:
            write_precomputed_skeleton(folder / str(number), nodes, edges, np.ones(len(nodes)))
    if not swc:
        write_skeleton_info(folder)
