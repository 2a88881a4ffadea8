"""predict_multiple.py as a person calls it: helped, refused, killed, and called again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "03_predict" / "predict_multiple.py"
WIDE_TILES = "prediction.input_size_voxels=[52,52,52]"


class Caller:
    """Starts the script on the volume of a laboratory."""

    def __init__(self, laboratory):
        self.laboratory = laboratory
        laboratory.config({"cell_er": laboratory.entry(labels={"volumes/labels/er": 1})})

    def start(self, *flags, updates=()):
        fixed = [
            f"prediction.data={self.laboratory.folder / 'predict.json'}",
            f"directories.runs={self.laboratory.runs}",
            f"directories.data={self.laboratory.folder / 'data'}",
            "torch.device=cpu",
        ]
        command = [sys.executable, str(SCRIPT), *flags, "with", "config_prediction.yaml", *fixed, *updates]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
        )

    def __call__(self, *flags, updates=()):
        with self.start(*flags, updates=updates) as process:
            out, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


@pytest.fixture
def call(laboratory):
    return Caller(laboratory)


def test_help_explains_the_flags_and_imports_nothing_slow():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(SCRIPT), "--help"], capture_output=True, text=True, check=True
    )
    assert all(flag in done.stdout for flag in ("--start", "--stop", "--step", "--best", "--keep", "--new"))
    slow = ("torch", "tensorstore", "sacred", "gunpowder", "numpy", "matplotlib")
    assert not any(f" {package}\n" in done.stderr for package in slow)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((), "add --run_id ID"),
        (("--run_id", "9"), "There is no training run 9"),
        (("--run_id", "1", "--start", "5"), "has no checkpoint from iteration 5"),
        (("--run_id", "1", "--start", "2", "--stop", "1"), "series.start is 2 and series.stop is 1"),
        (("--run_id", "1", "--keep", "some"), "series.keep must be one of"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(call, laboratory, flags, sentence):
    done = call(*flags)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert laboratory.store.ids() == []


@pytest.mark.slow
def test_the_best_iteration_is_said_drawn_and_kept(call, laboratory):
    done = call("--run_id", "1", "--keep", "best", "--name", "which")
    assert done.returncode == 0, done.stderr
    record = laboratory.store.get(1)
    assert f"Best: iteration {record.result['best_iteration']}, dice_class_1 0." in done.stdout
    assert "Iteration 1: dice_class_1 0." in done.stdout
    assert f"--checkpoint {record.result['best_iteration']}" in done.stdout
    assert record.artifact("scores_by_iteration.png").startswith(b"\x89PNG")
    assert list((laboratory.runs / "tensorboard" / "predict_0001" / "series").glob("events.out.tfevents.*"))
    again = call("--run_id", "1", "--keep", "best")
    assert again.returncode == 0
    assert "Prediction run 1 has done all of this already" in again.stdout
    assert "There is the prediction of cell_er" in again.stdout
    shutil.rmtree(laboratory.container / "volumes" / "predictions")
    assert "is missing from" in call("--run_id", "1", "--keep", "best").stdout
    assert laboratory.store.ids() == [1]


@pytest.mark.slow
@pytest.mark.parametrize("wait_for", ["iteration_000001", "iteration_000002"])
def test_killed_at_any_checkpoint_the_same_command_finishes_it(call, laboratory, wait_for):
    laboratory.config({"cell_er": laboratory.wide_entry((40, 120, 120))})  # 32 blocks
    place = laboratory.container / "volumes/predictions/train_0001/predict_0001" / wait_for
    with call.start("--run_id", "1", updates=[WIDE_TILES]) as process:
        log = place / "segmentation" / ".blocks.jsonl"
        while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 4):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert laboratory.store.get(1).status == "KILLED"
    done = call("--run_id", "1", updates=[WIDE_TILES])
    assert done.returncode == 0, done.stderr
    assert laboratory.store.ids() == [1]
    assert call("--run_id", "1", "--new", updates=[WIDE_TILES]).returncode == 0
    killed, undisturbed = laboratory.store.get(1), laboratory.store.get(2)
    assert killed.status == "COMPLETED"
    assert killed.metrics.keys() == undisturbed.metrics.keys()
    for name, metric in undisturbed.metrics.items():
        assert (killed.metrics[name].steps, killed.metrics[name].values) == (metric.steps, metric.values)
    for iteration in (1, 2):
        first, second = (
            np.asarray(
                zarr.open(str(place.parents[1] / f"predict_{run:04d}" / f"iteration_{iteration:06d}"), mode="r")[
                    "prob_maps/class_1"
                ]
            )
            for run in (1, 2)
        )
        np.testing.assert_array_equal(first, second)
