"""Fixtures of the training room: tiny configurations, fake samples and a fake run."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from incasem_like.config import TrainingConfig
from incasem_like.training.checkpoints import CheckpointFolder
from incasem_like.training.log import TrainingLog
from incasem_like.training.optimization import Optimization, seeded_network
from incasem_like.training.tensorboard import TensorBoardLog
from incasem_like.training.trainer import Trainer, TrainingParts


class FakeRun:
    """Keeps what a tracked run would."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, int, float]] = []
        self.checkpoints: dict[int, tuple[Path, dict[str, float]]] = {}

    def log_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, step, value))

    def register_checkpoint(self, path: Path, iteration: int, metrics: Mapping[str, float]) -> None:
        assert path.is_file()
        self.checkpoints[iteration] = (path, dict(metrics))

    def forget_checkpoint(self, path: Path) -> None:
        self.checkpoints = {key: entry for key, entry in self.checkpoints.items() if entry[0] != path}

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


def fake_batches(start: int, stop: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches that depend on their number alone: bright voxels are of class 1."""
    for number in range(start, stop):
        generator = torch.Generator().manual_seed(number)
        raw = torch.rand((1, 1, 8, 8, 8), generator=generator) * 2 - 1
        labels = (raw[:, 0] > 0).long()
        yield {
            "raw": raw,
            "labels": labels,
            "mask": torch.ones_like(labels, dtype=torch.uint8),
            "scale": torch.ones((1, 8, 8, 8)),
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
