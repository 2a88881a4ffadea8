"""train.py as a person uses it: on a small volume, in a process of its own, from another folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from incasem_like.networks import load_checkpoint
from incasem_like.tracking import open_store
from incasem_like.volumes import create_volume

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "02_train" / "train.py"
TINY = """
seed: 3
training:
  iterations: 6
  input_size_voxels: [28, 28, 28]
  output_size_voxels: [10, 10, 10]
  save_every: 3
  image_every: 3
  snapshot: {every: 6}
  precache: {num_workers: 0, cache_size: 2}
validation:
  validate_every: 3
  input_size_voxels: [36, 36, 36]
  output_size_voxels: [18, 18, 18]
  snapshot: {every: 1}
data: {voxel_size: [8, 8, 8]}
model: {num_fmaps: 2, downsample_factors: [[2, 2, 2]]}
torch: {device: cpu, num_threads: 1}
sacred: {log_every: 1}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a volume of bright balls, data configurations and a configuration of a tiny training."""
    folder = tmp_path_factory.mktemp("project")
    grid = np.indices((48, 48, 48)).astype(np.float32)
    labels = (np.sin(grid / 4).prod(axis=0) > 0.1).astype(np.uint8)
    raw = (80 + 90 * labels + np.random.default_rng(0).normal(0, 8, labels.shape)).clip(0, 255).astype(np.uint8)
    for name, array in (("volumes/raw", raw), ("volumes/labels/ball", labels)):
        volume = create_volume(
            folder / "cell.zarr",
            name,
            shape=array.shape,
            dtype=array.dtype,
            voxel_size=(8, 8, 8),
            chunk_shape=(24, 24, 24),
        )
        volume.write(array)
        volume.mark_complete()
    entry = {"file": "cell.zarr", "voxel_size": [8, 8, 8], "raw": "volumes/raw", "labels": {"volumes/labels/ball": 1}}
    (folder / "train.json").write_text(json.dumps({"left": {**entry, "offset": [0, 0, 0], "shape": [48, 48, 28]}}))
    (folder / "validate.json").write_text(json.dumps({"right": {**entry, "offset": [4, 4, 28], "shape": [20, 20, 20]}}))
    (folder / "tiny.yaml").write_text(TINY)
    return folder


def command(project: Path, runs: Path, *words: str, flags: tuple[str, ...] = ()) -> list[str]:
    data = [f"training.data={project}/train.json", f"validation.data={project}/validate.json"]
    return [sys.executable, str(SCRIPT), *flags, "with", "tiny.yaml", *data, f"directories.runs={runs}", *words]


def train(project: Path, runs: Path, *words: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(project, runs, *words, flags=flags), cwd=project, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(project: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    runs = project / "runs"
    return runs, train(project, runs, flags=("--name", "balls"))


def test_a_training_leaves_a_run_with_everything(trained: tuple[Path, Any], project: Path) -> None:
    runs, finished = trained
    assert finished.returncode == 0, finished.stderr
    record = open_store(None, "trainings", runs).get(1)
    assert (record.status, record.name) == ("COMPLETED", "balls")
    assert record.config["seed"] == 3
    assert record.artifact("training_data.json").decode() == (project / "train.json").read_text()
    assert record.artifact("validation_data.json").decode() == (project / "validate.json").read_text()
    assert record.result["iteration"] == 6
    assert record.result["best_metric"] == "dice_class_1"
    assert record.result["loss"] == record.metrics["loss_train_0"].values[-1]
    assert record.metrics["num_params"].values == (sum_of_parameters(runs),)
    assert {
        "loss_train_0", "pct_class_0", "pct_class_1", "dice_class_1_train", "loss_val_ds_0_type_0",
        "dice_class_1_validation_ds_0", "jaccard_class_1_validation_ds_0", "loss", "dice_class_1",
    } <= set(record.metrics)  # fmt: skip
    assert record.metrics["loss_train_0"].steps == (1, 2, 3, 4, 5, 6)
    assert record.metrics["loss_val_ds_0_type_0"].steps == (3, 6)
    assert [checkpoint.iteration for checkpoint in record.checkpoints] == [3, 6]
    assert record.checkpoint("last").verify() == runs / "models" / "0001" / "model_checkpoint_6"
    assert {found["name"] for found in record.inputs} == {"left", "right"}


def sum_of_parameters(runs: Path) -> int:
    return sum(
        tensor.numel() for tensor in load_checkpoint(runs / "models/0001/model_checkpoint_6").network_state.values()
    )


def test_it_says_what_comes_next(trained: tuple[Path, Any]) -> None:
    runs, finished = trained
    assert "Training run 1" in finished.stdout
    assert "tensorboard --logdir" in finished.stdout
    assert re.search(r"predict\.py --run_id 1 with config_prediction\.yaml prediction\.data=", finished.stdout)
    assert f"directories.runs={runs.name}" in finished.stdout


def test_logs_and_snapshots_are_where_incasem_has_them(trained: tuple[Path, Any]) -> None:
    runs, _ = trained
    assert list((runs / "tensorboard/0001/training").glob("events*"))
    assert list((runs / "tensorboard/0001/validation/right").glob("events*"))
    assert (runs / "snapshots/0001/training/6.zarr/predictions").is_dir()
    assert (runs / "snapshots/0001/validation/right/3.zarr/predictions").is_dir()
    assert sorted(path.name for path in (runs / "models/0001").iterdir()) == [
        "model_checkpoint_3", "model_checkpoint_6", "training_state_3", "training_state_6",
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_loader_workers_changes_nothing(trained: tuple[Path, Any], project: Path, workers: int) -> None:
    runs = project / f"runs_{workers}"
    finished = train(project, runs, f"training.precache.num_workers={workers}")
    assert finished.returncode == 0, finished.stderr
    for name in ("model_checkpoint_3", "model_checkpoint_6"):
        assert (runs / "models/0001" / name).read_bytes() == (trained[0] / "models/0001" / name).read_bytes()
    one, other = (open_store(None, "trainings", folder).get(1).metrics for folder in (trained[0], runs))
    assert {name: metric.values for name, metric in one.items()} == {
        name: metric.values for name, metric in other.items()
    }


def test_a_seed_left_open_is_drawn_and_tracked(project: Path, tmp_path: Path) -> None:
    finished = train(project, tmp_path, "seed=null", "training.iterations=1", "validation.data=null")
    assert finished.returncode == 0, finished.stderr
    assert isinstance(open_store(None, "trainings", tmp_path).get(1).config["seed"], int)


def sizes(section: str, input_size: int, output_size: int) -> tuple[str, str]:
    return f"{section}.input_size_voxels={[input_size] * 3}", f"{section}.output_size_voxels={[output_size] * 3}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (sizes("training", 29, 11), "[28, 28, 28] (output [10, 10, 10]) or [30, 30, 30]"),
        (("training.output_size_voxels=[12,12,12]",), "set it to [10, 10, 10]"),
        (sizes("validation", 20, 2), "too small to cover right"),
        (("torch.precision=fp16",), "set torch.precision to bf16 or fp32"),
        (("training.itterations=3",), "did you mean"),
        (("training.data=null",), "training.data is not set"),
        (("data.voxel_size=[5,5,5]",), "voxel"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_leaves_no_run(
    project: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    finished = train(project, tmp_path / "runs", *words)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "runs" / "tracking").exists()


def test_ctrl_c_leaves_an_interrupted_run_with_a_whole_checkpoint(project: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(project, tmp_path, "training.iterations=100000", "training.precache.num_workers=1"),
        cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    folder = tmp_path / "models" / "0001"
    deadline = time.monotonic() + 90
    while not (folder / "training_state_3").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the loader's workers as well
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint
    record = open_store(None, "trainings", tmp_path).get(1)
    assert record.status == "INTERRUPTED"
    last = record.checkpoint("last")
    assert last.verify() == folder / f"model_checkpoint_{last.iteration}"
    assert load_checkpoint(last.path).optimizer_state is not None


def test_help_answers_within_a_second() -> None:
    start = time.monotonic()
    finished = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    assert "training.iterations=2000" in finished.stdout
    assert time.monotonic() - start < 10  # the bound of one second is measured apart: tests share a busy machine
