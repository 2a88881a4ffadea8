"""Finding the sections of an image sequence: the TIFFs, their order and their size, before any is decoded."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from incasem_like.errors import DataError, InputError
from incasem_like.formatting.image_sections import inspect_image
from incasem_like.formatting.section_file import SECTION_AXES, ReadOptions, SectionFile
from incasem_like.formatting.tiff_sections import inspect_tiff
from incasem_like.volumes.faults import warn_once

SUFFIX = r"(?:\.ome)?\.(?:tiff?|tf[28]|btf|lsm|stk|png|jpe?g)$"
IMAGE_NAME = re.compile(rf".*{SUFFIX}", re.IGNORECASE)
OTHER_IMAGE = re.compile(r".*\.(png|jpe?g)$", re.IGNORECASE)  # read only where there is no TIFF: often a preview
EVERYTHING = ReadOptions()
HIDDEN = re.compile(r"\.|(thumbs\.db|desktop\.ini)$", re.IGNORECASE)  # files of macOS, Windows and editors
LAST_NUMBER = rf".*?(\d+)\D*{SUFFIX}"


def is_image_sequence(path: Path) -> bool:
    """Return whether a path is an image, or a folder with images in it."""
    if path.is_dir():
        return any(IMAGE_NAME.fullmatch(entry.name) for entry in path.iterdir())
    return IMAGE_NAME.fullmatch(path.name) is not None


@dataclass(frozen=True)
class SectionSequence:
    """Sections in the order of their numbers.

    Attributes:
        files: The files, in order.
        ignored: Names in the folder that were ignored, without hidden files.
    """

    files: tuple[SectionFile, ...]
    ignored: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """Notes on anything ignored or changed while reading, with the number of files concerned."""
        counted = Counter(note for file in self.files for note in file.notes)
        return [f"{count} of {len(self.files)} file(s): {note}" for note, count in counted.items()]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of sections, rows and columns."""
        return (sum(file.pages for file in self.files), *self.files[0].shape)

    def locate(self, begin: int, end: int) -> Iterable[tuple[SectionFile, range, int]]:
        """Yield the files of sections ``begin`` to ``end``: file, its pages, number of the first of them."""
        first = 0
        for file in self.files:
            low, high = max(begin, first), min(end, first + file.pages)
            if low < high:
                yield file, range(low - first, high - first), low
            first += file.pages

    def fingerprint(self) -> str:
        """Return a hash of names, sizes and modification times of all files; a resumed import detects changes by it."""
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files:
            state = Path(file.path).stat()
            digest.update(f"{file.path}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
        return digest.hexdigest()


def find_sections(source: Path, regex: str | None = None, options: ReadOptions = EVERYTHING) -> SectionSequence:
    """List the sections of a folder (or of one multi-page TIFF) in numerical order.

    Args:
        source: Folder with one or more TIFFs, or a TIFF.
        regex: Selects files by name; group 1 is the section number. By default it is the last number in the name; a
            lone TIFF needs none.
        options: Channel, time point, section axis.

    Raises:
        InputError: A missing folder, an invalid regular expression, or a channel or time point must be chosen.
        DataError: No TIFF; a number twice or missing; a section of another size or type; a truncated file, or one that
            cannot be understood.
    """
    if not source.exists():
        raise InputError(f"The folder {source} does not exist: check --input_dir.")
    names = sorted(entry.name for entry in source.iterdir() if entry.is_file()) if source.is_dir() else [source.name]
    names = [name for name in names if not HIDDEN.match(name)]
    folder = source if source.is_dir() else source.parent
    images = [name for name in names if IMAGE_NAME.match(name)]
    images = [name for name in images if not OTHER_IMAGE.match(name)] or images
    if not images:
        folders = sum(entry.is_dir() for entry in source.iterdir()) if source.is_dir() else 0
        others = f"but {len(names)} other file(s)" if names else "nor any other file"
        others += f", and the {folders} folder(s) in it are not searched" if folders else ""
        raise DataError(f"{source} holds no TIFF, PNG or JPEG, {others}: check --input_dir.")
    numbered = _numbered(images, regex, source)
    _check_contiguous(sorted({number for number, _ in numbered}), source)
    tried: set[int] = set()
    inspected = [
        (number, (inspect_image if OTHER_IMAGE.match(name) else inspect_tiff)(folder / name, options, tried))
        for number, name in numbered
    ]
    # Of an image in several files some may hold other channels or time points than the chosen one.
    kept = [(number, file) for number, file in inspected if file.pages]
    if not kept:
        raise InputError(f"{source} holds no section of that channel and time point: choose others.")
    files = tuple(file for _, file in kept)
    _check_alike(files)
    for (number, file), (following, other) in pairwise(kept):
        if number == following:
            raise DataError(
                f"{Path(file.path).name} and {Path(other.path).name} in {source} both have section number {number}: "
                "remove one or give an --image_regex that tells them apart."
            )
    _warn_of_order(files, source)
    return SectionSequence(files, tuple(sorted(set(names) - {Path(file.path).name for file in files})))


def _numbered(images: list[str], regex: str | None, source: Path) -> list[tuple[int, str]]:
    """Return the images whose names have a section number, with it and in its order."""
    if regex is None and len(images) == 1:
        return [(0, images[0])]
    pattern = _compiled(LAST_NUMBER if regex is None else regex)
    matches = [(name, match.group(1)) for name in images if (match := pattern.match(name))]
    if not matches:
        that = "in its name" if regex is None else f"that {regex!r} finds"
        raise DataError(
            f"None of the {len(images)} TIFFs in {source} has a section number {that} (first: {images[0]}): "
            "give an --image_regex whose group 1 is the number."
        )
    for name, digits in matches:
        if not digits.isdecimal():
            raise InputError(
                f"Group 1 of --image_regex is {digits!r} in {name}, which is not a number: let it match digits."
            )
    return sorted((int(digits), name) for name, digits in matches)


def _warn_of_order(files: tuple[SectionFile, ...], source: Path) -> None:
    """Warn if the files state their sections' positions, and those are in another order than the names."""
    stated = [file.z for file in files]
    if len(set(stated)) == len(stated) and stated != sorted(stated):
        first = next(index for index, (low, high) in enumerate(pairwise(stated)) if high < low)
        names = [Path(file.path).name for file in files[first : first + 2]]
        warn_once(
            f"{source} names {names[0]} before {names[1]}, but by their metadata they are sections {stated[first]} and "
            f"{stated[first + 1]}: the names decide; rename the files if they are wrong."
        )


def _compiled(regex: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(regex, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"--image_regex {regex!r} is not a regular expression ({error}): correct it.") from error
    if pattern.groups < 1:
        raise InputError(f"--image_regex {regex!r} has no group: put the section number in brackets, such as (\\d+).")
    return pattern


def _check_contiguous(numbers: list[int], source: Path) -> None:
    gaps = [(before + 1, after - 1) for before, after in pairwise(numbers) if after > before + 1]
    if gaps:
        missing = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in gaps[:10])
        more = f" and {len(gaps) - 10} more gaps" if len(gaps) > 10 else ""
        raise DataError(
            f"Sections {missing}{more} are missing in {source}, which has {numbers[0]} to {numbers[-1]}: "
            "add them, or renumber the files."
        )


def _check_alike(files: tuple[SectionFile, ...]) -> None:
    first = files[0]
    for file in files[1:]:
        if file.shape != first.shape:
            raise DataError(
                f"{file.path} has {file.shape[0]} x {file.shape[1]} pixels, but {Path(first.path).name} has "
                f"{first.shape[0]} x {first.shape[1]}: sections must be of one size."
            )
        if file.pixels != first.pixels:
            raise DataError(
                f"{file.path} holds {file.pixels}, but {Path(first.path).name} holds {first.pixels}: "
                "sections must be of one type."
            )
        for (axis, position), (_, other) in zip(file.origin, first.origin, strict=False):
            if position != other:
                raise InputError(
                    f"{file.path} holds {SECTION_AXES.get(axis, axis)} {position}, but {Path(first.path).name} holds "
                    f"{other}: choose one with --channel or --time, or import them one by one."
                )
