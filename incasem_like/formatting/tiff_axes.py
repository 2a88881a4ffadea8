"""Axes and voxel size of a TIFF, from the metadata of OME, ImageJ, tifffile and microscopes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import tifffile

from incasem_like.errors import DataError, InputError
from incasem_like.formatting.section_file import SECTION_AXES, Origin, ReadOptions, VoxelSize

UNNAMED = "QI"  # tifffile's letters for unnamed axes
SERIES_KINDS = ("is_lsm", "is_stk", "is_fluoview", "is_scanimage")  # formats whose tifffile series stay within one file
FLAGS = {"C": "--channel", "T": "--time"}
IMAGEJ_SIZES = {"C": "channels", "Z": "slices", "T": "frames"}
NANOMETRES = {
    **dict.fromkeys(("nm", "nanometer"), 1.0),
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "\\u00b5m"), 1e3),
    **{"å": 0.1, "pm": 1e-3, "mm": 1e6, "cm": 1e7, "m": 1e9, "inch": 2.54e7},
}


@dataclass(frozen=True)
class Planes:
    """The 2-D planes of a file and their positions on the other axes.

    Attributes:
        sizes: Letter (T, Z, C; Q without a name) to size, slowest first; an image in several files counts whole.
        positions: Position of each plane, in the order of the file: (planes, axes).
    """

    sizes: dict[str, int]
    positions: npt.NDArray[np.int64]

    @classmethod
    def in_order(cls, sizes: dict[str, int]) -> Planes:
        """Return the planes of a file that stores them in the order of its axes."""
        return cls(sizes, np.array(list(product(*map(range, sizes.values()))), np.int64))

    def choose(self, options: ReadOptions, samples: int, path: str) -> tuple[npt.NDArray[np.int64], int, Origin]:
        """Return the planes that are sections, in order, the index of their sample, and their origin.

        Args:
            options: Channel, time point and section axis.
            samples: Channels per pixel.
            path: Path of the file, for messages.

        Raises:
            InputError: Several positions on an axis other than the section axis, and none chosen.
        """
        sizes = {**self.sizes, "C": self.sizes.get("C", 1) * samples}
        text = _joined(sizes)
        section_axis = options.section_axis
        if section_axis == "Z" and sizes.get("Z", 1) == 1:
            section_axis = next((axis for axis in UNNAMED if sizes.get(axis, 1) > 1), "Z")
        chosen = {"C": options.channel, "T": options.time}
        for axis, position in chosen.items():
            if position is not None and not 0 <= position < sizes.get(axis, 1):
                raise InputError(
                    f"{path} has {sizes.get(axis, 1)} {SECTION_AXES[axis]}(s), counted from 0, but {FLAGS[axis]} is "
                    f"{position}: choose another."
                )
        if samples > 1 and options.channel is None:
            raise InputError(_ambiguous(path, "C", text, False))
        kept = np.arange(len(self.positions))
        for index, axis in enumerate(self.sizes):
            if (position := chosen.get(axis)) is not None:
                position = position // samples if axis == "C" else position
                kept = kept[self.positions[kept, index] == position]
        origin = []
        for index, axis in enumerate(self.sizes):
            found = np.unique(self.positions[kept, index])
            if axis != section_axis and len(found) > 1:
                raise InputError(_ambiguous(path, axis, text, sizes.get(section_axis, 1) == 1))
            origin += [(axis, int(position)) for position in found if axis != section_axis]
        if section_axis in self.sizes:
            positions = self.positions[kept, [*self.sizes].index(section_axis)]
            if len(np.unique(positions)) < len(kept):
                raise DataError(f"{path} holds a section of {text} twice: export it again.")
            kept = kept[np.argsort(positions)]
        return kept, (options.channel or 0) % samples, tuple(sorted(origin))


def _joined(sizes: dict[str, int]) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1)


def _ambiguous(path: str, axis: str, text: str, sections_left: bool) -> str:
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
        shapes: Descriptions that tifffile writes to the first page of each array.

    Raises:
        DataError: The description contradicts the pages, or cannot be parsed.
    """
    samples, count = first.samplesperpixel, len(ifds) * first.imagedepth
    if tiff.is_ome:
        return _ome_planes(path, tiff.ome_metadata or "", first, ifds)
    if tiff.is_imagej:
        sizes = _imagej_sizes(tiff.imagej_metadata or {})
    elif any(getattr(tiff, kind) for kind in SERIES_KINDS):
        sizes = _without_yx(tiff.series[0].get_axes(False), tiff.series[0].get_shape(False))
    else:
        sizes = _shaped_sizes(path, shapes, first, count)
    if samples > 1 and sizes.get("C") == samples and prod(sizes.values()) == count * samples:
        sizes["C"] = 1  # they are the samples of each pixel
    described = prod(sizes.values())
    if described == count or (count == 1 and is_stack(first, described)):
        return Planes.in_order(sizes or {"Z": 1})
    if any(size > 1 for axis, size in sizes.items() if axis not in f"Z{UNNAMED}"):
        raise DataError(f"{path} describes {described} planes ({_joined(sizes)}), but holds {count}: export it again.")
    return Planes.in_order({"Z": count})


def is_stack(page: tifffile.TiffPage, planes: int) -> bool:
    """Return whether planes can be stored contiguously behind a single page, as ImageJ does beyond 4 GB."""
    begin = page.dataoffsets[0]
    end = begin + planes * page.nbytes // page.imagedepth
    # A header in between shows that the description is left over from another file.
    return planes > 1 and page.is_final and page.shaped[0] == 1 and not begin < page.offset < end


def _without_yx(axes: str, shape: tuple[int, ...]) -> dict[str, int]:
    return {axis: size for axis, size in zip(axes, shape, strict=True) if axis not in "YXS"}


def _imagej_sizes(description: dict[str, Any]) -> dict[str, int]:
    order = str(description.get("order", "czt")).upper()
    axes = order[::-1] if sorted(order) == sorted(IMAGEJ_SIZES) else "TZC"
    sizes = {axis: int(description.get(IMAGEJ_SIZES[axis], 1)) for axis in axes}
    return sizes if prod(sizes.values()) > 1 else {"Z": int(description.get("images", 1))}


def _shaped_sizes(path: Path, descriptions: list[str], first: tifffile.TiffPage, count: int) -> dict[str, int]:
    arrays = [_array_description(text) for text in descriptions]
    if len(arrays) != 1:
        # Pages that were appended one by one are sections; several stacks in one file are not one stack.
        if count > len(arrays) > 0:
            raise DataError(f"{path} holds {len(arrays)} images ({arrays[0][0]} first): export each as a file.")
        return {}
    [(shape, axes)] = arrays
    if len(axes) == len(shape):
        named = dict(zip(axes, shape, strict=True))
        in_page = (named.get("Y"), named.get("X")) == (first.imagelength, first.imagewidth)
        if count > 1 and not (in_page and axes.replace("S", "").endswith("YX")):
            raise DataError(f"{path} has axes {axes} of {shape}, but its pages are not Y x X: export it again.")
        return _without_yx(axes, tuple(shape))
    pages = prod(shape) // prod(first.shape)
    if pages > 1 and pages not in shape[: len(shape) - len(first.shape)]:
        raise DataError(f"{path} has more than one axis without a name ({shape}): export it with axis names.")
    return {"Q": pages, "Z": first.imagedepth}


def _array_description(text: str) -> tuple[list[int], str]:
    """Return shape and axes from tifffile's description; empty for similar text of another program."""
    try:
        description = json.loads(text)
        return [int(size) for size in description["shape"]], str(description.get("axes", ""))
    except (ValueError, KeyError, TypeError):
        return [], "?"


def _ome_planes(path: Path, xml: str, first: tifffile.TiffPage, ifds: list[int]) -> Planes:
    """Return the planes that OME-XML gives to this file; other files that it names are never opened."""
    only_sections = Planes.in_order({"Z": len(ifds)})
    root = _ome_root(path, xml)
    if root is None:
        if len(ifds) == 1:
            return only_sections
        raise DataError(f"{path} names its axes in a companion file that is missing or unreadable: copy it beside.")
    if (modulo := next((element for element in root.iter() if "}ModuloAlong" in element.tag), None)) is not None:
        kind = modulo.get("Type", "other")
        raise DataError(f"{path} splits axis {modulo.tag[-1]} into {kind} positions: export each as a file.")
    images = []
    for image in root.iterfind("{*}Image/{*}Pixels"):
        axes = image.get("DimensionOrder", "XYZCT")[:1:-1]
        sizes = {axis: int(image.get(f"Size{axis}", 1)) for axis in axes}
        sizes["C"] = max(1, sizes["C"] // first.samplesperpixel)
        if len(ifds) == 1 and _is_ome_stack(image, path, first, prod(sizes.values())):
            return Planes.in_order(sizes)
        images.append(Planes(sizes, _ome_positions(image, path, root.get("UUID"), sizes, ifds)))
    images = [planes for planes in images if len(planes.positions)] or images[:1] or [only_sections]
    if len(images) > 1:
        raise DataError(f"{path} holds {len(images)} images by its OME-XML: export each as a file of its own.")
    [planes] = images
    if len(planes.positions) == len(ifds) and planes.positions.min() >= 0:
        return planes
    if len(ifds) == 1 or planes.sizes["C"] == planes.sizes["T"] == 1:
        return only_sections
    raise DataError(
        f"{path} has {len(ifds)} pages that do not match its OME-XML ({_joined(planes.sizes)}): export it again."
    )


def _is_ome_stack(image: ElementTree.Element, path: Path, first: tifffile.TiffPage, planes: int) -> bool:
    """Return True when one page of this file is said to hold all planes of an image and they do follow one another."""
    data = image.findall("{*}TiffData")
    if len(data) != 1 or data[0].get("PlaneCount") != str(planes) or not is_stack(first, planes):
        return False
    end = int(first.dataoffsets[0] + planes * first.nbytes // first.imagedepth)
    return end <= path.stat().st_size


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


def _ome_positions(
    image: ElementTree.Element, path: Path, identifier: str | None, sizes: dict[str, int], ifds: list[int]
) -> npt.NDArray[np.int64]:
    """Return the positions of the pages that belong to an image, -1 for those without; none if it has none of them."""
    named = [(data, data.find("{*}UUID")) for data in image.iterfind("{*}TiffData")]
    own = [data for data, uuid in named if uuid is None or uuid.get("FileName", "").lower() == path.name.lower()]
    own = own or [data for data, uuid in named if uuid is not None and uuid.text and uuid.text == identifier]
    shape = tuple(sizes.values())
    positions = np.full((len(ifds), len(sizes)), -1, np.int64)
    for data in own:
        start = np.ravel_multi_index([int(data.get(f"First{axis}", 0)) for axis in sizes], shape, mode="clip")
        count = data.get("PlaneCount") or data.get("NumPlanes") or (1 if "IFD" in data.attrib else len(ifds))
        for step in range(min(int(count), prod(shape) - int(start))):
            if (ifd := int(data.get("IFD", 0)) + step) in ifds:
                positions[ifds.index(ifd)] = np.unravel_index(int(start) + step, shape)
    return positions if own else positions[:0]


def find_voxel_size(tiff: tifffile.TiffFile, path: Path) -> VoxelSize:
    """Return z, y, x in nm from OME-XML or ImageJ's description, None where they do not give them."""
    sizes: list[tuple[Any, Any]] = [(None, None)] * 3
    if tiff.is_ome and (root := _ome_root(path, tiff.ome_metadata or "")) is not None:
        pixels = root.find("{*}Image/{*}Pixels")
        attributes = {} if pixels is None else pixels.attrib
        names = [f"PhysicalSize{axis}" for axis in "ZYX"]
        sizes = [(attributes.get(name), attributes.get(f"{name}Unit", "µm")) for name in names]
    elif tiff.is_imagej:
        description = tiff.imagej_metadata or {}
        y, x = (tiff.pages.first.tags.valueof(tag, (0, 0)) for tag in ("YResolution", "XResolution"))
        unit = description.get("unit")
        sizes = [
            (description.get("spacing"), unit),
            *((dots[1] / dots[0] if dots[0] else None, unit) for dots in (y, x)),
        ]
    z, y, x = (_nanometres(size, unit) for size, unit in sizes)
    return z, y, x


def _nanometres(size: Any, unit: Any) -> float | None:
    try:
        return float(size) * NANOMETRES[str(unit).lower()] or None
    except (KeyError, TypeError, ValueError):
        return None
