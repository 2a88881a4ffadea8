"""Volumes in single files, read only: HDF5, MRC, NIfTI. A new format is one class here and one line in ``FILES``.

A library opens a file as an object like an array; TensorStore reads from that on demand, so that such a volume behaves
like any other. Its one document, ``header``, is made up from what the file states.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from incasem_like.errors import DataError, InputError
from incasem_like.volumes.address import FILE_SUFFIXES, Address
from incasem_like.volumes.formats.base import ArrayFormat, Document, Layout
from incasem_like.volumes.formats.statements import attribute_statements
from incasem_like.volumes.space import Statement

UNPACKED_BYTES = 1 << 30
IMOD_STAMP, IMOD_SIGNED = 1146047817, 1


class FileFormat(ArrayFormat):
    """A format of single files."""

    writable = False
    has_chunk_files = False
    array_file = attributes_file = "header"
    suffixes: ClassVar[tuple[str, ...]]
    """Endings of file names, lower case."""

    @abstractmethod
    def open(self, address: Address) -> Any:
        """Open an array: an object with ``shape``, ``dtype`` and slices.

        Raises:
            KeyError: The file has no such dataset.
            DataError: The file is damaged, or stores its voxels in a way that is not read.
        """

    @abstractmethod
    def header(self, array: Any) -> Document:
        """Return the attributes of an opened array in the keys that ``statements`` reads."""

    def datasets(self, address: Address) -> list[str]:
        """List the arrays of a file: one without a name, unless the format has datasets."""
        return [""]

    def documents(self, address: Address) -> dict[str, Document] | None:
        """Return the documents of an array, None when the file has no such dataset.

        Raises:
            DataError: The file is missing or damaged.
        """
        array = self.opened(address)
        if array is None:
            return None
        return {"header": {"shape": [int(size) for size in array.shape], "attributes": self.header(array)}}

    def opened(self, address: Address) -> Any:
        """Open an array as ``open`` does, with one-sentence errors; None when the file has no such dataset.

        Raises:
            DataError: The file is missing or damaged.
        """
        if address.is_local and not Path(address.container).exists():
            raise DataError(f"{address.container} does not exist: check the path.")
        try:
            return self.open(address)
        except KeyError:
            return None
        except (DataError, InputError):
            raise
        except Exception as error:  # each library raises its own
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise DataError(f"{address.container} is damaged or not {self.name} ({reason}): copy it again.") from error

    def is_array(self, document: Document) -> bool:
        """Return True."""
        return True

    def is_group(self, documents: dict[str, Document]) -> bool:
        """Return False: files are not groups."""
        return False

    def group_documents(self) -> dict[str, Document]:
        """Refused: this format is read only."""
        raise InputError(f"{self.name} files are only read: write a Zarr or N5.")

    def array_documents(self, layout: Layout, attributes: Document) -> list[tuple[str, Document]]:
        """Refused: this format is read only."""
        raise InputError(f"{self.name} files are only read: write a Zarr or N5.")

    def attributes_of(self, document: Document) -> Document:
        """Return the member ``attributes``."""
        return dict(document.get("attributes", {}))

    def with_attributes(self, document: Document, attributes: Document) -> Document:
        """Refused: this format is read only."""
        raise InputError(f"{self.name} files are only read: write a Zarr or N5.")

    def space_attributes(self, layout: Layout) -> Document:
        """Refused: this format is read only."""
        raise InputError(f"{self.name} files are only read: write a Zarr or N5.")

    def statements(self, documents: dict[str, Document]) -> list[Statement]:
        """Read ``axes``, the usual attributes, and ``element_size_um`` of ilastik and PlantSeg."""
        attributes = self.attributes_of(documents["header"])
        found = [Statement("axes", attributes.get("axes")), *attribute_statements(attributes)]
        if "element_size_um" in attributes:
            found.append(Statement("element_size_um", scale=attributes["element_size_um"], convention="um"))
        return found


class Hdf5(FileFormat):
    """HDF5, local or remote: ``file.h5/group/dataset``."""

    name = "HDF5"
    driver = "hdf5"
    suffixes = FILE_SUFFIXES["HDF5"]

    def open(self, address: Address) -> Any:
        """Return the h5py dataset."""
        found = self._file(address)[address.dataset or "/"]
        if not hasattr(found, "shape"):
            raise KeyError(address.dataset)
        return found

    def _file(self, address: Address) -> Any:
        import h5py

        if address.is_local:
            return h5py.File(address.container, "r")
        import fsspec

        try:
            return h5py.File(fsspec.open(address.container, "rb").open(), "r")
        except ImportError as error:
            raise InputError(f"{address.container} cannot be read without a package ({error}): install it.") from error

    def header(self, array: Any) -> Document:
        """Return the attributes; the axes as ilastik and ``h5py.dims`` name them."""
        attributes = {name: _plain(value) for name, value in array.attrs.items()}
        named = [dimension.label for dimension in array.dims]
        if "axistags" in attributes:
            named = [axis["key"] for axis in json.loads(attributes["axistags"])["axes"]]
        return {**attributes, "axes": named if any(named) else None}

    def datasets(self, address: Address) -> list[str]:
        """List the datasets with at least two axes."""
        found: list[str] = []

        def visit(name: str, item: Any) -> None:
            if len(getattr(item, "shape", None) or ()) > 1:  # groups have none
                found.append(name)

        with self._file(address) as file:
            file.visititems(visit)
        return sorted(found)


class Mrc(FileFormat):
    """MRC and CCP4 maps, uncompressed."""

    name = "MRC"
    driver = "mrc"
    suffixes = FILE_SUFFIXES["MRC"]

    def open(self, address: Address) -> Any:
        """Return the memory-mapped voxels, with the header as attribute."""
        import mrcfile

        opened = mrcfile.mmap(_local(address), mode="r", permissive=True)
        header = opened.header
        order = [int(header[name]) for name in ("mapc", "mapr", "maps")]
        if order not in ([1, 2, 3], [0, 0, 0]):
            raise DataError(
                f"{address.container} stores its axes in the order {order}, but x, y, z is read: reorder it."
            )
        stamp, flags = np.frombuffer(header["extra2"].tobytes()[40:48], header.mapc.dtype)
        data = opened.data
        if data is None:
            raise DataError(f"{address.container} is truncated: its voxels are missing; copy it again.")
        if data.dtype == np.int8 and stamp == IMOD_STAMP and not flags & IMOD_SIGNED:
            data = data.view(np.uint8)
        return _Array(data, [float(opened.voxel_size[axis]) for axis in "zyx"])

    def header(self, array: Any) -> Document:
        """Return the voxel size, unless it is 0, which stands for unknown; the file gives it in angstroms."""
        sizes = array.voxel_size
        return {"resolution": [nm / 10 for nm in sizes]} if min(sizes) > 0 else {}


class Nifti(FileFormat):
    """NIfTI 1 and 2, scaled as the header says; a compressed file is unpacked in memory."""

    name = "NIfTI"
    driver = "nifti"
    suffixes = FILE_SUFFIXES["NIfTI"]

    def open(self, address: Address) -> Any:
        """Return the voxels, x, y, z, with voxel size and unit as attributes."""
        import nibabel

        image = nibabel.load(_local(address))
        voxels: Any = image.dataobj
        if address.container.lower().endswith(".gz"):
            size = int(np.prod(image.shape)) * voxels.dtype.itemsize
            if size > UNPACKED_BYTES:
                raise DataError(f"{address.container} unpacks to {size} bytes, which is not read in parts: gunzip it.")
            voxels = np.asanyarray(voxels)
        unit = image.header.get_xyzt_units()[0]
        known = {"mm": 1e6, "micron": 1e3, "meter": 1e9}.get(unit)
        dtype = np.asanyarray(voxels[(slice(0, 1),) * len(image.shape)]).dtype  # a scaled one is a float
        sizes = [float(size) * known for size in image.header.get_zooms()[:3]] if known else []
        return _Array(voxels, sizes, dtype)

    def header(self, array: Any) -> Document:
        """Return axes and voxel size, which is unknown without a unit."""
        axes = list("xyzt"[: len(array.shape)]) + ["c"] * (len(array.shape) - 4)
        sizes = dict(zip("xyz", array.voxel_size, strict=False))
        if not sizes:
            return {"axes": axes}
        return {"axes": axes, "resolution": [sizes.get(axis, 1.0) for axis in axes]}


class _Array:
    """An array of a library, with its voxel size."""

    def __init__(self, voxels: Any, voxel_size: Sequence[float], dtype: Any = None) -> None:
        self.voxels, self.voxel_size = voxels, voxel_size
        self.shape, self.dtype = voxels.shape, voxels.dtype if dtype is None else dtype

    def __getitem__(self, index: Any) -> Any:
        return self.voxels[index]


def _local(address: Address) -> str:
    if not address.is_local:
        raise InputError(f"{address.container} is remote, which is read for Zarr, N5 and HDF5: download it first.")
    if address.dataset:
        raise KeyError(address.dataset)
    return address.container


def _plain(value: Any) -> Any:
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return value.decode(errors="replace") if isinstance(value, bytes) else value if _is_json(value) else str(value)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


FILES: tuple[FileFormat, ...] = (Hdf5(), Mrc(), Nifti())


def file_format(address: Address) -> FileFormat | None:
    """Return the format of an address whose container is a single file, by its suffix."""
    if address.is_local and Path(address.container).is_dir():
        return None
    name = address.container.lower()
    return next((known for known in FILES if name.endswith(known.suffixes)), None)
