"""Checkpoints fetched on a machine that has not made them: folders, the cache, the database, a URL."""

import errno
import functools
import hashlib
import logging
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from incasem_like.errors import CheckpointError, DiskFullError
from incasem_like.tracking import Continuation, Run, RunStore, open_store, run_experiment
from incasem_like.tracking.model import cache
from incasem_like.tracking.model.cache import cache_directory, fetch_into_cache
from incasem_like.tracking.stores.mongo import MongoStore

DICE = {10: 0.5, 20: 0.9, 30: 0.6, 40: 0.7}
CONFIG: dict[str, Any] = {"training": {"checkpoints": {"best_metric": "dice_class_1", "best_mode": "max"}}}
WEIGHTS = b"weights" * 400_000


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INCASEM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def train(store: RunStore, content: bytes = WEIGHTS) -> int:
    def main(run: Run) -> int:
        folder = run.runs_directory / "models" / f"{run.id:04d}"
        folder.mkdir(parents=True)
        for iteration, dice in DICE.items():
            model, state = folder / f"model_checkpoint_{iteration}", folder / f"training_state_{iteration}"
            model.write_bytes(content + b"%d" % iteration)
            state.write_bytes(b"state %d" % iteration)
            run.register_checkpoint(model, iteration, {"dice_class_1": dice}, state)
        return run.id

    return run_experiment(name="train", config=CONFIG, main=main, store=store)


def on_another_machine(store: MongoStore, tmp_path: Path) -> MongoStore:
    """Look at a database from where none of the files of its runs are."""
    if (tmp_path / "runs").exists():
        (tmp_path / "runs").rename(tmp_path / "runs of the machine that trained")
    return MongoStore(store.database, store.kind, tmp_path / "other" / "runs", "mongomock")


def in_cache(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").rglob("*") if path.is_file() and path.name != ".lock")


def test_a_machine_with_the_database_alone_fetches_once(
    database: MongoStore, tmp_path: Path, cache_folder: Path
) -> None:
    train(database)
    elsewhere = on_another_machine(database, tmp_path)
    best = elsewhere.get(1).checkpoint("best")
    path, state = best.fetch(), best.fetch_state()
    assert (path.name, path.read_bytes()) == ("model_checkpoint_20", WEIGHTS + b"20")
    assert (state.name, state.read_bytes()) == ("training_state_20", b"state 20")
    assert path.is_relative_to(cache_folder)
    elsewhere.database["fs.chunks"].delete_many({})
    assert elsewhere.get(1).checkpoint("best").fetch() == path
    assert in_cache(cache_folder) == ["model_checkpoint_20", "training_state_20"]


def test_a_damaged_file_in_the_cache_is_fetched_anew(database: MongoStore, tmp_path: Path) -> None:
    train(database)
    last = on_another_machine(database, tmp_path).get(1).checkpoint("last")
    last.fetch().write_bytes(b"x" * last.bytes)
    assert last.fetch().read_bytes() == WEIGHTS + b"40"


def test_a_damaged_copy_in_the_database_is_said_and_leaves_nothing(
    database: MongoStore, tmp_path: Path, cache_folder: Path
) -> None:
    train(database)
    elsewhere = on_another_machine(database, tmp_path)
    (copy,) = [copy for copy in database.checkpoint_files.of_run(1) if copy.name == "model_checkpoint_40"]
    chunks = database.database["fs.chunks"]
    piece = chunks.find_one({"files_id": copy.id, "n": 1})
    chunks.update_one({"_id": piece["_id"]}, {"$set": {"data": b"?" + bytes(piece["data"])[1:]}})
    with pytest.raises(CheckpointError, match=r"copy of model_checkpoint_40 in MongoDB .* is damaged \(SHA-256 "):
        elsewhere.get(1).checkpoint("last").fetch()
    chunks.delete_one({"_id": piece["_id"]})
    with pytest.raises(CheckpointError, match="is damaged"):
        elsewhere.get(1).checkpoint("last").fetch()
    assert in_cache(cache_folder) == []
    assert elsewhere.get(1).checkpoint("best").fetch().read_bytes() == WEIGHTS + b"20"


def test_another_runs_file_of_that_name_is_not_mistaken_for_it(database: MongoStore, tmp_path: Path) -> None:
    train(database)
    elsewhere = on_another_machine(database, tmp_path)
    train(open_store(None, "trainings", elsewhere.runs_directory), WEIGHTS[::-1])  # run 1 of another store
    assert elsewhere.get(1).checkpoint("best").fetch().read_bytes() == WEIGHTS + b"20"
    with pytest.raises(CheckpointError) as caught:
        elsewhere.get(1).checkpoint(10).fetch()  # of the same length, and not in the database
    other, gone = (folder / "models" / "0001" for folder in (elsewhere.runs_directory, tmp_path / "runs"))
    for part in (
        "model_checkpoint_10 that run 1 on ",
        f"{other}/model_checkpoint_10 is another file (SHA-256 ",
        f"{gone}/model_checkpoint_10 does not exist",
        "mongomock has no copy; restore the file, or choose another checkpoint.",
    ):
        assert part in str(caught.value)


def test_the_folder_that_the_run_wrote_to_is_looked_into_when_another_store_has_a_file_of_that_name(
    tmp_path: Path,
) -> None:
    address = tmp_path / "tracking"
    train(open_store(address, "trainings", tmp_path / "writer"))
    train(open_store(tmp_path / "second", "trainings", tmp_path / "reader"), WEIGHTS[::-1])
    found = open_store(address, "trainings", tmp_path / "reader").get(1).checkpoint("last").fetch()
    assert found == tmp_path / "writer" / "models" / "0001" / "model_checkpoint_40"


def test_a_run_continued_with_another_folder_still_knows_where_its_first_checkpoints_are(tmp_path: Path) -> None:
    address = tmp_path / "tracking"
    train(open_store(address, "trainings", tmp_path / "first"))
    for name in ("second", "third"):

        def go_on(run: Run) -> None:
            file = run.runs_directory / "models" / "0001" / f"model_checkpoint_{50 + len(run.runs_directory.name)}"
            file.parent.mkdir(parents=True)
            file.write_bytes(WEIGHTS)
            run.register_checkpoint(file, 50 + len(run.runs_directory.name))

        there = open_store(address, "trainings", tmp_path / name)
        run_experiment(name="train", config=CONFIG, main=go_on, store=there, continues=Continuation(1, 40))
    record = open_store(address, "trainings", tmp_path / "fourth").get(1)
    found = {checkpoint.iteration: checkpoint.fetch().parts[-4] for checkpoint in record.checkpoints}
    assert found == dict.fromkeys((10, 20, 30, 40), "first") | {55: "third", 56: "second"}


def test_best_and_last_are_those_that_can_be_had(
    database: MongoStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(database)
    database.checkpoint_files.remove(copy.id for copy in database.checkpoint_files.of_run(1) if "40" in copy.name)
    assert database.get(1).checkpoint("last").iteration == 40
    assert caplog.messages == []
    record = on_another_machine(database, tmp_path).get(1)
    with caplog.at_level(logging.WARNING, "incasem_like.tracking"):
        assert record.checkpoint("last").iteration == 20
    assert "last checkpoint of run 1 in" in caplog.text
    assert "iteration 40, is neither on this machine nor in the run store: iteration 20 is taken" in caplog.text
    assert record.checkpoint(40).iteration == 40  # who names one gets that one or none


def test_a_pruned_checkpoint_serves_as_long_as_what_replaced_it_is_not_in(database: MongoStore, tmp_path: Path) -> None:
    train(database)

    def keep_only_unsent(document: dict[str, Any]) -> None:
        entries = [dict(entry, iteration=50, sha256="0" * 64) for entry in document["info"]["checkpoints"][-1:]]
        database.database["runs"].update_one({"_id": 1}, {"$set": {"info.checkpoints": entries}})

    keep_only_unsent(database.database["runs"].find_one({"_id": 1}))
    record = on_another_machine(database, tmp_path).get(1)
    assert [one.iteration for one in record.checkpoints] == [50]
    assert [one.iteration for one in record.superseded_checkpoints] == [20, 40]
    assert record.checkpoint("last").fetch().read_bytes() == WEIGHTS + b"40"
    assert record.checkpoint("best").fetch_state().read_bytes() == b"state 20"


def test_a_run_without_a_training_state_says_so(tmp_path: Path) -> None:
    store = open_store(None, "trainings", tmp_path)

    def main(run: Run) -> None:
        (tmp_path / "model_checkpoint_1").write_bytes(b"x")
        run.register_checkpoint(tmp_path / "model_checkpoint_1", 1)

    run_experiment(name="train", config={}, main=main, store=store)
    checkpoint = store.get(1).checkpoint("last")
    with pytest.raises(CheckpointError, match=r"has no training state, .* start a new training from it"):
        checkpoint.fetch_state()
    (tmp_path / "training_state_1").write_bytes(b"y")
    assert checkpoint.fetch_state() == tmp_path / "training_state_1"


def blocks(*pieces: bytes) -> Iterable[bytes]:
    return iter(pieces)


def test_an_interrupted_download_leaves_nothing(cache_folder: Path) -> None:
    digest = hashlib.sha256(b"ab").hexdigest()

    def broken() -> Iterator[bytes]:
        yield b"a"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_into_cache("model_checkpoint_1", digest, 2, broken, "afar")
    assert in_cache(cache_folder) == []
    found = fetch_into_cache("model_checkpoint_1", digest, 2, functools.partial(blocks, b"a", b"b"), "afar")
    assert found.read_bytes() == b"ab"


def test_what_a_killed_download_left_goes_with_the_next(cache_folder: Path) -> None:
    digest = hashlib.sha256(b"ab").hexdigest()
    folder = cache_folder / "checkpoints" / digest
    folder.mkdir(parents=True)
    (folder / ".model_checkpoint_1.1234.part").write_bytes(b"a")
    fetch_into_cache("model_checkpoint_1", digest, 2, functools.partial(blocks, b"ab"), "afar")
    assert in_cache(cache_folder) == ["model_checkpoint_1"]


def test_two_that_want_the_same_file_fetch_it_once(cache_folder: Path) -> None:
    digest, began, go_on = hashlib.sha256(b"ab").hexdigest(), threading.Semaphore(0), threading.Event()
    times: list[int] = []
    found: list[Path] = []

    def slowly() -> Iterator[bytes]:
        times.append(1)
        began.release()
        assert go_on.wait(60)
        yield b"ab"

    def fetch() -> None:
        found.append(fetch_into_cache("model_checkpoint_1", digest, 2, slowly, "afar"))

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert began.acquire(timeout=60)
    assert not began.acquire(timeout=0.2)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert (len(times), len(set(found)), found[0].read_bytes()) == (1, 1, b"ab")


def test_a_full_disk_is_one_sentence_and_leaves_nothing(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"cache.*No space left.*: free some space, or set INCASEM_CACHE to"):
        fetch_into_cache("m", hashlib.sha256(b"ab").hexdigest(), 2, functools.partial(blocks, b"ab"), "afar")
    assert in_cache(cache_folder) == []


def test_a_cache_that_cannot_be_made_is_one_sentence(cache_folder: Path) -> None:
    cache_folder.write_text("a file")
    with pytest.raises(CheckpointError, match=r"cannot be fetched into .*or set INCASEM_CACHE to a folder"):
        fetch_into_cache("m", hashlib.sha256(b"ab").hexdigest(), 2, functools.partial(blocks, b"ab"), "afar")


def test_a_large_file_shows_how_far_it_has_come(capsys: pytest.CaptureFixture[str]) -> None:
    content = b"x" * (17 << 20)
    digest = hashlib.sha256(content).hexdigest()
    fetch_into_cache("model_checkpoint_1", digest, len(content), functools.partial(blocks, content), "afar")
    assert capsys.readouterr().err.startswith("Fetching model_checkpoint_1: 17.8M of 17.8M B")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INCASEM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "incasem-like"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "incasem-like"
