"""A sweep of thresholds, counted block by block, against loading all and asking scipy at each one, as incasem does.

Same volumes on disk, same process, one core, turn by turn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.spatial.distance import pdist

from incasem_like.evaluation.threshold_run import ThresholdEvaluation, evaluate_as_run
from incasem_like.volumes import create_volume, open_volume

RESULTS = Path(__file__).parent / "results" / "evaluation.json"
THRESHOLDS = tuple(number / 10 for number in range(1, 10))


def write_volumes(container: str, side: int) -> None:
    """Write noise as probabilities (float32), labels that follow them, and a mask of nine tenths."""
    rng = np.random.default_rng(0)
    probabilities = rng.random((side,) * 3, dtype=np.float32)
    labels = (rng.random((side,) * 3, dtype=np.float32) < probabilities).astype(np.uint32)
    mask = (rng.random((side,) * 3, dtype=np.float32) < 0.9).astype(np.uint8)
    for name, array in (("probs", probabilities), ("labels", labels), ("mask", mask)):
        volume = create_volume(
            container, name, shape=array.shape, dtype=array.dtype, voxel_size=(5, 5, 5), chunk_shape=(64,) * 3
        )
        volume.write(array)
        volume.mark_complete()


def ours(container: str) -> list[float]:
    request = ThresholdEvaluation(
        labels=f"{container}/labels", prediction_probas=f"{container}/probs", mask=f"{container}/mask",
        threshold_start=THRESHOLDS[0], threshold_stop=THRESHOLDS[-1], threshold_step=0.1,
    )  # fmt: skip
    return list(evaluate_as_run(request, store=None)["jaccard"].values())


def theirs(container: str) -> list[float]:
    probabilities, labels, mask = (open_volume(container, name).read() for name in ("probs", "labels", "mask"))
    valid = mask != 0
    probabilities, target = (probabilities * valid)[valid], (labels != 0)[valid]
    found = (pdist(np.stack([probabilities >= np.float32(t), target]), "jaccard") for t in THRESHOLDS)
    return [float(1 - distance[0]) for distance in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256, help="voxels")
    parser.add_argument("--turns", type=int, default=3, help="of each; the fastest counts")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INCASEM_JOBS"] = f"{folder}/jobs"
        container = f"{folder}/bench.zarr"
        write_volumes(container, arguments.side)
        for _ in range(arguments.turns):
            scores = {}
            for name, measure in (("ours", ours), ("theirs", theirs)):
                started = time.perf_counter()
                scores[name] = measure(container)
                seconds[name].append(time.perf_counter() - started)
            np.testing.assert_allclose(scores["ours"], scores["theirs"], rtol=1e-12)
    best = {name: min(times) for name, times in seconds.items()}
    ratio = best["theirs"] / best["ours"]
    print(
        f"{arguments.side}^3 voxels, {len(THRESHOLDS)} thresholds: {best['ours']:.2f} s in blocks, "
        f"{best['theirs']:.2f} s loaded whole: {ratio:.1f} times as fast, the same scores"
    )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    machine = platform.processor() or platform.machine()
    RESULTS.write_text(json.dumps({"machine": machine, "side": arguments.side, **best, "ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()
