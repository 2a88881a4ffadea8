"""Volumes out: a dataset as a folder of numbered TIFF sections, values kept, memory bounded by a band of one slab."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from incasem_like.errors import DataError, InputError
from incasem_like.formatting.export_values import conversion_to
from incasem_like.formatting.section_writing import SectionPlan, write_slabs
from incasem_like.volumes import Volume, make_provenance, open_volume

RECORD_NAME = "provenance.json"


@dataclass(frozen=True)
class ExportSummary:
    """What an export left behind: the folder, its first and last file, and whether it was there already."""

    directory: Path
    sections: int
    first_file: Path
    last_file: Path
    dtype: str
    already_complete: bool


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

    Every chunk is read once, in bands of some 32 MiB, one for each worker. A second call with the same arguments goes
    on where a killed one stopped, or returns at once. The folder also gets a ``provenance.json``.

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
        write_slabs(plan, num_workers)
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


def _make_plan(volume: Volume, directory: Path, dtype: str | None, absolute: bool) -> SectionPlan:
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
    return SectionPlan(volume, directory, first, target, convert)


def _record(plan: SectionPlan, dtype: str | None, absolute: bool) -> dict[str, Any]:
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


def _is_complete(plan: SectionPlan, record: dict[str, Any]) -> bool:
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


def _prepare_partial(plan: SectionPlan, record: dict[str, Any]) -> None:
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


def _publish(plan: SectionPlan) -> None:
    """Give the complete folder its name; a replaced one is removed only after that."""
    replaced = plan.directory.with_name(f".{plan.directory.name}.replaced")
    if replaced.exists():
        shutil.rmtree(replaced)
    if plan.directory.exists():
        plan.directory.rename(replaced)
    os.rename(plan.partial, plan.directory)
    if replaced.exists():
        shutil.rmtree(replaced)


def _summary(plan: SectionPlan, *, already_complete: bool) -> ExportSummary:
    first, last = (plan.directory / plan.file_name(index) for index in (0, plan.sections - 1))
    return ExportSummary(plan.directory, plan.sections, first, last, plan.dtype.name, already_complete)
