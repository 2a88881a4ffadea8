"""Fixtures: volumes with random voxels, small file systems, a web server."""

import contextlib
import functools
import http.server
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disks import tmpfs

from incasem_like.volumes import Volume, create_volume


@pytest.fixture
def random_volume(tmp_path: Path) -> Callable[..., tuple[Volume, np.ndarray]]:
    """Return a function that creates a complete volume of random voxels and returns it with them."""

    def make(address: str = "cell.zarr/volumes/raw", **options: Any) -> tuple[Volume, np.ndarray]:
        settings = {
            "shape": (6, 7, 8),
            "dtype": "uint8",
            "voxel_size": (40, 4.6, 4.6),
            "chunk_shape": (4, 4, 4),
            **options,
        }
        volume = create_volume(tmp_path / address, **settings)
        voxels = random_voxels(settings["shape"], settings["dtype"])
        volume.write(voxels)
        volume.mark_complete()
        return volume, voxels

    return make


def random_voxels(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> np.ndarray:
    """Return voxels over the whole range of a type, no NaN."""
    kind = np.dtype(dtype)
    generator = np.random.default_rng(seed)
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        return generator.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)
    if kind.kind == "b":
        return generator.random(shape) < 0.5
    return generator.normal(size=shape).astype(kind)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return a function that mounts a file system of few bytes; skips where that is not permitted."""
    with contextlib.ExitStack() as mounted:
        numbers = itertools.count()
        yield lambda options: mounted.enter_context(tmpfs(tmp_path / f"disk{next(numbers)}", options))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Serve the test's folder on 127.0.0.1 and return its URL."""
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()
