"""The chunk files of a local array: whether there are any, and how their names are put together."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from incasem_like.volumes.address import Address
from incasem_like.volumes.faults import warn_once
from incasem_like.volumes.formats.base import ArrayFormat, Document

_PART = re.compile(r"c|(c\.)?\d+(\.\d+)*")


def examine_chunks(address: Address, documents: dict[str, Document]) -> dict[str, Document]:
    """Compare the names of an array's chunk files with its metadata.

    Some writers nest the chunks of a Zarr v2 in folders and do not say so in ``dimension_separator``.

    Returns:
        The documents; with one named ``assumed``, to read instead of the array's own, where that is wrong.
    """
    array = documents.get(".zarray")
    if array is None or not address.is_local or len(array.get("shape", ())) < 2:
        return documents
    stated = array.get("dimension_separator", ".")
    if stated in _separators(Path(address.location), stated) or not (found := _separators(Path(address.location))):
        return documents
    separator = found.pop()
    warn_once(
        f"{address.location} has chunk files named as in 0{separator}0, but "
        f"{f'dimension_separator {stated!r}' if 'dimension_separator' in array else 'no dimension_separator'} in its "
        ".zarray: it is read as they are named."
    )
    return {**documents, "assumed": {**array, "dimension_separator": separator}}


def has_chunks(address: Address, format_: ArrayFormat) -> bool:
    """Return whether an array has any chunk; True where that cannot be told cheaply (remote, precomputed)."""
    if not address.is_local or format_.name == "precomputed":
        return True
    return next(_chunks(Path(address.location)), None) is not None


def _separators(folder: Path, wanted: str | None = None) -> set[str]:
    """Return the separator that chunk names have, looking for one that is wanted as long as it takes."""
    for name in _chunks(folder, nested=wanted != "."):
        separator = "/" if "/" in name else "."
        if wanted in (None, separator):
            return {separator}
    return set()


def _chunks(folder: Path, nested: bool = True) -> Iterator[str]:
    """Yield names of chunk files, in the order of the folder; links that lead nowhere are not there."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not _PART.fullmatch(entry.name):
                continue
            if entry.is_file():
                yield entry.name
            elif nested and entry.is_dir():
                yield from (f"{entry.name}/{name}" for name in _chunks(Path(entry.path)))
