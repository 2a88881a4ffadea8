"""Neuroglancer precomputed volumes, read only: one ``info`` document with one or more scales."""

from __future__ import annotations

from incasem_like.errors import DataError, InputError
from incasem_like.volumes.formats.base import ArrayFormat, Document, Layout
from incasem_like.volumes.geometry import exact
from incasem_like.volumes.space import Statement


class Precomputed(ArrayFormat):
    """Neuroglancer precomputed; the finest scale unless the address names another by its key."""

    name = "precomputed"
    driver = "neuroglancer_precomputed"
    writable = False
    has_chunk_files = False
    array_file = "info"
    attributes_file = "info"

    def is_array(self, document: Document) -> bool:
        """Return whether ``scales`` is present, as in volumes but not in skeletons and meshes."""
        return isinstance(document.get("scales"), list) and bool(document["scales"])

    def is_group(self, documents: dict[str, Document]) -> bool:
        """Return False: precomputed volumes are not collected in groups."""
        return False

    def group_documents(self) -> dict[str, Document]:
        """Refused: this format is read only."""
        raise InputError("Precomputed volumes are only read: write a Zarr or N5.")

    def array_documents(self, layout: Layout, attributes: Document) -> list[tuple[str, Document]]:
        """Refused: this format is read only."""
        raise InputError("Precomputed volumes are only read: write a Zarr or N5.")

    def attributes_of(self, document: Document) -> Document:
        """Return the whole ``info``."""
        return dict(document)

    def with_attributes(self, document: Document, attributes: Document) -> Document:
        """Refused: this format is read only."""
        raise InputError("Precomputed volumes are only read: write a Zarr or N5.")

    def space_attributes(self, layout: Layout) -> Document:
        """Refused: this format is read only."""
        raise InputError("Precomputed volumes are only read: write a Zarr or N5.")

    def statements(self, documents: dict[str, Document]) -> list[Statement]:
        """Read ``resolution`` (x, y, z in nm) and ``voxel_offset`` (x, y, z in voxels) of the finest scale."""
        scale = documents["info"]["scales"][0]
        size, begin = scale.get("resolution"), scale.get("voxel_offset", [0, 0, 0])
        try:
            offset = [float(exact(first) * exact(step)) for first, step in zip(begin, size, strict=True)]
        except (TypeError, ValueError):
            raise DataError(
                f"A precomputed volume has resolution {size!r} and voxel_offset {begin!r} in its info, but three "
                "numbers each are needed: correct them."
            ) from None
        return [Statement("resolution of info", scale=size, offset=offset, convention="nm")]

    def rank(self, documents: dict[str, Document]) -> int:
        """Return 4: x, y, z and channels (at least one)."""
        return 4

    def default_axes(self, rank: int) -> tuple[str, ...]:
        """Return x, y, z, channel."""
        return tuple("xyzc"[:rank])
