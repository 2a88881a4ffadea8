"""Scenes: layers, boxes and their arrangement, as a state that neuroglancer reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from incasem_like.viewing.layers import COLOURS, Layer, boxes_layer, unique_names
from incasem_like.viewing.objects import ObjectLayer
from incasem_like.volumes import NanometreRoi, Volume

Plane = Literal["4panel", "xy", "xz", "yz", "3d"]
PIXELS = 800  # of a view, about; the volume is fitted into it
MOST_VOXELS_A_PIXEL = 2  # without a pyramid: every voxel of the view is read


@dataclass(frozen=True)
class Scene:
    """What a viewer shows.

    Attributes:
        layers: Layers, the lowest first.
        boxes: Regions in nm by their text, for each box layer by its name.
        grid: Rows of views, each with the numbers of its layers; empty shows all layers in one view.
        plane: Planes that are shown.
        region: What the first view is fitted to; by default the first layer.
        objects: Meshes, skeletons and graphs, above the layers.
        places: Places to paint in nm by their text: boxes that the view can be centred on.
    """

    layers: Sequence[Layer]
    boxes: Mapping[str, Mapping[str, NanometreRoi]] = field(default_factory=dict)
    grid: Sequence[Sequence[Sequence[int]]] = ()
    plane: Plane = "4panel"
    region: NanometreRoi | None = None
    objects: Sequence[ObjectLayer] = ()
    places: Mapping[str, NanometreRoi] = field(default_factory=dict)

    def state(self, address: str, place: int | None = None) -> dict[str, Any]:
        """Return neuroglancer's state.

        Args:
            address: URL below which the data of layer 2 are found at ``data/2``, and object layer 0 at ``objects/0``.
            place: Number of the place, from 0, that the view is centred on.

        Raises:
            IndexError: There is no such place.
        """
        names = unique_names([*self.layers, *self.objects])
        layers = [layer.state(f"{address}/data/{number}/|zarr2:") for number, layer in enumerate(self.layers)]
        layers += [layer.state(f"{address}/objects/{number}") for number, layer in enumerate(self.objects)]
        layers = [{**layer, "name": name} for layer, name in zip(layers, names, strict=True)]
        all_boxes = {**self.boxes, **({"places to paint": self.places} if self.places else {})}
        boxes = [
            boxes_layer(name, found, COLOURS[number % len(COLOURS)])
            for number, (name, found) in enumerate(all_boxes.items())
        ]
        size = voxel_size_shown(self.layers[0].served.finest) if self.layers else (1.0, 1.0, 1.0)
        region = self._region(place)
        centre = [begin + length / 2 for begin, length in zip(region.offset, region.shape, strict=True)]
        across = max(length / nm for length, nm in zip(region.shape[-2:], size[-2:], strict=True)) / PIXELS
        pyramids = all(layer.served.level_count > 1 for layer in self.layers if layer.visible)
        names_of_steps = self.layers[0].served.step_names if self.layers else ()
        steps = (
            {"step": {"coordinates": list(range(len(names_of_steps))), "labels": list(names_of_steps)}}
            if names_of_steps
            else {}
        )
        return {
            "dimensions": {
                **{axis: [nm * 1e-9, "m"] for axis, nm in zip("xyz", reversed(size), strict=True)},
                **steps,
            },
            "position": [at / nm for at, nm in zip(centre, size, strict=True)][::-1] + [0.5] * len(steps),
            "crossSectionScale": min(max(across, 0.05), 1e9 if pyramids else MOST_VOXELS_A_PIXEL),
            "projectionScale": max(length / size[-1] for length in region.shape) * 1.5,
            "layers": [*layers, *boxes],
            "showSlices": True,
            "showDefaultAnnotations": not all_boxes,
            "layout": self._layout(names),
            "selectedLayer": {"layer": names[0], "visible": False},
        }

    def _region(self, place: int | None) -> NanometreRoi:
        """Return what the view is fitted to."""
        if place is not None:
            box = list(self.places.values())[place]
            begin = tuple(at - length / 2 for at, length in zip(box.offset, box.shape, strict=True))
            return NanometreRoi(begin, tuple(2 * length for length in box.shape))
        if self.region is not None:
            return self.region
        if self.layers:
            return NanometreRoi(*_extent(self.layers[0].served.finest))
        found = [one.extent for one in self.objects]
        return next((box for box in found if box is not None), None) or NanometreRoi((0, 0, 0), (1, 1, 1))

    def _layout(self, names: Sequence[str]) -> Any:
        if not self.grid:
            return self.plane
        boxes = list(self.boxes)
        rows = [
            {
                "type": "row",
                "children": [
                    {"type": "viewer", "layers": [*(names[number] for number in view), *boxes], "layout": self.plane}
                    for view in row
                ],
            }
            for row in self.grid
        ]
        return rows[0] if len(rows) == 1 else {"type": "column", "children": rows}


def voxel_size_shown(volume: Volume) -> tuple[float, float, float]:
    """Return the voxel size z, y, x in nm for a viewer: 1 nm where it is unknown, and for z of images."""
    size = volume.voxel_size or (1.0,) * len(volume.spatial_shape)
    z, y, x = (1.0,) * (3 - len(size)) + tuple(size)
    return z, y, x


def _extent(volume: Volume) -> tuple[tuple[float, ...], tuple[float, ...]]:
    size = voxel_size_shown(volume)
    missing = 3 - len(volume.spatial_shape)
    offset = (0.0,) * missing + tuple(volume.offset)
    shape = (1,) * missing + tuple(volume.spatial_shape)
    return offset, tuple(count * nm for count, nm in zip(shape, size, strict=True))
