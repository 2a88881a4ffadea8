"""Objects in small public volumes, ours against named rivals on the same maps of boundaries, as a table.

Every method gets the same map and nine thresholds. The one with the lowest VOI on the first half of the sections is
scored on the second half. Each method runs in a process of its own, on one thread. The volumes are those of
``INCASEM_REAL_DATA`` (the README says where they come from); the table is written as Markdown and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import bench_segmentation
import cc3d
import h5py
import numpy as np
import skimage.segmentation
from scipy import ndimage

from incasem_like.evaluation.instances import Contingency, partition_scores
from incasem_like.segmentation.affinities import ends

RESULTS = Path(__file__).parent / "results"
THRESHOLDS = bench_segmentation.THRESHOLDS = tuple(number / 10 for number in range(1, 10))
Array = np.ndarray[Any, Any]


class Volume(NamedTuple):
    """A map of boundaries from 0 to 1, and the objects, 0 = not known; both (z, y, x)."""

    name: str
    boundaries: Array
    truth: Array


def neurons(folder: Path) -> Volume:
    """FIB-SEM neuropil, with the membrane probabilities that gala publishes beside it."""
    with h5py.File(folder / "train-p1.h5") as found, h5py.File(folder / "train-gt.h5") as objects:
        boundaries = np.asarray(found["stack"], np.float32)
        return Volume("neurons (gala, FIB-SEM)", boundaries / max(1, boundaries.max()), objects["stack"][:])


def cells(folder: Path) -> Volume:
    """Light-sheet ovule of PlantSeg: cell walls are stained, so that smoothed raw is the map of boundaries."""
    with h5py.File(folder / "ovule.h5") as file:
        raw = ndimage.gaussian_filter(np.asarray(file["raw"], np.float32), 1)
        low, high = np.percentile(raw, (1, 99))
        return Volume("cells (PlantSeg, light sheet)", np.clip((raw - low) / (high - low), 0, 1), file["label"][:])


VOLUMES: dict[str, Callable[[Path], Volume]] = {"gala": neurons, "plant": cells}


def affinities_of(boundaries: Array) -> Array:
    """Return affinities of direct neighbours: 1 - the higher of their boundary values."""
    found = np.zeros((3, *boundaries.shape), np.float32)
    for channel, offset in zip(found, bench_segmentation.OFFSETS, strict=True):
        here, there = ends(boundaries.shape, offset)
        channel[here] = 1 - np.maximum(boundaries[here], boundaries[there])
    return found


def with_cc3d(boundaries: Array) -> list[Array]:
    """Threshold, connected components, gaps filled by the nearest object."""
    parts = (cc3d.connected_components(boundaries < threshold, connectivity=6) for threshold in THRESHOLDS)
    return [skimage.segmentation.expand_labels(part.astype(np.int32), max(part.shape)) for part in parts]


def with_scipy(boundaries: Array) -> list[Array]:
    """The same with scipy's components."""
    parts = (ndimage.label(boundaries < threshold)[0] for threshold in THRESHOLDS)
    return [skimage.segmentation.expand_labels(part, max(part.shape)) for part in parts]


def with_skimage(boundaries: Array) -> list[Array]:
    """Watershed of the boundaries from the maxima of the distance to them."""
    found = []
    for threshold in THRESHOLDS:
        distance = ndimage.distance_transform_edt(boundaries < threshold)
        seeds = ndimage.label((ndimage.maximum_filter(distance, 10) == distance) & (distance > 0))[0]
        found.append(skimage.segmentation.watershed(boundaries, seeds))
    return found


METHODS: dict[str, tuple[Callable[[Array], list[Array]], tuple[str, ...]]] = {
    "incasem-like: watershed, agglomeration": (
        lambda boundaries: bench_segmentation.ours(affinities_of(boundaries)), ("incasem-like",),
    ),
    "scipy watershed, waterz (as lsd)": (
        lambda boundaries: bench_segmentation.scripts_of_lsd(affinities_of(boundaries)), ("waterz", "scipy"),
    ),
    "scikit-image watershed of the distance": (with_skimage, ("scikit-image", "scipy")),
    "threshold, cc3d": (with_cc3d, ("connected-components-3d",)),
    "threshold, scipy.ndimage.label": (with_scipy, ("scipy",)),
}  # fmt: skip


def measure(method: str, volume: Volume) -> dict[str, Any]:
    """Run a method; call it in a process of its own, whose memory is measured."""
    work, packages = METHODS[method]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # waterz reports every step
    work(volume.boundaries[:8, :32, :32])  # loads libraries
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    found = work(volume.boundaries)
    seconds = time.process_time() - started
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    half = len(volume.truth) // 2
    tuned, scored = (
        [partition_scores(Contingency.of(volume.truth[part], one[part].astype(np.uint64)).labelled) for one in found]
        for part in (slice(half), slice(half, None))
    )
    best = min(range(len(found)), key=lambda number: tuned[number]["voi"])
    return {
        "volume": volume.name,
        "method": method,
        "threshold": THRESHOLDS[best],
        **{name: round(scored[best][name], 3) for name in ("voi_split", "voi_merge", "voi", "adapted_rand_error")},
        "cpu_seconds": round(seconds, 2),
        "memory_mib": round(memory),
        "versions": {package: version(package) for package in packages},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown, the best first for each volume."""
    lines = [
        "| volume | method | VOI split + merge | adapted Rand error | CPU s | MiB | versions |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["volume"], row["voi"])):
        versions = ", ".join(f"{name} {number}" for name, number in row["versions"].items())
        lines.append(
            f"| {row['volume']} | {row['method']} | {row['voi_split']} + {row['voi_merge']} = {row['voi']} | "
            f"{row['adapted_rand_error']} | {row['cpu_seconds']} | {row['memory_mib']} | {versions} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("INCASEM_REAL_DATA"), help="folder of the volumes")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of living.md and living.json")
    arguments = parser.parse_args()
    there = [name for name in VOLUMES if arguments.data and (arguments.data / name).is_dir()]
    if not there:
        parser.error(f"none of {', '.join(VOLUMES)} is in {arguments.data}: set INCASEM_REAL_DATA or --data")
    rows = []
    for name in there:
        volume = VOLUMES[name](arguments.data / name)
        for method in METHODS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                rows.append(alone.submit(measure, method, volume).result())
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    about = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    (arguments.output / "living.json").write_text(json.dumps({**about, "rows": rows}, indent=1))
    (arguments.output / "living.md").write_text(f"{table(rows)}\n", encoding="utf-8")
    print(f"Wrote {arguments.output / 'living.md'} and living.json")


if __name__ == "__main__":
    main()
