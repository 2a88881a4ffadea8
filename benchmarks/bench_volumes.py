"""Reading and writing a volume against zarr-python: same voxels, same chunks, same compressor, same process.

Ours syncs every chunk to the disk when writing, and keeps up to 64 MiB of decoded chunks when reading; zarr-python does
neither.
"""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numcodecs
import numpy as np
import zarr
from scipy import ndimage

from incasem_like.volumes import Roi, create_volume, open_volume

RESULTS = Path(__file__).parent / "results" / "volumes.json"
EDGE = 384
CHUNK = 128
BLOCK = 204
REPEATS = 5


def image() -> np.ndarray:
    """Return smooth noise that compresses about as electron micrographs do."""
    noise = np.random.default_rng(0).standard_normal((EDGE,) * 3).astype(np.float32)
    return np.clip(128 + 200 * ndimage.gaussian_filter(noise, 1), 0, 255).astype(np.uint8)


def median_seconds(action: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def write_ours(container: Path, voxels: np.ndarray) -> None:
    volume = create_volume(
        container / "raw",
        shape=voxels.shape,
        dtype=voxels.dtype,
        voxel_size=(4, 4, 4),
        chunk_shape=(CHUNK,) * 3,
        overwrite=True,
    )
    volume.write(voxels)
    volume.mark_complete()


def write_theirs(container: Path, voxels: np.ndarray) -> None:
    compressor = numcodecs.Blosc("zstd", 3, numcodecs.Blosc.BITSHUFFLE)
    group = zarr.open_group(str(container), mode="w")
    group.create_dataset(
        "raw",
        data=voxels,
        chunks=(CHUNK,) * 3,
        compressor=compressor,
        dimension_separator="/",
        write_empty_chunks=False,
    )


def positions(count: int) -> list[tuple[int, int, int]]:
    generator = np.random.default_rng(1)
    return [tuple(int(at) for at in generator.integers(0, EDGE - BLOCK, 3)) for _ in range(count)]


def measure(folder: Path) -> list[dict[str, object]]:
    voxels = image()
    ours, theirs = folder / "ours.zarr", folder / "theirs.zarr"
    rows: list[dict[str, object]] = []

    def compare(name: str, mine: Callable[[], object], peers: Callable[[], object]) -> None:
        seconds, peer_seconds = median_seconds(mine), median_seconds(peers)
        rows.append(
            {"name": name, "seconds": seconds, "zarr_seconds": peer_seconds, "times_faster": peer_seconds / seconds}
        )
        print(f"{name}: {seconds:.3f} s, zarr-python {peer_seconds:.3f} s: {peer_seconds / seconds:.2f} times as fast")

    compare(f"write {EDGE}^3", lambda: write_ours(ours, voxels), lambda: write_theirs(theirs, voxels))
    volume, array = open_volume(ours / "raw"), zarr.open_array(str(theirs / "raw"), mode="r")
    assert np.array_equal(volume.read(), array[:])
    compare(f"read {EDGE}^3", volume.read, lambda: array[:])
    places = positions(4)
    compare(
        f"read {len(places)} blocks of {BLOCK}^3",
        lambda: [volume.read(Roi(at, (BLOCK,) * 3)) for at in places],
        lambda: [array[tuple(slice(begin, begin + BLOCK) for begin in at)] for at in places],
    )
    corner = Roi((-47,) * 3, (BLOCK,) * 3)
    inside = (slice(0, BLOCK - 47),) * 3
    compare(
        f"read a {BLOCK}^3 corner, mirrored outside",
        lambda: volume.read(corner, outside="reflect"),
        lambda: np.pad(array[inside], [(47, 0)] * 3, mode="reflect"),
    )
    compare("open and read one voxel", lambda: open_volume(ours / "raw").read(Roi((0, 0, 0), (1, 1, 1))),
            lambda: zarr.open_array(str(theirs / "raw"), mode="r")[:1, :1, :1])  # fmt: skip
    return rows


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench_volumes_"))
    try:
        rows = measure(folder)
    finally:
        shutil.rmtree(folder)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": platform.machine(), "zarr": zarr.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
