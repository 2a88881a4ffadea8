"""train.py as a person uses it: on a small volume, in a process of its own, from another folder."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from incasem_like.networks import load_checkpoint
from incasem_like.tracking import open_store

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "02_train" / "train.py"


def command(tiny_project: Path, runs: Path, *words: str, flags: tuple[str, ...] = ()) -> list[str]:
    data = [f"training.data={tiny_project}/train.json", f"validation.data={tiny_project}/validate.json"]
    return [sys.executable, str(SCRIPT), *flags, "with", "tiny.yaml", *data, f"directories.runs={runs}", *words]


def train(tiny_project: Path, runs: Path, *words: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(tiny_project, runs, *words, flags=flags), cwd=tiny_project, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_project: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    runs = tiny_project / "runs"
    return runs, train(tiny_project, runs, flags=("--name", "balls"))


def test_a_training_leaves_a_run_with_everything(trained: tuple[Path, Any], tiny_project: Path) -> None:
    runs, finished = trained
    assert finished.returncode == 0, finished.stderr
    record = open_store(None, "trainings", runs).get(1)
    assert (record.status, record.name) == ("COMPLETED", "balls")
    assert record.config["seed"] == 3
    assert record.artifact("training_data.json").decode() == (tiny_project / "train.json").read_text()
    assert record.artifact("validation_data.json").decode() == (tiny_project / "validate.json").read_text()
    assert record.result["iteration"] == 6
    assert record.result["best_metric"] == "dice_class_1"
    assert record.result["loss"] == record.metrics["loss_train_0"].values[-1]
    assert record.info["num_params"] == sum_of_parameters(runs)
    assert {
        "loss_train_0", "pct_class_0", "pct_class_1", "dice_class_1_train", "loss_val_ds_0_type_0",
        "dice_class_1_validation_ds_0", "jaccard_class_1_validation_ds_0", "loss", "dice_class_1",
    } <= set(record.metrics)  # fmt: skip
    assert record.metrics["loss_train_0"].steps == (1, 2, 3, 4, 5, 6)
    assert record.metrics["loss_val_ds_0_type_0"].steps == (3, 6)
    assert [checkpoint.iteration for checkpoint in record.checkpoints] == [3, 6]
    assert record.checkpoint("last").fetch() == runs / "models" / "0001" / "model_checkpoint_6"
    assert {found["name"] for found in record.inputs} == {"left", "right"}


def test_the_id_of_an_existing_run_is_refused_with_what_to_do(trained: tuple[Path, Any], tiny_project: Path) -> None:
    runs, _ = trained
    refused = train(tiny_project, runs, flags=("--id", "1"))
    assert refused.returncode == 2
    assert f"Run 1 exists already in {runs}/tracking/incasem_trainings: leave --id out" in refused.stderr
    assert "or resume that run with --continue_run 1" in refused.stderr


def test_a_training_that_is_refused_leaves_no_folder(tiny_project: Path, tmp_path: Path) -> None:
    for word in ("training.data=/nowhere.json", "torch.device=99"):
        refused = train(tiny_project, tmp_path / "runs", word)
        assert refused.returncode == 2, refused.stderr
        assert list(tmp_path.iterdir()) == []


def sum_of_parameters(runs: Path) -> int:
    return sum(
        tensor.numel() for tensor in load_checkpoint(runs / "models/0001/model_checkpoint_6").network_state.values()
    )


def test_it_says_what_comes_next(trained: tuple[Path, Any]) -> None:
    runs, finished = trained
    assert "Training run 1" in finished.stdout
    assert "tensorboard --logdir" in finished.stdout
    command = f"predict.py --run_id 1 --runs_directory {runs.name} with config_prediction.yaml prediction.data="
    assert command in finished.stdout


def test_logs_and_snapshots_are_where_incasem_has_them(trained: tuple[Path, Any]) -> None:
    runs, _ = trained
    assert list((runs / "tensorboard/0001/training").glob("events*"))
    assert list((runs / "tensorboard/0001/validation/right").glob("events*"))
    assert (runs / "snapshots/0001/training/6.zarr/predictions").is_dir()
    assert (runs / "snapshots/0001/validation/right/3.zarr/predictions").is_dir()
    assert sorted(path.name for path in (runs / "models/0001").iterdir()) == [
        "model_checkpoint_3", "model_checkpoint_6", "training_state_3", "training_state_6",
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.slow
def test_the_number_of_loader_workers_changes_nothing(
    trained: tuple[Path, Any], tiny_project: Path, workers: int
) -> None:
    runs = tiny_project / f"runs_{workers}"
    finished = train(tiny_project, runs, f"training.precache.num_workers={workers}")
    assert finished.returncode == 0, finished.stderr
    for name in ("model_checkpoint_3", "model_checkpoint_6"):
        assert (runs / "models/0001" / name).read_bytes() == (trained[0] / "models/0001" / name).read_bytes()
    one, other = (open_store(None, "trainings", folder).get(1).metrics for folder in (trained[0], runs))
    assert {name: metric.values for name, metric in one.items()} == {
        name: metric.values for name, metric in other.items()
    }


def test_a_seed_left_open_is_drawn_and_tracked(tiny_project: Path, tmp_path: Path) -> None:
    finished = train(tiny_project, tmp_path, "seed=null", "training.iterations=1", "validation.data=null")
    assert finished.returncode == 0, finished.stderr
    assert isinstance(open_store(None, "trainings", tmp_path).get(1).config["seed"], int)


def building_on(tiny_project: Path, runs: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words, *([] if "with" in words else ["with"]), f"directories.runs={runs}"],
        cwd=tiny_project, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_continuing_a_complete_run_says_so_and_how_to_go_further(trained: tuple[Path, Any], tiny_project: Path) -> None:
    runs, _ = trained
    entry = runs / "tracking/incasem_trainings/1/run.json"
    before = entry.read_bytes()
    finished = building_on(tiny_project, runs, "--continue_run", "1")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "Training run 1 was already complete: 6 iterations in " in finished.stdout
    assert re.search(r"train\.py --continue_run 1 --runs_directory .* with training\.iterations=12", finished.stdout)
    assert entry.read_bytes() == before


@pytest.mark.slow
def test_repeating_and_starting_from_a_run_by_its_id_alone(trained: tuple[Path, Any], tiny_project: Path) -> None:
    runs = tiny_project / "runs_built_on"
    shutil.copytree(trained[0], runs)
    repeated = building_on(tiny_project, runs, "--repeat_run", "1")
    assert repeated.returncode == 0, repeated.stderr
    assert "It repeats run 1.\n" in repeated.stdout
    for name in ("model_checkpoint_3", "model_checkpoint_6"):
        assert (runs / "models/0002" / name).read_bytes() == (runs / "models/0001" / name).read_bytes()
    store = open_store(None, "trainings", runs)
    assert store.get(2).info["repeats"] == 1
    tuned = building_on(tiny_project, runs, "--start_from", "1", "3", "with", "training.iterations=2")
    assert tuned.returncode == 0, tuned.stderr
    assert "It starts from training run 1, iteration 3: " in tuned.stdout
    record = store.get(3)
    assert (record.parent["training_run_id"], record.parent["iteration"]) == (1, 3)
    assert record.parent["sha256"] == store.get(1).checkpoint(3).sha256
    assert record.config["seed"] != 3


def sizes(section: str, input_size: int, output_size: int) -> tuple[str, str]:
    return f"{section}.input_size_voxels={[input_size] * 3}", f"{section}.output_size_voxels={[output_size] * 3}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (sizes("training", 29, 11), "[28, 28, 28] (output [10, 10, 10]) or [30, 30, 30]"),
        (("training.output_size_voxels=[12,12,12]",), "set it to [10, 10, 10]"),
        (("torch.precision=fp16",), "set torch.precision to bf16 or fp32"),
        (("training.itterations=3",), "did you mean"),
        (("training.data=null",), "training.data is not set"),
        (("data.voxel_size=[5,5,5]",), "voxel"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_leaves_no_run(
    tiny_project: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    finished = train(tiny_project, tmp_path / "runs", *words)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "runs" / "tracking").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_an_interrupted_run_with_a_whole_checkpoint(tiny_project: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tiny_project, tmp_path, "training.iterations=100000", "training.precache.num_workers=1"),
        cwd=tiny_project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    folder = tmp_path / "models" / "0001"
    checkpoint, deadline = folder / "training_state_3", time.monotonic() + 240
    while process.poll() is None and not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    came = checkpoint.exists()
    with contextlib.suppress(ProcessLookupError):  # it has failed before
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the loader's workers as well
    _, complaint = process.communicate(timeout=120)
    assert came, f"no checkpoint has come: {complaint}"
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint
    record = open_store(None, "trainings", tmp_path).get(1)
    assert record.status == "INTERRUPTED"
    last = record.checkpoint("last")
    assert last.fetch() == folder / f"model_checkpoint_{last.iteration}"
    assert load_checkpoint(last.path).optimizer_state is not None


def test_help_imports_nothing_slow() -> None:
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", str(SCRIPT), "--help"], capture_output=True, text=True, check=True
    )
    assert "training.iterations=2000" in finished.stdout
    slow = ("torch", "tensorstore", "sacred", "gunpowder", "numpy", "tensorboard")
    assert not [package for package in slow if f" {package}\n" in finished.stderr]
