"""Writing the TIFF sections of a slab together, from bands of rows; values are converted without silent loss."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tifffile

from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import DataError, InputError, VoxelValueError
from incasem_like.formatting.clahe_tables import range_block
from incasem_like.formatting.workers import useful_workers
from incasem_like.volumes import Coordinate, Roi, Volume
from incasem_like.volumes.parts import grown_block
from incasem_like.volumes.values import check_probabilities, first_where, stated_scale

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

Array = npt.NDArray[Any]
Conversion = Callable[[Array, Coordinate], Array]
logger = logging.getLogger(__name__)

EXPORT_DTYPES = ("uint8", "uint16", "uint32", "float32")
LARGEST_EXACT_FLOAT32 = 2**24
VOXELS_AT_ONCE = 2**22
READABLE = ("uint8", "uint16", "int16", "uint32", "int32")  # by ImageJ and Pillow, which do not open 64 bits
BAND_BYTES = 32 * 2**20
UNFINISHED = ".unfinished-"  # prefix of incomplete sections


def readable_dtype(volume: Volume, num_workers: int = 1, workers: Workers | None = None) -> str | None:
    """Choose the data type in which ImageJ and Pillow open a volume's values unchanged.

    Integers of more than 16 bits are read once for their range; the first type of ``READABLE`` that holds it is chosen.

    Args:
        volume: Any volume.
        num_workers: Maximum number of processes.
        workers: Workers of a workers file, instead of local processes.

    Returns:
        The type, or None where the volume's own type is suitable (see ``conversion_to``).

    Raises:
        DataError: None of these types holds the range.
    """
    if volume.dtype == np.float64:
        logger.warning(
            "%s holds float64, which ImageJ opens and Pillow does not: --dtype float32 rounds it.", volume.address
        )
    if volume.dtype.kind not in "ui" or volume.dtype.itemsize <= 2:
        return None
    blocks = grown_block(volume, volume.roi, VOXELS_AT_ONCE)
    task = LedgerTask("find range of values", volume, (str(volume.address),), range_block, {}, blocks)
    here = useful_workers(num_workers, int(volume.roi.size))
    task.run(num_workers=here, workers=workers, description="Finding the range of values")
    ranges = np.array(list(task.results()))
    task.forget()
    low, high = int(ranges[:, 0].min()), int(ranges[:, 1].max())
    fitting = [name for name in READABLE if np.iinfo(name).min <= low and high <= np.iinfo(name).max]
    if not fitting:
        raise DataError(
            f"{volume.address} holds integers from {low} to {high}, but image viewers open TIFFs of 32 bits at most: "
            "renumber the objects from 1 (fastremap.renumber, skimage.segmentation.relabel_sequential) and export that."
        )
    if max(high, -low) > LARGEST_EXACT_FLOAT32:
        logger.warning(
            f"{volume.address} holds integers from {low} to {high}: ImageJ rounds those beyond {LARGEST_EXACT_FLOAT32} "
            "to floats, and Pillow takes those from 2147483648 for negative."
        )
    return fitting[0]


def conversion_to(dtype: str | None, volume: Volume) -> tuple[np.dtype[Any], Conversion]:
    """Return the conversion of values for a TIFF, which never loses values silently.

    Integers become other integers unchanged. Floats, which must be probabilities, become unsigned integers over the
    whole range (x255 for uint8), rounded. Integers become float32 divided by the volume's ``scale``, unchanged without.

    Args:
        dtype: One of ``EXPORT_DTYPES`` or ``READABLE``; None for the dtype of the data, or the next wider one where no
            image viewer reads it (bool, int8, float16).
        volume: The volume to export.

    Returns:
        The dtype of the result and the function from stored to exported values, which takes the values and the absolute
        voxel of the first one, and raises VoxelValueError on a value that does not fit.
    """
    source, scale, name = volume.dtype, stated_scale(volume) or 1.0, str(volume.address)
    kept = {"bool": "uint8", "int8": "int16", "float16": "float32"}.get(source.name, source.name)
    target: np.dtype[Any] = np.dtype(dtype or kept)

    def convert(values: Array, begin: Coordinate) -> Array:
        if source.kind == "f" and target.kind != "f":
            check_probabilities(values, scale, name, begin, remedy="export without --dtype, or rescale the values")
            return np.rint(np.clip(values / np.float64(scale), 0, 1) * np.iinfo(target).max).astype(target)
        if source.kind in "ui" and target != source:
            _check_fits(values, target, name, begin)
            values = values / scale if target.kind == "f" and scale != 1 else values
        return values.astype(target, copy=False)

    return target, convert


def _check_fits(values: Array, target: np.dtype[Any], name: str, begin: Coordinate) -> None:
    least, greatest = -LARGEST_EXACT_FLOAT32, LARGEST_EXACT_FLOAT32
    remedy = "hold exactly: give --dtype uint32"
    if target.kind != "f":
        least, greatest = int(np.iinfo(target).min), int(np.iinfo(target).max)
        remedy = "hold: choose a wider --dtype or none"
    invalid = (values < least) | (values > greatest)
    if invalid.any():
        value, position = first_where(values, invalid, begin)
        raise VoxelValueError(f"{name} holds {value} at {position}, which {target} cannot {remedy}.")


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
        dtype: Data type to write, None to keep the values as they are; see ``conversion_to``.
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
