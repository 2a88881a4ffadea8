"""A real server over a socket that is killed, hangs, or stays away, and runs that are killed meanwhile."""

import json
import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bson import BSON
from mongo_server.fixtures import KillableServer
from tracking.faulty_servers import Stopwatch, assert_equal_to_the_log, wait_until

from incasem_like.errors import StoreError
from incasem_like.tracking import Continuation, Run, RunStore, open_store, run_experiment
from incasem_like.tracking.metrics_log import read_log
from incasem_like.tracking.mirror import live as mongo_observer
from incasem_like.tracking.moving.sync import sync_journals
from incasem_like.tracking.stores.mongo import MongoStore

Start = Callable[..., "subprocess.Popen[str]"]
pytestmark = pytest.mark.mongo

CONFIG = {"tracking": {"max_points": 50, "store_checkpoints": "none"}}
# Time enough for a server that has just started and has all of its code still to load, on a machine with other work
IMPATIENT = "?serverSelectionTimeoutMS=3000&connectTimeoutMS=3000&socketTimeoutMS=3000"
# A run waits for a server that does not answer once, for two seconds; were it to at each checkpoint, it would be more
SECONDS_FOR_ALL_CALLS = 10.0

WRITER = """
    import sys, time
    from pathlib import Path
    from incasem_like.tracking import open_store, run_experiment
    from incasem_like.tracking.mirror import live as observer
    observer.SECONDS_BETWEEN_ATTEMPTS = 0.1
    def main(run):
        for step in range(1, 100000):
            run.log_scalar("loss", 1 / step, step)
            run.set_info("step", step)
            if step == 20:
                run.add_artifact("before", "a.txt")
                run.flush()
                print("delivered", flush=True)
                sys.stdin.readline()
                run.add_artifact("in the outage", "b.txt")
            if step % 20 == 0:
                run.flush()
                print(step, flush=True)
            time.sleep(0.001)
    store = open_store(sys.argv[1], "trainings", Path("runs"))
    config = {"tracking": {"max_points": 50, "store_checkpoints": "none"}}
    run_experiment(name="train", config=config, main=main, store=store)
"""


@pytest.fixture
def faulty(
    killable_server: KillableServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[KillableServer, MongoStore]:
    """A server to be harmed and a store on it; attempts to deliver follow each other soon."""
    monkeypatch.setattr(mongo_observer, "SECONDS_BETWEEN_ATTEMPTS", 0.1)
    return killable_server, store_at(killable_server, tmp_path)


def store_at(server: KillableServer, folder: Path) -> MongoStore:
    store = open_store(f"{server.url}{IMPATIENT}", "trainings", folder / "runs")
    assert isinstance(store, MongoStore)
    return store


def test_a_server_killed_and_restarted_under_load_lacks_nothing_in_the_end(
    faulty: tuple[KillableServer, MongoStore],
) -> None:
    server, store = faulty

    def main(run: Run) -> str:
        for step in range(1, 1201):
            run.log_scalar("loss", 1 / step, step)
            if step % 7 == 0:
                run.log_scalar("dice", step / 2000, step)
            run.set_info("step", step)
            if step % 10 == 0:
                run.flush()
            if step in (200, 600, 1000):
                server.kill()
            if step in (400, 800, 1100):
                server.restart()
        return "done"

    run_experiment(name="train", config=CONFIG, main=main, store=store)
    record = store.get(1)
    assert (record.status, record.result, record.info["step"]) == ("COMPLETED", "done", 1200)
    assert_equal_to_the_log(store)
    assert len(read_log(store.metrics_log(1) or Path())["loss"].steps) == 1200


@pytest.mark.slow
def test_a_long_outage_holds_nothing_up_and_is_made_good(
    faulty: tuple[KillableServer, MongoStore], caplog: pytest.LogCaptureFixture
) -> None:
    server, store = faulty

    def main(run: Run) -> float:
        timed = Stopwatch(run)
        timed("log_scalar", "loss", 1.0, 0)
        timed("flush")
        server.proxy.cut()
        path = store.runs_directory / "checkpoint"
        for step in range(1, 300):
            timed("log_scalar", "loss", 1 / step, step)
            if step % 30 == 0:
                path.write_text(str(step))
                timed("register_checkpoint", path, step)
                timed("add_artifact", f"at {step}", f"{step}.txt")
            time.sleep(0.01)
        wait_until(lambda: any("its record is delivered later" in line for line in caplog.messages))
        server.proxy.restore()
        wait_until(lambda: _last_step(store) == 299)
        return timed.total

    with caplog.at_level(logging.WARNING):
        assert run_experiment(name="train", config=CONFIG, main=main, store=store) < SECONDS_FOR_ALL_CALLS
    record = store.get(1)
    assert record.status == "COMPLETED"
    assert len(record.artifacts) == 9
    assert record.artifact("270.txt") == b"at 270"
    assert record.checkpoint("last").iteration == 270
    assert_equal_to_the_log(store)


def test_a_server_that_hangs_holds_nothing_up(killable_server: KillableServer, tmp_path: Path) -> None:
    """Open connections on which nothing comes, until the socket's time is up."""
    url = f"{killable_server.url}?serverSelectionTimeoutMS=20000&connectTimeoutMS=20000&socketTimeoutMS=20000"
    store = open_store(url, "trainings", tmp_path / "runs")

    def main(run: Run) -> float:
        timed = Stopwatch(run)
        timed("log_scalar", "loss", 1.0, 0)
        timed("flush")
        killable_server.proxy.hang()
        path = store.runs_directory / "checkpoint"
        for step in range(1, 6):
            timed("log_scalar", "loss", 1 / step, step)
            path.write_text(str(step))
            timed("register_checkpoint", path, step)
            timed("flush")
        killable_server.proxy.restore()
        return timed.total

    assert run_experiment(name="train", config=CONFIG, main=main, store=store) < SECONDS_FOR_ALL_CALLS
    assert store.get(1).status == "COMPLETED"
    assert store.get(1).checkpoint("last").iteration == 5
    assert isinstance(store, MongoStore)
    assert_equal_to_the_log(store)


def test_a_run_killed_in_an_outage_loses_nothing(
    faulty: tuple[KillableServer, MongoStore], start_python: Start, tmp_path: Path
) -> None:
    server, store = faulty
    process = start_python(WRITER, f"{server.url}{IMPATIENT}")
    assert process.stdout is not None
    assert process.stdin is not None
    while (line := process.stdout.readline()).strip() != "delivered":
        assert line, process.stderr and process.stderr.read()
    server.kill()
    process.stdin.write("\n")
    process.stdin.flush()
    while (line := process.stdout.readline()).strip() != "200":
        assert line
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.restart()
    wait_until(lambda: _status(store) == "KILLED")
    assert store.get(1).info.get("step", 0) < 200
    assert [synced.what for synced in sync_journals(store)] == ["record delivered"]
    record = store.get(1)
    assert (record.status, record.recorded_status) == ("KILLED", "KILLED")
    assert record.info["step"] >= 200
    assert record.artifact("a.txt") == b"before"
    assert record.artifact("b.txt") == b"in the outage"
    assert record.metrics["loss"].steps[-1] >= 200
    assert_equal_to_the_log(store)


def test_a_run_that_goes_on_is_not_synced(
    faulty: tuple[KillableServer, MongoStore], start_python: Start, tmp_path: Path
) -> None:
    server, store = faulty
    process = start_python(WRITER, f"{server.url}{IMPATIENT}")
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline()
    server.proxy.cut()
    process.stdin.write("\n")
    process.stdin.flush()
    while (line := process.stdout.readline()).strip() != "100":
        assert line
    server.proxy.restore()
    wait_until(lambda: _status(store) == "RUNNING")
    outcomes = [synced.delivered_as for synced in sync_journals(store)]
    assert outcomes in ([None], [])  # nothing is left where it was quicker itself
    assert store.get(1).status == "RUNNING"
    process.kill()


def test_a_server_that_refuses_writes_for_a_while_gets_them_later(
    faulty: tuple[KillableServer, MongoStore], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import pymongo
    import pymongo.collection

    _, store = faulty
    working = pymongo.collection.Collection.update_one
    refusing = threading.Event()

    def update_one(self: Any, *arguments: Any, **options: Any) -> Any:
        if refusing.is_set():
            raise pymongo.errors.OperationFailure("not authorized", code=13)
        return working(self, *arguments, **options)

    monkeypatch.setattr(pymongo.collection.Collection, "update_one", update_one)

    def main(run: Run) -> None:
        refusing.set()
        run.log_scalar("loss", 0.5, 1)
        run.flush()
        wait_until(lambda: any("refuses the record (" in line for line in caplog.messages))
        refusing.clear()

    with caplog.at_level(logging.WARNING):
        run_experiment(name="train", config=CONFIG, main=main, store=store)
    assert store.get(1).status == "COMPLETED"
    assert_equal_to_the_log(store)


def test_a_server_that_is_gone_is_one_sentence_for_who_continues(
    faulty: tuple[KillableServer, MongoStore],
) -> None:
    server, store = faulty
    run_experiment(name="train", config=CONFIG, main=lambda run: run.log_scalar("a", 1.0, 1), store=store)
    server.proxy.cut()
    with pytest.raises(StoreError, match="stopped answering"):
        run_experiment(name="train", config=CONFIG, main=lambda run: None, store=store, continues=Continuation(1, 1))
    server.proxy.restore()
    wait_until(lambda: _status(store) == "COMPLETED")
    assert_equal_to_the_log(store)


def _status(store: RunStore) -> str:
    """Give the state of run 1, as soon as the driver has found its server again."""
    try:
        return store.get(1).status
    except StoreError:
        return ""


def _last_step(store: RunStore) -> int | None:
    """Give the last step of run 1 that has been delivered, as soon as the driver has found its server again."""
    try:
        return store.get(1).info.get("summary", {}).get("loss", {}).get("last_step")
    except StoreError:
        return None


def test_no_document_grows_with_the_run(server_store: MongoStore) -> None:
    def main(run: Run) -> None:
        for step in range(120_000):
            run.log_scalar("loss", step / 7, step)

    config = {"tracking": {"store_checkpoints": "none"}}
    run_experiment(name="train", config=config, main=main, store=server_store)
    (document,) = server_store.database["metrics"].find({"run_id": 1})
    assert len(BSON.encode(document)) < 200_000
    assert_equal_to_the_log(server_store, limit=2000)
    assert (document["steps"][0], document["steps"][-1]) == (0, 119_999)


def test_the_journal_of_a_finished_run_is_its_metrics_alone(faulty: tuple[KillableServer, MongoStore]) -> None:
    _, store = faulty
    run_experiment(name="train", config=CONFIG, main=lambda run: run.log_scalar("a", 1.0, 1), store=store)
    (journal,) = store.journals
    assert [path.name for path in journal.folder.iterdir()] == ["metrics.jsonl"]
    lines = [json.loads(line) for line in journal.log.path.read_text().splitlines()]
    assert [line["value"] for line in lines if "name" in line] == [1.0]
