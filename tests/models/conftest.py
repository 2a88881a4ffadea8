"""Tiny trained networks of every kind in a store of their own, and the command line in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prediction.conftest import enliven, one_thread

from incasem_like.commands.cli import answer
from incasem_like.config import TrainingConfig
from incasem_like.errors import IncasemError
from incasem_like.networks import build_network, save_checkpoint
from incasem_like.tracking import RunRecord, open_store, run_experiment
from incasem_like.volumes import create_volume

__all__ = ["enliven", "one_thread"]
SMALL = {"num_fmaps": 2, "downsample_factors": [[2, 2, 2]]}
VOXEL_SIZE = (8.0, 8.0, 8.0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a person's own, with runs, data and models in it."""
    monkeypatch.chdir(tmp_path)
    for variable, folder in (("INCASEM_MODELS", "models"), ("INCASEM_RUNS", "runs"), ("INCASEM_DATA", "data")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.delenv("INCASEM_TRACKING_URL", raising=False)
    return tmp_path


@pytest.fixture
def track(here: Path, enliven: Any) -> Callable[..., RunRecord]:
    """Record a training of which the network was never trained, with a checkpoint of iteration 7."""

    def tracked(model: dict[str, Any] | None = None, *, data: Path | None = None, **sections: Any) -> RunRecord:
        values = {
            "data": {"voxel_size": list(VOXEL_SIZE)},
            "torch": {"device": "cpu"},
            "model": {**({} if (model or {}).get("type") == "Custom" else SMALL), **(model or {})},
            "training": {"augmentation": {"simple": None}, **({} if data is None else {"data": str(data)})},
            **sections,
        }
        config = TrainingConfig.from_values(values, lambda _key: "here")

        def register(run: Any) -> int:
            path = here / "runs" / "models" / f"{run.id:04d}" / "model_checkpoint_7"
            save_checkpoint(path, enliven(build_network(config.model)))
            run.register_checkpoint(path, 7, {})
            return run.id  # type: ignore[no-any-return]

        store = open_store(None, "trainings", here / "runs")
        artifacts = {} if data is None else {"training_data.json": data.read_text()}
        dumped = config.model_dump(mode="json")
        run_id = run_experiment(
            name="train", run_name="cell net", config=dumped, main=register, store=store, artifacts=artifacts
        )
        return store.get(run_id)

    return tracked


@pytest.fixture
def cell(here: Path) -> Path:
    """A volume with labels of class 1, and its data configuration."""
    raw = np.random.default_rng(0).integers(0, 256, (44, 44, 44), dtype=np.uint8)
    for dataset, values in (("volumes/raw", raw), ("volumes/labels/er", (raw > 127).astype(np.uint8))):
        volume = create_volume(
            here / "data" / "cell.zarr",
            dataset,
            shape=values.shape,
            dtype=values.dtype,
            voxel_size=VOXEL_SIZE,
            offset=(0, 0, 0),
            chunk_shape=(22, 22, 22),
        )
        volume.write(values)
        volume.mark_complete()
    entry = {"file": "cell.zarr", "voxel_size": VOXEL_SIZE, "raw": "volumes/raw", "labels": {"volumes/labels/er": 1}}
    path = here / "cell.json"
    path.write_text(json.dumps({"cell": entry}))
    return path


@pytest.fixture
def models(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Type ``incasem-like models …``; returns what was printed, or the sentence of an error of that status."""

    def call(*words: object, status: int = 0) -> str:
        if status == 0:
            assert answer(["models", *map(str, words)]) == 0
            return capsys.readouterr().out
        with pytest.raises(IncasemError) as error:
            answer(["models", *map(str, words)])
        assert error.value.exit_status == status
        return str(error.value)

    return call
