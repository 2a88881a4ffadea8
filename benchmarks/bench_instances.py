"""Scores of instances in blocks against only reading both volumes, and a large graph cut at 20 thresholds.

Seconds of CPU, since they hardly depend on what else the machine does; the volumes are on disk, read in the same parts.
``python benchmarks/bench_instances.py --side 256 512`` prints a line for each side: memory hardly grows with it, so
that 1024^3 can be estimated.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from incasem_like.evaluation.instance_run import VOXELS_AT_ONCE, InstanceEvaluation, evaluate_instances_as_run
from incasem_like.segmentation.agglomeration import joined_nodes
from incasem_like.volumes import Roi, create_volume, open_volume
from incasem_like.volumes.parts import aligned_parts

RESULTS = Path(__file__).parent / "results" / "instances.json"
TILE, CHUNK = 128, 64


def cells(seed: int, count: int) -> np.ndarray:
    """Return a tile of Voronoi cells around random points, a tenth of them background."""
    rng = np.random.default_rng(seed)
    points = np.zeros((TILE,) * 3, np.uint32)
    points[tuple(rng.integers(0, TILE, (3, count)))] = np.arange(1, count + 1)
    nearest = ndimage.distance_transform_edt(points == 0, return_distances=False, return_indices=True)
    labels = points[tuple(nearest)]
    return np.where(labels % 10 == 0, 0, labels)


def write_volumes(container: str, side: int) -> None:
    """Write tiles with ids of their own: objects of about 16,000 voxels, as in fields of neurites, and fragments."""
    for name, seed, count in (("labels", 0, 120), ("segmentation", 1, 300)):
        tile = cells(seed, count)
        volume = create_volume(container, name, shape=(side,) * 3, dtype="uint32", voxel_size=(8, 8, 8),
                               chunk_shape=(CHUNK,) * 3)  # fmt: skip
        for number, corner in enumerate(np.ndindex(*(-(-side // TILE),) * 3)):
            roi = Roi([TILE * index for index in corner], (TILE,) * 3).intersect(volume.roi)
            part = tile[tuple(slice(0, edge) for edge in roi.shape)]
            volume.write(np.where(part > 0, part + np.uint32(count * number), np.uint32(0)), roi)
        volume.mark_complete()


def read(container: str) -> None:
    """Read both volumes."""
    first, second = (open_volume(container, name) for name in ("labels", "segmentation"))
    for part in aligned_parts(first, first.roi, VOXELS_AT_ONCE):
        first.read(part)
        second.read(part)


def evaluate(container: str) -> None:
    """Score them, with intervals."""
    request = InstanceEvaluation(labels=(f"{container}/labels",), segmentations=(f"{container}/segmentation",))
    evaluate_instances_as_run(request, store=None)


def cut_graph(nodes: int, edges: int, thresholds: int = 20) -> None:
    """Cut a random graph at all thresholds."""
    rng = np.random.default_rng(0)
    u = rng.integers(0, nodes, edges)
    v = np.minimum(nodes - 1, u + rng.integers(1, 200, edges))
    scores = rng.random(edges, dtype=np.float32)
    for step in range(1, thresholds + 1):
        chosen = scores < step / thresholds
        joined_nodes(nodes, u[chosen], v[chosen])


def measured(function, *arguments) -> dict[str, float]:
    """Run a function in a process of its own; return its CPU and wall seconds, and the largest resident memory."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe()
    process = context.Process(target=_measure, args=(sender, function, arguments))
    process.start()
    result = receiver.recv()
    process.join()
    return result


def _measure(sender, function, arguments) -> None:
    import sacred.observers  # noqa: F401  takes a second once, whatever the volume

    before, started = time.process_time(), time.perf_counter()
    function(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sender.send({"cpu_s": round(time.process_time() - before, 2), "wall_s": round(time.perf_counter() - started, 2),
                 "peak_gib": round(peak, 2)})  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, nargs="+", default=[256, 512], help="voxels")
    parser.add_argument("--edges", type=int, default=10_000_000, help="of the graph; 0 leaves it out")
    arguments = parser.parse_args()
    rows = []
    for side in arguments.side:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["INCASEM_JOBS"] = f"{folder}/jobs"
            container = f"{folder}/bench.zarr"
            write_volumes(container, side)
            reading, scoring = measured(read, container), measured(evaluate, container)
        ratio = scoring["cpu_s"] / reading["cpu_s"]
        print(
            f"{side}^3: reading both {reading['cpu_s']} s of CPU, scores with intervals {scoring['cpu_s']} s "
            f"({ratio:.2f} times), peak {scoring['peak_gib']} GiB",
            flush=True,
        )
        rows.append({"side": side, "reading": reading, "scoring": scoring, "ratio": round(ratio, 2)})
    if arguments.edges:
        graph = measured(cut_graph, arguments.edges * 3 // 10, arguments.edges)
        print(f"{arguments.edges} edges, 20 thresholds: {graph['cpu_s']} s of CPU, peak {graph['peak_gib']} GiB")
        rows.append({"edges": arguments.edges, **graph})
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": platform.processor() or platform.machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
