"""predict.py as a person would start it: from another folder, wrongly, killed, and again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from incasem_like.tracking import run_experiment

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "03_predict" / "predict.py"


@pytest.mark.parametrize(("given", "used"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_leave_the_cores_to_others_unless_the_environment_says_so(
    laboratory, run_predict, monkeypatch, given, used
):
    laboratory.config()
    monkeypatch.setenv("OMP_DISPLAY_ENV", "TRUE")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    assert f"OMP_WAIT_POLICY = '{used}'" in run_predict("--run_id", "1", "--dry_run").stderr


class Caller:
    """Starts the script from a folder that is not its own."""

    def __init__(self, laboratory, folder):
        self.laboratory, self.folder = laboratory, folder
        laboratory.config()

    def command(self, *flags, updates=()):
        fixed = [
            f"prediction.data={self.laboratory.folder / 'predict.json'}",
            f"directories.runs={self.laboratory.runs}",
            f"directories.data={self.laboratory.folder / 'data'}",
            "torch.device=cpu",
        ]
        return [sys.executable, str(SCRIPT), *flags, "with", "config_prediction.yaml", *fixed, *updates]

    def environment(self):
        return {**os.environ, "OMP_NUM_THREADS": "1"}

    def __call__(self, *flags, updates=()):
        return subprocess.run(
            self.command(*flags, updates=updates),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def call(laboratory, tmp_path_factory):
    return Caller(laboratory, tmp_path_factory.mktemp("elsewhere"))


def test_help_explains_the_flags_and_imports_nothing_slow():
    done = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    assert "--run_id" in done.stdout
    assert "--resume" in done.stdout
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", str(SCRIPT), "--help"], capture_output=True, text=True, check=True
    ).stderr
    assert not any(f" {package}\n" in imported for package in ("torch", "tensorstore", "sacred", "gunpowder", "numpy"))


def test_a_run_id_is_enough(call, laboratory):
    done = call("--run_id", "1", "--name", "first", "--checkpoint", "last")
    assert done.returncode == 0, done.stderr
    assert "Prediction run 1 with training run 1, iteration 2" in done.stdout
    assert "volumes/predictions/train_0001/predict_0001" in done.stdout
    assert laboratory.store.get(1).name == "first"
    container = zarr.open(str(laboratory.container), mode="r")
    found = np.asarray(container["volumes/predictions/train_0001/predict_0001/prob_maps/class_1"])
    assert np.abs(found - laboratory.one_shot((12, -18, 3), (25, 30, 28), iteration=2)[1]).max() < 1e-5


def test_scores_are_printed_and_tracked(call, laboratory):
    laboratory.config({"cell_er": laboratory.entry(labels={"volumes/labels/er": 1})})
    done = call("--run_id", "1", updates=["prediction.log_metrics=true"])
    assert done.returncode == 0, done.stderr
    assert "dice_class_1_ds_0: 0." in done.stdout
    metrics = laboratory.store.get(1).metrics
    assert 0 < metrics["dice_class_1_ds_0"].values[0] < 1
    assert metrics["dice_class_1"].values == metrics["dice_class_1_ds_0"].values  # the mean of one, which lists show
    assert "dice_class_1: " not in done.stdout


@pytest.mark.parametrize(
    ("flags", "updates", "sentence"),
    [
        (["--run_id", "9"], [], "There is no training run 9"),
        ([], [], "add --run_id ID"),
        (["--run_id", "1"], ["prediction.dat=x"], "prediction.data"),
        (["--run_id", "1", "--resume", "5"], [], "holds no prediction that was begun"),
        (["--run_id", "one"], [], "invalid int value"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(call, flags, updates, sentence):
    done = call(*flags, updates=updates)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def stopped_by(number, call, place):
    """Start a prediction in many tiles and send it a signal after the first few."""
    call.laboratory.config({"cell_er": call.laboratory.wide_entry((40, 190, 190))})
    log = place / "segmentation" / ".blocks.jsonl"
    command = call.command("--run_id", "1", updates=["prediction.input_size_voxels=[52,52,52]"])
    with subprocess.Popen(
        command, cwd=call.folder, env=call.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 4):
            time.sleep(0.005)
        process.send_signal(number)
        _, errors = process.communicate()
    assert log.read_bytes().count(b"\n") < 73  # a line for each of 72 blocks, and one before them
    return subprocess.CompletedProcess(command, process.returncode, None, errors)


def test_interrupted_by_ctrl_c_it_tells_how_to_go_on(call, laboratory):
    done = stopped_by(signal.SIGINT, call, laboratory.container / "volumes/predictions/train_0001/predict_0001")
    assert done.returncode == 130
    assert "--resume 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert laboratory.store.get(1).status == "INTERRUPTED"


@pytest.mark.slow
def test_killed_and_resumed_by_id_alone_it_is_the_same_prediction(call, laboratory):
    place = laboratory.container / "volumes/predictions/train_0001/predict_0001"
    assert stopped_by(signal.SIGKILL, call, place).returncode == -signal.SIGKILL

    resumed = subprocess.run(
        [sys.executable, str(SCRIPT), "--resume", "1"],
        cwd=call.folder,
        env={**call.environment(), "INCASEM_RUNS": str(laboratory.runs)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert resumed.returncode == 0, resumed.stderr
    undisturbed = call("--run_id", "1", updates=["prediction.input_size_voxels=[52,52,52]"])
    assert undisturbed.returncode == 0, undisturbed.stderr
    for dataset in ("prob_maps/class_1", "segmentation"):
        found = np.asarray(zarr.open(str(place), mode="r")[dataset])
        np.testing.assert_array_equal(
            found, np.asarray(zarr.open(str(place.with_name("predict_0003")), mode="r")[dataset])
        )


@pytest.mark.parametrize("script", [SCRIPT, SCRIPT.with_name("predict_multiple.py")])
@pytest.mark.slow
def test_a_mask_that_the_prediction_would_replace_is_refused_and_stays(script, call, laboratory, write_volume):
    part = "/iteration_000001" if script != SCRIPT else ""
    group = laboratory.container / f"volumes/predictions/train_0001/predict_0001{part}"
    mask = np.ones((40, 44, 36), dtype=np.uint8)
    write_volume(laboratory.container, "volumes/earlier/prob_maps/class_1", mask)
    group.parent.mkdir(parents=True)
    group.symlink_to(laboratory.container / "volumes/earlier")
    (laboratory.folder / "data/link.zarr").symlink_to("cell.zarr")
    named = {"file": "link.zarr", "mask": "volumes/earlier/prob_maps/class_1"}
    laboratory.config({"cell_er": laboratory.entry(**named)})
    command = call.command("--run_id", "1", updates=["prediction.input_size_voxels=[44,44,44]"])
    done = subprocess.run(
        [command[0], str(script), *command[2:]], capture_output=True, text=True, env=call.environment()
    )
    assert done.returncode == 2, done.stderr
    assert ("already holds a prediction" if part else "holds the input") in done.stderr
    assert "Resume with" not in done.stderr
    found = zarr.open(str(laboratory.container), mode="r")["volumes/earlier/prob_maps/class_1"][:]
    np.testing.assert_array_equal(found, mask)
    laboratory.config({"other": laboratory.entry(file="link.zarr"), "cell_er": laboratory.entry()})
    group.unlink()
    done = subprocess.run(
        [command[0], str(script), *command[2:]], capture_output=True, text=True, env=call.environment()
    )
    assert done.returncode == 2, done.stderr
    assert "overlap" in done.stderr


def test_the_id_of_an_existing_run_is_refused_with_what_to_do(call, laboratory):
    run_experiment(name="predict", config={}, main=lambda run: None, store=laboratory.store)
    done = call("--run_id", "1", "--id", "1")
    assert done.returncode == 2
    assert "Run 1 exists already in" in done.stderr
    assert "leave --id out for the next free id, choose another, or resume that run with --resume 1" in done.stderr
    assert "Resume with" not in done.stderr
    assert laboratory.store.ids() == [1]
