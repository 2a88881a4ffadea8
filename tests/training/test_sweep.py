"""Sweeps by the script: trials are tracked trainings, a killed sweep resumes, finished trials are not repeated."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from incasem_like.tracking import open_store

SCRIPT = Path(__file__).parents[2] / "scripts" / "02_train" / "sweep.py"
SPACE = ["sweep.method=grid", "sweep.space.training.optimizer.lr=[0.01,0.001]"]


class Sweeps:
    """Runs ``sweep.py`` in one runs directory."""

    def __init__(self, project: Path, runs: Path) -> None:
        self.project, self.runs = project, runs
        self.sweeps, self.trainings = (open_store(None, kind, runs) for kind in ("sweeps", "trainings"))

    def start(self, *words: str, flags: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        data = [f"training.data={self.project}/train.json", f"validation.data={self.project}/validate.json"]
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), *flags, "with", "tiny.yaml", *data, f"directories.runs={self.runs}", *words],
            cwd=self.project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def __call__(self, *words: str, flags: tuple[str, ...] = (), status: int = 0) -> str:
        process = self.start(*words, flags=flags)
        out, err = process.communicate(timeout=600)
        assert process.returncode == status, out + err
        return out if status == 0 else err

    def trials(self, run_id: int = 1) -> list[dict[str, Any]]:
        return list(self.sweeps.get(run_id).info["trials"])


@pytest.fixture
def sweeps(tiny_project: Path, tmp_path: Path) -> Sweeps:
    return Sweeps(tiny_project, tmp_path)


def test_a_sweep_trains_each_combination_and_names_the_best(sweeps: Sweeps) -> None:
    out = sweeps(*SPACE, "training.iterations=4", "validation.validate_every=2")
    trials = sweeps.trials()
    assert [trial["parameters"] for trial in trials] == [
        {"training.optimizer.lr": 0.01}, {"training.optimizer.lr": 0.001},
    ]  # fmt: skip
    for trial in trials:
        record = sweeps.trainings.get(trial["run_id"])
        assert record.status == "COMPLETED"
        assert record.config["training"]["optimizer"]["lr"] == trial["parameters"]["training.optimizer.lr"]
        assert record.info["parent"] == {"sweep_run_id": 1, "trial": trial["number"]}
        assert trial["value"] == record.result["best_value"]
    best = max(trials, key=lambda trial: trial["value"])
    result = sweeps.sweeps.get(1).result
    assert (result["best_training_run"], result["best_value"]) == (best["run_id"], best["value"])
    assert f"Best: trial {best['number']}, training run {best['run_id']}" in out
    table = sweeps.sweeps.get(1)
    rows = list(csv.DictReader(table.artifact("trials.csv").decode().splitlines()))
    assert [float(row["training.optimizer.lr"]) for row in rows] == [0.01, 0.001]
    assert table.artifact("trials.png").startswith(b"\x89PNG")
    assert "has done all of this already" in sweeps(*SPACE, "training.iterations=4", "validation.validate_every=2")
    assert sweeps.trainings.ids() == [1, 2]


@pytest.mark.slow
def test_a_killed_sweep_resumes_its_training_and_skips_finished_trials(sweeps: Sweeps) -> None:
    words = (*SPACE, "training.iterations=60", "training.save_every=5")
    process = sweeps.start(*words)
    deadline = time.monotonic() + 400
    while not (sweeps.runs / "models/0002/model_checkpoint_5").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finished = sweeps.trainings.get(1)
    out = sweeps(*words)
    assert "1 are done" in out
    assert sweeps.trainings.ids() == [1, 2]
    assert [trial["status"] for trial in sweeps.trials()] == ["COMPLETED"] * 2
    assert sweeps.trainings.get(1).document == finished.document
    assert sweeps.sweeps.ids() == [1]


@pytest.mark.slow
def test_workers_run_trials_beside_each_other(sweeps: Sweeps) -> None:
    words = ("training.iterations=2", "validation.validate_every=1", *SPACE)
    sweeps(*words, flags=("--num_workers", "2"))
    assert [(trial["number"], trial["status"]) for trial in sweeps.trials()] == [(0, "COMPLETED"), (1, "COMPLETED")]
    assert sorted(trial["run_id"] for trial in sweeps.trials()) == [1, 2]


@pytest.mark.parametrize(
    "varied", ["training.optimizer.lr=[1e30,0.001]", "model.downsample_factors=[[[2,2,2],[2,2,2],[2,2,2]],[[2,2,2]]]"]
)
@pytest.mark.slow
def test_a_failed_trial_does_not_stop_the_others(sweeps: Sweeps, varied: str) -> None:
    words = ("training.iterations=2", "sweep.method=grid", f"sweep.space.{varied}")
    out = sweeps(*words, "validation.validate_every=2")
    first, second = sweeps.trials()
    assert (first["status"], second["status"]) == ("FAILED", "COMPLETED")
    assert f"Best: trial 1, training run {second['run_id']}" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "sweep.space is empty, so that nothing varies"),
        (("sweep.space.training.optimiser.lr=[1]",), "training.optimiser"),
        (("sweep.space.model.num_fmaps=[4,-1]",), "in trial 1 of the sweep"),
        (("sweep.method=hyperband", *SPACE[1:]), "sweep.method"),
        ((*SPACE, "sweep.metric=dicee"), "sweep.metric 'dicee' is not a validation metric"),
        ((*SPACE, "validation.data=null"), "validation.data is null"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(sweeps: Sweeps, words: tuple[str, ...], sentence: str) -> None:
    assert sentence in sweeps(*words, status=2)
    assert not list(sweeps.runs.iterdir())
