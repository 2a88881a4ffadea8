"""N5: one ``attributes.json`` per node, every list in it in the order x, y, z.

N5 counts its axes fastest first. TensorStore shows them in that order, zarr-python's N5 stores show them reversed. All
lists that we write into ``attributes.json`` (``resolution``, ``offset``, ``units``, ``axes``, ...) are in N5's order,
because neuroglancer, BigDataViewer, Paintera and gunpowder read them so; our own interface stays z, y, x.
"""

from __future__ import annotations

from incasem_like.errors import InputError
from incasem_like.volumes.formats.base import ArrayFormat, Document, Layout, numbers, refuse_shards
from incasem_like.volumes.formats.statements import attribute_statements
from incasem_like.volumes.space import Statement

_OWN_MEMBERS = ("n5", "dimensions", "blockSize", "dataType", "compression", "compressionType")
_COMPRESSIONS: dict[str, Document] = {
    "gzip": {"type": "gzip", "level": 3, "useZlib": False},
    "none": {"type": "raw"},
}


class N5(ArrayFormat):
    """N5, compressed with gzip by default, which every reader of N5 supports."""

    name = "n5"
    driver = "n5"
    suffix = ".n5"
    array_file = "attributes.json"
    attributes_file = "attributes.json"

    def is_array(self, document: Document) -> bool:
        """Return whether ``dimensions`` is present, as in every array."""
        return "dimensions" in document

    def is_group(self, documents: dict[str, Document]) -> bool:
        """Return whether the ``attributes.json`` has no ``dimensions``."""
        return "attributes.json" in documents and not self.is_array(documents["attributes.json"])

    def group_documents(self) -> dict[str, Document]:
        """Return ``attributes.json`` with the version, which zarr-python requires in every group."""
        return {"attributes.json": {"n5": "4.0.0"}}

    def array_documents(self, layout: Layout, attributes: Document) -> list[tuple[str, Document]]:
        """Return one document: the array and its attributes appear together."""
        refuse_shards(layout, self.name)
        if layout.fill_value != 0:
            raise InputError(
                f"N5 fills voxels never written with 0, but {layout.fill_value} was asked for: use a Zarr."
            )
        if layout.dtype.kind not in "iuf" or layout.dtype.name == "float16":
            raise InputError(f"N5 cannot hold {layout.dtype}: use a Zarr, or integers, float32 or float64.")
        kind = layout.compression or "gzip"
        fast = kind == "lz4"
        blosc = {
            "type": "blosc",
            "cname": "lz4" if fast else "zstd",
            "clevel": 5 if fast else 3,
            "shuffle": 2 if fast or layout.dtype.itemsize == 1 else 1,
            "blocksize": 0,
        }
        array = {
            "dimensions": list(reversed(layout.shape)),
            "blockSize": list(reversed(layout.chunk_shape)),
            "dataType": layout.dtype.name,
            "compression": _COMPRESSIONS.get(kind, blosc),
        }
        return [("attributes.json", {**attributes, **array})]

    def attributes_of(self, document: Document) -> Document:
        """Return all members that N5 itself does not define."""
        return {name: value for name, value in document.items() if name not in _OWN_MEMBERS}

    def with_attributes(self, document: Document, attributes: Document) -> Document:
        """Replace all members that N5 itself does not define."""
        own = {name: value for name, value in document.items() if name in _OWN_MEMBERS}
        return {**attributes, **own}

    def space_attributes(self, layout: Layout) -> Document:
        """Return lists in the order x, y, z, channel; neuroglancer needs one entry per axis in all but ``offset``."""
        attributes: Document = {"axes": list(reversed(layout.axes)), "offset": numbers(layout.offset[::-1])}
        if layout.voxel_size is None:
            return attributes
        channels = len(layout.axes) - len(layout.voxel_size)
        resolution = numbers(layout.voxel_size[::-1])
        attributes["resolution"] = resolution + [1] * channels
        attributes["units"] = ["nm"] * len(resolution) + [""] * channels
        if channels == 0:
            attributes["pixelResolution"] = {"unit": "nm", "dimensions": resolution}
        return attributes

    def statements(self, documents: dict[str, Document]) -> list[Statement]:
        """Read ``axes`` and the attributes."""
        attributes = documents.get("attributes.json", {})
        axes = attributes.get("axes")
        if isinstance(axes, list):
            axes = [axis.get("name") if isinstance(axis, dict) else axis for axis in axes]
        return [Statement("axes", axes), *attribute_statements(attributes, n5=True)]

    def rank(self, documents: dict[str, Document]) -> int:
        """Return the length of ``dimensions``."""
        return len(documents[self.array_file].get("dimensions", ()))

    def default_axes(self, rank: int) -> tuple[str, ...]:
        """Return the axes, fastest first."""
        return tuple("xyzct"[:rank]) + ("?",) * (rank - 5)
