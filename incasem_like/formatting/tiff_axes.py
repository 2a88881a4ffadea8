"""Axes and voxel size of a TIFF, as the descriptions of OME, ImageJ, tifffile and microscopes state them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError, InputError
from incasem_like.formatting.section_file import SECTION_AXES, ReadOptions

if TYPE_CHECKING:
    import tifffile

UNNAMED = "QI"  # tifffile's letters of axes without a name
SERIES_KINDS = ("is_lsm", "is_stk", "is_fluoview", "is_scanimage")  # tifffile's series stay within these files
FLAGS = {"C": "--channel", "T": "--time"}
NANOMETRES = {
    "nm": 1.0, "nanometer": 1.0, "nanometre": 1.0, "å": 0.1, "pm": 1e-3,
    "µm": 1e3, "μm": 1e3, "um": 1e3, "micron": 1e3, "microns": 1e3, "micrometer": 1e3, "\\u00b5m": 1e3,
    "mm": 1e6, "cm": 1e7, "m": 1e9, "inch": 2.54e7,
}  # fmt: skip
VoxelSize = tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class Planes:
    """Positions of the 2-D planes of a file on the axes that tell them apart.

    Attributes:
        axes: One letter per axis (T, Z, C; Q without a name), the slowest first.
        sizes: Sizes of the axes; those of an image in several files count all of them.
        positions: Of each plane, in the order of the file: (planes, axes).
    """

    axes: str
    sizes: tuple[int, ...]
    positions: npt.NDArray[np.int64]

    @classmethod
    def in_order(cls, sizes: dict[str, int]) -> Planes:
        """Return the planes of a file that stores them in the order of its axes."""
        positions = np.array(list(product(*map(range, sizes.values()))), np.int64)
        return cls("".join(sizes), tuple(sizes.values()), positions)

    def choose(self, options: ReadOptions, samples: int, path: str) -> tuple[npt.NDArray[np.int64], int, Origin]:
        """Return the planes that are sections, in order, the sample of their pixels, and their origin.

        Args:
            options: Channel, time point and section axis.
            samples: Channels that each pixel holds.
            path: For messages.

        Raises:
            InputError: More than one position on an axis that is not the sections', and none chosen.
        """
        axes, sizes = [*self.axes], dict(zip(self.axes, self.sizes, strict=True))
        sizes["C"] = sizes.get("C", 1) * samples
        text = " x ".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1)
        sections = options.section_axis
        if sections == "Z" and sizes.get("Z", 1) == 1:
            sections = next((axis for axis in UNNAMED if sizes.get(axis, 1) > 1), "Z")
        kept = np.ones(len(self.positions), bool)
        for axis, choice in (("C", options.channel), ("T", options.time)):
            if choice is not None and not 0 <= choice < sizes.get(axis, 1):
                raise InputError(
                    f"{path} has {sizes.get(axis, 1)} {SECTION_AXES[axis]}(s), counted from 0, but {FLAGS[axis]} is "
                    f"{choice}: choose another."
                )
            if choice is not None and axis in axes:
                kept &= self.positions[:, axes.index(axis)] == (choice // samples if axis == "C" else choice)
        origin = {}
        for index, axis in enumerate(axes):
            found = np.unique(self.positions[kept, index])
            if axis != sections and found.size:
                if found.size > 1:
                    raise InputError(_ambiguous(path, axis, text, sizes.get(sections, 1) == 1))
                origin[axis] = int(found[0])
        if samples > 1 and options.channel is None:
            raise InputError(_ambiguous(path, "C", text, False))
        numbers = np.flatnonzero(kept)
        if sections in axes:
            place = self.positions[numbers, axes.index(sections)]
            if np.unique(place).size < place.size:
                raise DataError(f"{path} holds the same section of {text} twice: export it again.")
            numbers = numbers[np.argsort(place)]
        return numbers, (options.channel or 0) % samples, tuple(sorted(origin.items()))


Origin = tuple[tuple[str, int], ...]


def _ambiguous(path: str, axis: str, text: str, sections_left: bool) -> str:
    import tifffile

    if axis not in FLAGS:
        name = "without a name" if axis in UNNAMED else f"{axis} ({tifffile.TIFF.AXES_NAMES.get(axis, 'unknown')})"
        return f"{path} has an axis {name} besides its sections ({text}): export each position as a file of its own."
    otherwise = f", or make them the sections with --section_axis {axis}" if sections_left else ""
    return f"{path} has more than one {SECTION_AXES[axis]} ({text}): choose one with {FLAGS[axis]}{otherwise}."


def find_planes(
    tiff: tifffile.TiffFile, path: Path, first: tifffile.TiffPage, ifds: list[int], shapes: list[str]
) -> Planes:
    """Return the planes of a file.

    Args:
        tiff: The open file.
        path: The file.
        first: Its first full-resolution page.
        ifds: Numbers of all its full-resolution pages.
        shapes: Descriptions that tifffile gives to the first page of each array it writes.

    Raises:
        DataError: The description contradicts the pages, or cannot be understood.
    """
    depth, samples = first.imagedepth, first.samplesperpixel
    count = len(ifds) * depth
    if tiff.is_ome:
        return _ome_planes(path, tiff.ome_metadata or "", ifds, samples)
    if tiff.is_imagej:
        sizes = _imagej_sizes(tiff.imagej_metadata or {})
    elif shapes:
        sizes = _shaped_sizes(path, [json.loads(text) for text in shapes if text[0] == "{"], first, count)
    elif any(getattr(tiff, kind) for kind in SERIES_KINDS):
        series = tiff.series[0]
        sizes = _named(series.get_axes(False), series.get_shape(False))
    else:
        sizes = {}
    if samples > 1 and sizes.get("C") == samples and prod(sizes.values()) == count * samples:
        sizes["C"] = 1  # they are the samples of each pixel
    described = prod(sizes.values())
    stacked = len(ifds) == depth == 1 and described > 1 and first.is_final
    if described == count or stacked:
        return Planes.in_order(sizes or {"Z": 1})
    if any(size > 1 for axis, size in sizes.items() if axis not in f"Z{UNNAMED}"):
        text = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise DataError(f"{path} describes {described} planes ({text}), but holds {count}: export it again.")
    return Planes.in_order({"Z": count})


def _named(axes: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Return the sizes of the axes that tell planes apart."""
    return {axis: size for axis, size in zip(axes, shape, strict=True) if axis not in "YXS"}


def _imagej_sizes(description: dict[str, Any]) -> dict[str, int]:
    keys = {"C": "channels", "Z": "slices", "T": "frames"}
    order = str(description.get("order", "czt")).upper()
    sizes = {
        axis: int(description.get(keys[axis], 1)) for axis in reversed(order if set(order) == set(keys) else "CZT")
    }
    return sizes if prod(sizes.values()) > 1 else {"Z": int(description.get("images", 1))}


def _shaped_sizes(path: Path, arrays: list[dict[str, Any]], first: tifffile.TiffPage, count: int) -> dict[str, int]:
    shape = tuple(arrays[0]["shape"]) if arrays else ()
    if len(arrays) != 1:
        # Pages that were appended one by one are sections; several stacks in one file are not one stack.
        if count > len(arrays) > 0:
            raise DataError(f"{path} holds {len(arrays)} images (the first: {list(shape)}): export each as a file.")
        return {}
    axes = str(arrays[0].get("axes", ""))
    if len(axes) == len(shape) and axes:
        if not axes.rstrip("S").replace("S", "").endswith("YX"):
            raise DataError(f"{path} stores axes in the order {axes}, but pages must be Y x X: export it again.")
        return _named(axes, shape)
    sizes = [size for size in shape[: max(0, len(shape) - len(first.shape))] if size > 1]
    if len(sizes) > 1:
        raise DataError(f"{path} has more than one axis without a name ({list(shape)}): export it with axis names.")
    inner = {"Z": first.imagedepth} if first.imagedepth > 1 else {}
    return {**({"Q": sizes[0]} if sizes else {}), **inner}


def _ome_planes(path: Path, xml: str, ifds: list[int], samples: int) -> Planes:
    """Return the planes that OME-XML gives to this file; other files that it names are never opened."""
    only_sections, numbers = Planes.in_order({"Z": len(ifds)}), {ifd: number for number, ifd in enumerate(ifds)}
    root = _ome_root(path, xml)
    if root is None:
        if len(ifds) == 1:
            return only_sections
        raise DataError(f"{path} names its axes in a companion file that is missing or unreadable: copy it beside.")
    if (modulo := next((e for e in root.iter() if "}ModuloAlong" in e.tag), None)) is not None:
        raise DataError(
            f"{path} splits axis {modulo.tag[-1]} into {modulo.get('Type', 'other')} positions: export each as a file."
        )
    images = []
    for image in root.iterfind("{*}Image/{*}Pixels"):
        axes = image.get("DimensionOrder", "XYZCT")[:1:-1]
        sizes = {axis: int(image.get(f"Size{axis}", 1)) for axis in axes}
        sizes["C"] = max(1, sizes["C"] // samples)
        places = _ome_places(image, _own_data(root, image, path), sizes, len(ifds))
        images.append((sizes, {numbers.get(ifd, -1): place for ifd, place in places}))
    images = [image for image in images if image[1]] or images[:1]
    if len(images) > 1:
        raise DataError(f"{path} holds {len(images)} images by its OME-XML: export each as a file of its own.")
    sizes, positions = images[0] if images else ({"Z": len(ifds)}, {})
    if sorted(positions) == list(range(len(ifds))):
        return Planes(
            "".join(sizes), tuple(sizes.values()), np.array([positions[n] for n in range(len(ifds))], np.int64)
        )
    if sizes.get("C", 1) == sizes.get("T", 1) == 1 or len(ifds) == 1:
        return only_sections
    text = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
    raise DataError(f"{path} has {len(ifds)} pages that do not match its OME-XML ({text}): export it again.")


def _ome_root(path: Path, xml: str) -> ElementTree.Element | None:
    """Return the OME-XML of a file or of its companion, under the identifier of the file itself."""
    try:
        root = ElementTree.fromstring(xml)
        if (pointer := root.find("{*}BinaryOnly")) is None:
            return root
        companion = ElementTree.parse(path.with_name(Path(pointer.get("MetadataFile", "")).name)).getroot()
    except (ElementTree.ParseError, OSError, ValueError):
        return None
    companion.set("UUID", root.get("UUID", ""))
    return companion


def _own_data(root: ElementTree.Element, image: ElementTree.Element, path: Path) -> list[ElementTree.Element]:
    """Return the TiffData of an image that lie in this file: by its name, else by its identifier."""
    named = [(data, data.find("{*}UUID")) for data in image.iterfind("{*}TiffData")]
    by_name = [d for d, uuid in named if uuid is None or uuid.get("FileName", "").lower() == path.name.lower()]
    return by_name or [d for d, uuid in named if uuid is not None and uuid.text and uuid.text == root.get("UUID")]


def _ome_places(
    image: ElementTree.Element, own: list[ElementTree.Element], sizes: dict[str, int], pages: int
) -> list[tuple[int, tuple[int, ...]]]:
    """Return (page number, position) of the planes in this file."""
    places = []
    total = prod(sizes.values())
    for data in own:
        begin = [int(data.get(f"First{axis}", 0)) for axis in sizes]
        start = int(np.ravel_multi_index(begin, tuple(sizes.values()), mode="clip"))
        count = data.get("PlaneCount") or data.get("NumPlanes") or (1 if "IFD" in data.attrib else min(total, pages))
        for step in range(min(int(count), total - start)):
            position = np.unravel_index(start + step, tuple(sizes.values()))
            places.append((int(data.get("IFD", 0)) + step, tuple(map(int, position))))
    return places


def find_voxel_size(tiff: tifffile.TiffFile, path: Path) -> VoxelSize:
    """Return z, y, x in nm as OME-XML or ImageJ's description states them, None where they do not."""
    if tiff.is_ome:
        root = _ome_root(path, tiff.ome_metadata or "")
        image = root.find("{*}Image/{*}Pixels") if root is not None else None
        if image is None:
            return None, None, None
        return _size_of(image, "Z"), _size_of(image, "Y"), _size_of(image, "X")
    if tiff.is_imagej:
        description = tiff.imagej_metadata or {}
        scale = NANOMETRES.get(str(description.get("unit", "")).lower())
        y, x = (_fraction(tiff.pages.first.tags.valueof(code)) for code in (283, 282))  # Y and X resolution
        z = description.get("spacing")
        return tuple(  # type: ignore[return-value]
            float(size) * scale if scale and isinstance(size, (int, float)) and size > 0 else None for size in (z, y, x)
        )
    return None, None, None


def _size_of(image: ElementTree.Element, axis: str) -> float | None:
    try:
        size = float(image.get(f"PhysicalSize{axis}", ""))
        return size * NANOMETRES[image.get(f"PhysicalSize{axis}Unit", "µm").lower()] or None
    except (KeyError, ValueError):
        return None


def _fraction(resolution: tuple[int, int] | None) -> float | None:
    """Return the size of a pixel from the number of pixels per unit."""
    return resolution[1] / resolution[0] if resolution and resolution[0] else None
