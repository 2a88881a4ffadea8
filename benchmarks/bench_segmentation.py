"""Watershed and agglomeration, and connected components, against scipy, scikit-image, waterz, cc3d and volara.

Same arrays, same process, one core, turn by turn; processor time, since the machine may be busy. volara runs in a
process and environment of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cc3d
import numpy as np
import skimage.segmentation
import waterz
from peers import python_with
from scipy import ndimage

from incasem_like.evaluation.instances import Contingency, partition_scores
from incasem_like.segmentation.affinities import ends
from incasem_like.segmentation.agglomeration import SCORING, adjacent_pairs, agglomerate
from incasem_like.segmentation.label_arrays import relabel
from incasem_like.segmentation.pipeline import segment
from incasem_like.segmentation.planning import plan_segmentation
from incasem_like.segmentation.settings import SegmentationSection
from incasem_like.segmentation.watershed import watershed_fragments
from incasem_like.volumes import create_volume, open_volume

RESULTS = Path(__file__).parent / "results" / "segmentation.json"
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
OFFSETS = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
LONG_OFFSETS = (*OFFSETS, (-5, 0, 0), (0, -5, 0), (0, 0, -5))
PEER, VOLARA = Path(__file__).with_name("volara_segmentation.py"), "volara==1.0.5"
BLOCK = 64  # of both, against volara


def make_labels(shape: tuple[int, ...]) -> np.ndarray:
    """Make Voronoi cells, some of them merged to objects that are not convex."""
    rng = np.random.default_rng(0)
    cells = int(np.prod(shape) // 20_000)
    seeds = np.zeros(shape, np.uint32)
    seeds[tuple(rng.integers(0, size, cells) for size in shape)] = rng.integers(1, max(2, cells // 3), cells)
    nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    return seeds[tuple(nearest)]


def make_affinities(labels: np.ndarray, offsets: tuple[tuple[int, int, int], ...] = OFFSETS) -> np.ndarray:
    """Make affinities as a network predicts them: blurred boundaries, noise, and holes in boundaries."""
    rng = np.random.default_rng(1)
    affinities = np.ones((len(offsets), *labels.shape), np.float32)
    for channel, offset in zip(affinities, offsets, strict=True):
        here, there = ends(labels.shape, offset)
        channel[here] = labels[here] == labels[there]
        holes = ndimage.gaussian_filter(rng.random(labels.shape, dtype=np.float32), 3) > 0.53
        channel[holes] = 1
        channel[:] = ndimage.minimum_filter(channel, 3)
        channel += rng.normal(0, 0.05, labels.shape).astype(np.float32)
    return np.clip(np.stack([ndimage.gaussian_filter(channel, 0.7) for channel in affinities]), 0, 1)


def ours(affinities: np.ndarray) -> list[np.ndarray]:
    fragments = watershed_fragments(affinities.mean(axis=0), flood_boundaries=True)
    history = agglomerate(fragments, affinities)
    history.edge_scores(adjacent_pairs(fragments)[1])
    return [relabel(fragments, history.ids, history.cut(threshold)) for threshold in THRESHOLDS]


def scripts_of_lsd(affinities: np.ndarray) -> list[np.ndarray]:
    """Do what the lsd scripts do; scikit-image's flooding is as fast as mahotas'."""
    inside = affinities.mean(axis=0) > 0.5
    distance = ndimage.distance_transform_edt(inside)
    seeds, _ = ndimage.label(ndimage.maximum_filter(distance, 10) == distance)
    fragments = skimage.segmentation.watershed(distance.max() - distance, seeds).astype(np.uint64)
    found = waterz.agglomerate(
        affinities.astype(np.float32), THRESHOLDS, fragments=fragments, scoring_function=SCORING["mean"],
        discretize_queue=256, return_merge_history=True,
    )  # fmt: skip
    return [segmentation.copy() for segmentation, _ in found]


def components_in_blocks(container: str, block: int) -> np.ndarray:
    shutil.rmtree(f"{container}/blocks_{block}", ignore_errors=True)
    section = SegmentationSection.model_validate(
        {"method": "connected_components", "block_shape": (block,) * 3, "output": f"blocks_{block}"}
    )
    made = segment(plan_segmentation(open_volume(container, "probabilities"), section), overwrite=True)
    return open_volume(made["segmentations"][0]["address"]).read()


def cc3d_on_all(container: str) -> np.ndarray:
    labels = cc3d.connected_components(open_volume(container, "probabilities").read() >= 128, connectivity=26)
    shape = labels.shape
    output = create_volume(
        container, "cc3d", shape=shape, dtype="uint32", voxel_size=(4, 4, 4), chunk_shape=(64,) * 3, overwrite=True
    )
    output.write(labels.astype(np.uint32))
    return labels


def against_volara(labels: np.ndarray, turns: int) -> dict[str, dict[str, float]]:
    """Return processor time and VOI of both blockwise segmentations of stored affinities, and of volara's."""
    affinities = make_affinities(labels, LONG_OFFSETS)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INCASEM_JOBS"] = f"{folder}/jobs"
        stored = create_volume(
            f"{folder}/ours.zarr", "affinities", shape=affinities.shape, axes="czyx", dtype="float32",
            voxel_size=(1, 1, 1), chunk_shape=(len(affinities), *(BLOCK,) * 3),
            attributes={"type": "affinities", "offsets": [list(offset) for offset in LONG_OFFSETS]},
        )  # fmt: skip
        stored.write(affinities)
        stored.mark_complete()

        def ours(method: str) -> np.ndarray:
            options = {"watershed": {"flood_boundaries": True}, "mutex_watershed": {"bias": -0.2}}
            values = {"method": method, "block_shape": (BLOCK,) * 3, "output": method, method: options[method]}
            plan = plan_segmentation(open_volume(stored.address), SegmentationSection.model_validate(values))
            shutil.rmtree(f"{folder}/ours.zarr/{method}", ignore_errors=True)
            return open_volume(segment(plan, overwrite=True)["segmentations"][0]["address"]).read()

        methods = ("watershed", "mutex_watershed")
        seconds, found = fastest(turns + 1, {one: lambda one=one: ours(one) for one in methods})
        source = Path(folder) / "affinities.npy"
        np.save(source, affinities)
        options = {"offsets": LONG_OFFSETS, "neighbours": 3, "block": [BLOCK] * 3, "context": [16] * 3}
        line = [python_with("volara", VOLARA), str(PEER), str(source), json.dumps({**options, "bias": [-0.2, -0.8]})]
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        seconds["volara"] = json.loads(done.stdout.splitlines()[-1])["cpu"]
        found["volara"] = np.load(source.with_name("volara.npy"))
    scores = {name: partition_scores(Contingency.of(labels, one))["voi"] for name, one in found.items()}
    return {name: {"cpu": seconds[name], "voi": scores[name]} for name in seconds}


def fastest(turns: int, work: dict[str, Callable[[], Any]]) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the processor time of the fastest turn of each, and the results of the last."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    results = {}
    for _ in range(turns):
        for name, measure in work.items():
            started = time.process_time()
            results[name] = measure()
            seconds[name].append(time.process_time() - started)
    return {name: min(times) for name, times in seconds.items()}, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=160, help="voxels")
    parser.add_argument("--turns", type=int, default=3, help="of each; the fastest counts")
    arguments = parser.parse_args()
    shape = (arguments.side,) * 3
    labels = make_labels(shape)
    affinities = make_affinities(labels).astype(np.float32)
    seconds, found = fastest(
        arguments.turns, {"ours": lambda: ours(affinities), "lsd": lambda: scripts_of_lsd(affinities)}
    )
    voi = {name: min(partition_scores(Contingency.of(labels, one))["voi"] for one in found[name]) for name in found}
    ratio = seconds["lsd"] / seconds["ours"]
    print(
        f"{arguments.side}^3 voxels, fragments and {len(THRESHOLDS)} thresholds: {seconds['ours']:.2f} s, as the lsd "
        f"scripts {seconds['lsd']:.2f} s: {ratio:.1f} times as fast; lowest VOI {voi['ours']:.3f} and {voi['lsd']:.3f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INCASEM_JOBS"] = f"{folder}/jobs"
        container = f"{folder}/bench.zarr"
        probabilities = np.tile((affinities.min(axis=0) * 255).astype(np.uint8), (2, 2, 2))
        volume = create_volume(
            container, "probabilities", shape=probabilities.shape, dtype="uint8", voxel_size=(4, 4, 4),
            chunk_shape=(64,) * 3, attributes={"scale": 255},
        )  # fmt: skip
        volume.write(probabilities)
        volume.mark_complete()
        side = 2 * arguments.side
        work = {
            "cc3d": lambda: cc3d_on_all(container),
            "one block": lambda: components_in_blocks(container, side),
            "64 blocks": lambda: components_in_blocks(container, side // 4),
        }
        components, results = fastest(arguments.turns + 1, work)  # the first turn loads libraries
    assert results["one block"].max() == results["64 blocks"].max() == results["cc3d"].max()
    print(
        f"connected components of {side}^3 voxels, reading and writing included: cc3d {components['cc3d']:.2f} s, one "
        f"block {components['one block']:.2f} s, 64 blocks {components['64 blocks']:.2f} s, the same objects"
    )
    blockwise = against_volara(labels, arguments.turns)
    theirs = blockwise["volara"]
    for name in ("watershed", "mutex_watershed"):
        own = blockwise[name]
        print(
            f"{name} of {arguments.side}^3 voxels in blocks of {BLOCK}, reading and writing included: "
            f"{own['cpu']:.2f} s, volara {theirs['cpu']:.2f} s: {theirs['cpu'] / own['cpu']:.1f} times as fast; "
            f"VOI {own['voi']:.3f} and {theirs['voi']:.3f}"
        )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    machine = platform.processor() or platform.machine()
    RESULTS.write_text(
        json.dumps(
            {
                "machine": machine,
                "side": arguments.side,
                **seconds,
                "ratio": round(ratio, 2),
                "voi": voi,
                **components,
                "blockwise": blockwise,
            }
        )
    )


if __name__ == "__main__":
    main()
