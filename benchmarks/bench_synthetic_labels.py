"""Synthetic labels for networks from 2-D to 3-D: seconds a sample against the usual operations, written out plainly.

The peer applies the published recipes as they are described, operation by operation: binary dilation of whole sections,
scipy's distance transform, scikit-image's watershed and labels. Both run in this process on one core, in turn;
processor time is compared, so that other work does not count.

    python benchmarks/bench_synthetic_labels.py [--samples 5] [--shape 24 148 148] [--thickness 6.25] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy import ndimage
from skimage import measure, morphology, segmentation

from incasem_like.synthetic.random_objects import random_objects

KINDS = ("A", "B", "C", "tubes", "random")


def grown(labels, distance):
    grown = segmentation.expand_labels(labels, distance)
    grown[grown == 0] = grown.max() + 1
    return measure.label(grown)


def plain_points(shape, count, rng):
    marked = np.zeros(shape, bool)
    for _ in range(count):
        marked[tuple(int(rng.integers(1, size)) for size in shape)] = True
    return marked


def plain_tubes(shape, a, count, structures, rng):
    marked = plain_points(shape, count, rng)
    for z in range(shape[0]):
        structure = structures[rng.integers(len(structures))]
        marked[z] = ndimage.binary_dilation(marked[z], structure, iterations=int(rng.integers(1, 11)))
    return grown(measure.label(marked), shape[0])[::a]


def plain_noise(shape, a, sigma, window, rng):
    noise = ndimage.gaussian_filter(rng.random(shape, dtype=np.float32), sigma)
    seeds, _ = ndimage.label(ndimage.maximum_filter(noise, window) == noise)
    return segmentation.watershed(1 - noise, seeds)[::a]


def plain(kind, shape, rng, thickness):
    """Make a sample by the usual operations."""
    late = kind in ("tubes", "random")
    a = int(rng.integers(2, max(4, int(thickness)) + 1)) if late else int(rng.integers(1, int(thickness) + 1))
    size = (shape[0] * a, *shape[1:])
    if kind == "A":
        structures = [np.ones((3, 3)), morphology.disk(int(rng.integers(1, 6)))]
        return plain_tubes(size, a, int(rng.integers(25, 50 * a + 1)), structures, rng)
    if kind == "tubes":
        stars = [morphology.star(int(rng.integers(*ends))) for ends in ((4, 7), (3, 6), (2, 5), (6, 9))]
        structures = [*stars, np.ones((3, 3)), morphology.disk(int(rng.integers(1, 5))), morphology.ellipse(3, 2)]
        return plain_tubes(size, a, int(rng.integers(5, 5 * a + 1)), structures, rng)
    if kind == "C":
        marked = plain_points(size, int(rng.integers(25, 50 * a + 1)), rng)
        return grown(measure.label(marked), int(rng.integers(25, 41)))[::a]
    return plain_noise(size, a, *((5, 10) if kind == "B" else (10, 15)), rng)


def measured(make, samples):
    seconds, counts = [], []
    for seed in range(samples):
        begun = time.process_time()
        labels = make(np.random.default_rng(seed))
        seconds.append(time.process_time() - begun)
        counts.append(len(np.unique(labels)))
    return float(np.mean(seconds)), float(np.mean(counts))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--shape", type=int, nargs=3, default=[24, 148, 148])
    parser.add_argument("--thickness", type=float, default=6.25)
    parser.add_argument("--json")
    given = parser.parse_args()
    shape, found = tuple(given.shape), {}
    print(f"{'kind':8}{'here, s':>10}{'plain, s':>10}{'ratio':>8}{'objects here':>14}{'plain':>8}")
    for kind in KINDS:
        for seed in range(given.samples):  # shapes to dilate by are made once per process
            random_objects(kind, shape, np.random.default_rng(seed), given.thickness)
        here = measured(lambda rng, kind=kind: random_objects(kind, shape, rng, given.thickness)[0], given.samples)
        peer = measured(lambda rng, kind=kind: plain(kind, shape, rng, given.thickness), given.samples)
        ratio = peer[0] / here[0]
        found[kind] = {"seconds": here[0], "plain_seconds": peer[0], "ratio": ratio}
        print(f"{kind:8}{here[0]:10.3f}{peer[0]:10.3f}{ratio:8.1f}{here[1]:14.0f}{peer[1]:8.0f}", flush=True)
    if given.json:
        with open(given.json, "w") as file:
            json.dump({"shape": shape, "kinds": found}, file, indent=1)


if __name__ == "__main__":
    main()
