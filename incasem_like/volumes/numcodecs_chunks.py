"""Arrays of Zarr 3 with codecs of numcodecs, which TensorStore does not have: decoded chunk by chunk, read only.

zarr-python 3 names them ``numcodecs.delta``, ``numcodecs.lz4`` and so on.
"""

from __future__ import annotations

from typing import Any

import numcodecs
import numpy as np

from incasem_like.errors import DataError
from incasem_like.volumes.address import Address
from incasem_like.volumes.context import open_keys, virtual_array
from incasem_like.volumes.faults import NotOpenedError
from incasem_like.volumes.formats.base import Document

PLAIN = ("gzip", "zstd", "blosc", "crc32c")


def open_with_numcodecs(address: Address, document: Document, refused: NotOpenedError) -> Any:
    """Open an array that TensorStore refused, as a TensorStore that decodes its chunks on demand.

    Args:
        address: Address of the array.
        document: Its ``zarr.json``.
        refused: TensorStore's error.

    Raises:
        DataError: It has no codec of numcodecs, or one that is not known; the message names its codecs.
    """
    names = [str(codec.get("name")) for codec in document.get("codecs", ()) if isinstance(codec, dict)]
    if not any(name.startswith("numcodecs.") for name in names):
        raise refused
    try:
        filters, big_endian, compressors = _codecs(document["codecs"])
        dtype = np.dtype(document["data_type"])
        chunks = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
        encoding = document["chunk_key_encoding"]
        fill = np.asarray(document["fill_value"]).astype(dtype)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{address} cannot be opened ({refused.reason}): what it uses, {' and '.join(names)}, is not supported; "
            "rewrite it with blosc, zstd or gzip."
        ) from error
    kind = encoding.get("name", "default")
    separator = (encoding.get("configuration") or {}).get("separator", "." if kind == "v2" else "/")
    stored = dtype
    for filter_ in filters:
        stored = np.dtype(getattr(filter_, "astype", stored))
    keys = open_keys(address, address.dataset)

    def read(domain: Any, into: Any, _parameters: Any) -> None:
        index = [low // size for low, size in zip(domain.origin, chunks, strict=True)]
        found = keys.read(separator.join([*(["c"] if kind == "default" else []), *map(str, index)])).result()
        if found.state != "value":
            into[...] = fill
            return
        try:
            data: Any = found.value
            for codec in reversed(compressors):
                data = codec.decode(data)
            values = np.frombuffer(data, stored.newbyteorder(">" if big_endian else "<")).astype(stored)
            for codec in reversed(filters):
                values = codec.decode(values)
            begin = (low - part * size for low, part, size in zip(domain.origin, index, chunks, strict=True))
            box = tuple(slice(low, low + size) for low, size in zip(begin, domain.shape, strict=True))
            into[...] = np.asarray(values, dtype).reshape(chunks)[box]
        except Exception as error:  # codecs raise any error on damaged bytes
            raise ValueError(f"DATA_LOSS: {error}") from error

    return virtual_array(read, dtype, document["shape"], chunks)


def _codecs(listed: list[Document]) -> tuple[list[Any], bool, list[Any]]:
    """Return filters of arrays, whether bytes are big-endian, and compressors of bytes.

    Raises:
        ValueError: A codec is not known.
    """
    before: list[Any] = []
    after: list[Any] = []
    big_endian, found = False, before
    for codec in listed:
        name, configuration = codec["name"], codec.get("configuration") or {}
        if name == "bytes":
            big_endian, found = configuration.get("endian") == "big", after
        elif name.startswith("numcodecs."):
            found.append(numcodecs.get_codec({**configuration, "id": name.removeprefix("numcodecs.")}))
        elif name in PLAIN and found is after:  # what was encoded with decodes itself
            found.append(numcodecs.get_codec({"id": name}))
        else:
            raise ValueError(name)
    return before, big_endian, after
