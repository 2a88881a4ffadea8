"""Skeletons and meshes of objects, in blocks or batches of bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from bioimage_cpp.mesh import marching_cubes, simplify_mesh
from bioimage_cpp.skeleton import teasar
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from incasem_like.blockwise import Block, WorkItem
from incasem_like.disk import write_whole
from incasem_like.segmentation.label_arrays import consecutive
from incasem_like.segmentation.measurements import ONE
from incasem_like.segmentation.object_files import write_mesh_fragment, write_precomputed_skeleton, write_swc
from incasem_like.volumes import Coordinate, Roi, Volume

Array = npt.NDArray[Any]
Table = Mapping[str, Array]

Engine = Literal["bioimage-cpp", "kimimaro"]
OBJECTS = "objects.npz"
VOXELS_AT_ONCE = 1 << 22
SKELETON_COLUMNS = ("length_nm", "nodes", "ends", "branches", "parts", "mean_radius_nm", "coarsened")


def save_objects(folder: Path, objects: Table) -> None:
    """Write the table of objects that blocks look up."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / OBJECTS, lambda file: np.savez(file, **dict(objects)))  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _objects(folder: Path) -> dict[str, Array]:
    with np.load(folder / OBJECTS, allow_pickle=False) as table:
        return dict(table)


def batches(objects: Table, most_voxels: int) -> npt.NDArray[np.int64]:
    """Return the number of the batch of each object, in their order: boxes of a batch have ``most_voxels``, about.

    >>> objects = {f"{axis}_first": np.zeros(3, int) for axis in "zyx"}
    >>> objects |= {"z_last": np.array([0, 1, 0]), "y_last": np.array([4, 4, 9]), "x_last": np.array([1, 1, 1])}
    >>> batches(objects, 20).tolist()
    [0, 1, 2]
    """
    sides = [objects[f"{axis}_last"] - objects[f"{axis}_first"] + 1 for axis in "zyx"]
    voxels = np.minimum(sides[0] * sides[1] * sides[2], most_voxels)
    return np.unique((np.cumsum(voxels) - 1) // most_voxels, return_inverse=True)[1]


def mask_of(segmentation: Volume, number: int, box: Roi, most_voxels: int) -> tuple[npt.NDArray[np.bool_], Coordinate]:
    """Return where an object is inside of its box, coarsened if the box has more than ``most_voxels``.

    Args:
        segmentation: The labels.
        number: The object's id.
        box: Its bounding box, in absolute voxels.
        most_voxels: Largest number of voxels of the result.

    Returns:
        The mask, and how many voxels along z, y, x each of its voxels stands for; it is True where one of them is.
    """
    sizes, factors = segmentation.require_voxel_size(), [1, 1, 1]
    while np.prod([-(-side // factor) for side, factor in zip(box.shape, factors, strict=True)]) > most_voxels:
        factors[int(np.argmin([size * factor for size, factor in zip(sizes, factors, strict=True)]))] += 1
    shape = [-(-side // factor) for side, factor in zip(box.shape, factors, strict=True)]
    mask = np.zeros(shape, bool)
    layers = max(1, VOXELS_AT_ONCE // (box.shape[1] * box.shape[2] * factors[0]))
    for first in range(0, shape[0], layers):
        depth = min(layers * factors[0], box.shape[0] - first * factors[0])
        part = Roi((box.begin[0] + first * factors[0], *box.begin[1:]), (depth, *box.shape[1:]))
        inside = segmentation.read(part) == number
        for axis, factor in enumerate(factors):
            starts = np.arange(0, inside.shape[axis], factor)
            inside = inside if factor == 1 else np.logical_or.reduceat(inside, starts, axis=axis)
        mask[first : first + len(inside)] = inside
    return mask, Coordinate(factors)


def skeletonize(
    mask: npt.NDArray[np.bool_],
    voxel_size: Sequence[float],
    scale: float = 1.5,
    constant: float = 300.0,
    engine: Engine = "bioimage-cpp",
) -> tuple[Array, Array, Array]:
    """Return the skeleton of an object by TEASAR (Sato et al. 2000).

    Paths from a root to the farthest points are added one by one; each covers what lies around it within ``scale``
    times the distance to the surface plus ``constant``.

    Args:
        mask: (z, y, x).
        voxel_size: (z, y, x) in nm.
        scale: Of the distance to the surface.
        constant: In nm; larger values leave out more side branches.
        engine: The library; ``kimimaro`` (GPL) must be installed. It leaves out parts of a single voxel beside others.

    Returns:
        Nodes (n, 3), z, y, x in nm from the centre of the first voxel; edges (m, 2) of nodes; radii (n,) in nm. Every
        connected part of the mask has a tree.

    >>> nodes, edges, radii = skeletonize(np.ones((1, 1, 20), bool), (10, 10, 10), constant=50)
    >>> float(skeleton_length(nodes, edges))
    190.0
    """
    if engine == "kimimaro":
        import kimimaro

        options = {"scale": scale, "const": constant}
        found = kimimaro.skeletonize(
            np.pad(mask, 1).astype(np.uint8),  # what it finds at the border of an array is to be stitched
            options,
            anisotropy=tuple(map(float, voxel_size)),
            dust_threshold=0,
            progress=False,
            fix_borders=False,
        ).get(1)
        if found is None:  # a single voxel
            size = np.array(voxel_size, float)
            return np.argwhere(mask)[:1] * size, np.zeros((0, 2), np.int64), np.full(1, size.min())
        return found.vertices - np.array(voxel_size, float), found.edges.astype(np.int64), found.radii
    nodes, edges, radii = teasar(mask, spacing=tuple(map(float, voxel_size)), scale=scale, constant=constant)
    return np.asarray(nodes), np.asarray(edges, np.int64).reshape(-1, 2), np.asarray(radii)


def skeleton_length(nodes: Array, edges: Array) -> float:
    """Return the length of all edges."""
    return float(np.linalg.norm(nodes[edges[:, 0]] - nodes[edges[:, 1]], axis=1).sum())


def skeletonize_batch(item: WorkItem, parameters: Mapping[str, Any]) -> Array:
    """Write the skeletons of a batch of objects, and return their rows: id, and ``SKELETON_COLUMNS``."""
    (segmentation,), folder = item.inputs, item.folder
    objects, voxel_size = _objects(folder), np.array(item.inputs[0].require_voxel_size())
    for name in ("swc", "precomputed"):
        (folder / name).mkdir(exist_ok=True)
    rows = []
    for index in np.flatnonzero(objects["batch"] == item.number):
        first, last = ([int(objects[f"{axis}_{end}"][index]) for axis in "zyx"] for end in ("first", "last"))
        box = Roi(first, [high - low + 1 for low, high in zip(first, last, strict=True)])
        number = int(objects["id"][index])
        mask, factors = mask_of(segmentation, number, box, parameters["most_voxels"])
        spacing = voxel_size * factors
        options = {name: parameters[name] for name in ("scale", "constant", "engine")}
        nodes, edges, radii = skeletonize(mask, spacing, **options)
        nodes = nodes + np.array(first) * voxel_size + spacing / 2
        write_swc(folder / "swc" / f"{number}.swc", nodes, edges, radii)
        write_precomputed_skeleton(folder / "precomputed" / str(number), nodes, edges, radii)
        degree = np.bincount(edges.ravel(), minlength=len(nodes))
        graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(nodes),) * 2)
        parts = connected_components(graph, directed=False)[0]
        measured = (
            skeleton_length(nodes, edges), len(nodes), (degree == 1).sum(), (degree > 2).sum(), parts, radii.mean(),
            max(factors),
        )  # fmt: skip
        rows.append([np.uint64(number), *(np.float64(value).view(np.uint64) for value in measured)])
    return np.array(rows, np.uint64).reshape(-1, 1 + len(SKELETON_COLUMNS))


def skeleton_table(rows: Array) -> dict[str, Array]:
    """Return the table of rows that ``skeletonize_batch`` returned."""
    columns = {name: np.ascontiguousarray(rows[:, 1 + n]).view(np.float64) for n, name in enumerate(SKELETON_COLUMNS)}
    whole = ("nodes", "ends", "branches", "parts", "coarsened")
    return {"id": rows[:, 0], **{k: v.astype(np.int64) if k in whole else v for k, v in columns.items()}}


def mesh_block(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Write the meshes of the objects in a block as fragments, and return the ids of the objects that have one.

    A cube of eight voxels belongs to the block of its first voxel, so the fragments fit together without gaps.
    """
    segmentation, folder = block.inputs[0], block.folder
    (folder / "precomputed").mkdir(exist_ok=True)
    roi, whole = block.write_roi, segmentation.roi
    before = Coordinate(int(first == begin) for first, begin in zip(roi.begin, whole.begin, strict=True))
    seen = roi.grow(before, ONE)  # beyond the volume is background, so that surfaces are closed
    labels = segmentation.read(seen, outside="constant")
    chosen = _objects(folder)["id"]
    local, ids = consecutive(np.where(np.isin(labels, chosen), labels, 0))
    written = []
    for index, (number, box) in enumerate(zip(ids.tolist(), ndimage.find_objects(local), strict=True), 1):
        slices = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in box)
        begin = np.array(seen.begin) + [part.start for part in slices]
        vertices, faces = surface(local[slices] == index)
        if len(faces):
            positions = (vertices + begin + 0.5) * segmentation.require_voxel_size()
            write_mesh_fragment(folder / "precomputed" / f"{number}:0:{block.number}", positions, faces)
            written.append(number)
    return np.array(written, np.uint64)


def surface(mask: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return the surface of a mask by marching cubes: vertices z, y, x in voxels, and faces.

    It is open where the mask touches the border of the array.

    Args:
        mask: (z, y, x).

    >>> vertices, faces = surface(np.pad(np.ones((1, 1, 1), bool), 1))
    >>> len(vertices), len(faces)
    (6, 8)
    """
    if mask.all() or not mask.any() or min(mask.shape) < 2:
        return np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    vertices, faces, _, _ = marching_cubes(mask.astype(np.float32), 0.5, allow_degenerate=False)
    return np.asarray(vertices), np.asarray(faces)


def simplified(vertices: Array, faces: Array, reduction: float) -> tuple[Array, Array]:
    """Remove a share of the faces of a closed surface where it is flat.

    A surface with parts that touch in an edge or a corner, which is not a manifold, is returned as it is.

    Args:
        vertices: (n, 3).
        faces: (m, 3) indices of vertices.
        reduction: From 0 to below 1.

    >>> len(simplified(*surface(np.pad(np.ones((9, 9, 9), bool), 1)), 0.5)[1]) < 700
    True
    """
    with contextlib.suppress(ValueError):
        vertices, faces, _, _ = simplify_mesh(np.ascontiguousarray(vertices, np.float64), faces, reduction)
    return np.asarray(vertices), np.asarray(faces)
