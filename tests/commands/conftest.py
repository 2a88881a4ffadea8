"""Labs full of runs to ask the console command about."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands.lab import Lab, metric


@pytest.fixture(autouse=True)
def _in_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times are shown in this machine's zone, wherever it is."""
    with monkeypatch.context() as context:
        context.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture(params=["files", pytest.param("server", marks=pytest.mark.mongo)])
def lab(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> Lab:
    """An empty lab, kept as files and on a server in turn."""
    monkeypatch.delenv("INCASEM_TRACKING_URL", raising=False)
    monkeypatch.setenv("INCASEM_CACHE", str(tmp_path / "cache"))
    url = request.getfixturevalue("fresh_mongo_url") if request.param == "server" else None
    return Lab(tmp_path / "runs", url, lambda: tuple(capsys.readouterr()))


@pytest.fixture
def four_trainings(lab: Lab) -> Lab:
    """Four trainings of two organelles with different learning rates, the last of them failed."""
    for run_id, (organelle, rate, dice, loss) in enumerate(
        (("er", 1e-3, 0.62, 0.31), ("er", 1e-4, 0.81, 0.17), ("mito", 1e-4, 0.74, 0.22)), 1
    ):
        lab.add(
            run_id,
            name=f"{organelle}_{run_id}",
            config={
                "seed": 7,
                "training": {"iterations": 30, "optimizer": {"lr": rate, "weight_decay": 1e-5}},
                "model": {"num_fmaps": 12, "downsample_factors": [[2, 2, 2], [1, 2, 2]]},
            },
            info={
                "summary": {
                    "dice_class_0": metric(0.9, 0.8, 0.95),
                    "dice_class_1": metric(dice - 0.1, 0.1, dice),
                    "loss": metric(loss + 0.1, loss, 1.0),
                    "loss_train_0": metric(0.2, 0.1, 1.0),
                    "learning_rate": metric(rate, rate, rate),
                },
                "inputs": [
                    {
                        "name": "cell",
                        "file": "/data/cell.zarr",
                        "content_hashes": {
                            "/data/cell.zarr/volumes/raw": "a" * 64,
                            f"/data/cell.zarr/volumes/labels/{organelle}": "b" * 64,
                        },
                    }
                ],
            },
            result={"best_value": dice, "iteration": 30},
        )
    lab.add(4, name="broken", status="FAILED", fail_trace=["Traceback\n", "ValueError: no\n"])
    return lab
