"""OME-NGFF multiscales: written on the group that holds an array, read back for voxel size and offset.

The specification puts ``multiscales`` on a group and lists arrays below it. Here ``volumes/raw`` is itself an array, as
incasem expects it, so the group ``volumes`` has one single-scale image for each of its arrays, identified by name and
path. neuroglancer and ome-zarr open such a group and show its first image; an array opened directly has its voxel
size in its own attributes. Images keep the order in which their arrays were made, so raw data come first.

``translation`` is the plain offset of the array, the first corner. Viewers that take it for the centre of the first
voxel draw all images of a group half a voxel lower; they stay aligned with one another.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from operator import add, mul
from typing import Any

from incasem_like.errors import DataError
from incasem_like.volumes.formats.base import Document, Layout, numbers
from incasem_like.volumes.formats.statements import transform_statement
from incasem_like.volumes.geometry import exact
from incasem_like.volumes.space import Statement

VERSIONS = {"zarr2": "0.4", "zarr3": "0.5"}


def image_of(layout: Layout, name: str) -> Document:
    """Return the multiscales entry of one array.

    Args:
        layout: Layout of the array.
        name: Name of the array in its group; becomes the image's name and path.
    """
    channels = len(layout.axes) - len(layout.offset)
    unit = {} if layout.voxel_size is None else {"unit": "nanometer"}  # required; meaningless without a unit
    axes = [{"name": axis, "type": "channel"} for axis in layout.axes[:channels]]
    axes += [{"name": axis, "type": "space", **unit} for axis in layout.axes[channels:]]
    size = numbers(layout.voxel_size or [1] * len(layout.offset))
    transformations: list[Document] = [{"type": "scale", "scale": [1] * channels + size}]
    if any(layout.offset):
        transformations.append({"type": "translation", "translation": [0] * channels + numbers(layout.offset)})
    return {"name": name, "axes": axes, "datasets": [{"path": name, "coordinateTransformations": transformations}]}


def with_image(attributes: Document, image: Document, format_name: str) -> Document:
    """Return a group's attributes with this image added, or replacing an earlier one with the same path.

    A multi-scale image that includes the path is left unchanged.
    """
    path = image["datasets"][0]["path"]
    entry = _versioned(image, format_name)
    found = [entry if paths(known) == [path] else known for known in images(attributes)]
    if not any(path in paths(known) for known in found):
        found.append(entry)
    return _with_images(attributes, found, format_name)


def with_levels(attributes: Document, image: Document, format_name: str) -> Document:
    """Return a group's attributes with this multi-scale image first, instead of all images of its arrays."""
    own = set(paths(image))
    others = [known for known in images(attributes) if not own & set(paths(known))]
    return _with_images(attributes, [_versioned(image, format_name), *others], format_name)


def without_image(attributes: Document, path: str, format_name: str) -> Document:
    """Return a group's attributes without the single-scale image of an array."""
    return _with_images(attributes, [known for known in images(attributes) if paths(known) != [path]], format_name)


def images(attributes: Document) -> list[Any]:
    """Return the multi-scale images that a group's attributes list."""
    holder = attributes.get("ome", attributes)
    found = holder.get("multiscales") if isinstance(holder, dict) else None
    return found if isinstance(found, list) else []


def paths(image: Any) -> list[str]:
    """Return the paths of an image's arrays."""
    found = image.get("datasets", []) if isinstance(image, dict) else []
    return [
        posixpath.normpath(str(dataset.get("path", ""))).strip("/") for dataset in found if isinstance(dataset, dict)
    ]


def _versioned(image: Document, format_name: str) -> Document:
    return {"version": VERSIONS[format_name], **image} if format_name == "zarr2" else image


def _with_images(attributes: Document, found: list[Any], format_name: str) -> Document:
    if format_name == "zarr2":
        return {**attributes, "multiscales": found}
    holder = {**attributes.get("ome", {}), "version": VERSIONS[format_name], "multiscales": found}
    return {**attributes, "ome": holder}


def statements(attributes: Document, path: str, where: str, ordered: bool) -> list[Statement]:
    """Return the statements of a group's multiscales about the array ``path`` below it; empty if it is not listed.

    Args:
        attributes: Attributes of the group.
        path: Path from the group to the array.
        where: The group's file, for messages.
        ordered: Whether axes are in the order of the array; they are not in an N5.

    Raises:
        DataError: A transformation is neither a scale nor a translation, or does not have one number per axis.
    """
    for image in images(attributes):
        for dataset in image.get("datasets", []) if isinstance(image, dict) else []:
            if isinstance(dataset, dict) and posixpath.normpath(str(dataset.get("path"))).strip("/") == path:
                return [_statement(image, dataset, f"multiscales of {where}", ordered)]
    return []


def _statement(image: Document, dataset: Document, key: str, ordered: bool) -> Statement:
    if isinstance(dataset.get("transform"), dict):  # OpenOrganelle's, from before version 0.4 defined its own
        return transform_statement(dataset["transform"], key, ordered)
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes") or []]
    names, types, units = ([axis.get(member) for axis in axes] or None for member in ("name", "type", "unit"))
    scale: list[Any] | None = None
    translation: list[Any] | None = None
    for step in [*(dataset.get("coordinateTransformations") or []), *(image.get("coordinateTransformations") or [])]:
        kind, values = step.get("type"), step.get(step.get("type"))
        if kind == "identity":
            continue
        if (
            kind not in ("scale", "translation")
            or not isinstance(values, list)
            or not all(isinstance(value, int | float) for value in values)
            or len(values) != len(axes or scale or translation or values)
        ):
            raise DataError(
                f"{key} has a transformation of type {kind} that is not understood ({values}): only scale and "
                "translation are, with one number per axis."
            )
        ones, zeros = [1] * len(values), [0] * len(values)
        if kind == "scale":
            scale = _combined(mul, scale or ones, values)
            translation = _combined(mul, translation or zeros, values)
        else:
            translation = _combined(add, translation or zeros, values)
    return Statement(key, names, types, scale, translation, units, ordered=ordered)


def _combined(operation: Callable[[Any, Any], Any], one: list[Any], other: list[Any]) -> list[Any]:
    return [float(operation(exact(a), exact(b))) for a, b in zip(one, other, strict=True)]
