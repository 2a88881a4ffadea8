"""The groups above an array and the position they give for it: OME-NGFF multiscales, scale levels of an N5."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator
from pathlib import Path

from incasem_like.errors import InputError
from incasem_like.volumes import ome
from incasem_like.volumes.address import CONTAINER_SUFFIXES, Address, join
from incasem_like.volumes.formats.base import ArrayFormat, Document
from incasem_like.volumes.formats.statements import level_statements
from incasem_like.volumes.space import Space, Statement, resolve_space
from incasem_like.volumes.store import Documents

GROUP_FILES = (".zgroup", ".zattrs", "zarr.json", "attributes.json")


def groups_above(address: Address) -> Iterator[tuple[Address, str]]:
    """Yield the folders above an array, nearest first, each with the path from it to the array.

    They end with the container, or above it where it is itself part of a local group. For a remote array without a
    container only its own folder is yielded.
    """
    parts = address.dataset.split("/") if address.dataset else []
    for depth in reversed(range(len(parts))):
        yield Address(join(address.container, *parts[:depth])), "/".join(parts[depth:])
    folder, _, name = address.container.rpartition("/")
    if not address.is_local:
        if not parts and not name.lower().endswith(CONTAINER_SUFFIXES) and not folder.endswith("/"):
            yield Address(folder), name
        return
    while folder and any((Path(folder) / file).is_file() for file in GROUP_FILES):
        parts.insert(0, name)
        yield Address(folder), "/".join(parts)
        folder, _, name = folder.rpartition("/")


def find_space(address: Address, format_: ArrayFormat, documents: dict[str, Document]) -> Space:
    """Read voxel size, offset and axes of an array from its own metadata and from those of the groups above it.

    Args:
        address: Address of the array.
        format_: Format of the array.
        documents: Documents of the array, by name.

    Raises:
        DataError: They cannot be understood or contradict each other, or a group's document is damaged.
    """
    found = format_.statements(documents)
    attributes = format_.attributes_of(documents.get(format_.attributes_file, {}))
    written_here = "complete" in attributes and "resolution" in attributes  # its groups say the same
    if not written_here and format_.has_chunk_files:
        for group, path in groups_above(address):
            found += _group_statements(group, path, format_.name == "n5", attributes)
    return resolve_space(found, format_.default_axes(format_.rank(documents)), str(address))


def _group_statements(group: Address, path: str, n5: bool, array: Document) -> list[Statement]:
    found = []
    for name in ("attributes.json",) if n5 else (".zattrs", "zarr.json"):
        document = None
        # Stores that cannot be listed report missing keys as not permitted.
        with contextlib.suppress(*([] if group.is_local else [InputError])):
            document = Documents(group).read(name)
        if document is None:
            continue
        attributes = (document.get("attributes") or {}) if name == "zarr.json" else document
        where = f"{group}/{name}"
        found += ome.statements(attributes, path, where, ordered=not n5)
        if n5 and "dimensions" not in document:
            found += level_statements(attributes, posixpath.basename(path), array.get("downsamplingFactors"), where)
    return found
