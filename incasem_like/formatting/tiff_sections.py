"""TIFF sections: pages, types and encodings are checked by their headers, then sections are decoded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from incasem_like.errors import DataError, IncasemError
from incasem_like.formatting.section_file import (
    Pixels,
    ReadOptions,
    SectionFile,
    open_with_pillow,
    reason_of,
    unreadable,
)
from incasem_like.formatting.tiff_axes import Planes, find_planes, find_voxel_size, is_stack

Array = npt.NDArray[Any]

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, YCBCR = 0, 1, 2, 3, 4, 6
PHOTOMETRICS = (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, YCBCR)
JPEG = (6, 7, 33007, 34892)  # compressions for which tifffile returns RGB
ORIENTATION = 274
REDUCED_OR_MASK = 0b101  # bits of NewSubfileType


class _Layout(NamedTuple):
    """Properties that all pages of a file must share."""

    depth: int
    shape: tuple[int, int]
    samples: int  # channels in each pixel; 1 for colours
    pixels: Pixels


@dataclass(frozen=True)
class TiffSections(SectionFile):
    """Sections of a TIFF.

    Attributes:
        planes: Number of each section among the 2-D planes of the file.
        ifds: Numbers of the pages that hold planes.
        depth: Planes in a page.
        stack: Byte offset of uncompressed planes stored contiguously behind a single page, or None.
        sample: Index of the sample to read from each pixel.
        apply_colour_map: Return colours instead of indices.
    """

    planes: tuple[int, ...]
    ifds: tuple[int, ...]
    depth: int
    stack: int | None
    sample: int
    apply_colour_map: bool

    def read(self, pages: range) -> Iterator[Array]:
        """Decode some of the sections; see ``SectionFile.read``."""
        with _opened(self.path) as tiff, ExitStack() as opened:
            key, planes, image = None, np.empty(0), None
            for number in pages:
                plane = self.planes[number]
                index, z = (0, plane) if self.stack is not None else divmod(plane, self.depth)
                try:
                    page = tiff.pages.get(self.ifds[index])
                    if _needs_pillow(page):
                        image = image or opened.enter_context(open_with_pillow(self.path, "TIFF"))
                        section = _decode_with_pillow(image, page.index)
                    else:
                        layer, z = divmod(z, page.tiledepth if page.is_tiled and self.stack is None else 1)
                        if key != (index, layer):
                            planes = self._decode(page, layer)
                            key = index, layer
                        section = _as_shown(page, planes[:, z], self.sample, self.apply_colour_map)
                except Exception as error:
                    raise DataError(unreadable(self.path, "TIFF", error)) from error
                yield section

    def _decode(self, page: tifffile.TiffPage, layer: int) -> Array:
        """Return the planes of one layer of tiles or strips: (separate samples, z, y, x, contiguous samples)."""
        if self.stack is not None:
            shape = (1, 1, *page.shaped[2:])
            dtype = page.dtype.newbyteorder(page.parent.byteorder)
            with Path(self.path).open("rb") as file:
                file.seek(self.stack + layer * prod(shape) * dtype.itemsize)
                return np.fromfile(file, dtype, prod(shape)).reshape(shape)
        if self.depth == 1:
            return np.asarray(page.asarray(squeeze=False))
        separate, depth, rows, columns, contiguous = page.shaped
        tile_depth = page.tiledepth if page.is_tiled else 1
        planes = np.zeros((separate, tile_depth, rows, columns, contiguous), page.dtype)
        segments = np.arange(len(page.dataoffsets)).reshape(separate, -(-depth // tile_depth), -1)
        for segment in segments[:, layer].ravel():
            values, (sample, z, y, x, _), _ = _decode_segment(page, int(segment))
            if values is not None:
                values = values[: depth - z, : rows - y, : columns - x]
                planes[sample, : len(values), y : y + values.shape[1], x : x + values.shape[2]] = values
        return planes


def inspect_tiff(path: Path, options: ReadOptions, tried: set[int]) -> TiffSections:
    """Read the headers of a file and check that its data are complete and can be decoded.

    Args:
        path: Path of a TIFF.
        options: Channel, time point, section axis.
        tried: Hashes of the encodings already tested by decoding a strip or tile; new ones are added.

    Raises:
        DataError: The file is truncated or cannot be understood; the message says which part.
        InputError: A channel or time point must be chosen.
    """
    ifds: list[int] = []
    layouts: set[_Layout] = set()
    notes: set[str] = set()
    shapes: list[str] = []
    with _opened(str(path)) as tiff:
        try:
            with _broken_chain(path):
                for page in _full_pages(tiff):
                    ifds.append(page.index)
                    layouts.add(_layout(page, path, options.apply_colour_map))
                    notes.update(_notes(page))
                    shapes += [page.shaped_description] if page.shaped_description else []
                    _check_data(page, path)
                    _try_decoding(page, path, tried)
            if len(layouts) > 1:
                found = "; ".join(sorted(f"{one.shape[0]} x {one.shape[1]}, {one.pixels}" for one in layouts)[:3])
                raise DataError(f"The pages of {path} differ in size or type ({found}): split the file.")
            if len(ifds) < len(tiff.pages):
                notes.add(f"left out {len(tiff.pages) - len(ifds)} page(s) of reduced resolution or with masks")
            first, layout = tiff.pages.get(ifds[0]), layouts.pop()
            planes = find_planes(tiff, path, first, ifds, shapes)
            numbers, sample, origin = planes.choose(options, layout.samples, str(path))
            return TiffSections(
                path=str(path),
                pages=len(numbers),
                shape=layout.shape,
                pixels=layout.pixels,
                z=_first_z(planes, numbers),
                origin=origin,
                voxel_size=find_voxel_size(tiff, path),
                notes=tuple(sorted(notes)),
                planes=tuple(map(int, numbers)),
                ifds=tuple(ifds),
                depth=layout.depth,
                stack=_stack_offset(first, len(planes.positions), len(ifds), path),
                sample=sample,
                apply_colour_map=options.apply_colour_map,
            )
        except (IncasemError, OSError):
            raise
        except Exception as error:
            raise DataError(unreadable(str(path), "TIFF", error)) from error


def _first_z(planes: Planes, numbers: Array) -> int:
    """Return the position on the z axis of the first of some planes."""
    if "Z" not in planes.sizes or not len(numbers):
        return 0
    return int(planes.positions[numbers[0], [*planes.sizes].index("Z")])


def _full_pages(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """Yield the full-resolution pages that are not masks, or all pages if there are none."""
    found = len(tiff.pages) == 0  # walks the whole chain, so that tifffile detects a loop in it
    for page in tiff.pages:
        if not page.subfiletype & REDUCED_OR_MASK:
            found = True
            yield page
    if not found:
        yield from tiff.pages


def _layout(page: tifffile.TiffPage, path: Path, apply_colour_map: bool) -> _Layout:
    photometric, bits, dtype = _photometric(page), page.bitspersample, page.dtype
    if photometric not in PHOTOMETRICS:
        name = getattr(page.photometric, "name", page.photometric)
        name = {"SEPARATED": "CMYK (SEPARATED)"}.get(str(name), name)
        raise DataError(f"{path} holds {name} colours: export it as grey values or RGB.")
    if dtype is None or dtype.kind not in "buif" or (bits == 24 and dtype.kind in "ui"):
        # Of 24-bit integers tifffile confuses the byte order.
        raise DataError(
            f"{path} holds samples of {bits} bits with SampleFormat {int(page.sampleformat)} "
            f"({dtype or 'unknown'}): export it as integers or floats."
        )
    coloured, samples = photometric in (RGB, YCBCR), page.samplesperpixel
    if coloured and samples < 3:
        raise DataError(f"{path} holds RGB colours with {samples} sample(s) per pixel: export it again.")
    shape = (page.imagelength, page.imagewidth)
    if 0 in shape:
        raise DataError(f"{path} has an image of {shape[0]} x {shape[1]} pixels: remove it.")
    if _orientation(page) > 4:
        shape = shape[::-1]
    mapped = photometric == PALETTE and _colour_map(page) is not None
    if mapped and apply_colour_map:
        pixels = Pixels("uint8", 8, 3)
    else:
        kind = "uint8" if dtype.kind == "b" else dtype.name
        bits = bits if isinstance(bits, int) else dtype.itemsize * 8
        pixels = Pixels(kind, bits, 3 if coloured else 1, mapped)
    return _Layout(page.imagedepth, shape, 1 if coloured else max(1, samples - _alphas(page)), pixels)


def _photometric(page: tifffile.TiffPage) -> int:
    """Return the photometric interpretation, libtiff's default where the tag is missing."""
    if 262 in page.tags or page.compression == 6:
        return int(page.photometric)
    return RGB if page.samplesperpixel > 2 else BLACK_IS_ZERO


def _alphas(page: tifffile.TiffPage) -> int:
    """Return the number of alpha samples."""
    return sum(int(extra) in (1, 2) for extra in page.extrasamples)


def _orientation(page: tifffile.TiffPage) -> int:
    code = page.tags.valueof(ORIENTATION, 1)
    return code if code in range(1, 9) else 1


def _colour_map(page: tifffile.TiffPage) -> Array | None:
    """Return the colour map of an indexed image, (indices, 3), uint8; None if it maps indices to equal grey values."""
    if page.colormap is None:
        return None
    colours = np.asarray(page.colormap).T
    colours = colours if colours.max() < 256 else colours // 256  # some writers store 8-bit maps
    ramp = np.linspace(0, 255, len(colours)).astype(np.uint8)
    return None if np.array_equal(colours, np.stack([ramp] * 3, 1)) else colours.astype(np.uint8)


def _notes(page: tifffile.TiffPage) -> Iterator[str]:
    photometric = _photometric(page)
    if _alphas(page) or (photometric in (RGB, YCBCR) and page.samplesperpixel > 3):
        yield "ignored the alpha channel"
    if photometric == WHITE_IS_ZERO:
        floats = page.dtype is not None and page.dtype.kind == "f"
        yield "kept float values although white is stored as 0" if floats else "inverted, since white is stored as 0"
    if (code := _orientation(page)) > 1:
        yield f"turned or mirrored by its Orientation tag ({code})"


def _stack_offset(first: tifffile.TiffPage, planes: int, pages: int, path: Path) -> int | None:
    """Return the byte offset of planes stored contiguously behind a single page, None if each plane has its page."""
    if pages > 1 or not is_stack(first, planes):
        return None
    begin = int(first.dataoffsets[0])
    needed, size = begin + planes * first.nbytes // first.imagedepth, path.stat().st_size
    if needed > size:
        raise DataError(
            f"{path} is truncated: its description says {planes} planes, which end at byte {needed}, but the file has "
            f"{size}: copy it again."
        )
    return begin


def _check_data(page: tifffile.TiffPage, path: Path) -> None:
    """Check that all strips or tiles of a page are listed, large enough, and within the file."""
    offsets, counts = page.dataoffsets, page.databytecounts
    wanted, plain = prod(page.chunked), page.is_contiguous
    if not plain and min(len(offsets), len(counts)) < wanted and page.compression != 6:
        raise DataError(f"{path} is truncated: it has {len(offsets)} of {wanted} strips or tiles: copy it again.")
    if page.compression == 1 and not plain and 0 not in counts and sum(counts) * 8 < page.size * page.bitspersample:
        raise DataError(f"{path} is truncated: its strips hold {sum(counts)} bytes of {page.nbytes}: copy it again.")
    end = offsets[0] + page.nbytes if plain else max((o + c for o, c in zip(offsets, counts, strict=False)), default=0)
    if end > (size := page.parent.filehandle.size):
        raise DataError(f"{path} is truncated: its data end at byte {end}, but the file has {size}: copy it again.")


def _try_decoding(page: tifffile.TiffPage, path: Path, tried: set[int]) -> None:
    """Decode one strip or tile, unless one of the same encoding was decoded already."""
    if page.hash in tried or page.is_final:
        return
    try:
        if _needs_pillow(page):
            with open_with_pillow(str(path), "TIFF") as image:
                _decode_with_pillow(image, page.index)
        else:
            segment = next((index for index, count in enumerate(page.databytecounts) if count), None)
            if segment is not None:
                _decode_segment(page, segment)
    except Exception as error:
        raise DataError(
            f"{path} cannot be decoded (compression {getattr(page.compression, 'name', page.compression)}, predictor "
            f"{int(page.predictor)}, {page.bitspersample} bits: {reason_of(error)}): export it without compression."
        ) from error
    tried.add(page.hash)


def _decode_segment(page: tifffile.TiffPage, index: int) -> tuple[Array | None, tuple[int, ...], tuple[int, ...]]:
    """Return a strip or tile, (z, y, x, sample), its position in the page, and its full shape."""
    data = None
    if page.dataoffsets[index] and page.databytecounts[index]:
        page.parent.filehandle.seek(page.dataoffsets[index])
        data = page.parent.filehandle.read(page.databytecounts[index])
    tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
    return page.decode(data, index, **tables)  # type: ignore[no-any-return]


def _as_shown(page: tifffile.TiffPage, plane: Array, sample: int, apply_colour_map: bool) -> Array:
    """Return a decoded plane, (separate samples, y, x, contiguous samples), as a viewer shows it."""
    photometric = _photometric(page)
    samples = np.moveaxis(plane[..., 0], 0, -1) if page.shaped[0] > 1 else plane[0]
    values = samples[..., :3] if photometric in (RGB, YCBCR) else samples[..., sample]
    values = values.astype(np.uint8 if values.dtype.kind == "b" else values.dtype.newbyteorder("="), copy=False)
    if photometric == WHITE_IS_ZERO and values.dtype.kind == "u":
        values = values.dtype.type(2**page.bitspersample - 1) - values
    elif photometric == WHITE_IS_ZERO and values.dtype.kind == "i":
        values = ~values
    elif photometric == PALETTE and apply_colour_map and (colours := _colour_map(page)) is not None:
        values = colours[values]
    code = _orientation(page)
    values = values.swapaxes(0, 1) if code > 4 else values
    values = values[::-1] if code in (3, 4, 7, 8) else values
    return values[:, ::-1] if code in (2, 3, 6, 7) else values


def _needs_pillow(page: tifffile.TiffPage) -> bool:
    """Return whether Pillow (libtiff) is needed, for encodings beyond tifffile: CCITT, YCbCr without JPEG."""
    ycbcr = _photometric(page) == YCBCR and page.compression not in JPEG
    return ycbcr or page.compression not in tifffile.TIFF.DECOMPRESSORS


def _decode_with_pillow(image: Image.Image, ifd: int) -> Array:
    """Return a page as a viewer shows it: Pillow inverts, rotates and converts to RGB by itself."""
    image.seek(ifd)
    image.load()
    if image.mode not in ("1", "L", "RGB", "RGBA", "RGBX", "YCbCr"):
        raise DataError(f"Pillow reads it as {image.mode}")
    values = np.asarray(image.convert("RGB") if image.mode == "YCbCr" else image)
    return values.astype(np.uint8) if values.ndim == 2 else values[..., :3]


@contextmanager
def _broken_chain(path: Path) -> Iterator[None]:
    """Raise an error if the chain of pages leads out of the file, which tifffile only logs."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if any("invalid offset to page" in message for message in messages):
        raise DataError(f"{path} is truncated: the chain of its pages leads past its end: copy it again.")


def _opened(path: str) -> tifffile.TiffFile:
    logger = logging.getLogger("tifffile")
    logger.propagate = False  # relevant messages are raised as errors below
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    try:
        return tifffile.TiffFile(path)
    except PermissionError:
        raise
    except Exception as error:
        raise DataError(unreadable(path, "TIFF", error)) from error
