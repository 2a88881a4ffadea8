"""TensorStore in this process: its context, key-value stores, and arrays that are made as they are read."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import tensorstore

from incasem_like.volumes.address import Address

CACHE_BYTES = 64 * 2**20
COPY_THREADS = 4
IO_THREADS = 16
M_ARENA_MAX = -8  # from glibc's malloc.h


@cache
def context() -> Any:
    """Return this process's TensorStore context: a modest chunk cache, few threads, few retries.

    TensorStore must not be opened before a process forks; children of this package start by forkserver or spawn, so
    that each makes its own context here.
    """
    _share_freed_memory()
    retries = {"max_retries": 4, "initial_delay": "200ms", "max_delay": "2s"}
    return tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": CACHE_BYTES},
            "data_copy_concurrency": {"limit": COPY_THREADS},
            "file_io_concurrency": {"limit": IO_THREADS},
            "http_request_concurrency": {"limit": IO_THREADS},
            "http_request_retries": retries,
            "s3_request_retries": retries,
            "gcs_request_retries": retries,
        }
    )


def _share_freed_memory() -> None:
    """Make TensorStore's threads share freed memory: by default each keeps its own, which adds up over many reads.

    glibc gives a process up to eight arenas per core, and an arena keeps what was freed in it. Two hold what is in use
    at a time, and little more; chunks are few and large, so that threads hardly wait for each other.
    """
    if sys.platform.startswith("linux") and "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(AttributeError, OSError):  # another C library with its own memory management
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def open_keys(address: Address, dataset: str = "") -> Any:
    """Open the key-value store of a container, or of a dataset in it."""
    return tensorstore.KvStore.open(address.kvstore(dataset), context=context()).result()


def virtual_array(
    read: Callable[[Any, Any, Any], None], dtype: np.dtype[Any], shape: Sequence[int], chunks: Sequence[int]
) -> Any:
    """Return a TensorStore that another library reads.

    Args:
        read: Called with a domain, the array to fill, and parameters.
        dtype: Its voxel data type.
        shape: Its shape.
        chunks: Unit of reading.
    """
    return tensorstore.virtual_chunked(
        read,
        dtype=tensorstore.dtype(dtype.newbyteorder("=").type),
        shape=shape,
        chunk_layout=tensorstore.ChunkLayout(read_chunk_shape=chunks, write_chunk_shape=chunks),
        context=context(),
    )
