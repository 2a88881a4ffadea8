"""Import of a sequence of sections as a dataset, slab by slab, each file decoded once."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.workers_file import Workers
from incasem_like.errors import InputError
from incasem_like.formatting.conversions import Conversion
from incasem_like.formatting.derive import DatasetWritten
from incasem_like.formatting.section_file import ReadOptions
from incasem_like.formatting.sections import SectionSequence, find_sections
from incasem_like.formatting.workers import useful_workers
from incasem_like.terminal import shell_command
from incasem_like.volumes import Coordinate, Roi, Volume, check_outputs, make_provenance, parse_address
from incasem_like.volumes.geometry import nanometres

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


Triple = tuple[int, int, int]
SLAB_BYTES = 160 * 2**20  # a slab in memory; a larger one goes through a temporary file beside the container
ALL_SLABS_BYTES = 2**30
BAND_BYTES = 16 * 2**20


@dataclass(frozen=True)
class SequenceImport:
    """The import of one image sequence as a dataset.

    Attributes:
        source: Folder of TIFFs, or one TIFF.
        container: Zarr or N5 container.
        dataset: Path of the dataset in the container.
        dtype: Data type to store; it is an error if a value does not fit.
        conversion: Named conversion, or None.
        invert: Replace every value by the maximum of the type minus the value.
        regex: Regular expression that selects files; group 1 is the section number.
        channel: Channel to import from multi-channel files, counted from 0.
        time: Time point to import from files with several, counted from 0.
        section_axis: Axis of the files that becomes z: Z, T or C.
        offset: First voxel to import, also the dataset's absolute offset.
        shape: Voxels to import, 0 = up to the end.
        voxel_size: Voxel size in nm.
        chunk_shape: Chunk shape in voxels.
    """

    source: Path
    container: str
    dataset: str
    dtype: str = "uint8"
    conversion: str | None = None
    invert: bool = False
    regex: str | None = None
    channel: int | None = None
    time: int | None = None
    section_axis: str = "Z"
    offset: Triple = (0, 0, 0)
    shape: Triple = (0, 0, 0)
    voxel_size: tuple[float, float, float] = (5.0, 5.0, 5.0)
    chunk_shape: Triple = (128, 128, 128)

    @property
    def next_command(self) -> str:
        """The next useful command after this import."""
        stage, where = "scripts/01_data_formatting", ("-f", self.container, "-d", self.dataset)
        if "labels" in self.dataset:
            mask = self.dataset.replace("labels", "metric_masks")
            return shell_command("python", f"{stage}/60_create_metric_mask.py", *where, "-o", mask)
        return shell_command("python", f"{stage}/40_equalize_histogram.py", *where)


def plan_imports(
    sources: Sequence[Path],
    datasets: Sequence[str],
    dtypes: Sequence[str],
    conversions: Sequence[str],
    **common: Any,
) -> list[SequenceImport]:
    """Pair folders with datasets, types and conversions; one type or conversion serves all folders.

    Args:
        sources: Folders of the sections.
        datasets: As many as folders.
        dtypes: One data type, or one per folder.
        conversions: One conversion, or one per folder; ``None`` for none.
        **common: Further attributes of every ``SequenceImport``.

    Raises:
        InputError: Numbers do not match, or a dataset is named twice.
    """
    count = len(sources)
    if len(datasets) != count or len(set(datasets)) != count:
        raise InputError(f"{count} folders need as many different --output_dataset, but got {', '.join(datasets)}.")
    each = zip(
        sources, datasets, _spread("--dtype", dtypes, count), _spread("--conversion", conversions, count), strict=True
    )
    return [
        SequenceImport(source, dataset=dataset, dtype=dtype, conversion=name if name != "None" else None, **common)
        for source, dataset, dtype, name in each
    ]


def _spread(flag: str, values: Sequence[str], count: int) -> Sequence[str]:
    if len(values) not in (1, count):
        raise InputError(f"{count} folders were given, but {len(values)} values of {flag}: give one, or as many.")
    return values if len(values) == count else list(values) * count


def check_import(order: SequenceImport) -> SectionSequence:
    """Check an import before anything is written: folder, files, crop, conversion, and the values of the first section.

    Raises:
        InputError, DataError: A check failed.
    """
    conversion = _conversion(order)
    sequence = find_sections(order.source, order.regex, _options(order, conversion))
    first = sequence.files[0]
    conversion.check(first.pixels, "labels" in order.dataset)
    if not all(0 < size < math.inf for size in order.voxel_size) or min(order.chunk_shape) < 1:
        raise InputError(
            f"Got resolution {list(order.voxel_size)} and chunks {list(order.chunk_shape)}: "
            "all must be numbers above 0."
        )
    _crop(order, sequence.shape)
    # Most wrong types show in the first section; decoding it twice avoids imports that fail half-way.
    conversion.apply(next(first.read(range(1))), first.path, first.pixels.bits)
    return sequence


def import_all(
    orders: Sequence[SequenceImport],
    *,
    num_workers: int = 1,
    overwrite: bool = False,
    workers: Workers | None = None,
) -> Iterator[tuple[SequenceImport, DatasetWritten]]:
    """Check all sequences, then import them one after another; see ``import_sections``.

    Yields:
        Each import when it is done, with its result.
    """
    check_outputs(
        [parse_address(order.container, order.dataset) for order in orders],
        [order.source for order in orders],
        "choose another --output_file or --output_dataset",
    )
    checked = [(order, check_import(order)) for order in orders]
    for order, sequence in checked:
        yield order, import_sections(order, sequence, num_workers=num_workers, overwrite=overwrite, workers=workers)


def import_sections(
    order: SequenceImport,
    sequence: SectionSequence,
    *,
    num_workers: int = 1,
    overwrite: bool = False,
    workers: Workers | None = None,
) -> DatasetWritten:
    """Import one sequence; a second call resumes where a killed one stopped, or finds the dataset complete.

    Each worker holds one slab of ``chunk_shape[0]`` sections (160 MB at most, else the slab goes through a temporary
    file beside the container); the number of workers is limited so that all slabs together stay below 1 GB.

    Args:
        order: The import.
        sequence: Result of ``check_import``.
        num_workers: Maximum number of processes.
        overwrite: Replace an existing dataset.
        workers: Workers of a workers file, instead of local processes.

    Raises:
        InputError: The dataset exists and was made with other parameters.
        DataError: A file cannot be decoded, or a value does not fit the type.
    """
    begin, shape = _crop(order, sequence.shape)
    parameters = {
        "source": str(order.source.absolute()),
        "sections": sequence.fingerprint(),
        "regex": order.regex,
        "options": asdict(_options(order, _conversion(order))),
        "dtype": order.dtype,
        "conversion": order.conversion,
        "invert": order.invert,
        "begin": list(begin),
    }
    output = create_or_resume_output(
        order.container,
        order.dataset,
        shape=shape,
        dtype=order.dtype,
        voxel_size=order.voxel_size,
        offset=nanometres(begin, order.voxel_size),
        chunk_shape=order.chunk_shape,
        provenance=make_provenance("import_sections", parameters),
        overwrite=overwrite,
    )
    task = BlockTask("import_sections", output, (), import_slab, parameters, (order.chunk_shape[0], *shape[1:]))
    here = _affordable_workers(num_workers, output)
    summary = run_blockwise(task, num_workers=here, workers=workers, description=f"Importing {order.source.name}")
    return DatasetWritten(str(output.address), summary.already_complete, _report(order, sequence))


def _affordable_workers(num_workers: int, output: Volume) -> int:
    """Return the useful number of processes whose slabs together take less than ``ALL_SLABS_BYTES``."""
    section = output.shape[1] * output.shape[2] * output.dtype.itemsize
    slab = min(SLAB_BYTES, output.chunk_shape[0] * section)
    return min(useful_workers(num_workers, int(np.prod(output.shape))), max(1, ALL_SLABS_BYTES // slab))


def _options(order: SequenceImport, conversion: Conversion) -> ReadOptions:
    return ReadOptions(order.channel, order.time, order.section_axis, conversion.takes_colours)


def _conversion(order: SequenceImport) -> Conversion:
    return Conversion(order.dtype, order.conversion, order.invert, str(order.source))


def _crop(order: SequenceImport, whole: Triple) -> tuple[Triple, Triple]:
    """Return the crop to import: first voxel and shape.

    Raises:
        InputError: The crop extends outside the sections, or is empty.
    """
    wanted = [size or total - start for start, size, total in zip(order.offset, order.shape, whole, strict=True)]
    if any(
        start < 0 or size < 1 or start + size > total
        for start, size, total in zip(order.offset, wanted, whole, strict=True)
    ):
        raise InputError(
            f"{order.source} has {list(whole)} voxels, but offset {list(order.offset)} and shape {wanted} were asked "
            "for: choose a part of it."
        )
    return order.offset, (wanted[0], wanted[1], wanted[2])


def _report(order: SequenceImport, sequence: SectionSequence) -> str:
    """Return notes for the user: number of files, ignored files, a different voxel size."""
    lines = [f"{sequence.shape[0]} section(s) in {len(sequence.files)} file(s) of {order.source}", *sequence.notes]
    if sequence.files[0].pixels.colour_map:
        lines.append("The colour map was ignored: the stored numbers are the values")
    stated = sequence.files[0].voxel_size
    if any(size and abs(size / given - 1) > 0.01 for size, given in zip(stated, order.voxel_size, strict=True)):
        sizes = " x ".join(f"{size:g}" if size else "?" for size in stated)
        given = " x ".join(f"{size:g}" for size in order.voxel_size)
        lines.append(f"Warning: the files state a voxel size of {sizes} nm (z, y, x), but --resolution is {given}")
    if sequence.ignored:
        named = ", ".join(sequence.ignored[:3]) + (", ..." if len(sequence.ignored) > 3 else "")
        lines.append(f"Left out {len(sequence.ignored)} of the files in {order.source} that are not sections: {named}")
    return "\n".join(lines)


@lru_cache(maxsize=2)
def _sections_of(source: str, regex: str | None, options: ReadOptions, fingerprint: str) -> SectionSequence:
    return find_sections(Path(source), regex, options)


def import_slab(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write one slab: all rows and columns of some sections."""
    source = parameters["source"]
    output = block.output
    indices = block.write_roi - output.roi.begin
    begin = [start + index for start, index in zip(parameters["begin"], indices.begin, strict=True)]
    z, y, x = (slice(start, start + size) for start, size in zip(begin, indices.shape, strict=True))
    line_of_chunks = indices.shape[0] * output.chunk_shape[1] * indices.shape[2] * output.dtype.itemsize
    reader = SlabReader(
        _sections_of(source, parameters["regex"], ReadOptions(**parameters["options"]), parameters["sections"]),
        Conversion(parameters["dtype"], parameters["conversion"], parameters["invert"], source),
        band_rows=output.chunk_shape[1] * max(1, BAND_BYTES // line_of_chunks),
        memory=SLAB_BYTES,
        scratch=Path(output.container).parent,
    )
    for row, band in reader.bands((z, y, x)):
        place = block.write_roi.begin + Coordinate(0, row - y.start, 0)
        output.write(np.ascontiguousarray(band), Roi(place, band.shape))
