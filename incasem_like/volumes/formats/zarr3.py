"""Zarr version 3: one ``zarr.json`` per node, shards optional, OME-NGFF 0.5."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from incasem_like.errors import InputError
from incasem_like.volumes.formats.base import ArrayFormat, Document, Layout
from incasem_like.volumes.formats.statements import attribute_statements
from incasem_like.volumes.formats.zarr2 import size_attributes
from incasem_like.volumes.space import Statement


class Zarr3(ArrayFormat):
    """Zarr version 3."""

    name = "zarr3"
    driver = "zarr3"
    array_file = "zarr.json"
    attributes_file = "zarr.json"

    def is_array(self, document: Document) -> bool:
        """Return whether ``node_type`` is that of an array."""
        return document.get("node_type") == "array"

    def is_group(self, documents: dict[str, Document]) -> bool:
        """Return whether ``zarr.json`` is that of a group."""
        return documents.get("zarr.json", {}).get("node_type") == "group"

    def group_documents(self) -> dict[str, Document]:
        """Return the ``zarr.json`` of an empty group."""
        return {"zarr.json": {"zarr_format": 3, "node_type": "group", "attributes": {}}}

    def array_documents(self, layout: Layout, attributes: Document) -> list[tuple[str, Document]]:
        """Return one document: the array and its attributes appear together."""
        array = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(layout.shape),
            "data_type": layout.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": list(layout.shard_shape or layout.chunk_shape)},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": bool(layout.fill_value) if layout.dtype.kind == "b" else layout.fill_value,
            "codecs": _codecs(layout),
            "dimension_names": list(layout.axes),
            "attributes": attributes,
        }
        return [("zarr.json", array)]

    def attributes_of(self, document: Document) -> Document:
        """Return the member ``attributes``."""
        return dict(document.get("attributes") or {})

    def with_attributes(self, document: Document, attributes: Document) -> Document:
        """Replace the member ``attributes``."""
        return {**document, "attributes": attributes}

    def space_attributes(self, layout: Layout) -> Document:
        """Return incasem's ``resolution`` and ``offset``, and ``dimension_units`` for neuroglancer."""
        return size_attributes(layout)

    def statements(self, documents: dict[str, Document]) -> list[Statement]:
        """Read ``dimension_names`` and the attributes."""
        document = documents.get("zarr.json", {})
        names = Statement("dimension_names", document.get("dimension_names"))
        return [names, *attribute_statements(self.attributes_of(document))]


def _codecs(layout: Layout) -> list[Document]:
    inner = _chunk_codecs(layout.dtype, layout.compression)
    if layout.shard_shape is None:
        return inner
    pairs = zip(layout.shard_shape, layout.chunk_shape, strict=True)
    if any(shard % chunk for shard, chunk in pairs):
        fitting = [
            math.ceil(shard / chunk) * chunk
            for shard, chunk in zip(layout.shard_shape, layout.chunk_shape, strict=True)
        ]
        raise InputError(
            f"A shard of {list(layout.shard_shape)} voxels holds no whole number of chunks "
            f"of {list(layout.chunk_shape)}: use {fitting}."
        )
    little_endian = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": list(layout.chunk_shape),
        "codecs": inner,
        "index_codecs": [little_endian, {"name": "crc32c"}],
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": sharding}]


def _chunk_codecs(dtype: np.dtype[Any], compression: str | None) -> list[Document]:
    to_bytes: Document = {"name": "bytes"}
    if dtype.itemsize > 1:
        to_bytes["configuration"] = {"endian": "little"}
    if compression == "none":
        return [to_bytes]
    if compression == "gzip":
        return [to_bytes, {"name": "gzip", "configuration": {"level": 3}}]
    fast = compression == "lz4"
    settings = {
        "cname": "lz4" if fast else "zstd",
        "clevel": 5 if fast else 3,
        "shuffle": "bitshuffle" if fast or dtype.itemsize == 1 else "shuffle",
        "typesize": dtype.itemsize,
        "blocksize": 0,
    }
    return [to_bytes, {"name": "blosc", "configuration": settings}]
