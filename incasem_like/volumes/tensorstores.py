"""Opening an array with TensorStore, its axes transposed to our order: channels, z, y, x, each starting at 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorstore

from incasem_like.errors import DataError, InputError
from incasem_like.volumes.address import Address
from incasem_like.volumes.context import context, virtual_array
from incasem_like.volumes.faults import NotOpenedError, translated
from incasem_like.volumes.formats.base import ArrayFormat, Document
from incasem_like.volumes.formats.files import FileFormat

CHUNK_VOXELS = 1 << 21


@dataclass(frozen=True)
class Handle:
    """An opened array.

    Attributes:
        store: TensorStore view with axes in our order.
        axes: ``"zyx"``, ``"czyx"``, ``"yx"`` or ``"cyx"``.
        shape: Shape in voxels.
        dtype: Voxel data type.
        chunk_shape: Unit of reading.
        write_chunk_shape: Unit of writing.
    """

    store: Any
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_shape: tuple[int, ...]
    write_chunk_shape: tuple[int, ...]


def open_handle(
    address: Address, format_: ArrayFormat, documents: dict[str, Document], axes: tuple[str, ...], writable: bool
) -> Handle:
    """Open an array, with zarr-python where TensorStore cannot decode it.

    When opened for reading, a channel axis of one channel and a time axis of one point are dropped.

    Args:
        address: Address of the array, with the selected channel or time point.
        format_: Format of the array.
        documents: Documents of the array, by name; of a precomputed volume the first scale is opened.
        axes: Names of the axes in TensorStore's order.
        writable: Whether it will be written.

    Raises:
        DataError: The array is damaged, unreachable, or has axes or values that cannot be used.
        InputError: ``writable`` for an array that can only be read.
    """
    try:
        if isinstance(format_, FileFormat):
            opened = _open_file(address, format_)
        else:
            opened = _open(address, format_, documents, writable)
    except NotOpenedError as error:
        if format_.name == "zarr3":
            from incasem_like.volumes.numcodecs_chunks import open_with_numcodecs

            opened = open_with_numcodecs(address, documents.get("assumed", documents["zarr.json"]), error)
        elif format_.name in ("zarr2", "n5"):
            from incasem_like.volumes.zarr_python import open_as_tensorstore

            opened = open_as_tensorstore(address, format_, documents, error)
        else:
            raise
        if writable:
            raise InputError(
                f"{address} uses a compression or a type that is only read: write to another dataset."
            ) from error
    if 0 in opened.shape:
        raise DataError(f"{address} has the shape {list(opened.shape)}, which holds no voxel.")
    opened = opened[tensorstore.d[:].translate_to[0]]
    names = list(axes)
    opened, names = _selected(address, opened, names)
    if not writable:
        opened, names = _without_singletons(opened, names)
    if set(names) - set("tczyx"):
        raise DataError(
            f"{address} has the axes {', '.join(names)}, but only volumes with axes z, y, x and channels are read."
        )
    if "t" in names:
        size = opened.shape[names.index("t")]
        raise DataError(
            f"{address} has {size} time points (axis t): choose one by its number behind the dataset, from "
            f"{_choice(address, 't', 0)} to {_choice(address, 't', size - 1)}."
        )
    order = [names.index(name) for name in "czyx" if name in names]
    if "".join(names[axis] for axis in order) not in ("zyx", "czyx", "yx", "cyx"):
        raise DataError(
            f"{address} has the axes {', '.join(names)}, but only volumes with axes z, y, x and channels are read."
        )
    view = opened[tensorstore.d[order].transpose[:]]
    return _handle(address, view, "".join(names[axis] for axis in order))


def _open_file(address: Address, format_: FileFormat) -> Any:
    """Return the array of a file as a TensorStore that reads it on demand, axes in the order of the file."""
    array = format_.opened(address)
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise DataError(f"{address} holds values of type {dtype}, but a volume holds integers, floats or booleans.")

    def read(domain: Any, into: Any, _parameters: Any) -> None:
        try:
            into[...] = array[domain.index_exp]
        except Exception as error:  # each library raises its own
            raise ValueError(f"DATA_LOSS: {error}") from error

    chunks = _grown(getattr(array, "chunks", None) or [1] * len(array.shape), array.shape)
    return virtual_array(read, dtype, array.shape, chunks)


def _grown(chunks: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Return a unit of reading of whole chunks: the shortest side doubled while it has at most ``CHUNK_VOXELS``."""
    grown = [min(chunk, size) for chunk, size in zip(chunks, shape, strict=True)]
    while 2 * int(np.prod(grown)) <= CHUNK_VOXELS:
        open_sides = [axis for axis, size in enumerate(shape) if grown[axis] < size]
        if not open_sides:
            break
        axis = min(open_sides, key=grown.__getitem__)
        grown[axis] *= 2
    return [min(side, size) for side, size in zip(grown, shape, strict=True)]


def _open(address: Address, format_: ArrayFormat, documents: dict[str, Document], writable: bool) -> Any:
    at_root = "info" in documents and documents["info"].get("scales")
    spec = format_.spec(address.kvstore("" if at_root else address.dataset))
    if format_.name == "precomputed":
        spec["scale_metadata"] = {"key": documents["info"]["scales"][0]["key"]}
    if not address.is_local:
        spec["recheck_cached_data"] = "open"
    with translated(address, "opening"):
        if "assumed" in documents:
            spec |= {"metadata": documents["assumed"], "assume_metadata": True, "open": True}
            try:
                return tensorstore.open(spec, context=context(), read=True, write=writable).result()
            except ValueError as error:  # an error in the specification itself has no status
                raise ValueError(f"INVALID_ARGUMENT: {error}") from error
        return tensorstore.open(spec, context=context(), read=True, write=writable, open=True).result()


def _selected(address: Address, store: Any, names: list[str]) -> tuple[Any, list[str]]:
    """Select the channel or time point named by the address."""
    for name, index in address.selection:
        size = store.shape[names.index(name)] if name in names else 0
        if index >= size:
            what = f"{size} of them, from 0" if size else f"the axes {', '.join(names)}"
            raise DataError(f"{address} names {name}={index}, but the array has {what}: correct it.")
        store, names = _taken(store, names, name, index)
    return store, names


def _without_singletons(store: Any, names: list[str]) -> tuple[Any, list[str]]:
    """Drop a time axis of one point and a channel axis of one channel."""
    for name in "tc":
        if name in names and store.shape[names.index(name)] == 1:
            store, names = _taken(store, names, name, 0)
    return store, names


def _taken(store: Any, names: list[str], name: str, index: int) -> tuple[Any, list[str]]:
    axis = names.index(name)
    store = store[tuple(index if place == axis else slice(None) for place in range(store.rank))]
    return store, [other for other in names if other != name]


def _choice(address: Address, axis: str, index: int) -> str:
    chosen = replace(address, selection=(*address.selection, (axis, index)))
    return str(chosen).rpartition("/")[2]


def _handle(address: Address, view: Any, axes: str) -> Handle:
    dtype = view.dtype.numpy_dtype
    if dtype.kind not in "biuf":
        raise DataError(
            f"{address} holds values of type {view.dtype.name}, but a volume holds integers, floats or booleans."
        )
    layout = view.chunk_layout
    return Handle(
        view,
        axes,
        tuple(int(size) for size in view.shape),
        np.dtype(dtype),
        tuple(int(size) for size in layout.read_chunk.shape),
        tuple(int(size) for size in layout.write_chunk.shape),
    )
