"""TIFF sections of a volume, written side by side from bands of a slab, so that every chunk is read once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError
from incasem_like.formatting.export_values import Conversion
from incasem_like.terminal import Progress
from incasem_like.volumes import Coordinate, Roi, Volume

Array = npt.NDArray[Any]

BAND_BYTES = 32 * 2**20


@dataclass(frozen=True)
class SectionPlan:
    """One export: what goes where under which numbers.

    Attributes:
        volume: A 3-D volume (zyx).
        directory: The folder that appears when all sections are written.
        first_number: Number of the first section.
        dtype: Of the written values.
        convert: From stored to written values.
    """

    volume: Volume
    directory: Path
    first_number: int
    dtype: np.dtype[Any]
    convert: Conversion

    @property
    def partial(self) -> Path:
        """The folder that grows beside the final one and is renamed to it at the end."""
        return self.directory.with_name(f".{self.directory.name}.partial")

    @property
    def sections(self) -> int:
        """How many files there will be."""
        return int(self.volume.roi.shape[0])

    def file_name(self, index: int) -> str:
        """Name section ``index``; all numbers have the same width, so that names sort as the sections do."""
        width = max(4, len(str(self.first_number + self.sections - 1)))
        return f"section_{self.first_number + index:0{width}d}.tif"


def write_slabs(plan: SectionPlan, num_workers: int) -> None:
    """Write all sections of a plan into its partial folder, but for those that are there; one slab is one chunk deep.

    Every chunk is read once. Memory is a few times ``num_workers`` bands of ``BAND_BYTES``, or of one row of chunks
    over the full width, where that is more.
    """
    depth = int(plan.volume.chunk_shape[0])
    slabs = [(start, min(start + depth, plan.sections)) for start in range(0, plan.sections, depth)]
    with (
        Progress(f"Exporting {plan.directory.name}", plan.sections, "sections") as progress,
        ThreadPoolExecutor(max_workers=max(1, num_workers)) as pool,
    ):
        pending = {pool.submit(_write_slab, plan, start, stop): stop - start for start, stop in slabs}
        try:
            for finished in as_completed(pending):
                finished.result()
                progress.advance(pending[finished])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_slab(plan: SectionPlan, start: int, stop: int) -> None:
    """Write sections ``start`` to ``stop`` band by band; each gets its name when the last band is in."""
    finals = [plan.partial / plan.file_name(index) for index in range(start, stop)]
    if all(path.exists() for path in finals):
        return
    growing = [path.with_suffix(".tif.writing") for path in finals]
    try:
        _fill(plan, growing, start, stop)
    except OSError as error:
        error.filename = error.filename or str(plan.partial)
        raise
    for path, final in zip(growing, finals, strict=True):
        path.replace(final)


def _fill(plan: SectionPlan, paths: list[Path], start: int, stop: int) -> None:
    offsets = [_allocate(path, plan) for path in paths]
    row_bytes = int(plan.volume.shape[2]) * plan.dtype.itemsize
    for row, band in _bands(plan, start, stop):
        for path, offset, rows in zip(paths, offsets, band, strict=True):
            with path.open("r+b") as file:
                file.seek(offset + row * row_bytes)
                file.write(rows.tobytes())


def _allocate(path: Path, plan: SectionPlan) -> int:
    """Write a TIFF's header for one section and give the byte at which its rows begin."""
    import tifffile

    _, height, width = (int(size) for size in plan.volume.shape)
    _, *in_plane = plan.volume.voxel_size
    place = tifffile.imwrite(
        path,
        data=None,
        shape=(height, width),
        dtype=plan.dtype,
        photometric="minisblack",
        metadata=None,
        resolution=tuple(_per_centimetre(size) for size in reversed(in_plane)),
        resolutionunit="CENTIMETER",
        returnoffset=True,
    )
    assert place is not None
    return int(place[0])


def _per_centimetre(voxel_size: float) -> tuple[int, int] | float:
    """Give the pixels per centimetre of a voxel size in nm, as the exact fraction where a TIFF can hold it."""
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
        band = volume.read(Roi(volume.roi.begin + Coordinate(start, row, 0), shape))
        try:
            converted = plan.convert(band)
        except DataError as error:
            raise DataError(f"{volume.address}: {error}") from error
        yield row, converted.astype(plan.dtype.newbyteorder("="), copy=False)
