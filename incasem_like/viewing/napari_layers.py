"""Layers for napari, with scale and translation in nm, and the window in which the labels of a crop are painted."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError, InputError
from incasem_like.viewing.layers import Layer
from incasem_like.viewing.scene import voxel_size_shown
from incasem_like.viewing.sections import SHADES
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


def fill_viewer(viewer: Any, layers: Sequence[LayerData], save: Callable[[npt.NDArray[Any]], None]) -> Any:
    """Add layers to a napari viewer, ready to paint: the labels named ``labels`` are chosen, ctrl-S saves them.

    Args:
        viewer: ``napari.Viewer``, or ``napari.components.ViewerModel``, which needs no display.
        layers: As ``layer_data`` returns them, one of them called ``labels``.
        save: Called with the painted voxels.

    Returns:
        The layer that is painted.
    """
    from napari.layers import Layer as NapariLayer
    from napari.utils.colormaps import CyclicLabelColormap

    for data in layers:
        added = viewer.add_layer(NapariLayer.create(*data))
        if data[2] == "labels":
            added.colormap = CyclicLabelColormap(colors=np.vstack([np.zeros(4), np.insert(SHADES, 3, 1, axis=1)]))
    painted = viewer.layers[PAINTED]
    viewer.layers.selection.active = painted
    painted.mode, painted.selected_label = "paint", int(painted.data.max()) + 1
    viewer.dims.set_point(range(3), [float(at) for at in painted.extent.world.mean(axis=0)])
    viewer.scale_bar.visible = True
    viewer.bind_key("Control-S", lambda _: save(painted.data), overwrite=True)
    return painted


def load_napari() -> Any:
    """Import napari.

    Raises:
        InputError: napari, or a Qt for its window, is not installed; or there is no display.
    """
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"} & set(os.environ):
        raise InputError("Painting needs a display: log in with 'ssh -X', or copy the crop and paint it there.")
    try:
        import napari
        import qtpy.QtWidgets  # noqa: F401
    except ImportError as error:
        raise InputError(f"Painting needs napari and Qt ({error}): pip install 'incasem-like[napari]'.") from None
    return napari


def paint(layers: Sequence[LayerData], save: Callable[[npt.NDArray[Any]], None], title: str) -> None:
    """Open a napari window with layers, and return when it is closed; what was painted is saved then too.

    Args:
        layers, save: As for ``fill_viewer``.
        title: Of the window.

    Raises:
        InputError: As ``load_napari``.
    """
    napari = load_napari()
    painted = fill_viewer(napari.Viewer(title=title), layers, save)
    try:
        napari.run()
    finally:
        save(painted.data)
