"""Layers for napari, with scale and translation in nm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError, InputError
from incasem_like.viewing.layers import Layer
from incasem_like.viewing.scene import voxel_size_shown
from incasem_like.volumes import NanometreRoi, Roi

LayerData = tuple[npt.NDArray[Any], dict[str, Any], str]  # napari's "layer data tuple"
MOST_VOXELS = 1 << 28  # of one layer; it is in memory while it is shown
CHANNEL_COLOURS = ("red", "green", "blue")
PAINTED = "labels"


def layer_data(layer: Layer, box: NanometreRoi | None = None) -> list[LayerData]:
    """Return what ``napari.layers.Layer.create`` takes for a layer: labels, an image, or an image for each channel.

    Args:
        layer: The layer; its voxels are read.
        box: The part to read, nm; every voxel that it touches is read. None for all.

    Returns:
        Array, attributes and type of each napari layer; none where the layer has no voxel in the box. The translation
        is the centre of the first voxel, as napari counts.

    Raises:
        InputError: The part is too large.
        DataError: The layer cannot be read, or is not 3-D.

    Example:
        >>> from incasem_like.viewing.opening import open_layer
        >>> from incasem_like.volumes import create_volume
        >>> place = {"voxel_size": (50, 4, 4), "offset": (100, 0, 8)}
        >>> raw = create_volume("vnc.zarr/raw", shape=(2, 8, 8), dtype="uint8", **place)
        >>> ((voxels, attributes, kind),) = layer_data(open_layer(raw.address))
        >>> voxels.shape, attributes["scale"], attributes["translate"], kind
        ((2, 8, 8), (50.0, 4.0, 4.0), (125.0, 2.0, 10.0), 'image')
    """
    volume, size = layer.served.finest, voxel_size_shown(layer.served.finest)
    if volume.axes not in ("zyx", "czyx"):
        raise DataError(f"{volume.address} has the axes {volume.axes}, but napari is given z, y, x: choose another.")
    roi = volume.roi
    if box is not None:
        sides = list(zip(box.offset, box.shape, volume.offset, size, roi.begin, strict=True))
        begin = [first + math.floor((at - offset) / nm + 1e-6) for at, _, offset, nm, first in sides]
        end = [first + math.ceil((at + by - offset) / nm - 1e-6) for at, by, offset, nm, first in sides]
        roi = roi.intersect(Roi(begin, [last - first for first, last in zip(begin, end, strict=True)]))
    if roi.empty:
        return []
    if math.prod(roi.shape) > MOST_VOXELS:
        raise InputError(f"{volume.address} has {math.prod(roi.shape):.3g} voxels there: choose a smaller crop.")
    voxels, corner = volume.read(roi), volume.corner(roi.begin)
    common = {
        "name": layer.name,
        "scale": size,
        "translate": tuple(at + nm / 2 for at, nm in zip(corner, size, strict=True)),
        "units": ("nm",) * 3,
        "visible": layer.visible,
    }
    if layer.meaning in ("labels", "mask") and voxels.dtype.kind in "biu":
        return [(voxels.astype(np.uint8) if voxels.dtype == bool else voxels, {**common, "opacity": 0.5}, "labels")]
    look: dict[str, Any] = {"contrast_limits": layer.value_range(), "colormap": "gray"}
    if layer.meaning == "channels":
        return [
            (channel, {
                **common, **look, "name": f"{layer.name} {number}", "blending": "additive",
                "colormap": CHANNEL_COLOURS[number % 3], "visible": layer.visible and number < 3,
            }, "image")
            for number, channel in enumerate(voxels)
        ]  # fmt: skip
    if layer.meaning != "raw":
        look = {**look, "colormap": "yellow", "blending": "additive", "opacity": 0.6}
    return [(voxels, {**common, **look}, "image")]
