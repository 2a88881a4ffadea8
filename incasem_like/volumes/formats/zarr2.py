"""Zarr version 2: ``.zarray`` and ``.zattrs`` beside the chunks, OME-NGFF 0.4."""

from __future__ import annotations

from incasem_like.volumes.formats.base import ArrayFormat, Document, Layout, numbers, refuse_shards
from incasem_like.volumes.formats.statements import attribute_statements
from incasem_like.volumes.space import Statement

_COMPRESSORS: dict[str, Document | None] = {
    "gzip": {"id": "gzip", "level": 3},
    "none": None,
}


def blosc(itemsize: int, name: str | None = None) -> Document:
    """Return Blosc's zstd with the shuffle that suits the size of a voxel: bits for bytes, bytes for wider numbers.

    Or lz4, which takes a fifth of the time; with shuffled bits floats are hardly larger.
    """
    if name == "lz4":
        return {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 2, "blocksize": 0}
    return {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 2 if itemsize == 1 else 1, "blocksize": 0}


class Zarr2(ArrayFormat):
    """Zarr version 2, chunks in nested folders; both separators are read."""

    name = "zarr2"
    driver = "zarr"
    suffix = ".zarr"
    array_file = ".zarray"
    attributes_file = ".zattrs"

    def is_array(self, document: Document) -> bool:
        """Return True: only arrays have a ``.zarray``."""
        return True

    def is_group(self, documents: dict[str, Document]) -> bool:
        """Return whether the folder has a ``.zgroup``."""
        return ".zgroup" in documents

    def group_documents(self) -> dict[str, Document]:
        """Return ``.zgroup``."""
        return {".zgroup": {"zarr_format": 2}}

    def array_documents(self, layout: Layout, attributes: Document) -> list[tuple[str, Document]]:
        """Return the attributes first, so that no reader finds an array that is not yet marked incomplete."""
        refuse_shards(layout, self.name)
        known = layout.compression in _COMPRESSORS
        array = {
            "zarr_format": 2,
            "shape": list(layout.shape),
            "chunks": list(layout.chunk_shape),
            "dtype": layout.dtype.str,
            "compressor": _COMPRESSORS[layout.compression or ""]
            if known
            else blosc(layout.dtype.itemsize, layout.compression),
            "fill_value": bool(layout.fill_value) if layout.dtype.kind == "b" else layout.fill_value,
            "order": "C",
            "filters": None,
            "dimension_separator": "/",
        }
        return [(".zattrs", attributes), (".zarray", array)]

    def attributes_of(self, document: Document) -> Document:
        """Return all of ``.zattrs``."""
        return dict(document)

    def with_attributes(self, document: Document, attributes: Document) -> Document:
        """Replace all of ``.zattrs``."""
        return dict(attributes)

    def space_attributes(self, layout: Layout) -> Document:
        """Return incasem's ``resolution`` and ``offset``, and axis names and scales for neuroglancer and xarray."""
        return {**size_attributes(layout), "_ARRAY_DIMENSIONS": list(layout.axes)}

    def statements(self, documents: dict[str, Document]) -> list[Statement]:
        """Read the attributes; xarray's axis names come first."""
        attributes = documents.get(".zattrs", {})
        names = Statement("_ARRAY_DIMENSIONS", attributes.get("_ARRAY_DIMENSIONS"))
        return [names, *attribute_statements(attributes)]


def size_attributes(layout: Layout) -> Document:
    """Return incasem's ``resolution`` and ``offset``, and neuroglancer's steps: ``["", "40 nm", "4.6 nm", "4.6 nm"]``.

    An unknown voxel size is left out.
    """
    place: Document = {"offset": numbers(layout.offset)}
    if layout.voxel_size is None:
        return place
    steps = [f"{size} nm" for size in numbers(layout.voxel_size)]
    channels = [""] * (len(layout.axes) - len(steps))
    return {"resolution": numbers(layout.voxel_size), **place, "dimension_units": channels + steps}
