"""The work of ``incasem-like paint``: the crop to paint, its layers, and the window."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from incasem_like.bootstrapping.places import CROPS, PaintedCrop
from incasem_like.errors import InputError
from incasem_like.formatting.crops import create_crop
from incasem_like.formatting.derive import Derivation
from incasem_like.terminal import report_written
from incasem_like.viewing.napari_layers import PAINTED, layer_data
from incasem_like.viewing.opening import open_layer, open_place
from incasem_like.volumes import NanometreRoi, dataset_exists, parse_address
from incasem_like.volumes.opening import locate

if TYPE_CHECKING:
    from incasem_like.viewing.layers import Layer
    from incasem_like.viewing.napari_layers import LayerData


def load_window() -> ModuleType:
    """Import the module of napari's window.

    Raises:
        InputError: napari, or a Qt for its window, is not installed; or there is no display.
    """
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"} & set(os.environ):
        raise InputError("Painting needs a display: log in with 'ssh -X', or copy the crop and paint it there.")
    try:
        from incasem_like.viewing import napari_window
    except ImportError as error:
        raise InputError(f"Painting needs napari and Qt ({error}): pip install 'incasem-like[napari]'.") from None
    return napari_window


def place_of_round(result: Any, name: str, place: int) -> str:
    """Return the group of a place to paint of a round.

    Raises:
        InputError: The round has no places, or not that many.
    """
    folder = result.get("places") if isinstance(result, dict) else None
    if not folder:
        raise InputError(f"Run {name} has no places to paint: name a finished round, or a crop.")
    group = Path(folder) / CROPS / f"place_{place:02d}"
    if not group.exists():
        raise InputError(f"Run {name} has no place {place} ({group}): see {Path(folder) / 'places.csv'}.")
    return str(group)


def make_crop(crop: str, raw: str, offset: Sequence[int], shape: Sequence[int], margin: Sequence[int]) -> None:
    """Make the group of a new crop, or find that it is there already.

    Raises:
        InputError: The address is not inside a container, or another crop is there.
        DataError: As ``create_crop``.
    """
    address = parse_address(str(Path(crop).absolute()))
    if not address.dataset:
        raise InputError(f"{crop} is not a group in a container: name one, such as cell.zarr/crops/a.")
    derivation = Derivation("", "", address.dataset, (64, 64, 64), 1, out_container=address.container)
    written = create_crop(raw, derivation, offset=offset, shape=shape, margin=margin)
    report_written("the crop", crop, already=all(one.already_complete for one in written))


def layers_of_crop(crop: str, over: Sequence[str]) -> tuple[PaintedCrop, list[LayerData]]:
    """Return a crop, and its layers for napari: raw below, then further volumes, the labels to paint above.

    Args:
        crop: Address of the group.
        over: Further volumes; only their part in the crop is shown.

    Raises:
        DataError: The group has no labels, or a volume cannot be read.
    """
    address = locate(crop)
    if not dataset_exists(address.container, f"{address.dataset}/labels"):
        raise InputError(
            f"{crop} has no dataset 'labels' to paint: name a crop, or make one with --raw, --offset and --shape."
        )
    target = PaintedCrop(address.container, address.dataset)
    labels = replace(open_layer(target.labels().address), name=PAINTED, meaning="labels", visible=True)
    found: list[Layer] = []
    further = [layer for place in over for layer in open_place(place)]
    box = None
    for layer in open_place(crop):
        name = layer.name.rpartition("/")[2]
        if name == "raw":
            volume = layer.served.finest
            size = volume.require_voxel_size()
            sides = tuple(count * nm for count, nm in zip(volume.shape, size, strict=True))
            box = NanometreRoi(volume.offset, sides)
            found.insert(0, replace(layer, name=name, meaning="raw"))
        elif name != "labels":
            found.append(replace(layer, name=name, visible=name != "mask"))
    data = [one for layer in found for one in layer_data(layer)]
    data += [one for layer in further for one in layer_data(layer, box)]
    return target, [*data, *layer_data(labels)]
