"""Checkpoints that a database keeps beside the files on disk: which ones, when, and what becomes of the others."""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo.errors
import pytest
from tracking.checkpoint_runs import config, pieces, stored, train, write_checkpoint

from incasem_like.errors import StoreError
from incasem_like.tracking import Run, run_experiment
from incasem_like.tracking.mirror import checkpoints as uploader
from incasem_like.tracking.mirror.checkpoints import CheckpointUploader, missing_uploads, upload_missing
from incasem_like.tracking.recording import run as recording
from incasem_like.tracking.stores.gridfs import CheckpointFiles
from incasem_like.tracking.stores.mongo import MongoStore


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other soon."""
    monkeypatch.setattr(uploader, "SECONDS_BETWEEN_ATTEMPTS", 0.05)


class Gate:
    """Holds uploads up, or makes them fail."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.error: Exception | None = None
        self.began: list[str] = []

    def wait(self, path: Path) -> None:
        self.began.append(path.name)
        if self.error is not None:
            raise self.error
        assert self.open.wait(60)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """What every upload has to pass; closed at first."""
    gate, upload = Gate(), CheckpointFiles.upload

    def guarded(self: CheckpointFiles, path: Path, *arguments: Any, **options: Any) -> bool:
        gate.wait(path)
        return upload(self, path, *arguments, **options)

    monkeypatch.setattr(CheckpointFiles, "upload", guarded)
    yield gate
    gate.open.set()


def forget(run: Run, iteration: int) -> None:
    """Prune a checkpoint as a training does."""
    folder = run.runs_directory / "models" / f"{run.id:04d}"
    run.forget_checkpoint(folder / f"model_checkpoint_{iteration}")
    (folder / f"model_checkpoint_{iteration}").unlink()
    (folder / f"training_state_{iteration}").unlink()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("policy", "iterations"),
    [(None, (20, 40)), ("best,last", (20, 40)), ("best", (20,)), ("last", (40,)), ("all", (10, 20, 30, 40))],
)
def test_the_database_holds_the_checkpoints_that_the_policy_names(
    database: MongoStore, policy: str | None, iterations: tuple[int, ...]
) -> None:
    train(database, policy)
    names = [f"{kind}_{iteration}" for kind in ("model_checkpoint", "training_state") for iteration in iterations]
    assert stored(database) == names
    assert pieces(database) == {copy.id for copy in database.checkpoint_files.of_run(1)}
    assert missing_uploads(database.get(1)) == []


def test_none_keeps_the_database_free_of_checkpoints(database: MongoStore) -> None:
    train(database, "none")
    assert (stored(database), pieces(database)) == ([], set())
    assert upload_missing(database.get(1)) == []
    assert stored(database) == []


def test_a_run_without_checkpoints_starts_no_upload(database: MongoStore) -> None:
    def main(run: Run) -> list[str]:
        return [thread.name for thread in threading.enumerate()]

    assert "checkpoint-upload" not in run_experiment(name="predict", config={}, main=main, store=database)


def test_the_same_bytes_come_back_out_of_the_database(database: MongoStore) -> None:
    content = bytes(range(256)) * 4096 * 3  # three pieces and a bit

    def main(run: Run) -> None:
        write_checkpoint(run, 1, content=content)

    run_experiment(name="train", config=config(), main=main, store=database)
    (copy,) = [copy for copy in database.checkpoint_files.of_run(1) if copy.name == "model_checkpoint_1"]
    assert b"".join(database.checkpoint_files.read(copy)) == b"weights 1 " + content
    # and for any program that reads GridFS
    assert database.files.get(copy.id).read() == b"weights 1 " + content


def test_a_pruned_checkpoint_leaves_the_database_when_what_replaces_it_is_in(database: MongoStore, gate: Gate) -> None:
    gate.open.set()

    def main(run: Run) -> None:
        write_checkpoint(run, 10, 0.5)
        eventually(lambda: "model_checkpoint_10" in stored(database))
        gate.open.clear()
        write_checkpoint(run, 20, 0.6)
        forget(run, 10)
        eventually(lambda: gate.began[-1] == "training_state_20")
        assert "model_checkpoint_10" in stored(database)
        gate.open.set()
        eventually(lambda: stored(database) == ["model_checkpoint_20", "training_state_20"])
        forget(run, 20)

    run_experiment(name="train", config=config(), main=main, store=database)
    assert (stored(database), pieces(database)) == ([], set())


def test_the_training_never_waits_and_what_lies_between_is_passed_over(database: MongoStore, gate: Gate) -> None:
    def main(run: Run) -> None:
        for iteration in range(1, 6):
            write_checkpoint(run, iteration)
            run.log_scalar("loss", 0.5, iteration)
            run.flush()
        eventually(lambda: bool(gate.began))
        assert stored(database) == []
        gate.open.set()

    run_experiment(name="train", config=config(), main=main, store=database)
    assert stored(database) == ["model_checkpoint_5", "training_state_5"]
    iterations = list(dict.fromkeys(name.rpartition("_")[2] for name in gate.began))
    assert len(iterations) <= 2  # what was the newest when the upload began, and what is now
    assert iterations[-1] == "5"
    assert len(database.get(1).metrics["loss"].values) == 5


def test_a_database_that_refuses_harms_nothing_and_is_said_once(
    database: MongoStore,
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploader, "SECONDS_WITHOUT_PROGRESS", 0.5)
    gate.error = pymongo.errors.OperationFailure("quota", 8000, {"codeName": "OutOfDiskSpace"})

    def main(run: Run) -> str:
        write_checkpoint(run, 1)
        eventually(lambda: len(gate.began) > 3)
        return "done"

    with caplog.at_level(logging.WARNING, "incasem_like.tracking"):
        assert run_experiment(name="train", config=config(), main=main, store=database) == "done"
    assert [line for line in caplog.messages if "OutOfDiskSpace" in line] == [
        f"Checkpoints wait to be uploaded, the training goes on: {database.description} refuses them (OutOfDiskSpace)."
    ]
    record = database.get(1)
    assert record.status == "COMPLETED"
    assert "Checkpoints of iterations 1 are not in" in capsys.readouterr().err
    assert [one.iteration for one in missing_uploads(record)] == [1]
    gate.error = None
    gate.open.set()
    assert [one.iteration for one in upload_missing(record)] == [1]
    assert missing_uploads(database.get(1)) == []
    assert stored(database) == ["model_checkpoint_1", "training_state_1"]


def test_a_server_that_was_away_gets_the_newest_when_it_is_back(
    database: MongoStore, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.error = pymongo.errors.AutoReconnect("connection refused")

    def main(run: Run) -> None:
        for iteration in (1, 2, 3):
            write_checkpoint(run, iteration)
        eventually(lambda: len(gate.began) > 2)
        gate.error = None
        gate.open.set()

    with caplog.at_level(logging.WARNING, "incasem_like.tracking"):
        run_experiment(name="train", config=config(), main=main, store=database)
    assert stored(database) == ["model_checkpoint_3", "training_state_3"]
    said = [line for line in caplog.messages if "heckpoints" in line]
    assert ["does not answer" in line for line in said] == [True, False]
    assert said[1].endswith("takes checkpoints again.")


def test_a_run_that_was_stopped_does_not_wait_for_long(
    database: MongoStore, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "SECONDS_FOR_UPLOADS_WHEN_STOPPED", 0.1)

    def main(run: Run) -> None:
        write_checkpoint(run, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(name="train", config=config(), main=main, store=database)
    assert database.get(1).status == "INTERRUPTED"
    assert stored(database) == []
    gate.open.set()
    assert [one.iteration for one in upload_missing(database.get(1))] == [1]


def test_ctrl_c_ends_the_wait_for_an_upload_and_not_the_run(
    database: MongoStore, gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, ctrl_c = CheckpointUploader._watch, (threading.get_ident(), signal.SIGINT)

    def interrupted(self: CheckpointUploader, deadline: float) -> None:
        """Wait, and be interrupted while waiting."""
        threading.Timer(0.1, signal.pthread_kill, ctrl_c).start()
        watch(self, deadline)

    monkeypatch.setattr(CheckpointUploader, "_watch", interrupted)
    monkeypatch.setattr(uploader, "SECONDS_WITHOUT_A_WORD", 0.1)

    def main(run: Run) -> str:
        write_checkpoint(run, 1)
        return "done"

    with caplog.at_level(logging.WARNING, "incasem_like.tracking"):
        assert run_experiment(name="train", config=config(), main=main, store=database) == "done"
    assert database.get(1).status == "COMPLETED"
    assert "The upload of checkpoints was interrupted." in caplog.messages


def test_a_checkpoint_changed_behind_the_trainings_back_does_not_go_in(
    database: MongoStore, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    def main(run: Run) -> None:
        write_checkpoint(run, 1).write_bytes(b"something else")
        gate.open.set()

    with caplog.at_level(logging.WARNING, "incasem_like.tracking"):
        run_experiment(name="train", config=config(), main=main, store=database)
    assert stored(database) == ["training_state_1"]
    assert any("model_checkpoint_1 changed after it was tracked" in line for line in caplog.messages)
    assert upload_missing(database.get(1)) == []


def test_a_run_that_goes_on_is_left_to_its_own_upload(database: MongoStore, gate: Gate) -> None:
    def main(run: Run) -> None:
        write_checkpoint(run, 1)
        assert upload_missing(database.get(run.id)) == []
        gate.open.set()

    run_experiment(name="train", config=config(), main=main, store=database)
    assert stored(database) == ["model_checkpoint_1", "training_state_1"]


def test_a_process_that_lost_the_run_touches_its_checkpoints_no_more(
    database: MongoStore, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    gate.open.set()

    def main(run: Run) -> None:
        write_checkpoint(run, 10)
        eventually(lambda: len(stored(database)) == 2)
        database.database["runs"].update_one({"_id": run.id}, {"$set": {"session": "of another process"}})
        with contextlib.suppress(StoreError):  # raised as soon as the run's record notices
            write_checkpoint(run, 20)
            forget(run, 10)
        eventually(lambda: run._uploader is not None and run._uploader._lost)
        run.flush()

    with pytest.raises(StoreError, match="was continued by another process"):
        run_experiment(name="train", config=config(), main=main, store=database)
    assert stored(database) == ["model_checkpoint_10", "training_state_10"]
    assert "runs sync" not in capsys.readouterr().err
