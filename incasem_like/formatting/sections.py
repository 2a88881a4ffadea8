"""Finding the sections of an image sequence: which TIFFs, in which order, of which size, before any is decoded."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.errors import DataError, InputError

if TYPE_CHECKING:
    import numpy.typing as npt
    import tifffile

TIFF_NAME = re.compile(r".*\.tiff?$", re.IGNORECASE)
NUMBER_AFTER_UNDERSCORE = r".*_(\d+).*\.tiff?$"
LAST_NUMBER = r".*?(\d+)\D*\.tiff?$"


@dataclass(frozen=True)
class SectionFile:
    """A TIFF with one or more sections in it.

    Attributes:
        path: The file.
        pages: Sections in it.
        shape: Rows and columns of a section.
        colours: 1 for grey, 3 or 4 for colour.
        dtype: Type of its values.
    """

    path: str
    pages: int
    shape: tuple[int, int]
    colours: int
    dtype: str

    def read(self, pages: range) -> Iterator[npt.NDArray[Any]]:
        """Decode some of its sections, one after another: ``(y, x)``, or ``(y, x, colour)``.

        Raises:
            DataError: The file cannot be decoded; names it.
        """
        import numpy as np

        with _opened(self.path) as tiff:
            series = tiff.series[0]
            # Without a page for each section they follow one another behind one header (ImageJ's way).
            stacked = len(series.pages) != self.pages
            for page in pages:
                try:
                    if stacked:
                        stack = np.memmap(self.path, series.dtype, "r", series.dataoffset or 0, series.shape)
                        section = np.array(stack.reshape(self.pages, *stack.shape[-2:])[page])
                    else:
                        section = series.pages[page].asarray()
                except Exception as error:
                    raise DataError(_unreadable(self.path, error)) from error
                yield _colours_last(section.reshape(section.shape[-3 if self.colours > 1 else -2 :]), self.colours)


@dataclass(frozen=True)
class SectionSequence:
    """Sections in the order of their numbers.

    Attributes:
        files: The files, in order.
        ignored: Names in the folder that were left out.
    """

    files: tuple[SectionFile, ...]
    ignored: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sections, rows, columns."""
        return (sum(file.pages for file in self.files), *self.files[0].shape)

    def locate(self, begin: int, end: int) -> Iterable[tuple[SectionFile, range, int]]:
        """Name the files that hold sections ``begin`` to ``end``: file, its pages, number of the first of them."""
        first = 0
        for file in self.files:
            low, high = max(begin, first), min(end, first + file.pages)
            if low < high:
                yield file, range(low - first, high - first), low
            first += file.pages

    def fingerprint(self) -> str:
        """Hash names, sizes and times of change of all files, so that a resumed import notices other sections."""
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files:
            state = Path(file.path).stat()
            digest.update(f"{file.path}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
        return digest.hexdigest()


def find_sections(source: Path, regex: str | None = None) -> SectionSequence:
    """List the sections of a folder (or of one multi-page TIFF) in the order of their numbers, read as numbers.

    Args:
        source: Folder with one or more TIFFs, or a TIFF.
        regex: Selects files by name; group 1 is the section number. Without one the number after the last underscore
            counts when every TIFF has one, else the last number in the name; a lone TIFF needs none.

    Raises:
        InputError: No such folder, or a wrong regular expression.
        DataError: No TIFF; a number twice or missing; a section of another size or type; a truncated file.
    """
    if not source.exists():
        raise InputError(f"There is no folder {source}: check --input_dir.")
    names = sorted(entry.name for entry in source.iterdir() if entry.is_file()) if source.is_dir() else [source.name]
    folder = source if source.is_dir() else source.parent
    tiffs = [name for name in names if TIFF_NAME.match(name)]
    if not tiffs:
        others = f"but {len(names)} other file(s)" if names else "nor any other file"
        raise DataError(f"{source} holds no TIFF (.tif or .tiff), {others}: check --input_dir.")
    numbered = _numbered(tiffs, regex, source)
    _check_contiguous(numbered, source)
    chosen = [numbered[number] for number in sorted(numbered)]
    files = tuple(_inspect(folder / name) for name in chosen)
    _check_alike(files)
    return SectionSequence(files, tuple(sorted(set(names) - set(chosen))))


def _numbered(tiffs: list[str], regex: str | None, source: Path) -> dict[int, str]:
    """Find the section number of every TIFF that has one."""
    if regex is None and len(tiffs) == 1:
        return {0: tiffs[0]}
    candidates = [regex] if regex is not None else [NUMBER_AFTER_UNDERSCORE, LAST_NUMBER]
    matches: list[tuple[str, str]] = []
    for candidate in candidates:
        matches = [(name, match.group(1)) for name in tiffs if (match := _compiled(candidate).match(name))]
        if len(matches) == len(tiffs):
            break
    if not matches:
        raise DataError(
            f"None of the {len(tiffs)} TIFFs in {source} has a section number that {candidates[-1]!r} finds "
            f"(first: {tiffs[0]}): give an --image_regex whose group 1 is the number."
        )
    numbered: dict[int, str] = {}
    for name, digits in matches:
        if not digits.isdecimal():
            raise InputError(
                f"Group 1 of --image_regex is {digits!r} in {name}, which is no number: let it match digits."
            )
        if (number := int(digits)) in numbered:
            raise DataError(
                f"{numbered[number]} and {name} in {source} both have section number {number}: "
                "remove one or give an --image_regex that tells them apart."
            )
        numbered[number] = name
    return numbered


def _compiled(regex: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(regex, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"--image_regex {regex!r} is no regular expression ({error}): correct it.") from error
    if pattern.groups < 1:
        raise InputError(f"--image_regex {regex!r} has no group: put the section number in brackets, such as (\\d+).")
    return pattern


def _check_contiguous(numbered: dict[int, str], source: Path) -> None:
    numbers = sorted(numbered)
    gaps = [(before + 1, after - 1) for before, after in pairwise(numbers) if after > before + 1]
    if gaps:
        missing = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in gaps[:10])
        more = f" and {len(gaps) - 10} more gaps" if len(gaps) > 10 else ""
        raise DataError(
            f"Sections {missing}{more} are missing in {source}, which has {numbers[0]} to {numbers[-1]}: "
            "add them, or renumber the files."
        )


def _inspect(path: Path) -> SectionFile:
    """Read a file's header and check that all the bytes it speaks of are there."""
    with _opened(str(path)) as tiff:
        try:
            with _broken_chain(path):
                series, page, end = tiff.series, tiff.pages.first, _last_byte(tiff)
            rows, columns, colours = page.imagelength, page.imagewidth, page.samplesperpixel
            pages = int(series[0].size) // (rows * columns * colours)
        except DataError:
            raise
        except Exception as error:
            raise DataError(_unreadable(str(path), error)) from error
        size = path.stat().st_size
        if end > size:
            raise DataError(f"{path} is truncated: its data end at byte {end}, but the file has {size}: copy it again.")
        if len(series) > 1:
            shapes = ", ".join(str(one.shape) for one in series[:3])
            raise DataError(f"The pages of {path} differ in size or type ({shapes}): split the file.")
        return SectionFile(str(path), pages, (rows, columns), colours, series[0].dtype.name)


@contextmanager
def _broken_chain(path: Path) -> Iterator[None]:
    """Raise when tifffile, which only logs it, finds that the chain of pages leads out of the file."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if any("invalid offset to page" in message for message in messages):
        raise DataError(f"{path} is truncated: the chain of its pages leads past its end: copy it again.")


def _last_byte(tiff: tifffile.TiffFile) -> int:
    """Find where the last pixel of a file should end."""
    strips = (
        offset + count
        for page in tiff.pages
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
    )
    stacks = (one.dataoffset + one.nbytes for one in tiff.series if one.dataoffset is not None)
    return max((*strips, *stacks), default=0)


def _opened(path: str) -> tifffile.TiffFile:
    import tifffile

    logger = logging.getLogger("tifffile")
    logger.propagate = False  # what matters of its log is said in our own words
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    try:
        return tifffile.TiffFile(path)
    except PermissionError:
        raise
    except Exception as error:
        raise DataError(_unreadable(path, error)) from error


def _unreadable(path: str, error: Exception) -> str:
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return f"{path} is truncated or no readable TIFF ({reason}): copy or export it again."


def _check_alike(files: tuple[SectionFile, ...]) -> None:
    first = files[0]
    for file in files[1:]:
        if file.shape != first.shape:
            raise DataError(
                f"{file.path} has {file.shape[0]} x {file.shape[1]} pixels, but {Path(first.path).name} has "
                f"{first.shape[0]} x {first.shape[1]}: sections must be of one size."
            )
        if (file.dtype, file.colours) != (first.dtype, first.colours):
            raise DataError(
                f"{file.path} holds {file.colours} channel(s) of {file.dtype}, but {Path(first.path).name} holds "
                f"{first.colours} of {first.dtype}: sections must be of one type."
            )


def _colours_last(section: npt.NDArray[Any], colours: int) -> npt.NDArray[Any]:
    """Bring colours stored plane by plane to the last axis, where those stored pixel by pixel are."""
    import numpy as np

    return np.moveaxis(section, 0, -1) if colours > 1 and section.shape[-1] != colours else section
