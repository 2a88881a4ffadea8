"""Sections in PNG and JPEG files, read by Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError, InputError
from incasem_like.formatting.section_file import Pixels, ReadOptions, SectionFile, open_with_pillow, unreadable

# How Pillow names what it decodes: data type, bits and colours; its "I" is a PNG of 16 bits in older versions.
MODES = {"1": ("uint8", 1, 1), "L": ("uint8", 8, 1), "I;16": ("uint16", 16, 1), "I": ("uint16", 16, 1)}
COLOURS = {"RGB": ("uint8", 8, 3), "RGBA": ("uint8", 8, 3), "YCbCr": ("uint8", 8, 3)}
ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}


@dataclass(frozen=True)
class ImageSection(SectionFile):
    """One PNG or JPEG.

    Attributes:
        apply_colour_map: Return the colours of a colour map instead of its indices.
    """

    apply_colour_map: bool = False

    def read(self, pages: range) -> Iterator[npt.NDArray[Any]]:
        """Yield the section, see ``SectionFile.read``."""
        for _ in pages:
            try:
                with open_with_pillow(self.path, "PNG", "JPEG") as image:
                    coloured = self.pixels.colours > 1
                    values = np.asarray(image.convert("RGB") if coloured else image)
            except Exception as error:  # Pillow's decoders raise many
                raise DataError(unreadable(self.path, "PNG or JPEG", error)) from error
            yield (values[..., 0] if values.ndim == 3 and not coloured else values).astype(self.pixels.dtype)


def inspect_image(path: Path, options: ReadOptions, tried: set[int]) -> ImageSection:
    """Check a PNG or JPEG by its header and its end, without decoding it.

    Args:
        path: The file.
        options: Channel, time and section axis, which such a file does not have; whether to apply colour maps.
        tried: Not used: all files of these formats can be decoded.

    Raises:
        DataError: It is truncated, or holds values that are not read.
        InputError: A channel or time point is asked for.
    """
    if options.channel or options.time:
        raise InputError(f"{path} has one channel and time point: leave out --channel and --time.")
    try:
        with open_with_pillow(str(path), "PNG", "JPEG") as image:
            mode, size, kind = image.mode, image.size, str(image.format)
    except PermissionError:
        raise
    except Exception as error:
        raise DataError(unreadable(str(path), "PNG or JPEG", error)) from error
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        if ENDS[kind] not in file.read():
            raise DataError(f"{path} is truncated: its end is missing; copy it again.")
    notes = ("ignored the alpha channel",) if mode in ("RGBA", "LA", "PA") else ()
    mapped = mode in ("P", "PA")
    if mapped and not options.apply_colour_map:
        pixels = Pixels("uint8", 8, 1, colour_map=True)
    elif mapped or mode in COLOURS:
        pixels = Pixels("uint8", 8, 3)
    elif mode == "LA" or mode in MODES:
        pixels = Pixels(*MODES.get(mode, MODES["L"]))
    else:
        raise DataError(f"{path} holds {mode} values: export it as grey values or RGB.")
    unknown = (None, None, None)
    return ImageSection(str(path), 1, size[::-1], pixels, 0, (), unknown, notes, options.apply_colour_map)
