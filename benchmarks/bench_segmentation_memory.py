"""Peak memory of each segmentation method, of measurements and of refinement on a large, mostly empty volume.

Every step runs in a process of its own with one worker, so the peak is that of a worker, the main process included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from incasem_like.segmentation.affinities import ends
from incasem_like.segmentation.measurement_run import Measurement, measure_as_run
from incasem_like.segmentation.pipeline import segment
from incasem_like.segmentation.planning import plan_segmentation
from incasem_like.segmentation.refinement_run import Refinement, refine_as_run
from incasem_like.segmentation.settings import SegmentationSection
from incasem_like.volumes import Roi, create_volume, open_volume

RESULTS = Path(__file__).parent / "results" / "segmentation_memory.json"
OFFSETS = ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (-4, 0, 0), (0, -9, 0), (0, 0, -9))
PATCH = 96
METHODS = {
    "watershed": "affinities",
    "mutex_watershed": "affinities",
    "connected_components": "affinities",
    "hysteresis": "probabilities",
    "threshold": "probabilities",
}


def make_inputs(container: str, side: int) -> None:
    """Write patches of objects along the diagonal and one in the middle of a face, all else is empty."""
    options = {"voxel_size": (8, 8, 8), "attributes": {"scale": 255, "offsets": OFFSETS}}
    affinities = create_volume(
        container, "affinities", shape=(len(OFFSETS), side, side, side), dtype="uint8", axes="czyx",
        chunk_shape=(len(OFFSETS), 64, 64, 64), **options,
    )  # fmt: skip
    probabilities = create_volume(
        container, "probabilities", shape=(side,) * 3, dtype="uint8", chunk_shape=(64,) * 3, voxel_size=(8, 8, 8),
        attributes={"scale": 255},
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for first in {0, side // 3, side // 2 - PATCH // 2, side - PATCH}:
        cells = rng.integers(1, 500, (PATCH // 16,) * 3).repeat(16, 0).repeat(16, 1).repeat(16, 2)
        boundary = np.zeros(cells.shape, bool)
        for axis in range(3):
            boundary |= np.arange(PATCH).reshape(-1, *(1,) * (2 - axis)) % 16 < 2
        cells[boundary] = 0
        near = np.zeros((len(OFFSETS), *cells.shape), np.uint8)
        for channel, offset in zip(near, OFFSETS, strict=True):
            here, there = ends(cells.shape, offset)
            channel[here] = ((cells[here] == cells[there]) & (cells[here] > 0)) * 230
        roi = Roi((first,) * 3, cells.shape)
        affinities.write(near, roi)
        probabilities.write(((cells > 0) * 255).astype(np.uint8), roi)
    affinities.mark_complete()
    probabilities.mark_complete()


def run_step(container: str, step: str) -> None:
    """Do one step in this process."""
    if step in METHODS:
        section = SegmentationSection.model_validate({"method": step, "output": step})
        segment(plan_segmentation(open_volume(container, METHODS[step]), section))
    elif step == "measurements":
        source = f"{container}/watershed/segmentation"
        measure_as_run(Measurement(segmentation=source, output=f"{container}_tables"), store=None)
    else:
        source = f"{container}/watershed/segmentation"
        refine_as_run(Refinement(operation=step, segmentation=source, output=f"{container}/{step}"), store=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=1024, help="voxels")
    parser.add_argument("--steps", nargs="+", default=[*METHODS, "measurements", "close", "fill_holes"])
    parser.add_argument("--container", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.container:
        run_step(arguments.container, arguments.steps[0])
        print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INCASEM_JOBS"] = f"{folder}/jobs"
        make_inputs(f"{folder}/sparse.zarr", arguments.side)
        for step in arguments.steps:
            started = time.monotonic()
            command = [sys.executable, __file__, "--container", f"{folder}/sparse.zarr", "--steps", step]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            gib = int(done.stdout.split()[-1]) / 2**20
            found[step] = {"peak_gib": round(gib, 2), "seconds": round(time.monotonic() - started)}
            print(f"{step} of {arguments.side}^3 voxels: {gib:.2f} GiB, {found[step]['seconds']} s", flush=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"side": arguments.side, **found}))


if __name__ == "__main__":
    main()
