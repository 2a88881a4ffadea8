"""``Volume``: one array in world units, read and written by ROIs in absolute voxels or nanometres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from funlib.geometry import Roi

from incasem_like.errors import DataError, InputError
from incasem_like.volumes import consolidated
from incasem_like.volumes.address import Address, join
from incasem_like.volumes.chunk_files import digest, has_chunks, list_chunk_files
from incasem_like.volumes.faults import translated
from incasem_like.volumes.formats.base import ArrayFormat
from incasem_like.volumes.geometry import NanometreRoi, describe_roi, exact, voxel_position
from incasem_like.volumes.groups import find_space
from incasem_like.volumes.padding import FOLDS, Array, read_extended, read_with_constant
from incasem_like.volumes.space import Space
from incasem_like.volumes.store import Document, Documents

if TYPE_CHECKING:
    from incasem_like.volumes.tensorstores import Handle

Outside = Literal["error", "constant", "reflect", "edge"]


class Volume:
    """An array of a container; made by ``open_volume`` and ``create_volume``.

    It can be pickled and sent to another process started by forkserver or spawn, where it opens the array anew.

    Attributes:
        address: Address of the array.
        format: Storage format.
        writable: Whether ``write`` and ``update_attributes`` are allowed.

    Example:
        >>> import numpy as np
        >>> from incasem_like.volumes import NanometreRoi, Roi, create_volume, open_volume
        >>> size = (50, 4.6, 4.6)
        >>> volume = create_volume("vnc.zarr/volumes/raw", shape=(2, 64, 64), dtype="uint8", voxel_size=size)
        >>> volume.write(np.full((1, 64, 64), 7, "uint8"), Roi((1, 0, 0), (1, 64, 64)))
        >>> volume.mark_complete()
        >>> raw = open_volume("vnc.zarr/volumes/raw")
        >>> raw.roi, raw.voxel_size
        ([0:2, 0:64, 0:64] (2, 64, 64), (50.0, 4.6, 4.6))
        >>> raw.read(Roi((0, 0, 0), (2, 1, 1))).ravel()
        array([0, 7], dtype=uint8)
        >>> raw.read(NanometreRoi((50, 0, 0), (50, 9.2, 4.6))).shape
        (1, 2, 1)
    """

    def __init__(
        self, address: Address, format_: ArrayFormat, documents: dict[str, Document], *, writable: bool
    ) -> None:
        self.address, self.format, self.writable = address, format_, writable
        self._documents = documents
        self._attributes = format_.attributes_of(documents.get(format_.attributes_file, {}))
        self._handle: Handle | None = None
        self._space: Space | None = None

    def __repr__(self) -> str:
        return f"<Volume {self.address}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def open(self) -> Handle:
        """Return the TensorStore array and its layout, opened at the first call in a process.

        Raises:
            DataError: It is damaged, out of reach, or has axes that are not z, y, x with or without channels.
        """
        if self._handle is None:
            from incasem_like.volumes.tensorstores import open_handle  # not before: TensorStore does not survive a fork

            self._handle = open_handle(self.address, self.format, self._documents, self._world().axes, self.writable)
        return self._handle

    def _world(self) -> Space:
        if self._space is None:
            self._space = find_space(self.address, self.format, self._documents)
        return self._space

    @property
    def container(self) -> str:
        """Local path or URL of the container."""
        return self.address.container

    @property
    def dataset(self) -> str:
        """Path inside the container."""
        return self.address.dataset

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in voxels, channels first where there are any."""
        return self.open().shape

    @property
    def axes(self) -> str:
        """Axes: ``"zyx"``, ``"czyx"``, or ``"yx"``, ``"cyx"`` for images."""
        return self.open().axes

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Shape (z, y, x) in voxels, without channels."""
        return self.shape[self.axes.startswith("c") :]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Voxel data type."""
        return self.open().dtype

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Unit of reading, channels first where there are any."""
        return self.open().chunk_shape

    @property
    def write_chunk_shape(self) -> tuple[int, ...]:
        """Unit of writing: a shard where there are shards, else a chunk."""
        return self.open().write_chunk_shape

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        """Voxel size (z, y, x) in nm; None when the metadata do not give it."""
        return self._world().voxel_size

    def require_voxel_size(self) -> tuple[float, ...]:
        """Return the voxel size (z, y, x) in nm.

        Raises:
            DataError: It is unknown; the message explains how to add it.
        """
        if self.voxel_size is None:
            raise DataError(f"{self.address} does not give its voxel size: {self.describe_resolution()}.")
        return self.voxel_size

    def describe_resolution(self, voxel_size: Sequence[float] | None = None) -> str:
        """Return how to add the voxel size (nm, z, y, x) to the metadata: the given one, else an example."""
        n5 = self.format.name == "n5"
        values = [f"{nm:g}" for nm in voxel_size] if voxel_size else list(self.axes.lstrip("c"))
        listed = f"[{', '.join(reversed(values) if n5 else values)}]"
        file = f"{self.address.location}/{self.format.attributes_file}"
        inside = ' below "attributes"' if self.format.name == "zarr3" else ""
        return f'add "resolution": {listed} in nm to {file}{inside}'

    @property
    def offset(self) -> tuple[float, ...]:
        """Position of the first voxel (z, y, x) in nm; 0 when unknown.

        Raises:
            DataError: The offset is given without a voxel size, so that the position in voxels is unknown.
        """
        offset = self._world().offset or (0.0,) * len(self.spatial_shape)
        if any(offset) and self.voxel_size is None:
            raise DataError(
                f"{self.address} has an offset of [{', '.join(f'{nm:g}' for nm in offset)}] but no voxel size in nm, so"
                f" its position in voxels is unknown: {self.describe_resolution()}."
            )
        return offset

    @property
    def roi(self) -> Roi:
        """The whole volume in absolute voxels (offset / voxel size + index); from 0 when the voxel size is unknown."""
        return Roi(voxel_position(self.offset, self.voxel_size or (1.0,) * len(self.offset)), self.spatial_shape)

    def corner(self, voxel: Sequence[int]) -> tuple[float, ...]:
        """Return the position in nm of the first corner of an absolute voxel, which may lie outside.

        An offset that is not a whole number of voxels shifts every voxel by the same fraction.

        Raises:
            DataError: The voxel size is unknown, and the voxel is not the first.
        """
        if tuple(voxel) == tuple(self.roi.begin):
            return self.offset
        if self.voxel_size is None:
            raise DataError(
                f"{self.address} has no voxel size, which the position of the result needs: give --voxel_size, or set "
                "it first (15_set_voxel_size.py)."
            )
        return tuple(
            float(exact(begin) + (number - first) * exact(size))
            for begin, number, first, size in zip(self.offset, voxel, self.roi.begin, self.voxel_size, strict=True)
        )

    def require_zyx(self, name: str | None = None) -> None:
        """Check that the volume is 3-D without channels.

        Args:
            name: What errors call it; by default its address.

        Raises:
            DataError: Its axes are not z, y, x.
        """
        if self.axes == "zyx":
            return
        remedy = "a 3-D dataset is needed"
        if self.axes == "czyx":
            dataset = self.dataset or self.container.rpartition("/")[2]
            remedy = (
                f"one channel is needed: choose one as {dataset}@c=0 to {dataset}@c={self.shape[0] - 1}, or "
                "name one class's dataset, such as prob_maps/class_1"
            )
        raise DataError(f"{name or self.address} has shape {list(self.shape)} ({self.axes}), but {remedy}.")

    @property
    def has_chunks(self) -> bool:
        """Whether any chunk is on disk; if False, every voxel has the fill value.

        True where it is unknown, and for arrays written here: chunks that hold only the fill value are not stored.
        """
        return "complete" in self._attributes or has_chunks(self.address, self.format)

    def require_chunks(self, name: str | None = None) -> None:
        """Check that some chunk is on disk, where an empty array would make the result meaningless.

        Args:
            name: What errors call it; by default its address.

        Raises:
            DataError: The array has no chunk.
        """
        if not self.has_chunks:
            raise DataError(
                f"{name or self.address} has no chunk on disk, so every voxel is the fill value: copy its chunk files, "
                "or write the dataset again."
            )

    @property
    def attributes(self) -> dict[str, Any]:
        """The array's attributes as last read or written here."""
        return dict(self._attributes)

    @property
    def provenance(self) -> dict[str, Any] | None:
        """The provenance recorded by ``make_provenance``, or None for data of other programs."""
        found = self._attributes.get("provenance")
        return found if isinstance(found, dict) else None

    @property
    def complete(self) -> bool:
        """False from creation until ``mark_complete``; data of other programs, without the attribute, are complete."""
        return bool(self._attributes.get("complete", True))

    def read(self, roi: Roi | NanometreRoi | None = None, *, outside: Outside = "error", fill: float = 0) -> Array:
        """Read an ROI with all its channels.

        Args:
            roi: ROI in absolute voxels or nm; None reads the whole volume.
            outside: What to do where the ROI extends beyond the volume: ``"error"``, ``"constant"`` (``fill``),
                ``"edge"`` (the outermost voxel) or ``"reflect"`` (mirrored at it, as often as needed).
            fill: Value for ``"constant"``.

        Returns:
            Array of the ROI's shape and the volume's dtype, channels first.

        Raises:
            DataError: The ROI is empty, or extends outside with ``outside="error"``, or a chunk is damaged.
        """
        wanted = self._checked(roi, "reading")
        indices = wanted - self.roi.begin
        inside = Roi((0,) * indices.dims, self.spatial_shape)
        if inside.contains(indices):
            return self._read_indices(indices)
        if outside in FOLDS:
            return read_extended(self._read_indices, indices, self.spatial_shape, FOLDS[outside])
        if outside == "constant":
            channels = self.shape[: len(self.shape) - indices.dims]
            return read_with_constant(
                self._read_indices,
                indices,
                self.spatial_shape,
                fill,
                lambda: np.empty((*channels, *indices.shape), self.dtype),
            )
        raise DataError(self._describe_outside(wanted))

    def write(self, array: Array, roi: Roi | NanometreRoi | None = None) -> None:
        """Write an ROI; on return it is on the disk.

        Processes may write concurrently; writes that share a chunk are merged, which is slower.

        Args:
            array: Array of the ROI's shape, channels first; its dtype must fit into the volume's, whatever the values.
            roi: ROI in absolute voxels or nm; None writes the whole volume.

        Raises:
            InputError: Opened for reading only, wrong shape, a dtype that may not fit, no permission.
            DataError: The ROI extends outside the volume.
            DiskFullError: No space is left.
        """
        if not self.writable:
            raise InputError(f"{self.address} was opened for reading only: open it with writable=True.")
        wanted = self._checked(roi, "writing")
        if not self.roi.contains(wanted):
            raise DataError(self._describe_outside(wanted))
        channels = self.shape[: len(self.shape) - wanted.dims]
        expected = (*channels, *wanted.shape)
        if tuple(array.shape) != expected:
            raise InputError(
                f"{self.address} expects {list(expected)} voxels for {describe_roi(wanted)}, got {list(array.shape)}."
            )
        if not np.can_cast(array.dtype, self.dtype, "safe"):
            raise InputError(
                f"{self.address} holds {self.dtype}, which may lose values of {array.dtype}: convert them first."
            )
        slices = (..., *(wanted - self.roi.begin).to_slices())
        with translated(self.address, "writing"):
            self.open().store[slices].write(np.asarray(array, self.dtype)).result()

    def mark_complete(self) -> None:
        """Mark the array complete; until then it is readable only with ``allow_incomplete``."""
        self.update_attributes({"complete": True})

    def update_attributes(self, changes: Mapping[str, Any]) -> None:
        """Change some attributes on disk, all or none, keeping changes that other processes made meanwhile.

        Raises:
            InputError: Opened for reading only, or no permission.
        """
        if not self.writable:
            raise InputError(f"{self.address} was opened for reading only: open it with writable=True.")

        def change(document: Document) -> Document:
            return self.format.with_attributes(document, {**self.format.attributes_of(document), **changes})

        name = self.format.attributes_file
        key, store = join(self.dataset, name), Documents(self.address)
        # Before, so that repeating an interrupted call repairs it; after, to include changes by other processes.
        consolidated.refresh(self.address, {name: change(store.read(key) or {})})
        self._documents[name] = store.update(key, change)
        consolidated.refresh(self.address)
        self._attributes = self.format.attributes_of(self._documents[name])
        self._space = None

    def as_zarr(self) -> Any:
        """Return the array as zarr-python's ``Array`` (read only unless this volume is writable).

        Its axes are z, y, x for every format. Remote containers need fsspec's package for their scheme.

        Raises:
            DataError: The format is one that the installed zarr-python cannot read.
        """
        from incasem_like.volumes.zarr_python import open_array  # zarr is slow to load, and hardly ever needed

        return open_array(self.address, self.format, self._documents, "r+" if self.writable else "r")

    @property
    def content_hash(self) -> str:
        """SHA-256 of metadata, provenance and the list of chunk files with sizes and times; cheap, no chunk is read.

        Attributes that do not affect the voxels, such as ``complete``, are left out. Remote arrays are distinguished by
        their metadata and provenance alone.
        """
        handle = self.open()
        about = {
            "shape": handle.shape, "dtype": handle.dtype.str, "axes": handle.axes, "chunks": handle.chunk_shape,
            "voxel_size": self.voxel_size, "offset": self.offset, "provenance": self.provenance,
            **({"selection": self.address.selection} if self.address.selection else {}),
        }  # fmt: skip
        chunks = list_chunk_files(self.address, {self.format.array_file, self.format.attributes_file})
        return digest([about, chunks])

    def as_input(self) -> dict[str, str]:
        """Return address and content hash, as runs and provenance record the volumes that were read."""
        return {"address": str(self.address), "content_hash": self.content_hash}

    def _read_indices(self, indices: Roi) -> Array:
        with translated(self.address, "reading"):
            part: Array = self.open().store[(..., *indices.to_slices())].read().result()
        return part

    def _checked(self, roi: Roi | NanometreRoi | None, doing: str) -> Roi:
        if roi is None:
            return self.roi
        wanted = roi.to_voxels(self.require_voxel_size()) if isinstance(roi, NanometreRoi) else roi
        if wanted.dims != len(self.spatial_shape):
            raise InputError(
                f"{self.address} has {len(self.spatial_shape)} spatial axes, got a region of {wanted.dims}."
            )
        if wanted.empty or wanted.unbounded:
            raise DataError(
                f"The region for {doing} {self.address} is empty ({wanted.shape}): give it at least one voxel per axis."
            )
        return wanted

    def _describe_outside(self, wanted: Roi) -> str:
        fits = wanted.intersect(self.roi)
        remedy = f"the part that fits is {describe_roi(fits)}" if not fits.empty else "the two do not overlap"
        return f"{self.address} covers {describe_roi(self.roi)}, but {describe_roi(wanted)} was asked for: {remedy}."
