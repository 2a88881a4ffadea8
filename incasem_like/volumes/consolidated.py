"""Consolidated metadata: the copy of all documents that some writers keep in a group, kept up to date.

Readers that find one (zarr-python 3 always, others on request) look no further. Zarr v2 has it in ``.zmetadata``, v3 in
the member ``consolidated_metadata`` of the group's ``zarr.json``. Here they are read to list what is behind HTTP, and
for arrays that nothing else describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from incasem_like.volumes.address import Address, join
from incasem_like.volumes.groups import groups_above
from incasem_like.volumes.store import Document, Documents

_NOTHING: Mapping[str, Document] = MappingProxyType({})
_V2_FILES = (".zgroup", ".zattrs", ".zarray")


def refresh(address: Address, pending: Mapping[str, Document] = _NOTHING) -> None:
    """Bring the consolidated metadata of the groups above an array up to date with the array and its groups.

    Args:
        address: Address of the array; an array that does not exist is removed from the metadata.
        pending: Documents of the array, by name, that are about to be written.

    Raises:
        DataError: Consolidated metadata are damaged.
    """
    for group, path in groups_above(address):
        store = Documents(group)
        for file in (".zmetadata", "zarr.json"):
            if _entries(store.read(file) or {}) is not None:
                store.update(file, partial(_refreshed, store, path, pending))


def _refreshed(store: Documents, path: str, pending: Mapping[str, Document], document: Document) -> Document:
    """Return a group's document, the entries of one array and its groups updated to what is on disk."""
    entries = _entries(document)
    if entries is None:
        return document
    parts = path.split("/")
    nodes = ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]
    stale = [key for key in entries if key == path or key.startswith(f"{path}/")]
    kept = {key: entry for key, entry in entries.items() if key not in stale}
    if "zarr_consolidated_format" in document:
        for key, name in ((join(node, name), name) for node in nodes for name in _V2_FILES):
            kept |= _entry(key, pending.get(name) if key == join(path, name) else None, store, key)
        return {**document, "metadata": kept}
    for node in nodes[1:]:
        kept |= _entry(node, pending.get("zarr.json") if node == path else None, store, f"{node}/zarr.json")
    return {**document, "consolidated_metadata": {**document["consolidated_metadata"], "metadata": kept}}


def _entry(name: str, pending: Document | None, store: Documents, key: str) -> dict[str, Document]:
    document = pending or store.read(key)
    if document is None:
        return {}
    return {name: {member: value for member, value in document.items() if member != "consolidated_metadata"}}


def _entries(document: Document) -> dict[str, Any] | None:
    holder = document if "zarr_consolidated_format" in document else document.get("consolidated_metadata")
    entries = holder.get("metadata") if isinstance(holder, dict) else None
    return entries if isinstance(entries, dict) else None


def array_paths(group: Address) -> list[str]:
    """Return the paths of the arrays that a group's consolidated metadata list; they may be out of date."""
    store, found = Documents(group), set()
    base = group.dataset
    for name, entry in (_entries(store.read(join(base, ".zmetadata")) or {}) or {}).items():
        if name.rpartition("/")[2] == ".zarray" and isinstance(entry, dict):
            found.add(name.rpartition("/")[0])
    for name, entry in (_entries(store.read(join(base, "zarr.json")) or {}) or {}).items():
        if isinstance(entry, dict) and entry.get("node_type") == "array":
            found.add(name)
    return sorted(found)


def consolidated_documents(address: Address) -> dict[str, Document]:
    """Return the documents of an array from the ``.zmetadata`` of the nearest group above it that describes it."""
    for group, path in groups_above(address):
        entries = _entries(Documents(group).read(".zmetadata") or {}) or {}
        found = {
            name: entries[join(path, name)] for name in _V2_FILES if isinstance(entries.get(join(path, name)), dict)
        }
        if found:
            return found
    return {}
