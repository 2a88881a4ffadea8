"""The chunk files of a local array: whether any exist, the separator in their names, and their identity."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from incasem_like.volumes.address import Address
from incasem_like.volumes.faults import warn_once
from incasem_like.volumes.formats.base import ArrayFormat, Document

_PART = re.compile(r"c|(c\.)?\d+(\.\d+)*")


def correct_metadata(address: Address, documents: dict[str, Document]) -> dict[str, Document]:
    """Correct metadata that are known to be wrong, or are valid but not accepted by TensorStore.

    - Some writers nest the chunks in folders without declaring it in ``dimension_separator``, or name them otherwise
      than ``chunk_key_encoding`` says; checked in local arrays.
    - zarr-python records whether its zstd adds a checksum, which makes no difference to readers.
    - Some arrays lack members that are null, or C, in most arrays.

    Returns:
        The documents; if anything was corrected, with one named ``assumed`` to use instead of the array's own.
    """
    if "zarr.json" in documents and address.is_local:
        return _with_chunk_keys(address, documents)
    array = documents.get(".zarray")
    if array is None:
        return documents
    corrected = {"filters": None, "fill_value": None, "order": "C", **array}
    compressor, shape = array.get("compressor"), array.get("shape")
    if isinstance(compressor, dict) and compressor.get("id") == "zstd":
        corrected["compressor"] = {key: value for key, value in compressor.items() if key != "checksum"}
    if address.is_local and isinstance(shape, list) and len(shape) > 1:
        stated = array.get("dimension_separator", ".")
        found = _separator(Path(address.location), stated) or _separator(Path(address.location), None)
        if found not in (None, stated):
            corrected["dimension_separator"] = found
            warn_once(
                f"{address.location} has chunk files named as in 0{found}0, but its .zarray says "
                f"{array.get('dimension_separator', 'no')} dimension_separator: it is read as they are named."
            )
    return documents if corrected == array else {**documents, "assumed": corrected}


def _with_chunk_keys(address: Address, documents: dict[str, Document]) -> dict[str, Document]:
    """Correct the ``chunk_key_encoding`` of a ``zarr.json`` if every chunk file is named otherwise."""
    array = documents["zarr.json"]
    encoding = array.get("chunk_key_encoding")
    if not isinstance(encoding, dict) or len(array.get("shape") or ()) < 2:
        return documents
    stated = encoding.get("name"), (encoding.get("configuration") or {}).get("separator")
    stated = stated[0], stated[1] or ("." if stated[0] == "v2" else "/")
    first = None
    for name in _chunks(Path(address.location)):
        found = "default" if name.startswith("c") else "v2", "/" if "/" in name else "."
        if found == stated:
            return documents
        first = first or (name, found)
    if first is None or stated[0] not in ("default", "v2"):
        return documents
    name, (kind, separator) = first
    warn_once(
        f"{address.location} has chunk files named as {name}, but its zarr.json says the chunk_key_encoding "
        f"{stated[0]} with the separator {stated[1]}: it is read as they are named."
    )
    encoding = {"name": kind, "configuration": {"separator": separator}}
    return {**documents, "assumed": {**array, "chunk_key_encoding": encoding}}


def has_chunks(address: Address, format_: ArrayFormat) -> bool:
    """Return whether an array has any chunk; True where checking is expensive (remote, precomputed), and for files."""
    if not address.is_local or not format_.has_chunk_files:
        return True
    return next(_chunks(Path(address.location)), None) is not None


def _separator(folder: Path, wanted: str | None) -> str | None:
    """Return the separator of the chunk names; a ``wanted`` one is searched for among all names."""
    separators = ("/" if "/" in name else "." for name in _chunks(folder, nested=wanted != "."))
    return next((separator for separator in separators if wanted in (None, separator)), None)


def _chunks(folder: Path, nested: bool = True) -> Iterator[str]:
    """Yield names of chunk files, in the order of the folder; dangling links are skipped."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not _PART.fullmatch(entry.name):
                continue
            if entry.is_file():
                yield entry.name
            elif nested and entry.is_dir():
                yield from (f"{entry.name}/{name}" for name in _chunks(Path(entry.path)))


def list_chunk_files(address: Address, leave_out: set[str]) -> list[tuple[str, int, int]]:
    """List the files of a local array with size in bytes and time of the last change in ns; none for remote ones.

    They are its chunks, or the one file that holds it.

    Args:
        address: Address of the array.
        leave_out: Names of the array's own documents.
    """
    if not address.is_local:
        return []
    if (file := Path(address.container)).is_file():
        return [(file.name, file.stat().st_size, file.stat().st_mtime_ns)]
    folder, lines = Path(address.location), []
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.startswith(".") or name.endswith(".__lock") or (place == str(folder) and name in leave_out):
                continue
            path = Path(place) / name
            status = path.stat()
            lines.append((path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    return lines


def digest(document: object) -> str:
    """Return the SHA-256 of a JSON-able value, the same whatever the order of its keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
