"""Interface of files that hold sections, independent of their format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from PIL import Image

Origin = tuple[tuple[str, int], ...]
VoxelSize = tuple[float | None, float | None, float | None]
SECTION_AXES = {"Z": "section", "T": "time point", "C": "channel"}


def open_with_pillow(path: str, *formats: str) -> Image.Image:
    """Open an image of any size."""
    Image.MAX_IMAGE_PIXELS = None  # sections of more than 180 megapixels are legitimate
    return Image.open(path, formats=formats)


def unreadable(path: str, kind: str, error: Exception) -> str:
    """Return the sentence on a file that a library cannot read."""
    return f"{path} is truncated or not a readable {kind} ({reason_of(error)}): copy or export it again."


def reason_of(error: Exception) -> str:
    """Return the first line of an error's text, or its class."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


@dataclass(frozen=True)
class Pixels:
    """Type of the values that ``SectionFile.read`` returns.

    Attributes:
        dtype: NumPy type.
        bits: Bits of a sample in the file: 1 for a bilevel image, although its type is uint8.
        colours: 1 for grey values, 3 for red, green and blue.
        colour_map: Whether the values are indices of a colour map.
    """

    dtype: str
    bits: int
    colours: int = 1
    colour_map: bool = False

    def __str__(self) -> str:
        kind = "colours" if self.colours > 1 else "indices of a colour map" if self.colour_map else "grey values"
        return f"{kind} of {self.bits} bits ({self.dtype})"


@dataclass(frozen=True)
class ReadOptions:
    """The part of a file to read, where it has several channels or time points, and how to read it.

    Attributes:
        channel: Channel to read, counted from 0; None when there is only one.
        time: Time point to read, counted from 0; None when there is only one.
        section_axis: Axis whose positions become sections, a key of ``SECTION_AXES``.
        apply_colour_map: Return colours instead of the indices of a colour map.
    """

    channel: int | None = None
    time: int | None = None
    section_axis: str = "Z"
    apply_colour_map: bool = False


@dataclass(frozen=True)
class SectionFile(ABC):
    """A file with sections of one size and type. A subclass per format reads them.

    Attributes:
        path: The file.
        pages: Number of sections in it.
        shape: Rows and columns of a section.
        pixels: Type of the values.
        z: Position of its first section by the file's metadata, 0 where they do not give it.
        origin: Position on the axes that are not z, y or x, such as ``(("C", 0), ("T", 2))``.
        voxel_size: z, y, x in nm from the file's metadata, None where they do not give it.
        notes: Notes for the user about anything ignored or changed while reading.
    """

    path: str
    pages: int
    shape: tuple[int, int]
    pixels: Pixels
    z: int
    origin: Origin
    voxel_size: VoxelSize
    notes: tuple[str, ...]

    @abstractmethod
    def read(self, pages: range) -> Iterator[npt.NDArray[Any]]:
        """Yield some of the sections as a viewer shows them: ``(y, x)``, or ``(y, x, 3)`` in colour.

        Raises:
            DataError: The file cannot be decoded; the message names it.
        """
