"""A disk that fills while a checkpoint is written, and two processes that would continue one run at once."""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from disks import tmpfs

LARGE = ("model.num_fmaps=14", "training.iterations=30", "training.save_every=5", "validation.data=null")
ENDLESS = "training.iterations=1000000"
MEGABYTE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own of 24 MB, at the place where the laboratory's runs go."""
    with tmpfs(tmp_path / "runs", "size=24m") as place:
        yield place


@contextlib.contextmanager
def full(place: Path) -> Iterator[None]:
    """Leave no more on a disk than the records of a run need, but no checkpoint."""
    ballast = place / "ballast"
    try:
        # In pieces, and looking at the room each time: the training goes on writing meanwhile.
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while (room := free_bytes(place) - MEGABYTE // 2) > 0:
                file.write(bytes(min(room, MEGABYTE // 16)))
        yield
    finally:
        ballast.unlink()


def free_bytes(place: Path) -> int:
    room = os.statvfs(place)
    return room.f_bavail * room.f_bsize


def wait_for_state(iteration: int, models: Path, process: subprocess.Popen[str]) -> None:
    """Wait for the state after an iteration or a later one: earlier ones are deleted while nobody looks."""
    deadline = time.monotonic() + 300
    while not any(int(path.name.rpartition("_")[2]) >= iteration for path in models.glob("training_state_*[0-9]")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no state after {iteration} iterations in {models}"
        time.sleep(0.02)


def assert_failed_in_one_sentence(laboratory: Any, process: subprocess.Popen[str], run_id: int) -> None:
    _, complaint = process.communicate(timeout=300)
    folder = laboratory.runs / "models" / f"{run_id:04d}"
    assert process.returncode == 1, complaint
    assert "Traceback" not in complaint
    sentence = complaint.strip().splitlines()[-1]
    assert sentence.startswith(f"error: No space is left in {folder} for the checkpoint of iteration "), complaint
    assert f"train.py --continue_run {run_id} --runs_directory " in complaint
    record = laboratory.store.get(run_id)
    assert record.status == "FAILED"
    assert "No space is left" in record.fail_trace
    whole = {path.name.rpartition("_")[2] for path in folder.glob("training_state_*")}
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{kind}_{number}" for kind in ("model_checkpoint", "training_state") for number in whole}
    assert f"that of iteration {max(map(int, whole))} is kept" in sentence


def assert_equal_to_run_on_a_large_disk(laboratory: Any, run_id: int, undisturbed: int) -> None:
    one, other = laboratory.store.get(run_id), laboratory.store.get(undisturbed)
    assert (one.status, one.result) == ("COMPLETED", other.result)
    assert [entry.sha256 for entry in one.checkpoints] == [entry.sha256 for entry in other.checkpoints]
    assert {name: (metric.steps, metric.values) for name, metric in one.metrics.items()} == {
        name: (metric.steps, metric.values) for name, metric in other.metrics.items()
    }


@pytest.mark.slow
def test_a_disk_that_is_full_at_a_checkpoint_ends_the_run_which_goes_on_when_there_is_space(
    small_disk: Path, laboratory: Any
) -> None:
    process = laboratory.start_script(laboratory.new(*LARGE))
    wait_for_state(5, small_disk / "models/0001", process)
    with full(small_disk):
        assert_failed_in_one_sentence(laboratory, process, 1)
    assert laboratory.train(laboratory.going_on(1)) == 0, laboratory.output.read_text()
    laboratory.store.get(1).checkpoint("last").fetch()
    assert laboratory.train(laboratory.new(*LARGE)) == 0, laboratory.output.read_text()
    assert_equal_to_run_on_a_large_disk(laboratory, 1, 2)


@pytest.mark.slow
def test_a_checkpoint_that_may_not_be_written_whole_ends_the_run_likewise(laboratory: Any) -> None:
    process = laboratory.start_script(laboratory.new(*LARGE))
    wait_for_state(5, laboratory.runs / "models/0001", process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (MEGABYTE // 2, MEGABYTE // 2))  # as a quota would
    assert_failed_in_one_sentence(laboratory, process, 1)
    assert laboratory.train(laboratory.going_on(1)) == 0, laboratory.output.read_text()
    assert laboratory.store.get(1).status == "COMPLETED"


@pytest.mark.slow
def test_of_two_that_continue_one_run_at_once_one_does_and_one_is_told(laboratory: Any) -> None:
    argv = laboratory.new("validation.data=null", "training.save_every=2")
    assert laboratory.train(argv, {"event": "model there, state not", "count": 2}) == -signal.SIGKILL
    both = [laboratory.start_script(laboratory.going_on(1, ENDLESS)) for _ in range(2)]
    deadline = time.monotonic() + 300
    while all(process.poll() is None for process in both) and time.monotonic() < deadline:
        time.sleep(0.05)
    told, goes_on = sorted(both, key=lambda process: process.poll() is None)
    _, complaint = told.communicate(timeout=90)
    assert told.returncode == 2, complaint
    assert "Run 1 in " in complaint
    assert "is still running" in complaint
    assert "Traceback" not in complaint
    assert goes_on.poll() is None
    wait_for_state(20, laboratory.runs / "models/0001", goes_on)
    os.killpg(goes_on.pid, signal.SIGINT)
    _, complaint = goes_on.communicate(timeout=120)
    assert goes_on.returncode == 130, complaint
    assert "--continue_run 1" in complaint
    record = laboratory.store.get(1)
    assert record.status == "INTERRUPTED"
    assert len(record.info["sessions"]) == 2
    steps = record.metrics["loss_train_0"].steps
    assert steps == tuple(range(1, len(steps) + 1))
