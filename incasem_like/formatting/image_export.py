"""Volumes out: a dataset as a folder of numbered TIFF sections, values kept, memory bounded by a band of one slab."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError, InputError
from incasem_like.formatting.export_values import Conversion, conversion_to
from incasem_like.terminal import Progress
from incasem_like.volumes import Coordinate, Roi, Volume, make_provenance, open_volume

Array = npt.NDArray[Any]

RECORD_NAME = "provenance.json"
BAND_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ExportSummary:
    """What an export left behind: the folder, its first and last file, and whether it was there already."""

    directory: Path
    sections: int
    first_file: Path
    last_file: Path
    dtype: str
    already_complete: bool


@dataclass(frozen=True)
class _Plan:
    """One export: what goes where under which numbers."""

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
        return int(self.volume.roi.shape[0])

    def file_name(self, index: int) -> str:
        """Name section ``index``; all numbers have the same width, so that names sort as the sections do."""
        width = max(4, len(str(self.first_number + self.sections - 1)))
        return f"section_{self.first_number + index:0{width}d}.tif"


def export_sections(
    volume: Volume,
    directory: Path,
    *,
    dtype: str | None = None,
    absolute: bool = False,
    overwrite: bool = False,
    num_workers: int = 1,
) -> ExportSummary:
    """Write every z-section of a volume as an uncompressed TIFF; the folder appears when all of them are in it.

    Every chunk is read once. Memory is about ``num_workers`` bands of 64 MiB (or of one chunk's height and depth over
    the full width, where that is more). A second call with the same arguments goes on where a killed one stopped, or
    returns at once. The folder also gets a ``provenance.json``.

    Args:
        volume: A 3-D volume (zyx).
        directory: The folder to make; ``section_<number>.tif`` go into it.
        dtype: None keeps the values as they are (bool becomes uint8 and float16 becomes float32, without loss);
            else see ``export_values.conversion_to``.
        absolute: Number sections by absolute voxel position, which keeps the z offset, instead of from 0.
        overwrite: Replace a folder of earlier sections.
        num_workers: Slabs in flight at once.

    Raises:
        DataError: The volume has channels, or values that ``dtype`` cannot hold.
        InputError: The folder exists already, or cannot be made.
    """
    plan = _make_plan(volume, directory, dtype, absolute)
    record = _record(plan, dtype, absolute)
    if _is_complete(plan, record):
        return _summary(plan, already_complete=True)
    if directory.exists():
        _check_replaceable(directory, overwrite)
    _prepare_partial(plan, record)
    try:
        _write_slabs(plan, num_workers)
    except DataError:
        shutil.rmtree(plan.partial)
        raise
    _publish(plan)
    return _summary(plan, already_complete=False)


def export_all(exports: Sequence[tuple[str, str, Path]], **options: Any) -> Iterator[ExportSummary]:
    """Export several datasets, each into its own folder, after a look at all of them.

    Args:
        exports: (container, dataset, folder) each; ``pair_datasets`` makes them.
        **options: Those of ``export_sections``.
    """
    volumes = [open_volume(container, dataset) for container, dataset, _ in exports]
    for volume in volumes[1:]:
        if volume.roi != volumes[0].roi:
            logging.warning(
                "%s and %s differ in offset or shape: equal section numbers are equal places only with --absolute.",
                volumes[0].address,
                volume.address,
            )
    for volume, (_, _, directory) in zip(volumes, exports, strict=True):
        yield export_sections(volume, directory, **options)


def pair_datasets(
    containers: Sequence[str],
    datasets: Sequence[Sequence[str]],
    directory: Path,
    names: Sequence[Sequence[str]] | None = None,
) -> list[tuple[str, str, Path]]:
    """Say which dataset of which container goes into which folder.

    Args:
        containers: One for each group of datasets, or a single one for all groups.
        datasets: Groups of dataset names.
        directory: The folder that gets all the folders.
        names: Folder names in the same order; by default the dataset names.

    Raises:
        InputError: Numbers do not match, or two datasets would go into the same folder.
    """
    owners = list(containers) * len(datasets) if len(containers) == 1 else list(containers)
    if len(owners) != len(datasets):
        raise InputError(
            f"There are {len(owners)} --filename but {len(datasets)} --datasets: give one --datasets for each."
        )
    sources = [(owner, dataset) for owner, group in zip(owners, datasets, strict=True) for dataset in group]
    folders = [name.strip("/") for group in (names or datasets) for name in group]
    if len(folders) != len(sources):
        raise InputError(
            f"There are {len(sources)} datasets but {len(folders)} --out_datasets: give one name for each."
        )
    for folder, others in ((folder, [*folders[:index], *folders[index + 1 :]]) for index, folder in enumerate(folders)):
        if any(PurePath(folder) in (PurePath(other), *PurePath(other).parents) for other in others):
            raise InputError(
                f"Another dataset would be written into the folder {folder} too: name each by --out_datasets."
            )
    return [(*source, directory / folder) for source, folder in zip(sources, folders, strict=True)]


def _make_plan(volume: Volume, directory: Path, dtype: str | None, absolute: bool) -> _Plan:
    if len(volume.shape) != 3:
        raise DataError(
            f"{volume.address} has shape {tuple(volume.shape)} ({volume.axes}), but only 3-D datasets become sections: "
            "name one channel's dataset."
        )
    if 0 in volume.shape:
        raise DataError(f"{volume.address} has shape {tuple(volume.shape)} and holds no voxel: nothing to export.")
    first = int(volume.roi.begin[0]) if absolute else 0
    if first < 0:
        raise InputError(
            f"{volume.address} begins at section {first}, which no file name can say: leave --absolute out."
        )
    scale = volume.attributes.get("scale")
    target, convert = conversion_to(dtype, np.dtype(volume.dtype), float(scale) if scale else None)
    return _Plan(volume, directory, first, target, convert)


def _record(plan: _Plan, dtype: str | None, absolute: bool) -> dict[str, Any]:
    """Say what the folder holds; equal for a repeated call, so that one can tell its own work."""
    volume = plan.volume
    return {
        "source": str(volume.address),
        "source_content": volume.content_hash,
        "voxel_size": list(volume.voxel_size),
        "offset": list(volume.offset),
        "shape": [int(size) for size in volume.shape],
        "dtype": plan.dtype.name,
        "first_section": plan.first_number,
        "parameters": {"dtype": dtype, "absolute": absolute},
    }


def _read_record(directory: Path) -> dict[str, Any]:
    """Read a folder's record without its provenance part, which tells times and versions; empty when there is none."""
    try:
        record = json.loads((directory / RECORD_NAME).read_text())
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in record.items() if key != "provenance"} if isinstance(record, dict) else {}


def _is_complete(plan: _Plan, record: dict[str, Any]) -> bool:
    if _read_record(plan.directory) != record:
        return False
    present = {path.name for path in plan.directory.iterdir()}
    return all(plan.file_name(index) in present for index in range(plan.sections))


def _check_replaceable(directory: Path, overwrite: bool) -> None:
    if not directory.is_dir():
        raise InputError(f"{directory} is a file: choose another folder to write to.")
    present = list(directory.iterdir())
    if not present:
        return
    if not overwrite:
        raise InputError(f"{directory} exists already: give --overwrite to replace it, or choose another folder.")
    for path in present:
        is_ours = path.name == RECORD_NAME or (path.name.startswith("section_") and path.suffix == ".tif")
        if not is_ours:
            raise InputError(f"{directory} holds {path.name}, which is no exported section: choose another folder.")


def _prepare_partial(plan: _Plan, record: dict[str, Any]) -> None:
    """Make the growing folder, or keep the one that an earlier, identical call began."""
    partial = plan.partial
    if partial.exists() and _read_record(partial) != record:
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        raise InputError(
            f"Cannot make the folder {plan.directory} ({error.strerror}): choose another place."
        ) from error
    provenance = make_provenance("export_sections", record["parameters"], [plan.volume])
    text = json.dumps({**record, "provenance": provenance}, indent=2, default=str)
    written = partial / f"{RECORD_NAME}.writing"
    written.write_text(text)
    written.replace(partial / RECORD_NAME)


def _write_slabs(plan: _Plan, num_workers: int) -> None:
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


def _write_slab(plan: _Plan, start: int, stop: int) -> None:
    """Write sections ``start`` to ``stop`` band by band; each gets its name when the last band is in."""
    finals = [plan.partial / plan.file_name(index) for index in range(start, stop)]
    if all(path.exists() for path in finals):
        return
    growing = [path.with_suffix(".tif.writing") for path in finals]
    offsets = [_allocate(path, plan) for path in growing]
    row_bytes = int(plan.volume.shape[2]) * plan.dtype.itemsize
    for row, band in _bands(plan, start, stop):
        for path, offset, rows in zip(growing, offsets, band, strict=True):
            with path.open("r+b") as file:
                file.seek(offset + row * row_bytes)
                file.write(rows.tobytes())
    for path, final in zip(growing, finals, strict=True):
        path.replace(final)


def _allocate(path: Path, plan: _Plan) -> int:
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


def _bands(plan: _Plan, start: int, stop: int) -> Iterator[tuple[int, Array]]:
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


def _publish(plan: _Plan) -> None:
    """Give the complete folder its name; a replaced one is removed only after that."""
    replaced = plan.directory.with_name(f".{plan.directory.name}.replaced")
    if replaced.exists():
        shutil.rmtree(replaced)
    if plan.directory.exists():
        plan.directory.rename(replaced)
    os.rename(plan.partial, plan.directory)
    if replaced.exists():
        shutil.rmtree(replaced)


def _summary(plan: _Plan, *, already_complete: bool) -> ExportSummary:
    first, last = (plan.directory / plan.file_name(index) for index in (0, plan.sections - 1))
    return ExportSummary(plan.directory, plan.sections, first, last, plan.dtype.name, already_complete)
