"""The viewer on a sparse volume of 100 GB: seconds to the first picture, memory of the process, and chunks a second.

Chunks are compared with TensorStore's own reading of the same chunks. Needs Chromium for the first picture.
"""

import argparse
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from incasem_like.viewing.opening import scene_of_places
from incasem_like.viewing.screenshot import start_browser, wait_until_drawn
from incasem_like.viewing.server import READERS, serving
from incasem_like.volumes import Roi, create_volume, open_volume

EDGE, CHUNK = 4640, 128  # 99.9 GB of uint8


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=200, help="chunks to read for the rate")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.zarr"
        raw = create_volume(
            path, "raw", shape=(EDGE,) * 3, dtype="uint8", voxel_size=(4, 4, 4), chunk_shape=(CHUNK,) * 3
        )
        middle = EDGE // CHUNK // 2 * CHUNK
        noise = np.random.default_rng(0).integers(0, 255, (CHUNK, 8 * CHUNK, 8 * CHUNK), dtype=np.uint8)
        raw.write(noise, Roi((middle, middle - 4 * CHUNK, middle - 4 * CHUNK), noise.shape))
        raw.mark_complete()
        browser = start_browser()
        began = time.perf_counter()
        scene = scene_of_places([str(path)])
        with serving(scene) as link:
            browser.get(link)
            wait_until_drawn(browser)
            print(f"first picture of {EDGE**3 / 1e9:.0f} GB: {time.perf_counter() - began:.1f} s")
        browser.quit()
        served, volume = scene.layers[0].served, open_volume(path, "raw")
        first = middle // CHUNK
        keys = [(first, first - 4 + n // 8 % 8, first - 4 + n % 8) for n in range(arguments.chunks)]
        seconds = {}
        with ThreadPoolExecutor(READERS) as readers:
            for name, read in {
                "viewer": lambda key: served.read_chunk(0, ".".join(map(str, key))),
                "bare reading": lambda key: volume.read(Roi([n * CHUNK for n in key], (CHUNK,) * 3)),
            }.items():
                began = time.perf_counter()
                list(readers.map(read, keys))
                seconds[name] = time.perf_counter() - began
                print(f"{name}: {len(keys) / seconds[name]:.0f} chunks of 2 MiB a second")
        print(f"ratio to bare reading: {seconds['viewer'] / seconds['bare reading']:.2f}")
        print(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
