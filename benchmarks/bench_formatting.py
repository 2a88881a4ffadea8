"""Import of TIFF sections, pyramids and synthetic tissue against plain peers: same data, same process, one worker.

    python benchmarks/bench_formatting.py [--sections 64] [--side 768] [--tissue 128]

- TIFF to Zarr against incasem's scheme, which decodes every section once per block of a column, and against decoding
  every section once plus compressing every chunk once, in memory.
- A pyramid against reading each level and writing the next one.
- Synthetic tissue in voxels per second, computed alone, and with its three datasets written.

Seconds are those of the processor (all threads), which other work on the machine changes less than elapsed time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import tifffile
import zarr
from PIL import Image
from scipy.ndimage import gaussian_filter

from incasem_like.formatting.derive import Derivation, derive
from incasem_like.formatting.import_sections import SequenceImport, import_all
from incasem_like.formatting.operations import convert
from incasem_like.formatting.pyramid import make_pyramid
from incasem_like.synthetic.tissue import Tissue, TissueParameters
from incasem_like.synthetic.tissue_volume import make_tissue
from incasem_like.volumes import create_volume, open_volume

RESULTS = Path(__file__).parent / "results" / "formatting.json"
CHUNK = 128


def seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor's seconds that a call takes, and its result; its output is dropped."""
    started = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        result = action()
    return time.process_time() - started, result


def write_sections(folder: Path, sections: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.standard_normal((sections, side, side)).astype(np.float32), 1.5)
    raw = np.clip(128 + 250 * noise, 0, 255).astype(np.uint8)
    folder.mkdir()
    for number, section in enumerate(raw):
        tifffile.imwrite(folder / f"section_{number:04d}.tif", section, compression="lzw")
    return raw


def ours(folder: Path, container: Path) -> None:
    order = SequenceImport(folder, str(container), "volumes/raw")
    list(import_all([order], overwrite=True, num_workers=1))


def per_block(folder: Path, container: Path, shape: tuple[int, ...]) -> None:
    """Import as incasem does: every block opens each of its sections."""
    files = sorted(folder.iterdir())
    chunks = tuple(min(CHUNK, size) for size in shape)
    array = zarr.open_array(
        str(container), mode="w", shape=shape, chunks=chunks, dtype="u1", compressor=numcodecs.Zlib(3)
    )
    for index in np.ndindex(*(-(-size // CHUNK) for size in shape)):
        z, y, x = (slice(i * CHUNK, min((i + 1) * CHUNK, size)) for i, size in zip(index, shape, strict=True))
        array[z, y, x] = np.stack([np.asarray(Image.open(file))[y, x] for file in files[z]])


def decode_and_compress(folder: Path, shape: tuple[int, ...]) -> None:
    raw = np.stack([tifffile.imread(file) for file in sorted(folder.iterdir())])
    codec = numcodecs.Blosc("zstd", 3, numcodecs.Blosc.BITSHUFFLE)
    for index in np.ndindex(*(-(-size // CHUNK) for size in shape)):
        z, y, x = (slice(i * CHUNK, (i + 1) * CHUNK) for i in index)
        codec.encode(np.ascontiguousarray(raw[z, y, x]))


def smaller(voxels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return voxels of the smaller shape, every second one or so, which takes next to no time."""
    return np.ascontiguousarray(
        voxels[tuple(slice(0, None, -(-a // b)) for a, b in zip(voxels.shape, shape, strict=True))]
    )


def read_and_write(container: Path, levels: int) -> None:
    """Read each level of a pyramid and write the voxels of the next."""
    volumes = [open_volume(container, f"pyramid/s{level}") for level in range(levels + 1)]
    for level in range(levels):
        voxels = volumes[level].read()
        target = volumes[level + 1]
        copy = create_volume(
            container.with_name("copy.zarr"), f"s{level}", shape=target.shape, dtype=target.dtype,
            voxel_size=target.voxel_size, chunk_shape=target.chunk_shape, overwrite=True,
        )  # fmt: skip
        copy.write(smaller(voxels, target.shape))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, default=64)
    parser.add_argument("--side", type=int, default=768)
    parser.add_argument("--tissue", type=int, default=128)
    given = parser.parse_args()
    found: dict[str, Any] = {"python": platform.python_version(), "sections": given.sections, "side": given.side}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = write_sections(folder / "tiff", given.sections, given.side)
        own, _ = seconds(lambda: ours(folder / "tiff", folder / "a.zarr"))
        blocks, _ = seconds(lambda: per_block(folder / "tiff", folder / "b.zarr", raw.shape))
        least, _ = seconds(lambda: decode_and_compress(folder / "tiff", raw.shape))
        assert (open_volume(folder / "a.zarr/volumes/raw").read() == raw).all()
        assert (zarr.open(str(folder / "b.zarr"), mode="r")[:] == raw).all()
        print(f"TIFF {raw.shape}: {own:.2f} s; a section per block {blocks:.2f} s: {blocks / own:.1f} times as long; "
              f"decoding and compressing alone {least:.2f} s: {own / least:.2f} times as long")  # fmt: skip
        found["tiff"] = {"seconds": own, "per_block": blocks, "decode_and_compress": least}

        factors = [(1, 2, 2), (2, 2, 2), (2, 2, 2)]
        place = Derivation(str(folder / "a.zarr"), "volumes/raw", "pyramid", None)
        copied, _ = seconds(lambda: derive(replace(place, out_dataset="copy"), convert))
        levels, _ = seconds(lambda: make_pyramid(place, factors=factors, in_place=False))
        levels -= copied  # s0
        plain, _ = seconds(lambda: read_and_write(folder / "a.zarr", len(factors)))
        print(f"Pyramid of {len(factors)} levels: {levels:.2f} s; reading and writing {plain:.2f} s: "
              f"{levels / plain:.2f} times as long")  # fmt: skip
        found["pyramid"] = {"seconds": levels, "read_and_write": plain}

        side = given.tissue
        tissue = Tissue(TissueParameters(), 1, (side, side, side), (8.0, 8.0, 8.0))
        alone, _ = seconds(lambda: tissue.block((0, 0, 0), (side, side, side)))
        written, _ = seconds(lambda: make_tissue(folder / "t.zarr", (side,) * 3, (8.0,) * 3, seed=1))
        rates = [side**3 / each / 1e6 for each in (alone, written)]
        print(f"Tissue {side}^3: {rates[0]:.1f} million voxels per second, {rates[1]:.1f} with writing")
        found["tissue"] = {"million_voxels_per_second": rates[0], "with_writing": rates[1]}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=4) + "\n")


if __name__ == "__main__":
    main()
