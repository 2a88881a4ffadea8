"""A disk or a file system that fails a run kept as files, for a moment or at its end."""

import errno
from pathlib import Path
from typing import Any

import pytest

from incasem_like.tracking import Run, open_store, run_experiment
from incasem_like.tracking.files import observer as file_observer


def test_a_disk_too_full_for_metrics_takes_how_the_run_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(None, "trainings", tmp_path)
    working = file_observer.write_whole

    def nearly_full(path: Path, write: Any) -> None:
        if path.name == "metrics.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        working(path, write)

    def main(run: Run) -> None:
        run.log_scalar("loss", 1.0, 1)
        monkeypatch.setattr(file_observer, "write_whole", nearly_full)
        raise RuntimeError("no space for the checkpoint")

    with pytest.raises(RuntimeError):
        run_experiment(name="train", config={}, main=main, store=store)
    record = store.get(1)
    assert record.recorded_status == "FAILED"
    assert "no space for the checkpoint" in record.fail_trace
    assert record.metrics["loss"].values == (1.0,)


def test_a_file_system_that_fails_for_a_moment_costs_no_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(None, "trainings", tmp_path)
    working = file_observer._stamp

    def stale(path: Path) -> tuple[int, int]:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    def main(run: Run) -> None:
        monkeypatch.setattr(file_observer, "_stamp", stale)
        run.log_scalar("loss", 0.5, 1)
        run.flush()
        monkeypatch.setattr(file_observer, "_stamp", working)
        run.log_scalar("loss", 0.25, 2)

    run_experiment(name="train", config={}, main=main, store=store)
    assert store.get(1).metrics["loss"].values == (0.5, 0.25)
