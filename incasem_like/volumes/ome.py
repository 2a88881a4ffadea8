"""OME-NGFF multiscales: written on the group that holds an array, read back for voxel size and offset.

The specification puts ``multiscales`` on a group and lists arrays below it. Here ``volumes/raw`` is itself an array, as
incasem wants it, so the group ``volumes`` carries one image of one scale for each of its arrays, told apart by name and
path. neuroglancer and ome-zarr open such a group and show its first image; an array opened directly brings its voxel
size in its own attributes. Images keep the order in which their arrays were made, so raw data come first.

``translation`` is the plain offset of the array, the first corner. Viewers that take it for the centre of the first
voxel draw all images of a group half a voxel lower; they stay aligned with one another.
"""

from __future__ import annotations

from incasem_like.volumes.formats.base import Document, Layout, Space, in_nm, numbers

VERSIONS = {"zarr2": "0.4", "zarr3": "0.5"}


def image_of(layout: Layout, name: str) -> Document:
    """Return the multiscales entry of one array.

    Args:
        layout: Of the array.
        name: Of the array in its group; becomes the image's name and path.
    """
    channels = len(layout.axes) - len(layout.voxel_size)
    axes = [{"name": axis, "type": "channel"} for axis in layout.axes[:channels]]
    axes += [{"name": axis, "type": "space", "unit": "nanometer"} for axis in layout.axes[channels:]]
    transformations: list[Document] = [{"type": "scale", "scale": [1] * channels + numbers(layout.voxel_size)}]
    if any(layout.offset):
        transformations.append({"type": "translation", "translation": [0] * channels + numbers(layout.offset)})
    return {"name": name, "axes": axes, "datasets": [{"path": name, "coordinateTransformations": transformations}]}


def with_image(attributes: Document, image: Document, format_name: str) -> Document:
    """Return a group's attributes with this image added, in the place of an earlier one with the same path.

    An image of several scales that has the path among them is left as it is.
    """
    version = VERSIONS[format_name]
    holder = dict(attributes.get("ome", {})) if format_name == "zarr3" else dict(attributes)
    path = image["datasets"][0]["path"]
    entry = {"version": version, **image} if format_name == "zarr2" else image
    images = [entry if _paths(known) == [path] else known for known in holder.get("multiscales", [])]
    if not any(path in _paths(known) for known in images):
        images.append(entry)
    holder["multiscales"] = images
    if format_name == "zarr3":
        holder["version"] = version
        return {**attributes, "ome": holder}
    return holder


def read_image(attributes: Document, path: str) -> Space | None:
    """Find the array ``path`` in a group's multiscales and return its voxel size and offset in nm, or None."""
    holder = attributes.get("ome", attributes)
    for image in holder.get("multiscales", []) if isinstance(holder, dict) else []:
        for dataset in image.get("datasets", []) if isinstance(image, dict) else []:
            if str(dataset.get("path", "")).strip("/") == path:
                return _space(image, dataset)
    return None


def _paths(image: Document) -> list[str]:
    return [str(dataset.get("path", "")) for dataset in image.get("datasets", [])]


def _space(image: Document, dataset: Document) -> Space | None:
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", [])]
    spatial = [
        index
        for index, axis in enumerate(axes)
        if axis.get("type", "space") == "space" and axis.get("name") in ("z", "y", "x")
    ]
    scale, translation = [1.0] * len(axes), [0.0] * len(axes)
    steps = [*dataset.get("coordinateTransformations", []), *image.get("coordinateTransformations", [])]
    for step in steps:
        values = step.get(step.get("type"))
        if not isinstance(values, list) or len(values) != len(axes):
            continue
        if step["type"] == "scale":
            scale = [old * new for old, new in zip(scale, values, strict=True)]
            translation = [old * new for old, new in zip(translation, values, strict=True)]
        elif step["type"] == "translation":
            translation = [old + new for old, new in zip(translation, values, strict=True)]
    if not spatial:
        return None
    units = [axes[index].get("unit") for index in spatial]
    named = _ordered([axes[index]["name"] for index in spatial])
    names = tuple(str(axis.get("name")) for axis in axes)
    return Space(
        _pick(in_nm([scale[index] for index in spatial], units), named),
        _pick(in_nm([translation[index] for index in spatial], units), named),
        names,
    )


def _ordered(names: list[str]) -> list[int]:
    """Return where z, y and x (those that are there) stand among ``names``."""
    return [names.index(name) for name in "zyx" if name in names]


def _pick(values: tuple[float, ...], order: list[int]) -> tuple[float, ...]:
    return tuple(values[index] for index in order)
