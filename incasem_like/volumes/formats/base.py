"""Interface of a storage format: its documents, its axes and where it keeps voxel size and offset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from incasem_like.errors import InputError
from incasem_like.volumes.space import Statement

Document = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """Description of an array to be created, axes in our order (channels, z, y, x).

    Attributes:
        shape: Shape in voxels, channels first where there are any.
        dtype: Voxel data type.
        axes: ``"zyx"`` or ``"czyx"``.
        chunk_shape: Unit of reading.
        shard_shape: Unit of writing, a multiple of ``chunk_shape``; None without shards.
        voxel_size: (z, y, x) in nm, None when unknown.
        offset: (z, y, x) in nm.
        compression: ``"zstd"``, ``"lz4"``, ``"gzip"`` or ``"none"``; None for the format's default.
        fill_value: Value of voxels never written.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    chunk_shape: tuple[int, ...]
    shard_shape: tuple[int, ...] | None
    voxel_size: tuple[float, ...] | None
    offset: tuple[float, ...]
    compression: str | None
    fill_value: float


class ArrayFormat(ABC):
    """One storage format; stateless."""

    name: ClassVar[str]
    driver: ClassVar[str]
    suffix: ClassVar[str | None] = None
    writable: ClassVar[bool] = True
    has_chunk_files: ClassVar[bool] = True
    """Whether a folder holds one file per chunk, and groups above it may describe it."""
    array_file: ClassVar[str]
    """Name of the document that makes a folder an array."""
    attributes_file: ClassVar[str]
    """Name of the document that holds an array's attributes; may be the same."""

    @abstractmethod
    def is_array(self, document: Document) -> bool:
        """Return whether the document named ``array_file`` describes an array (and not a group)."""

    @abstractmethod
    def is_group(self, documents: dict[str, Document]) -> bool:
        """Return whether the documents of a folder, by name, make it a group of this format."""

    @abstractmethod
    def group_documents(self) -> dict[str, Document]:
        """Return the documents of an empty group, by name."""

    @abstractmethod
    def array_documents(self, layout: Layout, attributes: Document) -> list[tuple[str, Document]]:
        """Return the documents of a new array in the order to write them: the one that makes it an array last."""

    @abstractmethod
    def attributes_of(self, document: Document) -> Document:
        """Return the user's attributes from the document named ``attributes_file``."""

    @abstractmethod
    def with_attributes(self, document: Document, attributes: Document) -> Document:
        """Return that document with these attributes instead of its own."""

    @abstractmethod
    def space_attributes(self, layout: Layout) -> Document:
        """Return the attributes in which readers of this format find voxel size, offset and axes."""

    @abstractmethod
    def statements(self, documents: dict[str, Document]) -> list[Statement]:
        """Return the statements of an array's documents, by name, about voxel size, offset and axes."""

    def rank(self, documents: dict[str, Document]) -> int:
        """Return the number of axes of an array."""
        return len(documents[self.array_file].get("shape", ()))

    def default_axes(self, rank: int) -> tuple[str, ...]:
        """Return the axes of an array whose metadata do not name them, in TensorStore's order."""
        return ("?",) * (rank - 5) + tuple("tczyx"[max(0, 5 - rank) :])

    def spec(self, kvstore: object) -> Document:
        """Return the TensorStore specification that opens the array in this folder."""
        return {"driver": self.driver, "kvstore": kvstore}


def number(value: float) -> int | float:
    """Convert whole numbers to int, so that they are written without a decimal point as by incasem: 8, but 4.6."""
    return int(value) if float(value).is_integer() else float(value)


def numbers(values: Sequence[float]) -> list[int | float]:
    """Apply ``number`` to each."""
    return [number(value) for value in values]


def refuse_shards(layout: Layout, name: str) -> None:
    """Raise an error if a shard shape is given for a format without shards."""
    if layout.shard_shape is not None:
        raise InputError(
            f"{name} has no shards, but a shard shape {list(layout.shard_shape)} was asked for: "
            "leave it out or use zarr3."
        )
