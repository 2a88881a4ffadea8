"""Export of a dataset to a folder of numbered TIFF sections, lossless, with memory bounded by a band of one slab."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from incasem_like.blockwise import Block
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.blockwise.workers_file import Workers
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.section_writing import (
    READABLE,
    UNFINISHED,
    SectionPlan,
    make_plan,
    readable_dtype,
    write_slab,
)
from incasem_like.formatting.workers import useful_workers
from incasem_like.volumes import Volume, check_outputs, make_provenance, open_volume
from incasem_like.volumes.provenance import first_difference

RECORD_NAME = "provenance.json"


def make_record(plan: SectionPlan, dtype: str | None, absolute: bool) -> dict[str, Any]:
    """Return the record of an export; it is equal for a repeated call, which thereby recognises its own work.

    Args:
        plan: Plan of the sections.
        dtype, absolute: The requested options; see ``make_plan``.
    """
    volume = plan.volume
    return {
        "source": str(volume.address),
        "source_content": volume.content_hash,
        "voxel_size": None if volume.voxel_size is None else list(volume.voxel_size),
        "offset": list(volume.offset),
        "shape": [int(size) for size in volume.shape],
        "dtype": plan.dtype.name,
        "first_section": plan.first_number,
        "parameters": {"dtype": dtype, "absolute": absolute},
    }


def read_record(directory: Path) -> dict[str, Any]:
    """Read a folder's record without its provenance (times and versions); empty if it is missing."""
    try:
        record = json.loads((directory / RECORD_NAME).read_text())
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in record.items() if key != "provenance"} if isinstance(record, dict) else {}


def write_record(directory: Path, record: Mapping[str, Any], volume: Volume) -> None:
    """Write a record with the provenance of the sections atomically."""
    provenance = make_provenance("export_sections", record["parameters"], [volume])
    written = directory / f"{RECORD_NAME}.writing"
    written.write_text(json.dumps({**record, "provenance": provenance}, indent=2, default=str))
    written.replace(directory / RECORD_NAME)


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return a description of the first difference between two records, as ``first_difference``."""
    return first_difference(_with_content(before), _with_content(now))


def _with_content(record: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in record.items() if not key.startswith("source")}
    return {"source": {"address": record.get("source"), "content": record.get("source_content")}, **rest}


LEDGER_NAME = ".blocks.zarr"


@dataclass(frozen=True)
class ExportSummary:
    """Result of an export: the folder, its first and last file, and whether it existed already."""

    directory: Path
    sections: int
    first_file: Path
    last_file: Path
    dtype: str
    source_dtype: str
    already_complete: bool


@dataclass(frozen=True)
class SectionExport:
    """The export of one dataset to a folder of sections.

    Attributes:
        volume: A 3-D volume (zyx).
        directory: The folder to create for ``section_<number>.tif``.
        dtype: See ``conversion_to``.
        absolute: Number sections by absolute voxel position, which keeps the z offset, instead of from 0.
        overwrite: Replace a folder of earlier sections.
    """

    volume: Volume
    directory: Path
    dtype: str | None = None
    absolute: bool = False
    overwrite: bool = False

    @cached_property
    def plan(self) -> SectionPlan:
        """The plan of the sections to write.

        Raises:
            DataError: The volume has channels, or no voxel.
            InputError: Its first section has a negative number, which file names cannot hold.
        """
        return make_plan(self.volume, self.dtype, self.absolute)

    @property
    def partial(self) -> Path:
        """The temporary folder beside the final one, renamed to it at the end."""
        return self.directory.with_name(f".{self.directory.name}.partial")

    @cached_property
    def record(self) -> dict[str, Any]:
        """The record of the folder; equal for a repeated call, which thereby recognises its own work."""
        return make_record(self.plan, self.dtype, self.absolute)

    @cached_property
    def is_complete(self) -> bool:
        """Whether an earlier call has completed the folder."""
        if read_record(self.directory) != self.record:
            return False
        present = {path.name for path in self.directory.iterdir()}
        return all(self.plan.file_name(index) in present for index in range(self.plan.sections))

    def in_readable_dtype(self, num_workers: int = 1, workers: Workers | None = None) -> SectionExport:
        """Return this export in a type that common readers open; an earlier call's choice for the same data is kept.

        Args:
            num_workers, workers: See ``readable_dtype``.

        Raises:
            DataError: As ``plan`` and ``readable_dtype``.
        """
        if self.dtype is not None or self.plan.dtype.itemsize <= 2:
            return self
        for folder in (self.directory, self.partial):
            chosen = replace(self, dtype=str(read_record(folder).get("dtype")))
            if chosen.dtype in READABLE and chosen.record == read_record(folder):
                return chosen
        return replace(self, dtype=readable_dtype(self.volume, num_workers, workers))

    def check(self) -> None:
        """Check that the volume can be exported, before anything is written.

        Raises:
            DataError: As ``plan``.
            InputError: Without ``overwrite``: the folder holds something else, or was begun with other parameters.
        """
        if self.is_complete:
            return
        if self.directory.exists():
            _check_replaceable(self.directory, self.record, self.overwrite)
        begun = read_record(self.partial)
        if begun and begun != self.record and not self.overwrite:
            raise InputError(
                f"The export into {self.directory} was begun with {difference(begun, self.record)}: use the same "
                "parameters to resume it, or add --overwrite to start again."
            )

    def run(self, *, num_workers: int = 1, workers: Workers | None = None) -> ExportSummary:
        """Write every z-section as an uncompressed TIFF; the folder appears when all of them are written.

        Every chunk is read once, in bands of some 32 MiB, one for each worker. A second call with the same arguments
        resumes where a killed one stopped, or returns at once. The folder also gets a ``provenance.json``.

        Args:
            num_workers: Maximum number of processes.
            workers: Workers of a workers file, instead of local processes.

        Raises:
            DataError: The volume has channels, or values that ``dtype`` cannot hold; partial output is removed.
            InputError: The folder exists already, was begun with other parameters, or cannot be created.
            IncasemError: As ``run_blockwise``; the same call resumes.
        """
        self.check()
        if self.is_complete:
            return self._summary(already_complete=True)
        self._prepare_partial()
        height, width = (int(size) for size in self.volume.shape[1:])
        task = LedgerTask(
            "export sections",
            self.volume,
            (str(self.volume.address),),
            export_slab,
            {"dtype": self.dtype, "absolute": self.absolute},
            (int(self.volume.chunk_shape[0]), height, width),
            place=self.partial / LEDGER_NAME,
        )
        here = useful_workers(num_workers, int(self.volume.roi.size))
        try:
            task.run(num_workers=here, workers=workers, description=f"Exporting {self.directory.name}")
        except DataError:
            shutil.rmtree(self.partial)
            raise
        self._publish(task)
        return self._summary(already_complete=False)

    def _prepare_partial(self) -> None:
        """Create the temporary folder, or keep the one that an earlier, identical call began."""
        if self.partial.exists() and read_record(self.partial) != self.record:
            shutil.rmtree(self.partial)
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise InputError(
                f"Cannot create the folder {self.directory} ({error.strerror}): choose another location."
            ) from error
        write_record(self.partial, self.record, self.volume)

    def _publish(self, task: LedgerTask) -> None:
        """Rename the complete folder to its final name; a replaced one is removed only after that."""
        task.forget()
        for unfinished in self.partial.glob(f"{UNFINISHED}*"):  # left by killed workers
            unfinished.unlink()
        replaced = self.directory.with_name(f".{self.directory.name}.replaced")
        if replaced.exists():
            shutil.rmtree(replaced)
        if self.directory.exists():
            self.directory.rename(replaced)
        self.partial.rename(self.directory)
        if replaced.exists():
            shutil.rmtree(replaced)

    def _summary(self, *, already_complete: bool) -> ExportSummary:
        plan = self.plan
        first, last = (self.directory / plan.file_name(index) for index in (0, plan.sections - 1))
        dtypes = plan.dtype.name, self.volume.dtype.name
        return ExportSummary(self.directory, plan.sections, first, last, *dtypes, already_complete)


def export_slab(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write the sections of one slab into the folder of the ledger."""
    plan = make_plan(block.inputs[0], parameters["dtype"], parameters["absolute"])
    slab = block.write_roi - plan.volume.roi.begin
    write_slab(plan, block.folder.parent, int(slab.begin[0]), int(slab.end[0]))


def export_all(
    exports: Sequence[tuple[str, str, Path]],
    *,
    num_workers: int = 1,
    workers: Workers | None = None,
    **options: Any,
) -> Iterator[ExportSummary]:
    """Export several datasets, each into its own folder, after checking all of them.

    Args:
        exports: (container, dataset, folder) each; ``pair_datasets`` makes them.
        num_workers, workers: See ``SectionExport.run``.
        **options: ``dtype``, ``absolute`` and ``overwrite`` of ``SectionExport``.
    """
    volumes = [open_volume(container, dataset) for container, dataset, _ in exports]
    for volume in volumes[1:]:
        if volume.roi != volumes[0].roi:
            logging.warning(
                "%s and %s differ in offset or shape: equal section numbers mean equal positions only with --absolute.",
                volumes[0].address,
                volume.address,
            )
    planned = [
        SectionExport(volume, directory, **options).in_readable_dtype(num_workers, workers)
        for volume, (_, _, directory) in zip(volumes, exports, strict=True)
    ]
    check_outputs(
        [export.directory for export in planned],
        [volume.address for volume in volumes],
        "choose another --out_directory or --out_datasets",
    )
    for export in planned:
        export.check()
    for export in planned:
        yield export.run(num_workers=num_workers, workers=workers)


def pair_datasets(
    containers: Sequence[str],
    datasets: Sequence[Sequence[str]],
    directory: Path,
    names: Sequence[Sequence[str]] | None = None,
) -> list[tuple[str, str, Path]]:
    """Pair datasets and containers with output folders.

    Args:
        containers: One container for each group of datasets, or a single one for all groups.
        datasets: Groups of dataset names.
        directory: The parent of all the folders.
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


def _check_replaceable(directory: Path, record: Mapping[str, Any], overwrite: bool) -> None:
    if not directory.is_dir():
        raise InputError(f"{directory} is a file: choose another folder to write to.")
    present = list(directory.iterdir())
    if not present:
        return
    there = read_record(directory)
    if not overwrite:
        what = "exists already" if not there else f"was exported with {difference(there, record)}"
        if there == record:
            what = "lacks some of its sections"
        raise InputError(f"{directory} {what}: give --overwrite to replace it, or choose another folder.")
    for path in present:
        is_ours = path.name == RECORD_NAME or (path.name.startswith("section_") and path.suffix == ".tif")
        if not is_ours:
            raise InputError(f"{directory} holds {path.name}, which is not an exported section: choose another folder.")
    if not there:
        raise InputError(
            f"{directory} holds sections without the {RECORD_NAME} of an export, perhaps originals: choose another "
            "folder, or remove them yourself."
        )
