"""Targets made from instances: shape descriptors against the package lsds, affinities against gunpowder's.

lsds runs in an environment of its own, which is made in the cache at the first call (a C compiler is needed). Both get
the same blocks, take turns, and use one thread; beside the time stands processor time, which other load on the machine
changes little. The largest difference of the values is printed with them; lsds computes with absolute coordinates in
float32, which shows in the correlations of thin objects.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gunpowder.nodes.add_affinities import seg_to_affgraph
from peers import python_with
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from incasem_like.targets import affinities, local_shape_descriptors

RESULTS = Path(__file__).parent / "results" / "descriptors.json"
PEER = Path(__file__).with_name("lsds_descriptors.py")
LSDS = "lsds==0.1.3"
LONG_OFFSETS = [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (-3, 0, 0), (0, -9, 0), (0, 0, -9), (0, -27, 0), (0, 0, -27)]
Block = np.ndarray[Any, np.dtype[np.uint64]]
Measured = dict[str, float]


def cells(edge: int, count: int, background: float) -> Block:
    """Return cells of random form: watersheds of smoothed noise, the lowest part of it background."""
    noise = ndimage.gaussian_filter(np.random.default_rng(42).standard_normal((edge,) * 3), 5)
    seeds = np.zeros(noise.shape, dtype=np.int32)
    inside = noise >= np.quantile(noise, background)
    peaks = peak_local_max(noise, min_distance=5, num_peaks=count, labels=inside.astype(np.int32))
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-noise, seeds, mask=inside).astype(np.uint64)


def neurites(edge: int, count: int) -> Block:
    """Return dense neurites: each voxel belongs to the nearest of some straight lines through the block."""
    rng = np.random.default_rng(42)
    grid = np.moveaxis(np.mgrid[:edge, :edge, :edge].astype(np.float32), 0, -1)
    nearest, instances = np.full((edge,) * 3, np.inf), np.zeros((edge,) * 3, dtype=np.uint64)
    for number in range(1, count + 1):
        direction = rng.standard_normal(3).astype(np.float32)
        direction /= np.linalg.norm(direction)
        away = grid - rng.uniform(0, edge, 3).astype(np.float32)
        distance = (away**2).sum(-1) - (away @ direction) ** 2
        instances[distance < nearest] = number
        np.minimum(nearest, distance, out=nearest)
    return instances


def timed(call: Callable[[], Any]) -> tuple[Measured, Any]:
    before, began = time.process_time(), time.perf_counter()
    result = call()
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - before}, result


def against_lsds(name: str, block: Block, sigma: float, rounds: int, python: str, folder: Path) -> dict[str, Any]:
    np.save(folder / "block.npy", block)
    options = json.dumps({"sigma": [sigma] * 3, "voxel_size": [1] * 3})
    mine, peers = [], []
    for _ in range(rounds):
        measured, ours = timed(lambda: local_shape_descriptors(block, sigma))
        mine.append(measured)
        command = [python, str(PEER), str(folder / "block.npy"), str(folder / "described.npy"), options]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        peers.append(json.loads(subprocess.check_output(command, text=True, env=one_thread).splitlines()[-1]))
    difference = np.abs(ours - np.load(folder / "described.npy"))
    row: dict[str, Any] = {"name": name, "labels": int(np.count_nonzero(np.unique(block)))}
    for key in ("seconds", "cpu"):
        row[key], row[f"lsds {key}"] = (statistics.median(one[key] for one in turns) for turns in (mine, peers))
        row[f"{key} ratio"] = row[f"lsds {key}"] / row[key]
    for kind, part in (("offset", slice(0, 3)), ("variance", slice(3, 6)), ("pearson", slice(6, 9)), ("size", 9)):
        row[f"largest difference of {kind}"] = float(difference[part].max())
    row["pearson values over 1e-4 apart"] = int(np.count_nonzero(difference[6:9] > 1e-4))
    if torch.cuda.is_available():
        on_gpu = torch.from_numpy(block.astype(np.int64)).cuda()
        local_shape_descriptors(on_gpu, sigma)
        row["gpu seconds"] = timed(lambda: local_shape_descriptors(on_gpu, sigma).cpu())[0]["seconds"]
    print(
        f"{name}, {row['labels']} labels: {row['seconds']:.2f} s, processor {row['cpu']:.2f} s; lsds "
        f"{row['lsds seconds']:.1f} s, processor {row['lsds cpu']:.1f} s: {row['cpu ratio']:.0f} times as fast; apart "
        + ", ".join(f"{kind} {row[f'largest difference of {kind}']:.1e}" for kind in ("offset", "variance", "size"))
        + f", pearson {row['largest difference of pearson']:.1e} ({row['pearson values over 1e-4 apart']} over 1e-4)",
        flush=True,
    )
    return row


def affinity_speed(block: Block, rounds: int) -> dict[str, Any]:
    """Compare affinities with gunpowder's, and with copying as many bytes as they read and write."""
    ours, peers, copies = [], [], []
    traffic = np.zeros(len(LONG_OFFSETS) * block.size * (2 * block.itemsize + 2) // 2, dtype=np.uint8)
    target = np.empty_like(traffic)
    for _ in range(rounds):
        measured, (same, _) = timed(lambda: affinities(block, LONG_OFFSETS))
        ours.append(measured)
        measured, reference = timed(lambda: seg_to_affgraph(block, LONG_OFFSETS))
        peers.append(measured)
        copies.append(timed(lambda: np.copyto(target, traffic))[0])
    assert np.array_equal(same, reference)
    mine, peer, copy = (statistics.median(one["cpu"] for one in turns) for turns in (ours, peers, copies))
    print(
        f"{len(LONG_OFFSETS)} affinities: processor {mine:.3f} s; gunpowder {peer:.3f} s: {peer / mine:.1f} times as "
        f"fast; copying as many bytes {copy:.3f} s: {copy / mine:.2f} of its speed",
        flush=True,
    )
    return {"name": "affinities", "cpu": mine, "gunpowder cpu": peer, "copy cpu": copy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--edge", type=int, default=128)
    parser.add_argument("--sigma", type=float, default=10.0, help="in voxels")
    arguments = parser.parse_args()
    blocks = {
        "cells, half background": cells(arguments.edge, 70, 0.5),
        "dense cells": cells(arguments.edge, 20, 0.0),
        "dense neurites": neurites(arguments.edge, 50),
    }
    python = python_with("lsd", LSDS)
    rows = [affinity_speed(blocks["dense cells"], 5 * arguments.rounds)]
    with tempfile.TemporaryDirectory(prefix="bench_descriptors_") as folder:
        for name, block in blocks.items():
            rows.append(against_lsds(name, block, arguments.sigma, arguments.rounds, python, Path(folder)))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    facts = {"machine": platform.machine(), "peer": LSDS, "edge": arguments.edge, "sigma": arguments.sigma}
    RESULTS.write_text(json.dumps({**facts, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
