"""Creating arrays: parent groups, metadata for every reader, ``complete`` false until all voxels are written."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

from incasem_like.errors import DataError, InputError
from incasem_like.terminal import nearest
from incasem_like.volumes import consolidated, ome
from incasem_like.volumes.address import Address, join, parse_address
from incasem_like.volumes.formats import FORMATS, ArrayFormat, Layout, file_format
from incasem_like.volumes.layout import checked_layout
from incasem_like.volumes.opening import Place, find_array, open_volume
from incasem_like.volumes.store import Document, Documents
from incasem_like.volumes.volume import Volume

# Files of other kinds: a container of that name is a slip of the pen
NO_CONTAINERS = (".csv", ".gif", ".jpeg", ".jpg", ".json", ".pdf", ".png", ".tif", ".tiff", ".txt", ".yaml", ".yml")


def create_volume(
    place: Place,
    dataset: str | None = None,
    *,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    voxel_size: Sequence[float] | None,
    offset: Sequence[float] = (0, 0, 0),
    axes: str = "zyx",
    chunk_shape: Sequence[int] | None = None,
    shard_shape: Sequence[int] | None = None,
    format: str | None = None,
    compression: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
    fill_value: float = 0,
    overwrite: bool = False,
) -> Volume:
    """Create an array with its parent groups and open it for writing; its attribute ``complete`` starts false.

    Args:
        place: ``path/to/container.zarr/volumes/raw``, or the container alone; a local path, ``s3://`` or ``gs://``.
        dataset: Path inside the container when ``place`` is the container.
        shape: Shape in voxels, channels first where there are any.
        dtype: Voxel data type: integer, float or bool.
        voxel_size, offset: (z, y, x) in nm; fractions are kept as written. None: the voxel size is unknown.
        axes: ``"zyx"``, or ``"czyx"`` with channels.
        chunk_shape: Unit of reading, at most the shape; 128 along each axis if None. (z, y, x) means one channel each.
        shard_shape: For zarr3: several chunks in one file, a multiple of ``chunk_shape``.
        format: ``"zarr2"``, ``"zarr3"`` or ``"n5"``; None uses the format of the container, or the one of its suffix.
        compression: ``"zstd"`` (in Blosc, the default but for N5), ``"lz4"`` (in Blosc, fast),
            ``"gzip"`` (N5's default) or ``"none"``.
        provenance, attributes: From ``make_provenance``; further attributes.
        fill_value: Value of voxels never written.
        overwrite: Replace an array that is there already.

    Raises:
        InputError: An array is there already, the place cannot be written, or a value is wrong.
        DiskFullError: No space is left.
    """
    address = place if isinstance(place, Address) else parse_address(place, dataset)
    if address.selection:
        raise InputError(f"{address} names a channel of an array: name the array to write without '@'.")
    storage = _choose_format(address, format)
    layout = checked_layout(
        shape, dtype, axes, voxel_size, offset, chunk_shape, shard_shape, compression, fill_value, str(address)
    )
    own = {**(attributes or {}), **({} if provenance is None else {"provenance": dict(provenance)})}
    _write_new(address, storage, layout, own, overwrite)
    return open_volume(address, writable=True, allow_incomplete=True)


def _write_new(address: Address, storage: ArrayFormat, layout: Layout, attributes: Document, overwrite: bool) -> None:
    """Write the documents of groups and array; the array exists, incomplete, once the last one is written."""
    documents = storage.array_documents(layout, {**attributes, **storage.space_attributes(layout), "complete": False})
    with _replaced(address, storage, overwrite):
        consolidated.refresh(address)  # drops the replaced array; fails before anything is written
        _make_groups(address, storage)
        store = Documents(address)
        for name, document in documents:
            store.write(join(address.dataset, name), document)
        _announce(address, storage, layout)
        consolidated.refresh(address)


def _choose_format(address: Address, name: str | None) -> ArrayFormat:
    if address.container.lower().startswith("http"):
        raise InputError(f"{address} is reached by HTTP, which is only read: write to a local path, s3:// or gs://.")
    if (single := file_format(address)) is not None:
        raise InputError(f"{address.container} would be {single.name}, which is only read: write a .zarr or .n5.")
    writable = [known for known, storage in FORMATS.items() if storage.writable]
    if name is not None and name not in writable:
        hint = nearest(name, writable) or f": choose one of {', '.join(writable)}."
        raise InputError(f"The format {name} cannot be written{hint}")
    there = _format_of_group(address)
    if there is None and (suffix := Path(address.container).suffix.lower()) in NO_CONTAINERS:
        raise InputError(f"{address.container} ends in {suffix}, but a container is a folder: write a .zarr or .n5.")
    by_suffix = next(
        (
            known
            for known in writable
            if FORMATS[known].suffix and address.container.endswith(str(FORMATS[known].suffix))
        ),
        "zarr2",
    )
    chosen = name or there or by_suffix
    if there is not None and chosen != there:
        raise InputError(
            f"{address.container} is a {there} container, but {chosen} was asked for: "
            "choose another container or format."
        )
    return FORMATS[chosen]


def _format_of_group(address: Address) -> str | None:
    """Return the format name of an existing container that is a group, or None."""
    store = Documents(address)
    names = (".zgroup", "zarr.json", "attributes.json")
    documents = {name: document for name in names if (document := store.read(name)) is not None}
    return next((name for name, known in FORMATS.items() if known.is_group(documents)), None)


@contextlib.contextmanager
def _replaced(address: Address, storage: ArrayFormat, overwrite: bool) -> Iterator[None]:
    """Refuse an existing array, or replace it by what is written inside the context; on failure it is restored."""
    try:
        there = find_array(address)
    except DataError:
        if not overwrite:
            raise
        there = storage, {}
    if there is None:
        _refuse_group_or_file(address)
        yield
        return
    if not overwrite:
        raise InputError(f"{address} exists already: add --overwrite to replace it, or choose another name.")
    if not address.is_local:
        Documents(address).delete(address.dataset, first=there[0].array_file)
        yield
        return
    folder = Path(address.location)
    doomed = folder.with_name(f".{folder.name}.deleted-{uuid.uuid4().hex[:8]}")
    try:
        os.rename(folder, doomed)
    except OSError as error:
        raise InputError(
            f"{address} cannot be replaced ({error.strerror}): change its permissions or choose another location."
        ) from error
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(doomed, folder)
        raise
    for leftover in folder.parent.glob(f".{folder.name}.deleted-*"):  # also left by a process killed here
        leftover.unlink() if leftover.is_symlink() else shutil.rmtree(leftover, ignore_errors=True)


def _refuse_group_or_file(address: Address) -> None:
    if not address.is_local:
        return
    path = Path(address.location)
    for part in (path, *path.parents):
        if part.is_file():
            raise InputError(f"{address} cannot be written: {part} is a file; choose another location.")
    if any((path / name).is_file() for name in (".zgroup", "zarr.json", "attributes.json")):
        raise InputError(f"{address} is a group that holds other datasets: choose another name for the new one.")


def _make_groups(address: Address, storage: ArrayFormat) -> None:
    """Make the container and every folder on the way to the array a group; an array on the way is an error."""
    parts = address.dataset.split("/") if address.dataset else []
    store = Documents(address)
    for depth in range(len(parts)):
        group = "/".join(parts[:depth])
        if find_array(replace(address, dataset=group)) is not None:
            above = replace(address, dataset=group)
            raise InputError(f"{address} cannot be written below {above}, which is an array: choose another name.")
        for name, document in storage.group_documents().items():
            store.update(join(group, name), partial(_filled_in, document))


def _filled_in(wanted: Document, there: Document) -> Document:
    return {**wanted, **there}


def _announce(address: Address, storage: ArrayFormat, layout: Layout) -> None:
    """Add the array to the OME-NGFF multiscales of its group, so that viewers that open the group find it."""
    if not address.dataset or storage.name not in ome.VERSIONS:
        return
    group, _, name = address.dataset.rpartition("/")
    image = ome.image_of(layout, name)

    def change(document: Document) -> Document:
        return storage.with_attributes(document, ome.with_image(storage.attributes_of(document), image, storage.name))

    Documents(address).update(join(group, storage.attributes_file), change)
