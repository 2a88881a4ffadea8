"""Writing the TIFF sections of a slab together, from bands of rows, so that every chunk is read once."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import InputError
from incasem_like.formatting.export_values import Conversion, conversion_to
from incasem_like.volumes import Coordinate, Roi, Volume

Array = npt.NDArray[Any]

BAND_BYTES = 32 * 2**20
UNFINISHED = ".unfinished-"  # prefix of incomplete sections


@dataclass(frozen=True)
class SectionPlan:
    """The sections of one export and their numbers.

    Attributes:
        volume: A 3-D volume (zyx).
        first_number: Number of the first section.
        dtype: Data type of the written values.
        convert: Function from stored to written values; see ``conversion_to``.
    """

    volume: Volume
    first_number: int
    dtype: np.dtype[Any]
    convert: Conversion

    @property
    def sections(self) -> int:
        """Number of files."""
        return int(self.volume.roi.shape[0])

    def file_name(self, index: int) -> str:
        """Return the file name of section ``index``; numbers are zero-padded, so that names sort in section order."""
        width = max(4, len(str(self.first_number + self.sections - 1)))
        return f"section_{self.first_number + index:0{width}d}.tif"


def make_plan(volume: Volume, dtype: str | None, absolute: bool) -> SectionPlan:
    """Return the plan of the sections of a volume.

    Args:
        volume: A 3-D volume (zyx).
        dtype: Data type to write, None to keep the values as they are; see ``export_values.conversion_to``.
        absolute: Number sections by absolute voxel position instead of from 0.

    Raises:
        DataError: The volume has channels, or no voxel.
        InputError: Its first section has a negative number, which file names cannot hold.
    """
    volume.require_zyx()
    first = int(volume.roi.begin[0]) if absolute else 0
    if first < 0:
        raise InputError(
            f"{volume.address} begins at section {first}, which file names cannot express: leave --absolute out."
        )
    target, convert = conversion_to(dtype, volume)
    return SectionPlan(volume, first, target, convert)


def write_slab(plan: SectionPlan, folder: Path, start: int, stop: int) -> None:
    """Write sections ``start`` to ``stop`` band by band; each is renamed when it is complete and on disk.

    Memory use is a few bands of ``BAND_BYTES``, or of one row of chunks over the full width, whichever is more.

    Raises:
        DataError: A value does not fit the data type to write.
        OSError: Usually the disk is full; partial files are removed.
    """
    finals = [folder / plan.file_name(index) for index in range(start, stop)]
    # Unique to this attempt: a worker considered lost may still be writing the same sections.
    growing = [path.with_name(f"{UNFINISHED}{path.stem}-{uuid.uuid4().hex[:8]}.tif") for path in finals]
    try:
        _fill(plan, growing, start, stop)
        for path, final in zip(growing, finals, strict=True):
            path.replace(final)
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise
    finally:
        for path in growing:
            path.unlink(missing_ok=True)


def _fill(plan: SectionPlan, paths: list[Path], start: int, stop: int) -> None:
    offsets = [_allocate(path, plan) for path in paths]
    row_bytes = int(plan.volume.shape[2]) * plan.dtype.itemsize
    for row, band in _bands(plan, start, stop):
        for path, offset, rows in zip(paths, offsets, band, strict=True):
            with path.open("r+b") as file:
                file.seek(offset + row * row_bytes)
                file.write(rows.tobytes())
    for path in paths:
        with path.open("r+b") as file:
            os.fsync(file.fileno())


def _allocate(path: Path, plan: SectionPlan) -> int:
    """Write a TIFF's header for one section and return the byte offset of its rows."""
    import tifffile

    _, height, width = (int(size) for size in plan.volume.shape)
    size = plan.volume.voxel_size
    scale = None if size is None else tuple(_per_centimetre(length) for length in (size[2], size[1]))
    place = tifffile.imwrite(
        path,
        data=None,
        shape=(height, width),
        dtype=plan.dtype,
        photometric="minisblack",
        metadata=None,
        resolution=scale,
        resolutionunit="CENTIMETER" if scale else "NONE",
        returnoffset=True,
    )
    assert place is not None
    return int(place[0])


def _per_centimetre(voxel_size: float) -> tuple[int, int] | float:
    """Return the pixels per centimetre of a voxel size in nm, as the exact fraction where a TIFF can hold it."""
    exact = Fraction(10**7) / Fraction(repr(float(voxel_size)))
    fits = max(exact.numerator, exact.denominator) < 2**32
    return (exact.numerator, exact.denominator) if fits else float(exact)


def _bands(plan: SectionPlan, start: int, stop: int) -> Iterator[tuple[int, Array]]:
    """Yield (first row, converted values) over bands of whole chunk rows, about ``BAND_BYTES`` each."""
    volume = plan.volume
    _, height, width = (int(size) for size in volume.shape)
    itemsize = max(plan.dtype.itemsize, np.dtype(volume.dtype).itemsize)
    chunk_rows = min(int(volume.chunk_shape[1]), height)
    rows = chunk_rows * max(1, BAND_BYTES // ((stop - start) * chunk_rows * width * itemsize))
    for row in range(0, height, rows):
        shape = Coordinate(stop - start, min(rows, height - row), width)
        begin = volume.roi.begin + Coordinate(start, row, 0)
        converted = plan.convert(volume.read(Roi(begin, shape)), begin)
        yield row, converted.astype(plan.dtype.newbyteorder("="), copy=False)
