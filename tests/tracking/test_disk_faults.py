"""A disk or a file system that fails a run, for a moment, at a checkpoint or at its end."""

import errno
import logging
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from incasem_like.errors import DiskFullError
from incasem_like.tracking import Run, RunStore, open_store, run_experiment, run_folder
from incasem_like.tracking.metrics_log import read_log
from incasem_like.tracking.recording import run as recording
from incasem_like.tracking.run_folder import RunFolder


def test_a_disk_too_full_for_metrics_takes_how_the_run_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(None, "trainings", tmp_path)
    working = run_folder.write_whole

    def nearly_full(path: Path, write: Any) -> None:
        if path.name == "metrics.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        working(path, write)

    def main(run: Run) -> None:
        run.log_scalar("loss", 1.0, 1)
        monkeypatch.setattr(run_folder, "write_whole", nearly_full)
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

    def stale(folder: RunFolder, name: str) -> dict[str, Any]:
        raise OSError(errno.ESTALE, "Stale file handle", str(folder.folder / name))

    def main(run: Run) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(RunFolder, "read", stale)
            run.log_scalar("loss", 0.5, 1)
            run.flush()
        run.log_scalar("loss", 0.25, 2)

    run_experiment(name="train", config={}, main=main, store=store)
    assert store.get(1).metrics["loss"].values == (0.5, 0.25)


@pytest.fixture
def refuse_metrics(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the disk refuse the next so many writes of any metrics log; counted from when this is called."""
    left = [0]
    working = os.write

    def write(file: int, content: bytes) -> int:
        if left[0] and content.startswith(b'{"name"'):
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return working(file, content)

    monkeypatch.setattr("incasem_like.tracking.metrics_log.os.write", write)
    monkeypatch.setattr(recording, "SECONDS_BETWEEN_ATTEMPTS", 0.01)
    return lambda times: left.__setitem__(0, times)


def test_a_checkpoint_is_not_registered_before_all_metrics_up_to_it_are_on_disk(
    store: RunStore, tmp_path: Path, refuse_metrics: Callable[[int], None]
) -> None:
    model = tmp_path / "runs" / "checkpoint"

    def main(run: Run) -> None:
        model.write_bytes(b"weights")
        run.register_checkpoint(model, 1)
        run.log_scalar("loss", 0.5, 2)
        refuse_metrics(1000)
        try:
            run.register_checkpoint(model, 2)
        finally:
            registered.extend(run.info["checkpoints"])
            refuse_metrics(0)

    registered: list[dict[str, Any]] = []
    model.parent.mkdir()
    with pytest.raises(DiskFullError, match=r"metrics of run 1 .*No space left.*: free some space, then continue"):
        run_experiment(name="train", config={}, main=main, store=store)
    assert [entry["iteration"] for entry in registered] == [1]
    record = store.get(1)
    assert [checkpoint.iteration for checkpoint in record.checkpoints] == [1]
    assert record.recorded_status == "FAILED"


def test_a_disk_that_refuses_metrics_for_a_moment_holds_the_checkpoint_back_for_as_long(
    store: RunStore, tmp_path: Path, refuse_metrics: Callable[[int], None]
) -> None:
    model = tmp_path / "runs" / "checkpoint"
    model.parent.mkdir()
    model.write_bytes(b"weights")

    def main(run: Run) -> None:
        run.log_scalar("loss", 0.5, 2)
        refuse_metrics(3)
        run.register_checkpoint(model, 2)
        log = store.metrics_log(1)
        assert log is not None
        assert read_log(log)["loss"].values == (0.5,)

    run_experiment(name="train", config={}, main=main, store=store)
    assert store.get(1).checkpoints[0].iteration == 2


def test_a_full_disk_leaves_no_half_line_in_the_metrics_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incasem_like.tracking.recording.run.SECONDS_BETWEEN_ATTEMPTS", 0.01)
    store = open_store(None, "trainings", tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def main(run: Run) -> None:
        log = store.metrics_log(run.id)
        assert log is not None
        run.log_scalar("loss", 0.5, 1)
        run.flush()
        whole = log.read_bytes()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, before[1]))
            run.log_scalar("loss", 0.25, 2)
            with pytest.raises(DiskFullError):
                run.flush()
            assert log.read_bytes() == whole
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        run.log_scalar("loss", 0.125, 3)

    with caplog.at_level(logging.WARNING):
        run_experiment(name="train", config={}, main=main, store=store)
    assert store.get(1).metrics["loss"].values == (0.5, 0.25, 0.125)
    assert any("cannot be written now" in line for line in caplog.messages)
