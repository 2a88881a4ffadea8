"""Slabs of sections: decoded once, converted, yielded in bands of rows; large ones are buffered in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.formatting.conversions import Conversion
from incasem_like.formatting.sections import SectionSequence

Array = npt.NDArray[Any]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class SlabReader:
    """Reads part of a sequence.

    Attributes:
        sequence: The sections.
        conversion: Conversion of their values.
        band_rows: Maximum rows of a band; with a multiple of the chunk's rows every chunk is written once.
        memory: Maximum bytes of a slab in memory; larger ones are buffered in a temporary file.
        scratch: Folder of that file.
    """

    sequence: SectionSequence
    conversion: Conversion
    band_rows: int
    memory: int
    scratch: Path

    def bands(self, box: Box) -> Iterator[tuple[int, Array]]:
        """Decode sections ``box[0]`` once each and yield rows and columns of the box, band by band.

        Yields:
            Number of the band's first row (counted in the section) and its voxels, (z, y, x).

        Raises:
            DataError: A file cannot be decoded, or holds a value that does not fit the data type.
        """
        shape = tuple(part.stop - part.start for part in box)
        dtype = np.dtype(self.conversion.dtype)
        if int(np.prod(shape)) * dtype.itemsize <= self.memory:
            slab = np.empty(shape, dtype)
            for number, section in enumerate(self._sections(box)):
                slab[number] = section
            for row in range(0, shape[1], self.band_rows):
                yield box[1].start + row, slab[:, row : row + self.band_rows]
            return
        with tempfile.TemporaryFile(dir=self.scratch) as spool:
            for section in self._sections(box):
                spool.write(section.tobytes())
            line = shape[2] * dtype.itemsize
            for row in range(0, shape[1], self.band_rows):
                rows = min(self.band_rows, shape[1] - row)
                band = np.empty((shape[0], rows, shape[2]), dtype)
                for number in range(shape[0]):
                    spool.seek((number * shape[1] + row) * line)
                    spool.readinto(band[number].data.cast("B"))
                yield box[1].start + row, band

    def _sections(self, box: Box) -> Iterator[Array]:
        for file, pages, _ in self.sequence.locate(box[0].start, box[0].stop):
            for section in file.read(pages):
                yield np.ascontiguousarray(self.conversion.apply(section[box[1:]], file.path, file.pixels.bits))
