"""Fixtures of the training room: tiny configurations, fake samples and a fake run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from incasem_like.config import TrainingConfig, load_training_config
from incasem_like.tracking import RunStore, open_store
from incasem_like.training.checkpoints import CheckpointFolder
from incasem_like.training.log import TrainingLog
from incasem_like.training.optimization import Optimization, seeded_network
from incasem_like.training.tensorboard import TensorBoardLog
from incasem_like.training.trainer import Trainer, TrainingParts
from incasem_like.volumes import create_volume

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


SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "02_train" / "train.py"
PRELOADED = Path(__file__).parent / "helpers" / "preloaded_trainer.py"
LEAN = (
    *("training.optimizer.lr=0.01", "training.augmentation.elastic=null"),
    *("training.snapshot.every=0", "training.image_every=0", "validation.snapshot.every=0"),
)


class FakeRun:
    """Keeps what a tracked run would."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, int, float]] = []
        self.checkpoints: dict[int, tuple[Path, dict[str, float]]] = {}
        self.flushed = 0

    def log_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, step, value))

    def register_checkpoint(self, path: Path, iteration: int, metrics: Mapping[str, float], state: Path) -> None:
        assert path.is_file()
        assert state.is_file()
        self.checkpoints[iteration] = (path, dict(metrics))

    def forget_checkpoint(self, path: Path) -> None:
        self.checkpoints = {key: entry for key, entry in self.checkpoints.items() if entry[0] != path}

    def flush(self) -> None:
        self.flushed = len(self.scalars)

    def values(self, name: str) -> dict[int, float]:
        return {step: value for found, step, value in self.scalars if found == name}


class FakeValidation:
    """Gives prepared metrics and remembers when it was asked."""

    def __init__(self, dice: Mapping[int, float]) -> None:
        self.dice, self.asked = dice, []
        self.before: Callable[[int], None] = lambda iteration: None

    def run(self, iteration: int, stop: Callable[[], bool]) -> dict[str, float] | None:
        self.asked.append(iteration)
        self.before(iteration)
        return None if stop() else {"loss": 1.0, "dice_class_1": self.dice.get(iteration, 0.0)}


def merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        merged[key] = merge(merged.get(key, {}), value) if isinstance(value, Mapping) else value
    return merged


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., TrainingConfig]:
    def make(**changes: Any) -> TrainingConfig:
        values: dict[str, Any] = {
            "seed": 5,
            "directories": {"runs": str(tmp_path / "runs"), "data": str(tmp_path)},
            "training": {
                "iterations": 6,
                "save_every": 2,
                "image_every": 0,
                "input_size_voxels": [8, 8, 8],
                "output_size_voxels": [8, 8, 8],
                "optimizer": {"lr": 0.01},
                "snapshot": {"every": 0},
                "profiling_stats": {"every": 0},
                "precache": {"num_workers": 0, "cache_size": 2},
            },
            "validation": {"validate_every": 2, "input_size_voxels": [12, 12, 12], "output_size_voxels": [12, 12, 12]},
            "model": {"type": "OneConv3d"},
            "torch": {"device": "cpu"},
            "sacred": {"log_every": 1},
        }
        return TrainingConfig.model_validate(merge(values, changes))

    return make


def fake_batches(start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Batches that depend on their number alone: bright voxels are of class 1."""
    for number in range(start, stop):
        generator = torch.Generator().manual_seed(number)
        raw = torch.rand((1, 1, 8, 8, 8), generator=generator) * 2 - 1
        labels = (raw[:, 0] > 0).long()
        yield {
            "raw": raw,
            "labels": labels,
            "mask": torch.ones_like(labels, dtype=torch.uint8),
            "targets": {"classes": {"target": labels, "weight": torch.ones((1, 8, 8, 8))}},
        }


@pytest.fixture
def fake_run() -> FakeRun:
    return FakeRun()


@pytest.fixture
def make_trainer(make_config: Callable[..., TrainingConfig], tmp_path: Path) -> Callable[..., Trainer]:
    """Build a trainer on fake samples; its folder is ``tmp_path / name``."""

    def make(
        name: str = "run",
        *,
        dice: Mapping[int, float] | None = None,
        batches: Callable[[int, int], Any] = fake_batches,
        **changes: Any,
    ) -> Trainer:
        config = make_config(**changes)
        assert config.seed is not None
        run = FakeRun()
        parts = TrainingParts(
            optimization=Optimization(config, seeded_network(config.model, config.seed)),
            batches=batches,
            checkpoints=CheckpointFolder(tmp_path / name),
            log=TrainingLog(config, run, TensorBoardLog(tmp_path / f"{name}_tensorboard")),
            run=run,
            validation=FakeValidation(dice) if dice is not None else None,
        )
        return Trainer(config, parts)

    return make


@pytest.fixture(scope="module")
def tiny_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


@pytest.fixture
def configure(tiny_project: Path, tmp_path: Path) -> Callable[..., TrainingConfig]:
    """Make the configuration of a tiny training, with ``key=value`` updates; its runs go to tmp_path."""

    def configure(*updates: str) -> TrainingConfig:
        data = [f"training.data={tiny_project}/train.json", f"validation.data={tiny_project}/validate.json"]
        return load_training_config(
            [tiny_project / "tiny.yaml"], [*data, f"directories.runs={tmp_path}", "torch.num_threads=null", *updates]
        )

    return configure


@pytest.fixture
def store_of() -> Callable[..., RunStore]:
    """Open the store of trainings that a configuration uses, or another one of files in its runs directory."""
    return lambda config, folder="tracking": open_store(
        config.directories.runs / folder, "trainings", config.directories.runs
    )


class Laboratory:
    """Trains by ``train.py`` in one runs directory: in forks of a process that is ready, or by the script itself."""

    def __init__(self, project: Path, runs: Path, url: str | None = None) -> None:
        self.project, self.runs, self.output = project, runs, runs / "output.txt"
        self._store_flags = [] if url is None else ["--mongodb", url]
        runs.mkdir(exist_ok=True)
        self.store = open_store(url, "trainings", runs)
        self._scripts: list[subprocess.Popen[str]] = []
        self._forks = subprocess.Popen(
            [sys.executable, str(PRELOADED)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def new(self, *updates: str) -> list[str]:
        data = [f"training.data={self.project}/train.json", f"validation.data={self.project}/validate.json"]
        return [*self._store_flags, "with", "tiny.yaml", *data, *LEAN, f"directories.runs={self.runs}", *updates]

    def going_on(self, run_id: int, *updates: str) -> list[str]:
        words = ["with", f"directories.runs={self.runs}", *updates]
        return ["--continue_run", str(run_id), *self._store_flags, *words]

    def train(self, argv: list[str], kill: dict[str, Any] | None = None) -> int:
        """Train in a fork; gives its exit status, negative for a signal."""
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        job = {"argv": argv, "script": str(SCRIPT), "cwd": str(self.project), "output": str(self.output), "kill": kill}
        self._forks.stdin.write(json.dumps(job) + "\n")
        self._forks.stdin.flush()
        return int(self._forks.stdout.readline())

    def start_script(self, argv: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *argv], cwd=self.project, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._scripts.append(process)
        return process

    def kill_the_script(self, argv: list[str], seconds: float) -> int:
        """Start the script itself and kill it some seconds after it says that it goes on."""
        process = self.start_script(argv)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Watch it"):
                break
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return process.returncode

    def close(self) -> None:
        for process in (self._forks, *self._scripts):
            process.kill()
            process.communicate()


@pytest.fixture
def laboratory(tiny_project: Path, tmp_path: Path) -> Iterator[Laboratory]:
    laboratory = Laboratory(tiny_project, tmp_path / "runs")
    yield laboratory
    laboratory.close()


@pytest.fixture
def mongo_laboratory(tiny_project: Path, tmp_path: Path, fresh_mongo_url: str) -> Iterator[Laboratory]:
    """One whose runs are kept in a database."""
    laboratory = Laboratory(tiny_project, tmp_path / "runs", fresh_mongo_url)
    yield laboratory
    laboratory.close()
