"""The window of napari in which the labels of a crop are painted; importing it needs napari and Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import napari
import numpy as np
import numpy.typing as npt
import qtpy.QtWidgets  # noqa: F401  (napari alone would fail only when the window opens)
from napari.layers import Layer
from napari.utils.colormaps import CyclicLabelColormap

from incasem_like.viewing.napari_layers import PAINTED, LayerData
from incasem_like.viewing.sections import SHADES


def fill_viewer(viewer: Any, layers: Sequence[LayerData], save: Callable[[npt.NDArray[Any]], None]) -> Any:
    """Add layers to a napari viewer, ready to paint: the labels named ``labels`` are chosen, ctrl-S saves them.

    Args:
        viewer: ``napari.Viewer``, or ``napari.components.ViewerModel``, which needs no display.
        layers: As ``layer_data`` returns them, one of them called ``labels``.
        save: Called with the painted voxels.

    Returns:
        The layer that is painted.
    """
    for data in layers:
        added = viewer.add_layer(Layer.create(*data))
        if data[2] == "labels":
            added.colormap = CyclicLabelColormap(colors=np.vstack([np.zeros(4), np.insert(SHADES, 3, 1, axis=1)]))
    painted = viewer.layers[PAINTED]
    viewer.layers.selection.active = painted
    painted.mode, painted.selected_label = "paint", int(painted.data.max()) + 1
    viewer.dims.set_point(range(3), [float(at) for at in painted.extent.world.mean(axis=0)])
    viewer.scale_bar.visible = True
    viewer.bind_key("Control-S", lambda _: save(painted.data), overwrite=True)
    return painted


def paint(layers: Sequence[LayerData], save: Callable[[npt.NDArray[Any]], None], title: str) -> None:
    """Open a napari window with layers, and return when it is closed; what was painted is saved then too.

    Args:
        layers, save: As for ``fill_viewer``.
        title: Of the window.
    """
    painted = fill_viewer(napari.Viewer(title=title), layers, save)
    try:
        napari.run()
    finally:
        save(painted.data)
