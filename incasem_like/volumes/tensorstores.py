"""Opening an array with TensorStore, its axes brought into our order: channels, z, y, x, each starting at 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from incasem_like.errors import DataError
from incasem_like.volumes.address import Address
from incasem_like.volumes.faults import translated
from incasem_like.volumes.formats.base import ArrayFormat, Document
from incasem_like.volumes.store import context


@dataclass(frozen=True)
class Handle:
    """An opened array.

    Attributes:
        store: TensorStore view with axes in our order.
        axes: ``"zyx"``, ``"czyx"``, ``"yx"`` or ``"cyx"``.
        shape: In voxels.
        dtype: Of one voxel.
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
    address: Address, format_: ArrayFormat, documents: dict[str, Document], axes: tuple[str, ...] | None, writable: bool
) -> Handle:
    """Open an array.

    Args:
        address: Where it is.
        format_: Its format.
        documents: Its documents by name; a precomputed volume's first scale is the one to open.
        axes: Names of its axes in TensorStore's order; None for the format's default.
        writable: Whether it will be written.

    Raises:
        DataError: Damaged, out of reach, or of axes or values that cannot be used.
    """
    import tensorstore

    spec = format_.spec(_kvstore(address, documents))
    if format_.name == "precomputed":
        spec["scale_metadata"] = {"key": documents["info"]["scales"][0]["key"]}
    if not address.is_local:
        spec["recheck_cached_data"] = "open"
    with translated(address, "opening"):
        opened = tensorstore.open(spec, context=context(), read=True, write=writable, open=True).result()
    opened = opened[tensorstore.d[:].translate_to[0]]
    names = list(axes or format_.default_axes(opened.rank))
    opened, names = _without_singletons(opened, names, format_.name == "precomputed")
    order = [names.index(name) for name in "czyx" if name in names]
    if len(order) != len(names) or "".join(names[axis] for axis in order) not in ("zyx", "czyx", "yx", "cyx"):
        raise DataError(
            f"{address} has the axes {', '.join(names)}, but only volumes with axes z, y, x and channels are read."
        )
    view = opened[tensorstore.d[order].transpose[:]]
    return _handle(address, view, "".join(names[axis] for axis in order))


def _kvstore(address: Address, documents: dict[str, Document]) -> dict[str, object] | str:
    return address.kvstore("" if "info" in documents and documents["info"].get("scales") else address.dataset)


def _without_singletons(store: Any, names: list[str], precomputed: bool) -> tuple[Any, list[str]]:
    """Drop a time axis of one point, and a lone channel beside it or in precomputed volumes, which always have one."""
    droppable = {"t"} | ({"c"} if precomputed or "t" in names else set())
    for name in sorted(droppable & set(names)):
        axis = names.index(name)
        if store.shape[axis] == 1:
            store = store[tuple(0 if index == axis else slice(None) for index in range(store.rank))]
            names = [other for other in names if other != name]
    return store, names


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
