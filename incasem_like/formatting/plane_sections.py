"""Sections of volumes as 2-D datasets, one each, and 2-D datasets stacked to a volume."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask, WorkItem, create_or_resume_output, run_blockwise
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.derive import DatasetWritten, Derivation
from incasem_like.volumes import (
    Coordinate,
    Roi,
    Volume,
    create_volume,
    dataset_exists,
    list_datasets,
    make_provenance,
    open_volume,
)


@dataclass(frozen=True)
class SectionChoice:
    """Which sections are taken, by their numbers.

    Attributes:
        start, stop: First number, and the one after the last; None for all.
        step: Every so many.
        include: Only these.
        exclude: None of these.

    Example:
        >>> SectionChoice(start=2, step=3, exclude=(5,)).chosen(range(10))
        [2, 8]
    """

    start: int | None = None
    stop: int | None = None
    step: int = 1
    include: Sequence[int] | None = None
    exclude: Sequence[int] = ()

    def chosen(self, numbers: Sequence[int]) -> list[int]:
        """Return the chosen ones of some numbers.

        Raises:
            InputError: The step is below 1, or none is left.
        """
        if self.step < 1:
            raise InputError(f"--step is {self.step}: give 1 or more.")
        first = numbers[0] if self.start is None else self.start
        found = [
            number
            for number in numbers
            if number >= first
            and (number - first) % self.step == 0
            and (self.stop is None or number < self.stop)
            and (self.include is None or number in self.include)
            and number not in self.exclude
        ]
        if not found:
            raise InputError("No section is left: choose others.")
        return found


def split_sections(
    derivation: Derivation, choice: SectionChoice | None = None, *, keep_empty: bool = False
) -> tuple[list[str], int]:
    """Write sections of a volume as 2-D datasets ``<out_dataset>/<number>``, by their absolute numbers.

    Args:
        derivation: Volume, (z, y, x), and output.
        choice: Which sections; None for all.
        keep_empty: Whether sections that are 0 everywhere are written.

    Returns:
        Addresses of the datasets, and the number of sections left out as empty.

    Raises:
        InputError: No section is chosen, or another dataset is there.
        DataError: The volume is missing.
    """
    source = derivation.open_source()
    container = derivation.out_container or derivation.container
    numbers = (choice or SectionChoice()).chosen(range(source.roi.begin[0], source.roi.end[0]))
    names = tuple(f"{derivation.out_dataset}/{number}" for number in numbers)
    if not derivation.overwrite:
        for name in names:
            if dataset_exists(container, name):
                there = open_volume(container, name, allow_incomplete=True).provenance or {}
                if there.get("tool") != "split_sections":
                    raise InputError(
                        f"{container}/{name} exists and is not a section: add --overwrite, or another name."
                    )
    parameters = {"numbers": numbers, "container": container, "datasets": names, "keep_empty": keep_empty}
    task = LedgerTask("split sections", names, (str(source.address),), write_section, parameters, unit="sections")
    task.run(
        num_workers=derivation.num_workers, workers=derivation.cluster, overwrite=derivation.overwrite,
        description="Writing sections",
    )  # fmt: skip
    written = [bool(result[0]) for result in task.results()]
    task.forget()
    return [f"{container}/{name}" for name, one in zip(names, written, strict=True) if one], written.count(False)


def write_section(item: WorkItem, parameters: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Write one section; return whether it was written."""
    source, number = item.inputs[0], parameters["numbers"][item.number]
    roi = Roi((number, *source.roi.begin[1:]), (1, *source.roi.shape[1:]))
    section = source.read(roi)[0]
    if not (parameters["keep_empty"] or section.any()):
        return np.array([False])
    there = create_volume(
        parameters["container"],
        parameters["datasets"][item.number],
        shape=section.shape,
        dtype=section.dtype,
        voxel_size=None if source.voxel_size is None else source.voxel_size[1:],
        offset=source.offset[1:],
        axes="yx",
        chunk_shape=source.chunk_shape[1:],
        provenance=make_provenance("split_sections", {"section": number}, [source]),
        overwrite=True,
    )
    there.write(section)
    there.mark_complete()
    return np.array([True])


def stack_sections(derivation: Derivation, section_size: float, choice: SectionChoice | None = None) -> DatasetWritten:
    """Stack the 2-D datasets of a group to a volume, in the order of the numbers that their names end in.

    Consecutive numbers give the position: section 100 lies at 100 times the section size. Else the volume begins at 0.

    Args:
        derivation: ``dataset`` is the group.
        section_size: Voxel size along z, nm.
        choice: Which sections; None for all.

    Raises:
        DataError: There are no such datasets, or they differ in size, type or position.
        InputError: No section is chosen, or another volume is there.
    """
    prefix = f"{derivation.dataset}/".lstrip("/")
    found = {}
    for name in list_datasets(derivation.container):
        number = re.search(r"(\d+)$", name)
        if name.startswith(prefix) and number and "/" not in name.removeprefix(prefix):
            found[int(number[1])] = name
    if not found:
        raise DataError(f"{derivation.container} has no datasets named {prefix}<number>: check the name.")
    numbers = (choice or SectionChoice()).chosen(sorted(found))
    sections = [open_volume(derivation.container, found[number]) for number in numbers]
    first = sections[0]
    for one in sections:
        if one.axes != "yx" or (one.shape, one.dtype, one.offset) != (first.shape, first.dtype, first.offset):
            raise DataError(
                f"{one.address} holds {list(one.shape)} ({one.axes}) of {one.dtype} at {list(one.offset)} nm, but "
                f"{first.address} {list(first.shape)} ({first.axes}) of {first.dtype} at {list(first.offset)} nm."
            )
    if not section_size > 0:
        raise InputError(f"--section_size is {section_size:g}: give a number above 0, in nm.")
    begin = numbers[0] if numbers == list(range(numbers[0], numbers[0] + len(numbers))) else 0
    size = (float(section_size), *(first.voxel_size or (1.0, 1.0)))
    output = create_or_resume_output(
        derivation.out_container or derivation.container,
        derivation.out_dataset,
        shape=(len(sections), *first.shape),
        dtype=first.dtype,
        voxel_size=None if first.voxel_size is None else size,
        offset=(begin * section_size, *first.offset) if first.voxel_size else (0, 0, 0),
        chunk_shape=derivation.chunk_shape,
        provenance=make_provenance("stack_sections", {"numbers": numbers}, sections),
        overwrite=derivation.overwrite,
        **derivation.storage,
    )
    parameters = {"sections": [str(one.address) for one in sections], "content": [one.content_hash for one in sections]}
    blocks = derivation.chunk_shape or (128, 128, 128)
    task = BlockTask("stack sections", output, (), stack_block, parameters, blocks)
    summary = run_blockwise(task, **derivation.run_options(output), description="Stacking")
    return DatasetWritten(str(output.address), summary.already_complete)


def stack_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write the sections of a block."""
    roi = block.write_roi - block.output.roi.begin
    rows = []
    for number in range(roi.begin[0], roi.end[0]):
        section = _section(parameters["sections"][number])
        rows.append(section.read(Roi(section.roi.begin + Coordinate(roi.begin[1:]), roi.shape[1:])))
    block.output.write(np.stack(rows), block.write_roi)


@lru_cache(maxsize=256)
def _section(address: str) -> Volume:
    return open_volume(address)
