"""Finding arrays: detect the format of a folder, list the datasets of a container, and open one of them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from incasem_like.errors import DataError, InputError
from incasem_like.terminal import nearest
from incasem_like.volumes.address import CONTAINER_SUFFIXES, Address, join, parse_address
from incasem_like.volumes.chunk_files import correct_metadata
from incasem_like.volumes.consolidated import array_paths, consolidated_documents
from incasem_like.volumes.faults import warn_once
from incasem_like.volumes.formats import FORMATS, ArrayFormat, file_format
from incasem_like.volumes.groups import GROUP_FILES
from incasem_like.volumes.store import Document, Documents
from incasem_like.volumes.volume import Volume

Place = str | os.PathLike[str] | Address


def locate(place: Place, dataset: str | None = None) -> Address:
    """Parse an address and find its container: the part that ends in ``.zarr`` or ``.n5``, or the outermost group.

    Raises:
        InputError: For a URL scheme that cannot be read.
    """
    if isinstance(place, Address):
        return place
    address = parse_address(place, dataset)
    if address.dataset or not address.is_local or address.container.lower().endswith(CONTAINER_SUFFIXES):
        return address
    outermost = path = Path(address.container)
    while path.parent != path and any((path.parent / name).is_file() for name in GROUP_FILES):
        outermost = path = path.parent
    inside = Path(address.container).relative_to(outermost).as_posix()
    return Address(outermost.as_posix(), "" if inside == "." else inside, address.selection)


def find_array(address: Address) -> tuple[ArrayFormat, dict[str, Document]] | None:
    """Read the documents of the array at an address.

    Returns:
        Its format and its documents by name, or None when no array is there.

    Raises:
        DataError: A document is damaged or unreachable.
    """
    if (single := file_format(address)) is not None:
        found = single.documents(address)
        return None if found is None else (single, found)
    documents = Documents(address)
    name = address.container.lower()
    likeliest_first = sorted(FORMATS.values(), key=lambda known: not (known.suffix and name.endswith(known.suffix)))
    for known in likeliest_first:
        array = documents.read(join(address.dataset, known.array_file))
        if array is None or not known.is_array(array):
            continue
        if known.array_file == ".zarray" and address.is_local and (Path(address.location) / "zarr.json").is_file():
            warn_once(f"{address.location} has both .zarray and zarr.json: .zarray is read; remove the outdated one.")
        found = {known.array_file: array}
        if known.attributes_file != known.array_file:
            found[known.attributes_file] = documents.read(join(address.dataset, known.attributes_file)) or {}
        return known, found
    return None


def _only_in_consolidated(address: Address) -> tuple[ArrayFormat, dict[str, Document]] | None:
    """Return the documents of an array that only consolidated metadata describe, whose chunks are there."""
    if not address.is_local or not Path(address.location).is_dir():
        return None
    documents = consolidated_documents(address)
    if ".zarray" not in documents:
        return None
    warn_once(f"{address.location} has no .zarray: it is read as the .zmetadata of its group say.")
    return FORMATS["zarr2"], {".zattrs": {}, **documents, "assumed": documents[".zarray"]}


def dataset_exists(place: Place, dataset: str | None = None) -> bool:
    """Return whether an array exists at an address, complete or not.

    Raises:
        DataError: It cannot be determined: a document is damaged or the store is unreachable.
    """
    address = locate(place, dataset)
    return find_array(address) is not None or _scale_of_precomputed(address) is not None


def list_datasets(place: Place) -> list[str]:
    """List the arrays in a container, by their paths in it; ``""`` when the container is itself an array.

    HTTP cannot be listed: there the arrays are those of the container's consolidated metadata, if it has any.
    """
    address = place if isinstance(place, Address) else parse_address(place)
    if (single := file_format(address)) is not None:
        return single.datasets(address)
    if not address.is_local:
        return _list_remote(address)
    found = []
    for folder, folders, files in os.walk(address.location):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(folder).relative_to(address.location).as_posix()
        if any(known.array_file in files and _is_array(Path(folder), known) for known in FORMATS.values()):
            found.append("" if inside == "." else inside)
            folders.clear()
    return found


def _is_array(folder: Path, known: ArrayFormat) -> bool:
    try:
        document = Documents(Address(folder.as_posix())).read(known.array_file)
    except DataError:
        return True  # a damaged array exists, too
    return document is not None and known.is_array(document)


def _list_remote(address: Address) -> list[str]:
    if address.container.lower().startswith("http"):
        folders = set(array_paths(address))
    else:
        keys = Documents(address).list(address.dataset)
        folders = {key.rpartition("/")[0] for key in keys if key.rpartition("/")[2] in _ARRAY_FILES}
    places = {folder: replace(address, dataset=join(address.dataset, folder)) for folder in folders}
    return sorted(folder for folder, place in places.items() if find_array(place) is not None)


_ARRAY_FILES = {known.array_file for known in FORMATS.values()}


def _scale_of_precomputed(address: Address) -> tuple[Address, Document] | None:
    """Interpret ``container/8_8_8`` as the scale with that key of a precomputed volume: its address and its info."""
    if address.container.lower().endswith(CONTAINER_SUFFIXES):
        return None
    if not address.dataset:
        folder, _, name = address.container.rpartition("/")
        address = replace(address, container=folder, dataset=name)
    info = Documents(address).read("info")
    if info is None or not FORMATS["precomputed"].is_array(info):
        return None
    scales = [scale for scale in info["scales"] if scale.get("key") == address.dataset]
    return (address, {**info, "scales": scales}) if scales else None


def open_volume(
    place: Place, dataset: str | None = None, *, writable: bool = False, allow_incomplete: bool = False
) -> Volume:
    """Open an array of any format that the registry knows.

    A suffix of the name, ``raw@c=1``, selects one of several channels or time points; axes of size one are dropped.

    Args:
        place: ``path/to/container.zarr/volumes/raw``, or the container alone; a local path or an ``s3://``, ``gs://``,
            ``http://``, ``https://`` URL.
        dataset: Path inside the container when ``place`` is the container.
        writable: Open for writing too; independent of completeness.
        allow_incomplete: Open the array even if its ``complete`` attribute is false.

    Raises:
        DataError: No container, no array (the existing ones are listed), damaged metadata, incomplete.
        InputError: ``writable`` for an array that cannot be written.
    """
    address = locate(place, dataset)
    found = find_array(address)
    if found is None and not writable:
        found = _only_in_consolidated(address)
    if found is None:
        scale = _scale_of_precomputed(address)
        if scale is None:
            raise DataError(describe_missing(address))
        address, info = scale
        found = FORMATS["precomputed"], {"info": info}
    volume = Volume(address, found[0], correct_metadata(address, found[1]), writable=writable)
    if writable:
        _check_writable(volume)
    if not volume.complete and not allow_incomplete:
        raise DataError(_describe_incomplete(volume))
    volume.open()
    if not writable and not volume.has_chunks:
        warn_once(f"{address.location} has no chunk on disk, so every voxel is the fill value.")
    return volume


def _check_writable(volume: Volume) -> None:
    if not volume.format.writable:
        raise InputError(
            f"{volume.address} is a {volume.format.name} volume, which is only read: write to a Zarr or N5."
        )
    if volume.address.selection:
        raise InputError(f"{volume.address} names a channel of an array: name the array to write without '@'.")
    if volume.address.container.lower().startswith("http"):
        raise InputError(
            f"{volume.address} is reached by HTTP, which is only read: write to a local path, s3:// or gs://."
        )
    if volume.address.is_local and not os.access(volume.address.location, os.W_OK):
        raise InputError(f"Not permitted to write {volume.address}: change its permissions or choose another location.")


def _describe_incomplete(volume: Volume) -> str:
    command = (volume.provenance or {}).get("command")
    remedy = f"finish it with `{command}`" if command else "run the command that makes it again"
    return f"{volume.address} is incomplete, since writing it was interrupted or is still in progress: {remedy}."


def describe_missing(address: Address) -> str:
    """Return a description of what is missing on the path to an array, and what exists instead."""
    here = Path(address.location)
    zipped = next((path for path in (here, *here.parents) if path.suffix.lower() == ".zip" and path.is_file()), None)
    if address.is_local and zipped is not None:
        return f"{zipped} is a zip archive, which is not read: unpack it (`unzip`) and name the folder."
    if address.is_local and not Path(address.container).exists():
        parent = Path(address.container).parent
        there = sorted(path.name for path in parent.iterdir()) if parent.is_dir() else []
        hint = nearest(Path(address.container).name, there) or ": check the path."
        return f"{address.container} does not exist{hint}"
    if address.is_local and not Path(address.container).is_dir() and file_format(address) is None:
        return f"{address.container} is a file, not a Zarr, N5 or precomputed volume: import images as a Zarr first."
    datasets = list_datasets(replace(address, dataset=""))
    if not datasets:
        what = f"no dataset {address.dataset}" if address.dataset else "no Zarr, N5 or precomputed volume"
        return f"{address.container} holds {what}: check the path."
    if datasets == [""]:
        return f"{address.container} is a dataset itself, it has no {address.dataset}: name its container instead."
    if not address.dataset:
        return f"{address.container} is a group of datasets, name one of them: {_listed(datasets)}."
    below = [name for name in datasets if name.startswith(f"{address.dataset}/")]
    if below:
        return f"{address} is a group of datasets, name one of them: {_listed(below)}."
    hint = nearest(address.dataset, datasets)
    found = f"{hint} It" if hint else ": it"
    return f"{address.container} has no dataset {address.dataset}{found} has {_listed(datasets)}."


def _listed(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
