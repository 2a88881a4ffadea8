"""3-D CLAHE of a volume on disk against scikit-image in memory: same data, same process, one core."""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.exposure import equalize_adapthist
from skimage.util import img_as_ubyte

from incasem_like.formatting.derive import Derivation
from incasem_like.formatting.equalize import equalize_histogram
from incasem_like.volumes import create_volume, open_volume

RESULTS = Path(__file__).parent / "results" / "clahe.json"
CLIP_LIMIT = 0.02


def write_volume(container: Path, side: int) -> np.ndarray:
    """Write smooth noise with a brightness gradient, uint8, in chunks of 128 voxels."""
    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.standard_normal((side,) * 3).astype(np.float32), 2)
    raw = np.clip(128 + 400 * noise + np.linspace(-60, 60, side, dtype=np.float32), 0, 255).astype(np.uint8)
    volume = create_volume(container, "raw", shape=raw.shape, dtype=raw.dtype, voxel_size=(5, 5, 5))
    volume.write(raw)
    volume.mark_complete()
    return raw


def compare(side: int, kernel: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        container = Path(folder) / "bench.zarr"
        raw = write_volume(container, side)
        started = time.perf_counter()
        equalize_histogram(Derivation(str(container), "raw", "equalised"), kernel=(kernel,) * 3, clip_limit=CLIP_LIMIT)
        ours = time.perf_counter() - started
        result = open_volume(container, "equalised").read().astype(int)
    started = time.perf_counter()
    peer = img_as_ubyte(equalize_adapthist(raw, kernel_size=(kernel,) * 3, clip_limit=CLIP_LIMIT)).astype(int)
    theirs = time.perf_counter() - started
    difference = int(np.abs(result - peer).max())
    print(
        f"{side}^3, kernel {kernel}: {ours:.2f} s with reading and writing, scikit-image {theirs:.2f} s: "
        f"{theirs / ours:.1f} times as fast, differs by {difference} grey level(s) at most"
    )
    return {
        "side": side,
        "kernel": kernel,
        "seconds": round(ours, 3),
        "skimage_seconds": round(theirs, 3),
        "times_faster": round(theirs / ours, 2),
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256, help="voxels; scikit-image needs some 60 bytes for each")
    parser.add_argument("--kernels", type=int, nargs="+", default=[128, 64, 16])
    arguments = parser.parse_args()
    rows = [compare(arguments.side, kernel) for kernel in arguments.kernels]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": platform.processor() or platform.machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
