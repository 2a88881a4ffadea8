"""Pictures of objects in three dimensions, without a display: surfaces seen from a direction, with a scale bar."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from bioimage_cpp.mesh import smooth_mesh
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from incasem_like.errors import DataError, InputError
from incasem_like.segmentation.label_arrays import consecutive
from incasem_like.segmentation.object_files import joined_mesh, read_mesh_fragment
from incasem_like.segmentation.shapes import surface
from incasem_like.viewing.objects import PrecomputedShapes
from incasem_like.viewing.scene import voxel_size_shown
from incasem_like.viewing.sections import draw_scale_bar, label_colours, round_length
from incasem_like.volumes import Roi, Volume
from incasem_like.volumes.values import check_label_dtype

Array = npt.NDArray[Any]
Meshes = Mapping[int, tuple[Array, Array]]  # by id: vertices z, y, x in nm, and faces
MOST_VOXELS = 1 << 25  # of labels in memory; larger parts are coarsened
MOST_OBJECTS = 100
SUPERSAMPLING = 2  # pixels of the drawing along an edge of a pixel of the picture
SMOOTHING = 3  # steps; each takes a part of the detail too
MOST_SAMPLES = 1 << 22  # points of surfaces in memory
MARGIN = 0.04  # of the picture on each side
FRAME = np.array([0.75, 0.75, 0.75])
LIGHT = np.array([-0.75, -0.5, -0.45])  # z, y, x: from the viewer, a little from above and from the left


def meshes_of_labels(
    volume: Volume, ids: Sequence[int] | None = None, roi: Roi | None = None, most_voxels: int = MOST_VOXELS
) -> dict[int, tuple[Array, Array]]:
    """Return the surfaces of objects of a label volume, closed at the ends of the part.

    Args:
        volume: The labels, (z, y, x).
        ids: The objects; None for the largest ``MOST_OBJECTS``.
        roi: The part to read, absolute voxels; None for all.
        most_voxels: Of a larger part only every n-th voxel is taken, along the axes with the shortest voxels first.

    Raises:
        DataError: An object is not there, or there is none; or it is not a volume of labels.
        InputError: The part is not inside the volume.
    """
    volume.require_zyx()
    check_label_dtype(volume)
    roi = volume.roi if roi is None else roi
    if not volume.roi.contains(roi):
        raise InputError(f"{roi} is not inside {volume.address}, which covers {volume.roi}: choose a part of it.")
    labels, factors = _coarsened(volume, roi, most_voxels)
    size = np.multiply(voxel_size_shown(volume), factors)
    found, counts = np.unique(labels[labels > 0], return_counts=True)
    if missing := sorted(set(ids or ()) - set(found.tolist())):
        raise DataError(f"{volume.address} has no object {missing[0]} there: correct --objects.")
    if not len(found):
        raise DataError(f"{volume.address} has no object there: choose another part, with --offset and --shape.")
    chosen = found[np.argsort(-counts, kind="stable")[:MOST_OBJECTS]] if ids is None else np.unique(ids)
    local, order = consecutive(np.where(np.isin(labels, chosen), labels, 0))
    meshes = {}
    for index, (number, box) in enumerate(zip(order.tolist(), ndimage.find_objects(local), strict=True), 1):
        vertices, faces = surface(np.pad(local[box] == index, 1))
        begin = np.array([part.start for part in box]) - 0.5  # the first voxel is at 1 of the padded mask
        meshes[int(number)] = (_smooth(vertices, faces) + begin) * size + np.array(volume.corner(roi.begin)), faces
    return meshes


def _coarsened(volume: Volume, roi: Roi, most_voxels: int) -> tuple[Array, list[int]]:
    """Return every n-th voxel of a part, and n along each axis; it is read in slabs."""
    sizes, factors = voxel_size_shown(volume), [1, 1, 1]
    while math.prod(-(-side // factor) for side, factor in zip(roi.shape, factors, strict=True)) > most_voxels:
        factors[int(np.argmin(np.multiply(sizes, factors)))] += 1
    depth = factors[0] * max(1, most_voxels // (roi.shape[1] * roi.shape[2] * factors[0]))
    slabs = [
        volume.read(Roi((z, *roi.begin[1:]), (min(depth, roi.end[0] - z), *roi.shape[1:])))[
            :: factors[0], :: factors[1], :: factors[2]
        ]
        for z in range(roi.begin[0], roi.end[0], depth)
    ]
    return np.concatenate(slabs), factors


def _smooth(vertices: Array, faces: Array) -> Array:
    """Take the steps of voxels off a surface."""
    vertices = np.ascontiguousarray(vertices, np.float64)
    return np.asarray(smooth_mesh(vertices, np.zeros_like(vertices), faces, SMOOTHING, n_threads=1)[0])


def meshes_of_folder(folder: Path, ids: Sequence[int] | None = None) -> dict[int, tuple[Array, Array]]:
    """Return the meshes of a folder in neuroglancer's format, as ``35_extract_meshes.py`` writes them.

    Args:
        folder: The folder, with ``info``.
        ids: The objects; None for the first ``MOST_OBJECTS``.

    Raises:
        DataError: An object is not there, or there is none.
    """
    there = PrecomputedShapes(folder.name, folder).ids
    if missing := sorted(set(ids or ()) - set(there)):
        raise DataError(f"{folder} has no mesh of object {missing[0]}: correct --objects.")
    if not there:
        raise DataError(f"{folder} has no meshes: extract them with 35_extract_meshes.py.")
    meshes = {}
    for number in ids or there[:MOST_OBJECTS]:
        names = json.loads((folder / f"{number}:0").read_text(encoding="utf-8"))["fragments"]
        meshes[number] = joined_mesh([read_mesh_fragment(folder / name) for name in names])
    return meshes


@dataclass(frozen=True)
class ObjectView:
    """How objects are drawn: in parallel projection, so that the scale bar holds everywhere.

    Attributes:
        meshes: By id.
        azimuth: Turn about the vertical axis y, degrees; 0 looks along z, with x to the right and y downwards.
        elevation: From how far above it is looked down, degrees.
        width: Largest width and height of the picture, pixels.
        scale_bar: Length in nm; 0 for none, None for about a fifth of the width.

    Example:
        >>> corners = np.array([[0, 0, 0], [0, 0, 100], [0, 100, 0], [100, 0, 0]])
        >>> faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
        >>> ObjectView({7: (corners, faces)}, azimuth=0, elevation=0, width=200, scale_bar=0).image().size
        (200, 200)
    """

    meshes: Meshes
    azimuth: float = 30
    elevation: float = 25
    width: int = 800
    scale_bar: float | None = None

    def turned(self, points: Array) -> Array:
        """Return points or directions (n, 3), z, y, x, as depth, downwards, to the right."""
        z, y, x = np.moveaxis(np.asarray(points, float), -1, 0)
        turn, tilt = np.deg2rad(self.azimuth), np.deg2rad(self.elevation)
        right, back = x * np.cos(turn) + z * np.sin(turn), z * np.cos(turn) - x * np.sin(turn)
        down, depth = y * np.cos(tilt) - back * np.sin(tilt), back * np.cos(tilt) + y * np.sin(tilt)
        return np.stack([depth, down, right], axis=-1)

    def image(self) -> Image.Image:
        """Return the picture, RGB: nearer surfaces hide farther ones, and farther ones are darker."""
        points = np.concatenate([vertices for vertices, _ in self.meshes.values()])
        corners = np.array(list(itertools.product(*zip(points.min(axis=0), points.max(axis=0), strict=True))))
        box = self.turned(corners)
        low, extent = box.min(axis=0), np.ptp(box, axis=0) + 1e-6
        pixel = float(extent[1:].max() / (self.width * SUPERSAMPLING * (1 - 2 * MARGIN)))  # nm
        edge = np.array([0, 1, 1]) * self.width * SUPERSAMPLING * MARGIN
        rows, columns = (math.ceil(length / pixel + 2 * edge[1]) for length in extent[1:])
        nearest, owner = np.full(rows * columns, np.inf, np.float32), np.full(rows * columns, -1)
        shades = np.ones(rows * columns, np.float32)
        for number, at, light in self._samples(corners, low, pixel):
            index = (at[:, 1] + edge[1]).astype(np.int64) * columns + (at[:, 2] + edge[2]).astype(np.int64)
            depth = at[:, 0].astype(np.float32)
            np.minimum.at(nearest, index, depth)
            front = np.flatnonzero(depth <= nearest[index])
            owner[index[front]] = number
            shades[index[front]] = light[front] * (1 - 0.25 * depth[front] * pixel / extent[0])
        numbers, which = np.unique(owner, return_inverse=True)
        colours = np.where(numbers[:, None] > 0, label_colours(numbers), FRAME)
        picture = np.where(np.isfinite(nearest)[:, None], colours[which] * shades[:, None], 1.0)
        ids, picture = owner.reshape(rows, columns), picture.reshape(rows, columns, 3)
        outline = (ids != np.roll(ids, 1, axis=0)) | (ids != np.roll(ids, 1, axis=1))
        picture[outline & (ids > 0)] *= 0.45
        pixels = Image.fromarray(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8))
        shown = pixels.resize((columns // SUPERSAMPLING, rows // SUPERSAMPLING), Image.Resampling.BOX)
        return self._annotated(shown, (box - low) / pixel / SUPERSAMPLING, pixel * SUPERSAMPLING)

    def _samples(self, corners: Array, low: Array, pixel: float) -> Iterator[tuple[int, Array, Array]]:
        """Yield number, positions (n, 3) in pixels and light (n,) of points on the box, 0, and on the objects.

        No pixel that a surface covers is left out: two neighbours are less than a pixel apart.
        """
        for first, second in itertools.combinations(corners, 2):
            if np.count_nonzero(first != second) == 1:
                count = math.ceil(float(np.abs(first - second).max()) / pixel) + 1
                line = first + np.linspace(0, 1, count)[:, None] * (second - first)
                yield 0, (self.turned(line) - low) / pixel, np.ones(count)
        for number, (vertices, faces) in self.meshes.items():
            at = ((self.turned(vertices) - low) / pixel).astype(np.float32)
            a, b, c = (at[faces[:, corner]] for corner in range(3))
            normals = np.cross(b - a, c - a)
            outwards = np.sign(np.einsum("fc,fc->", a - at.mean(axis=0), normals))  # of a closed surface
            total = np.stack([
                np.bincount(faces.ravel(), np.repeat(normals[:, axis], 3), len(vertices)) for axis in range(3)
            ], axis=1)  # fmt: skip
            total *= outwards / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
            light = 0.45 + 0.55 * np.clip(total @ (LIGHT / np.linalg.norm(LIGHT)), 0, 1).astype(np.float32)
            seen = normals[:, 0] * outwards < 0
            longest = np.max([np.abs(p - q)[:, 1:].max(axis=1) for p, q in ((a, b), (b, c), (c, a))], axis=0)
            steps = np.where(seen, np.ceil(longest).astype(int) + 1, 0)
            for count in np.unique(steps[seen]).tolist():
                chosen = faces[steps == count]
                corner = np.array([(i, j, count - i - j) for i in range(count + 1) for j in range(count + 1 - i)])
                weights = (corner / count).astype(np.float32)
                for part in np.array_split(chosen, len(chosen) * len(weights) // MOST_SAMPLES + 1):
                    yield number, np.matmul(weights, at[part]).reshape(-1, 3), (light[part] @ weights.T).ravel()

    def _annotated(self, picture: Image.Image, corners: Array, pixel: float) -> Image.Image:
        """Return the picture with a scale bar, and the names of the axes in the middle of edges of the box."""
        length = round_length(pixel * picture.width / 5) if self.scale_bar is None else self.scale_bar
        draw, font = ImageDraw.Draw(picture), ImageFont.load_default(max(10, picture.width // 45))
        for name, corner in zip("zyx", (4, 2, 1), strict=True):  # the corners differ from the first in one axis
            _, down, right = (corners[0] + corners[corner]) / 2 + self.width * MARGIN
            draw.text((right, down), name, fill="black", anchor="mm", font=font, stroke_width=3, stroke_fill="white")
        if not length:
            return picture
        if length > pixel * picture.width:
            raise InputError(f"A scale bar of {length:g} nm is longer than the picture: shorten it, with --scale_bar.")
        framed = Image.new("RGB", (picture.width, picture.height + max(20, picture.width // 20)), "white")
        framed.paste(picture)
        draw_scale_bar(framed, length / pixel, length)
        return framed
