"""Runs as incasem's database and JSON files hold them."""

from __future__ import annotations

import copy
import hashlib
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId

DATABASE = "public_fiborganelle"
START = datetime(2021, 11, 3, 9, 30, 0)
TRAINING_JSON = b'{"cell_1_er": {"file": "cell_1/cell_1.zarr", "voxel_size": [5, 5, 5], "raw": "volumes/raw"}}'

CONFIG: dict[str, Any] = {
    "directories": {"runs": "/nfs/scratch/lab/training_runs", "data": "~/incasem/data", "db": "/nfs/mock_db"},
    "training": {
        "pipeline": "baseline_with_context",
        "data": "/nfs/lab/incasem/scripts/02_train/data_configs/er.json",
        "iterations": 90000,
        "input_size_voxels": [204, 204, 204],
        "output_size_voxels": [110, 110, 110],
        "save_every": 1000,
        "log_every": 1,
        "optimizer": {"lr": 3e-05, "weight_decay": 3e-05},
        "reject": {"min_masked": 0.05, "reject_probability": 0.9},
        "augmentation": {
            "elastic": {"control_point_spacing": [32, 32, 32], "jitter_sigma": [2, 2, 2], "subsample": 4},
            "intensity": {"scale": 0.15, "shift": 0.15},
            "simple": {"transpose_only": [0, 1, 2]},
        },
        "snapshot": {"every": 1000},
        "profiling_stats": {"every": 1000},
        "precache": {"cache_size": 20, "num_workers": 8},
    },
    "validation": {
        "pipeline": "baseline_with_context",
        "data": "/nfs/lab/incasem/scripts/02_train/data_configs/er_val.json",
        "validate_every": 1000,
        "input_size_voxels": [204, 204, 204],
        "output_size_voxels": [110, 110, 110],
        "snapshot": {"every": 10},
    },
    "sources": {"class": "DataSourcesSemantic"},
    "data": {"voxel_size": [5, 5, 5], "downsample_factor": 1, "num_classes": 2},
    "model": {
        "type": "Unet",
        "num_fmaps": 32,
        "num_fmaps_out": 2,
        "fmap_inc_factor": 2,
        "downsample_factors": [[2, 2, 2], [2, 2, 2], [2, 2, 2]],
        "constant_upsample": True,
    },
    "loss": {
        "type": "cross_entropy_scaling",
        "weight": [1.0, 1.0],
        "balance_labels": {"clipmin": 0.01, "clipmax": 0.99},
    },
    "torch": {"device": 0},
    "sacred": {"log_every": 1000},
    "seed": 717968059,
}


def config(**model: Any) -> dict[str, Any]:
    """A configuration as incasem kept it."""
    found = copy.deepcopy(CONFIG)
    found["model"].update(model)
    return found


def run(run_id: int, name: str, settings: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A document of the collection ``runs``."""
    return {
        "_id": run_id,
        "experiment": {
            "name": "train",
            "base_dir": "/nfs/lab/incasem/scripts/02_train",
            "sources": [["train.py", ObjectId(f"{run_id:023d}5")]],
            "dependencies": ["torch==1.9.0", "numpy==1.21.2"],
            "repositories": [{"url": "git@github.com:lab/incasem.git", "commit": "366151b", "dirty": True}],
            "mainfile": "train.py",
        },
        "format": "MongoObserver-0.7.0",
        "command": "main",
        "host": {"hostname": "dgx1", "os": ["Linux", "Linux-4.15"], "python_version": "3.8.10"},
        "start_time": START + timedelta(days=run_id - 1800),
        "stop_time": START + timedelta(days=run_id - 1797),
        "heartbeat": START + timedelta(days=run_id - 1797),
        "config": settings,
        "meta": {"command": "main", "options": {"--name": name, "--comment": None, "--id": None}},
        "status": "COMPLETED",
        "resources": [],
        "artifacts": [{"name": "er.json", "file_id": ObjectId(f"{run_id:023d}a")}],
        "captured_out": "epoch 1\n",
        "info": {"metrics": [{"id": f"{run_id:023d}c", "name": "loss_train_0"}]},
        "result": {"py/object": "numpy.float64", "value": 0.25},
        **fields,
    }


def metric(run_id: int, name: str, values: list[Any], last: str = "c") -> dict[str, Any]:
    """A document of the collection ``metrics``."""
    return {
        "_id": ObjectId(f"{run_id:023d}{last}"),
        "name": name,
        "run_id": run_id,
        "steps": [1000 * number for number in range(len(values))],
        "values": values,
        "timestamps": [START + timedelta(minutes=number) for number in range(len(values))],
    }


def files(run_id: int, content: bytes = TRAINING_JSON, chunk: int = 40) -> tuple[list[Any], list[Any]]:
    """The documents of ``fs.files`` and ``fs.chunks`` for a run's artifact and source."""
    entries, pieces = [], []
    for last, name, data in (("a", "er.json", content), ("5", "train.py", b"import incasem\n")):
        file_id = ObjectId(f"{run_id:023d}{last}")
        entries.append(
            {
                "_id": file_id,
                "filename": f"artifact://runs/{run_id}/{name}",
                "length": len(data),
                "chunkSize": chunk,
                "uploadDate": START,
                "md5": hashlib.md5(data).hexdigest(),
            }
        )
        pieces += [
            {"_id": ObjectId(), "files_id": file_id, "n": number, "data": data[start : start + chunk]}
            for number, start in enumerate(range(0, len(data), chunk))
        ]
    return entries, pieces


def database(*runs: dict[str, Any], metrics: list[dict[str, Any]] | None = None) -> dict[tuple[str, str], list[Any]]:
    """A whole database: the runs, a loss of each, and their files."""
    parts = [files(one["_id"]) for one in runs]
    losses = [
        metric(one["_id"], "loss_train_0", [0.7, 0.5, {"py/object": "numpy.float32", "value": 0.25}]) for one in runs
    ]
    return {
        (DATABASE, "runs"): list(runs),
        (DATABASE, "metrics"): losses if metrics is None else metrics,
        (DATABASE, "fs.files"): [entry for entries, _ in parts for entry in entries],
        (DATABASE, "fs.chunks"): [piece for _, pieces in parts for piece in pieces],
        (DATABASE, "omniboard.settings"): [{"_id": 1, "name": "theme"}],
    }
