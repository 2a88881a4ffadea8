"""Arrays that TensorStore cannot decode but zarr-python can: its filters, compressors and types; read only."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import zarr

from incasem_like.errors import DataError
from incasem_like.volumes.address import Address
from incasem_like.volumes.context import virtual_array
from incasem_like.volumes.faults import NotOpenedError
from incasem_like.volumes.formats.base import ArrayFormat, Document


def open_array(address: Address, format_: ArrayFormat, documents: dict[str, Document], mode: str = "r") -> Any:
    """Open an array with zarr-python; its axes are in the order of the index, z, y, x, for every format.

    Raises:
        DataError: The format is one that the installed zarr-python cannot read.
    """
    if format_.name == "n5" and hasattr(zarr, "N5FSStore"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the warning that zarr-python 3 has no N5
            return zarr.open_array(zarr.N5FSStore(address.container), mode=mode, path=address.dataset)
    if format_.name == "zarr2" and mode == "r":
        chunks = (zarr.DirectoryStore if address.is_local else zarr.storage.FSStore)(address.location)
        known = {**documents, ".zarray": documents.get("assumed", documents[".zarray"])}  # as read and corrected here
        store = {name: json.dumps(document).encode() for name, document in known.items()}
        return zarr.open_array(store, chunk_store=chunks, mode=mode)
    if format_.name == "zarr2" or (format_.name == "zarr3" and int(zarr.__version__.split(".")[0]) >= 3):
        return zarr.open_array(address.location, mode=mode)
    raise DataError(f"{address} is {format_.name}, which zarr-python {zarr.__version__} cannot read: use read().")


def open_as_tensorstore(
    address: Address, format_: ArrayFormat, documents: dict[str, Document], refused: NotOpenedError
) -> Any:
    """Open an array that TensorStore refused with zarr-python, as a TensorStore that decodes its chunks on demand.

    Raises:
        DataError: Its values are not numbers, or zarr-python cannot decode it either; the message names the codec.
    """
    try:
        array = open_array(address, format_, documents)
    except Exception as error:  # zarr-python and numcodecs may raise any error on bad JSON
        raise DataError(
            f"{address} cannot be opened ({refused.reason}): its metadata are damaged, or what it uses, "
            f"{_codecs(documents)}, is not supported; restore them, or rewrite it with blosc, zstd or gzip."
        ) from error
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise DataError(
            f"{address} holds values of type {array.dtype}, but a volume holds integers, floats or booleans."
        )

    def read(domain: Any, into: Any, _parameters: Any) -> None:
        try:
            # zarr-python leaves voxels without a chunk and without a fill value uninitialised.
            voxels = np.zeros(domain.shape, array.dtype)
            into[...] = array.get_basic_selection(domain.index_exp, out=voxels)
        except Exception as error:
            raise ValueError(f"DATA_LOSS: {error}") from error

    store = virtual_array(read, array.dtype, array.shape, array.chunks)
    return store.T if format_.name == "n5" else store


def _codecs(documents: dict[str, Document]) -> str:
    """Return the names of an array's filters and compressor, and its type."""
    array = documents.get(".zarray") or documents.get("attributes.json", {})
    compression = array.get("compressor", array.get("compression", array.get("compressionType")))
    filters = array.get("filters")
    codecs = [*(filters if isinstance(filters, list) else []), *([compression] if compression else [])]
    names = [str(codec.get("id", codec.get("type"))) if isinstance(codec, dict) else str(codec) for codec in codecs]
    return f"{' and '.join(names) or 'no compression'} on {array.get('dtype', array.get('dataType'))}"
