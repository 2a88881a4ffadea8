"""Uploads of checkpoints that are broken off: by kill -9, by a server that dies, by a line that hangs."""

import os
import signal
import subprocess
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mongo_server.fixtures import KillableServer
from tracking.checkpoint_runs import damaged

from incasem_like.tracking import Run, missing_uploads, open_store, run_experiment
from incasem_like.tracking.mirror import checkpoints as uploader
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.moving.sync import sync_journals
from incasem_like.tracking.stores import gridfs as checkpoint_files
from incasem_like.tracking.stores.mongo import MongoStore

pytestmark = pytest.mark.mongo
PIECE = checkpoint_files.CHUNK_BYTES

TRAIN = """
import sys
import time
from pathlib import Path
from incasem_like.tracking import open_store, run_experiment

def main(run):
    folder = run.runs_directory / "models"
    print("started", flush=True)
    while not folder.exists():
        time.sleep(0.01)
    for iteration in (1, 2):
        model, state = folder / f"model_checkpoint_{iteration}", folder / f"training_state_{iteration}"
        model.write_bytes(bytes([iteration]) * (8 << 20))
        state.write_bytes(bytes([iteration]))
        run.register_checkpoint(model, iteration, {}, state)
    time.sleep(60)

store = open_store(sys.argv[1], "trainings", Path(sys.argv[2]))
run_experiment(name="train", config={}, main=main, store=store)
"""


def store_of(url: str, tmp_path: Path) -> MongoStore:
    found = open_store(url, "trainings", tmp_path / "runs")
    assert isinstance(found, MongoStore)
    return found


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pieces(store: MongoStore) -> int:
    """Count the pieces of checkpoints, of whole files and others."""
    return int(store.database["fs.chunks"].count_documents({"files_id": {"$regex": "^checkpoint://"}}))


def write(run: Run, iteration: int, content: bytes) -> Path:
    folder = run.runs_directory / "models"
    folder.mkdir(parents=True, exist_ok=True)
    model, state = folder / f"model_checkpoint_{iteration}", folder / f"training_state_{iteration}"
    model.write_bytes(content)
    state.write_bytes(b"state %d" % iteration)
    run.register_checkpoint(model, iteration, {}, state)
    return model


def test_a_kill_in_the_middle_of_an_upload_leaves_no_entry_and_the_next_goes_on(
    killable_server: KillableServer, start_python: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    store = store_of(killable_server.direct_url, tmp_path)
    (tmp_path / "runs").mkdir()
    process = start_python(TRAIN, killable_server.url, tmp_path / "runs")
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    killable_server.proxy.delay = 0.01
    (tmp_path / "runs" / "models").mkdir()
    eventually(lambda: pieces(store) > 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    eventually(lambda: store.get(1).status == "KILLED")
    whole = [copy.name for copy in store.checkpoint_files.of_run(1)]
    assert damaged(store) == []
    assert "model_checkpoint_2" not in whole
    assert [synced.what for synced in sync_journals(store)][-1] == "checkpoints uploaded: 2"
    assert sync_journals(store) == []
    assert sorted(copy.name for copy in store.checkpoint_files.of_run(1)) == ["model_checkpoint_2", "training_state_2"]
    assert pieces(store) == 8 + 1  # of the one that was broken off nothing is left
    assert missing_uploads(store.get(1)) == damaged(store) == []


def _first_pieces(count: int) -> Callable[[int], bool]:
    """Let an upload send a number of pieces."""
    answers = iter([True] * count)
    return lambda length: next(answers, False)


def test_an_upload_goes_on_where_it_broke_off(server_store: MongoStore, tmp_path: Path) -> None:
    path = tmp_path / "model_checkpoint_1"
    path.write_bytes(os.urandom(3 * PIECE + 10))
    files, digest = server_store.checkpoint_files, file_sha256(path)
    assert not files.upload(path, 1, digest, {}, proceed=_first_pieces(2))
    assert (files.of_run(1), pieces(server_store)) == ([], 2)
    first = server_store.database["fs.chunks"].find_one({"n": 0}, {"_id": 1})
    assert files.upload(path, 1, digest, {})
    assert server_store.database["fs.chunks"].find_one({"n": 0}, {"_id": 1}) == first
    assert (len(files.of_run(1)), damaged(server_store)) == (1, [])


def test_pieces_with_a_gap_are_sent_anew(server_store: MongoStore, tmp_path: Path) -> None:
    path = tmp_path / "model_checkpoint_1"
    path.write_bytes(os.urandom(4 * PIECE))
    files, digest = server_store.checkpoint_files, file_sha256(path)
    files.upload(path, 1, digest, {}, proceed=_first_pieces(3))
    server_store.database["fs.chunks"].delete_one({"n": 1})
    assert files.upload(path, 1, digest, {})
    assert (len(files.of_run(1)), damaged(server_store)) == (1, [])
    assert pieces(server_store) == 4


def test_a_server_killed_in_an_upload_gets_it_when_it_is_back(
    killable_server: KillableServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "SECONDS_BETWEEN_ATTEMPTS", 0.2)
    direct = store_of(killable_server.direct_url, tmp_path)

    def main(run: Run) -> None:
        killable_server.proxy.delay = 0.004
        write(run, 1, os.urandom(16 * PIECE))
        eventually(lambda: pieces(direct) > 2)
        killable_server.kill()
        write(run, 2, os.urandom(2 * PIECE))
        killable_server.proxy.delay = 0.0
        killable_server.restart()

    run_experiment(name="train", config={}, main=main, store=store_of(killable_server.url, tmp_path))
    assert missing_uploads(direct.get(1)) == damaged(direct) == []
    assert sorted(copy.name for copy in direct.checkpoint_files.of_run(1)) == [
        "model_checkpoint_2",
        "training_state_2",
    ]


def test_a_line_that_hangs_holds_up_neither_the_training_nor_its_end(
    killable_server: KillableServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "SECONDS_WITHOUT_PROGRESS", 0.5)
    uploads, upload = [], checkpoint_files.CheckpointFiles.upload

    def hanging(self: Any, *arguments: Any, **options: Any) -> bool:
        killable_server.proxy.hang()
        uploads.append(arguments[0])
        try:
            return upload(self, *arguments, **options)
        finally:
            killable_server.proxy.restore()

    monkeypatch.setattr(checkpoint_files.CheckpointFiles, "upload", hanging)
    store = store_of(killable_server.direct_url, tmp_path)
    through_proxy = store_of(killable_server.url, tmp_path)
    monkeypatch.setattr(store, "_reconnect", through_proxy._reconnect)

    def main(run: Run) -> str:
        write(run, 1, b"weights")
        eventually(lambda: bool(uploads))
        for step in range(100):
            run.log_scalar("loss", 0.5, step)
        write(run, 2, b"more weights")
        run.flush()
        assert run.id
        return "done"

    assert run_experiment(name="train", config={}, main=main, store=store) == "done"
    assert store.get(1).status == "COMPLETED"
    assert [one.iteration for one in missing_uploads(store.get(1))] == [2]


def test_an_upload_and_a_download_hold_a_few_pieces_in_memory(
    server_store: MongoStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INCASEM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "runs" / "model_checkpoint_1"
    path.parent.mkdir()
    with open(path, "wb") as file:
        for _ in range(64):
            file.write(os.urandom(PIECE))
    tracemalloc.start()
    try:
        run_experiment(name="train", config={}, main=lambda run: run.register_checkpoint(path, 1), store=server_store)
        path.unlink()
        assert server_store.get(1).checkpoint("last").fetch().stat().st_size == 64 * PIECE
        assert tracemalloc.get_traced_memory()[1] < 40 * PIECE
    finally:
        tracemalloc.stop()
