"""The walk of docs/real_data.md in small: real sections in, a network trained, a prediction by run id out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = os.environ.get("INCASEM_REAL_DATA")

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(FOLDER is None, reason="needs INCASEM_REAL_DATA, a folder with fib_medulla and sstem_vnc"),
]


def run(script: str, *arguments: object, cwd: Path) -> str:
    command = [sys.executable, REPOSITORY / "scripts" / script, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sections(*parts: str) -> np.ndarray:
    return np.stack([tifffile.imread(path) for path in sorted(Path(FOLDER or "", *parts).glob("*.tif"))])


@pytest.fixture(scope="module")
def container(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    source = Path(FOLDER or "")
    inputs = ("-i", source / "sstem_vnc/raw", source / "sstem_vnc/mitochondria", "-f", "sstem_vnc.zarr")
    datasets = ("-d", "volumes/raw", "volumes/labels/mitochondria", "--resolution", 50, 4.6, 4.6)
    run("01_data_formatting/00_image_sequences_to_zarr.py", *inputs, *datasets, "--chunks", 4, 256, 256, cwd=folder)
    return folder / "sstem_vnc.zarr"


def test_zarr_python_reads_the_sections_as_they_were(container):
    volumes = zarr.open(str(container), mode="r")["volumes"]
    np.testing.assert_array_equal(volumes["raw"][:], sections("sstem_vnc", "raw"))
    np.testing.assert_array_equal(volumes["labels/mitochondria"][:], sections("sstem_vnc", "mitochondria"))
    assert list(volumes["raw"].attrs["resolution"]) == [50, 4.6, 4.6]


def test_labels_that_do_not_fit_the_type_are_refused_whole(tmp_path):
    command = [sys.executable, REPOSITORY / "scripts/01_data_formatting/00_image_sequences_to_zarr.py"]
    labels = Path(FOLDER or "", "fib_medulla/labels")
    done = subprocess.run(
        [*command, "-i", labels, "-f", tmp_path / "fib.zarr", "-d", "volumes/labels/neurons", "--resolution", *"888"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "uint16" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_few_iterations_lower_the_loss_and_their_network_predicts_by_id(container):
    folder = container.parent
    entry = {
        "file": str(container),
        "voxel_size": [50, 4.6, 4.6],
        "raw": "volumes/raw",
        "labels": {"volumes/labels/mitochondria": 1},
    }
    for name, offset, shape in (("train", [0, 0, 0], [11, 1024, 1024]), ("validation", [11, 0, 0], [3, 1024, 1024])):
        (folder / f"{name}.json").write_text(json.dumps({name: {**entry, "offset": offset, "shape": shape}}))
    runs = f"directories.runs={folder / 'runs'}"
    settings = ("config_training.yaml", "config_sstem_mitochondria.yaml", "training.data=train.json", runs)
    short = ("training.iterations=40", "training.optimizer.lr=2e-3", "sacred.log_every=1", "training.image_every=0")
    run("02_train/train.py", "with", *settings, *short, "training.precache.num_workers=0", cwd=folder)
    metrics = json.loads((folder / "runs/tracking/incasem_trainings/1/metrics.json").read_text())
    losses = metrics["loss_train_0"]["values"]
    assert len(losses) == 40
    assert np.mean(losses[-10:]) < np.mean(losses[:10])

    predict = {key: entry[key] for key in ("file", "voxel_size", "raw")}
    (folder / "part.json").write_text(
        json.dumps({"part": {**predict, "offset": [17, 300, 300], "shape": [3, 200, 200]}})
    )
    settings = ("config_prediction.yaml", "prediction.data=part.json", "torch.device=cpu", runs)
    run(
        "03_predict/predict.py", "--run_id", 1, "with", *settings, f"prediction.directories.prefix={folder}", cwd=folder
    )
    predicted = zarr.open(str(container), mode="r")["volumes/predictions/train_0001/predict_0001"]
    probabilities = predicted["prob_maps/class_0"][:] + predicted["prob_maps/class_1"][:]
    assert probabilities.shape == (3, 200, 200)
    np.testing.assert_allclose(probabilities, 1, atol=1e-5)
    assert list(predicted["segmentation"].attrs["offset"]) == pytest.approx([850, 1380, 1380])
