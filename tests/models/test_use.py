"""An imported model predicts, is segmented and is fine-tuned by its id, as a training of one's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from models.conftest import VOXEL_SIZE

from incasem_like.networks import load_checkpoint
from incasem_like.tracking import RunRecord, open_store

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def script(here: Path, name: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / name), *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=False, env=env)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "bioimageio"])
def test_an_imported_model_predicts_is_segmented_and_fine_tuned(
    track: Callable[..., RunRecord], models: Callable[..., str], cell: Path, here: Path, form: str
) -> None:
    track(data=cell, targets=["affinities"])
    models("export", 1, "--format", form)
    models("import", next(here.glob("cell_net_0001.*")), "--id", 12)
    store = open_store(None, "trainings", here / "runs")
    imported = store.get(12)
    for run_id in (1, 12):
        settings = ["with", "config_prediction.yaml", f"prediction.data={cell}", "torch.device=cpu"]
        done = script(here, "03_predict/predict.py", "--run_id", run_id, *settings)
        assert done.returncode == 0, done.stderr
    found = zarr.open(str(here / "data" / "cell.zarr"), mode="r")["volumes/predictions"]
    one, other = (found[f"train_{run:04d}/predict_{at:04d}/affinities"] for run, at in ((1, 1), (12, 2)))
    assert np.array_equal(one[:], other[:])
    assert other.attrs["offsets"] == one.attrs["offsets"]
    predicted = open_store(None, "predictions", here / "runs").get(2)
    assert predicted.parent["training_run_id"] == 12
    done = script(
        here, "04_postprocessing/10_segment.py", "--run_id", 2, "--num_workers", 1, "with", "segmentation.yaml"
    )
    assert done.returncode == 0, done.stderr
    assert open_store(None, "segmentations", here / "runs").ids() == [1]
    sizes = [
        f"{part}.{way}_size_voxels=[{edge},{edge},{edge}]"
        for part in ("training", "validation")
        for way, edge in (("input", 28), ("output", 10))
    ]
    quick = ["training.iterations=1", "training.precache.num_workers=0", "training.augmentation.elastic=null"]
    data = [f"training.data={cell}", "torch.device=cpu", "training.optimizer.lr=1e-12"]
    done = script(here, "02_train/train.py", "--start_from", 12, "with", *data, *quick, *sizes)
    assert done.returncode == 0, done.stderr
    tuned = store.get(13)
    assert (tuned.parent["training_run_id"], tuned.config["targets"]) == (12, imported.config["targets"])
    before, after = (load_checkpoint(run.checkpoint("last").fetch()).network_state for run in (imported, tuned))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    larger = cell.read_text().replace(str(VOXEL_SIZE[0]), "4.0")
    cell.write_text(larger)
    done = script(here, "03_predict/predict.py", "--run_id", 13, "with", f"prediction.data={cell}", "torch.device=cpu")
    assert done.returncode == 2
    assert "voxels of 4 4 4 nm, but the network was trained with 8 8 8 nm" in done.stderr
