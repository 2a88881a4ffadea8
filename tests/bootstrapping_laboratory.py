"""A tiny volume of neurites, some painted, and a round over it with networks of one convolution."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from incasem_like.tracking import open_store
from incasem_like.volumes import create_volume

SCRIPT = Path(__file__).parents[1] / "scripts/05_bootstrapping/bootstrap.py"
VOXEL_SIZE = (20.0, 10.0, 10.0)
SHAPE = (6, 40, 40)


def neurites():
    """Nine columns of 12 pixels between membranes of two."""
    _, y, x = np.indices(SHAPE)
    labels = 1 + y // 14 + 3 * (x // 14)
    membrane = (y % 14 < 2) | (x % 14 < 2)
    return np.where(membrane, 0, labels).astype(np.uint32)


def write(folder, dataset, array, begin=(0, 0, 0)):
    volume = create_volume(
        folder / "cell.zarr", dataset, shape=array.shape, dtype=array.dtype, voxel_size=VOXEL_SIZE,
        offset=tuple(b * s for b, s in zip(begin, VOXEL_SIZE, strict=True)), chunk_shape=(6, 40, 40), overwrite=True,
    )  # fmt: skip
    volume.write(array)
    volume.mark_complete()
    return str(volume.address)


def model(targets, size, iterations=150, **training):
    return {
        "targets": targets,
        "data": {"voxel_size": list(VOXEL_SIZE)},
        "model": {"type": "OneConv3d"},
        "torch": {"device": "cpu"},
        "training": {
            "iterations": iterations, "save_every": 50, "image_every": 0, "snapshot": {"every": 0},
            "input_size_voxels": size, "output_size_voxels": size, "precache": {"num_workers": 0},
            "optimizer": {"lr": 0.05, "weight_decay": 0}, "profiling_stats": {"every": 0},
            "augmentation": {"elastic": None, "intensity": None, "simple": {"transpose_only": [1, 2]}},
            **training,
        },
        "validation": {
            "input_size_voxels": [4, *size[1:]], "output_size_voxels": [4, *size[1:]], "snapshot": {"every": 0}
        },
    }  # fmt: skip


AFFINITIES = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]


def make_round(folder, **changes):
    """Write the volume and ``round.yaml``; return its path."""
    labels = neurites()
    raw = write(folder, "raw", np.where(labels > 0, 200, 40).astype(np.uint8))
    painted = np.where(np.isin(labels[2:3], [1, 2, 5]), labels[2:3], 0)
    values = {
        "directories": {"runs": str(folder / "runs"), "data": str(folder)},
        "round": {
            "name": "tiny", "raw": raw, "labels": [write(folder, "painted", painted, (2, 0, 0))],
            "ground_truth": write(folder, "truth", labels),
        },
        "sparse_model": {
            "values": model(
                [{"type": "lsd", "sigma": 30, "per_section": True}, {"type": "affinities", "offsets": AFFINITIES[1:]}],
                [1, 32, 32],
            )
        },
        "affinities_model": {
            "values": model(
                [{"type": "affinities", "offsets": AFFINITIES}], [4, 32, 32], synthetic={"objects": "C"}
            )
        },
        "segmentation": {
            "method": "watershed", "block_shape": [6, 40, 40], "min_size": 10,
            "watershed": {"fragments_in_xy": True, "seed_distance": 40.0, "threshold": [0.2, 0.5]},
        },
        "model": {"values": model([{"type": "affinities", "offsets": AFFINITIES}], [4, 32, 32])},
        "where_to_paint": {"count": 2, "size": 10},
    }  # fmt: skip
    for key, value in changes.items():
        section, name = key.split("__")
        values[section][name] = value
    path = folder / "round.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def call(path, *words, check=True, flags=()):
    """Run the script."""
    command = [sys.executable, str(SCRIPT), "--num_workers", "1", *map(str, flags), "with", str(path), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ), cwd=path.parent)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def store(folder, kind="bootstrapping"):
    return open_store(None, kind=kind, runs_directory=folder / "runs")


def steps(folder, run_id):
    entries = store(folder).get(run_id).info["steps"]
    return {entry["name"]: entry for entry in json.loads(json.dumps(entries))}
