"""Layers of a viewer: what a dataset shows follows from its own metadata, type and name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from incasem_like.viewing.served import ServedVolume, sample_range
from incasem_like.volumes import NanometreRoi, Volume
from incasem_like.volumes.values import stated_scale

Meaning = Literal["raw", "labels", "mask", "probabilities", "channels", "error"]
MEANINGS: tuple[Meaning, ...] = get_args(Meaning)
Shader = Literal["default", "rgb", "mask", "heatmap", "probmap"]
SHADERS: tuple[Shader, ...] = get_args(Shader)

_LABELS = re.compile(r"label|seg|ids\b|instance|fragment|truth|\bgt|class_map|object", re.IGNORECASE)
_MASK = re.compile(r"mask|unlabel", re.IGNORECASE)
_ERROR = re.compile(r"error", re.IGNORECASE)
_PROBABILITIES = re.compile(r"prob|pred|boundar", re.IGNORECASE)
# Nine colours of Paul Tol's muted scheme, told apart with any colour vision; boxes and curves take them in turn.
COLOURS = ("#cc6677", "#88ccee", "#ddcc77", "#44aa99", "#332288", "#aa4499", "#999933", "#117733", "#882255")

# A program is the part that computes values in 0 to 1 from what is stored, and the part that makes a colour of them.
_ONE_VALUE = """#uicontrol invlerp normalized(range=[{low:g}, {high:g}])
float value() {{ return clamp(normalized(), 0.0, 1.0); }}
"""
_CHANNEL_VALUE = """#uicontrol float low slider(min={floor:g}, max={high:g}, default={low:g})
#uicontrol float high slider(min={floor:g}, max={high:g}, default={high:g})
float value(int channel) {{
  return clamp((float(toRaw(getDataValue(channel))) - low) / max(high - low, 1e-6), 0.0, 1.0);
}}
"""
_CHOSEN_VALUE = """#uicontrol int channel slider(min=0, max={last}, default=0)
float value() {{ return value(channel); }}
"""
_LOOKS = {
    "default": "void main() { emitGrayscale(value()); }",
    "heatmap": """void main() {
  vec3 colour = clamp(vec3(3.0, 3.0, 3.0) * value() - vec3(0.0, 1.0, 2.0), 0.0, 1.0);
  emitRGBA(vec4(colour, value()));
}""",
    "probmap": """#uicontrol vec3 colour color(default="#ddcc77")
void main() { emitRGBA(vec4(colour, value())); }""",
    "mask": """#uicontrol float threshold slider(min=0, max=1, default=0.5)
#uicontrol vec3 colour color(default="#cc6677")
void main() { emitRGBA(vec4(colour, value() >= threshold ? 1.0 : 0.0)); }""",
    "rgb": """#uicontrol int red slider(min=0, max={last}, default=0)
#uicontrol int green slider(min=0, max={last}, default={second})
#uicontrol int blue slider(min=0, max={last}, default={third})
void main() {{ emitRGB(vec3(value(red), value(green), value(blue))); }}""",
}
_USUAL_LOOKS = {"probabilities": "probmap", "error": "heatmap", "channels": "rgb"}


def meaning_of(volume: Volume) -> Meaning:
    """Return what a dataset holds, by its attributes, data type and name.

    Example:
        >>> from incasem_like.volumes import create_volume
        >>> ids = create_volume("vnc.zarr/neuron_ids", shape=(4, 4, 4), dtype="uint64", voxel_size=(1, 1, 1))
        >>> meaning_of(ids)
        'labels'
    """
    name, kind = volume.dataset or volume.container.rpartition("/")[2], volume.dtype.kind
    attributes = volume.attributes
    if volume.axes.startswith("c"):
        return "channels"
    if _ERROR.search(name):
        return "error"
    if kind == "b" or (_MASK.search(name) and kind in "ui"):
        return "mask"
    if kind in "ui" and (volume.dtype.itemsize >= 4 or _LABELS.search(name)):
        return "labels"
    whole = {"activation", "threshold", "classes"} & set(attributes) or _PROBABILITIES.search(name)
    return "probabilities" if whole and "raw" not in name.lower() else "raw"


@dataclass(frozen=True)
class Layer:
    """A dataset on screen.

    Attributes:
        name: On its tab.
        served: The volume.
        meaning: What it holds.
        shader: How images look; ``default`` follows from the meaning.
        visible: Whether it is shown at first.
    """

    name: str
    served: ServedVolume
    meaning: Meaning
    shader: Shader = "default"
    visible: bool = True

    def state(self, source: str) -> dict[str, Any]:
        """Return the layer for neuroglancer's state; ``source`` is the address that its data come from."""
        common: dict[str, Any] = {"name": self.name, "source": source, "visible": self.visible}
        if self.meaning in ("labels", "mask") and self.shader == "default":
            look: dict[str, Any] = {"selectedAlpha": 0.5, "notSelectedAlpha": 0}
            if self.meaning == "mask":
                look = {"selectedAlpha": 0.3, "segmentDefaultColor": COLOURS[0]}
            return {**common, "type": "segmentation", **look}
        return {
            **common,
            "type": "image",
            "shader": self.shader_code(),
            "opacity": 1 if self.meaning == "raw" else 0.6,
        }

    def shader_code(self) -> str:
        """Return the program that turns values into colours."""
        low, high = self.value_range()
        look = _USUAL_LOOKS.get(self.meaning, "default") if self.shader == "default" else self.shader
        if self.meaning != "channels":
            return _ONE_VALUE.format(low=low, high=high) + _LOOKS["default" if look == "rgb" else look]
        last = self.served.finest.shape[0] - 1
        program = _CHANNEL_VALUE.format(low=low, high=high, floor=min(low, 0))
        if look == "rgb":
            return program + _LOOKS["rgb"].format(last=last, second=min(1, last), third=min(2, last))
        return program + _CHOSEN_VALUE.format(last=last) + _LOOKS[look]

    def value_range(self) -> tuple[float, float]:
        """Return the stored values that are shown as black and white."""
        volume = self.served.finest
        scale = stated_scale(volume)
        if scale is not None and volume.dtype.kind == "f" and self.meaning == "raw":
            scale = None
        if scale is not None:
            return 0.0, scale
        if volume.dtype.name in ("uint8", "bool"):
            return 0.0, 255.0 if volume.dtype == "uint8" else 1.0
        return sample_range(volume)


def boxes_layer(name: str, boxes: Mapping[str, NanometreRoi], colour: str) -> dict[str, Any]:
    """Return an annotation layer with boxes.

    Args:
        name: Of the layer.
        boxes: Regions in nm, z, y, x, by the text to show.
        colour: Of their edges, ``#rrggbb``.
    """
    return {
        "type": "annotation",
        "name": name,
        "source": {"url": "local://annotations", "transform": {"outputDimensions": {a: [1e-9, "m"] for a in "xyz"}}},
        "annotationColor": colour,
        "annotations": [
            {
                "type": "axis_aligned_bounding_box",
                "id": f"{name} {text}",
                "description": text,
                "pointA": list(box.offset)[::-1],
                "pointB": [begin + length for begin, length in zip(box.offset, box.shape, strict=True)][::-1],
            }
            for text, box in boxes.items()
        ],
    }


class Named(Protocol):
    """Something with a name."""

    @property
    def name(self) -> str:
        """The name."""


def unique_names(layers: Sequence[Named]) -> list[str]:
    """Return names of layers, with a number where several have the same."""
    seen: dict[str, int] = {}
    names = []
    for layer in layers:
        seen[layer.name] = seen.get(layer.name, 0) + 1
        names.append(layer.name if seen[layer.name] == 1 else f"{layer.name} ({seen[layer.name]})")
    return names
