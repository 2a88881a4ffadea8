"""A MongoDB server that goes away while a run goes on."""

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pymongo.errors
import pytest
from tracking.faulty_servers import wait_until

from incasem_like.errors import StoreError
from incasem_like.tracking import Continuation, Run, RunStore, run_experiment
from incasem_like.tracking.mirror import live as mongo_observer
from incasem_like.tracking.moving.sync import sync_journals
from incasem_like.tracking.stores.mongo import MongoStore


@pytest.fixture
def switch(mongomock_store: MongoStore, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Turn the server behind mongomock_store off and on."""
    state = {"on": True}

    def guarded(method: Any) -> Any:
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            if not state["on"]:
                raise pymongo.errors.AutoReconnect("connection refused")
            return method(self, *arguments, **options)

        return call

    kind = type(mongomock_store.database["runs"])
    for name in ("insert_one", "update_one", "find_one", "find"):
        monkeypatch.setattr(kind, name, guarded(getattr(kind, name)))
    monkeypatch.setattr(mongo_observer, "SECONDS_BETWEEN_ATTEMPTS", 0.01)
    monkeypatch.setattr(mongo_observer, "SECONDS_BETWEEN_FINAL_ATTEMPTS", 0.01)
    return lambda on: state.update(on=on)


NO_UPLOADS = {"tracking": {"store_checkpoints": "none"}}


def test_what_a_missing_server_did_not_take_is_delivered_when_it_is_back(
    mongomock_store: MongoStore, switch: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    def main(run: Run) -> str:
        run.log_scalar("loss", 0.0, 0)
        run.flush()
        switch(False)
        for step in range(1, 6):
            run.log_scalar("loss", float(step), step)
            run.add_artifact(f"text {step}", f"{step}.txt")
            run.set_info("step", step)
            run.flush()
        (journal,) = mongomock_store.journals
        assert journal.is_undelivered
        assert len(journal.pending_artifacts()) == 5
        switch(True)
        run.log_scalar("loss", 6.0, 6)
        run.flush()
        wait_until(lambda: mongomock_store.get(run.id).info.get("step") == 5)
        wait_until(lambda: not journal.is_undelivered)
        return "done"

    with caplog.at_level(logging.WARNING):
        run_experiment(name="train", config=NO_UPLOADS, main=main, store=mongomock_store)
    record = mongomock_store.get(1)
    assert (record.status, record.result) == ("COMPLETED", "done")
    assert record.metrics["loss"].values == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert [record.artifact(f"{step}.txt") for step in range(1, 6)] == [b"text %d" % step for step in range(1, 6)]
    assert ["does not answer" in line for line in caplog.messages] == [True, False]
    assert "answers again" in caplog.messages[1]


def test_what_cannot_be_delivered_by_the_end_waits_on_disk_and_is_synced(
    mongomock_store: MongoStore, switch: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    def main(run: Run) -> str:
        switch(False)
        for step in range(1, 4):
            run.log_scalar("loss", step / 8, step)
        run.add_artifact("text", "a.txt")
        run.set_info("seen", 1)
        print("half way")
        return "done"

    with caplog.at_level(logging.WARNING):
        assert run_experiment(name="train", config=NO_UPLOADS, main=main, store=mongomock_store) == "done"
    assert "what it lacks of run 1 is kept in" in caplog.messages[-1]
    with pytest.raises(StoreError, match="does not answer"):
        sync_journals(mongomock_store)
    switch(True)
    assert mongomock_store.get(1).recorded_status == "RUNNING"
    assert [journal.run_id for journal in mongomock_store.pending()] == [1]
    (synced,) = sync_journals(mongomock_store)
    assert (synced.run_id, synced.delivered_as, synced.what) == (1, 1, "record delivered")
    record = mongomock_store.get(1)
    assert (record.status, record.result, record.info["seen"]) == ("COMPLETED", "done", 1)
    assert record.metrics["loss"].values == (0.125, 0.25, 0.375)
    assert record.artifact("a.txt") == b"text"
    assert record.captured_output == "half way\n"
    assert record.stop_time is not None
    (journal,) = mongomock_store.journals
    assert sorted(path.name for path in journal.folder.iterdir()) == ["metrics.jsonl"]
    assert sync_journals(mongomock_store) == mongomock_store.pending() == []


def test_a_continued_run_takes_what_its_journal_kept_back_along(
    mongomock_store: MongoStore, switch: Callable[[bool], None]
) -> None:
    def main(run: Run) -> None:
        switch(False)
        run.log_scalar("loss", 0.5, 1)
        run.set_info("seen", 1)
        run.add_artifact("text", "a.txt")

    run_experiment(name="train", config=NO_UPLOADS, main=main, store=mongomock_store)
    switch(True)

    def again(run: Run) -> None:
        assert run.info["seen"] == 1
        run.log_scalar("loss", 0.25, 2)

    run_experiment(name="train", config=NO_UPLOADS, main=again, store=mongomock_store, continues=Continuation(1, 1))
    record = mongomock_store.get(1)
    assert record.metrics["loss"].values == (0.5, 0.25)
    assert record.artifact("a.txt") == b"text"
    assert record.info["sessions"][1]["before"] == "COMPLETED"


def test_a_journal_of_a_run_that_went_on_elsewhere_does_not_overwrite_it(
    mongomock_store: MongoStore, switch: Callable[[bool], None], tmp_path: Path
) -> None:
    def main(run: Run) -> None:
        run.log_scalar("loss", 0.5, 1)
        run.flush()
        switch(False)
        run.log_scalar("loss", 99.0, 2)
        run.set_info("seen", "here")

    run_experiment(name="train", config=NO_UPLOADS, main=main, store=mongomock_store)
    switch(True)
    elsewhere = MongoStore(mongomock_store.database, "trainings", tmp_path / "elsewhere", "mongomock")
    mongomock_store.database["runs"].update_one({"_id": 1}, {"$set": {"status": "KILLED"}})

    def there(run: Run) -> None:
        for step in range(2, 40):
            run.log_scalar("loss", step / 100, step)

    few = {"tracking": {"store_checkpoints": "none", "max_points": 10}}
    run_experiment(name="train", config=few, main=there, store=elsewhere, continues=Continuation(1, 1))
    before = mongomock_store.database["runs"].find_one({"_id": 1})
    (synced,) = sync_journals(mongomock_store)
    assert synced.delivered_as is None
    assert "continued elsewhere since" in synced.what
    assert mongomock_store.database["runs"].find_one({"_id": 1}) == before
    assert elsewhere.metrics_log(1) is not None  # it began with all the points there were
    assert mongomock_store.metrics_log(1) is None


def test_a_run_continued_on_another_machine_has_the_same_points_in_the_database(
    mongomock_store: MongoStore, tmp_path: Path
) -> None:
    """There the full log is missing; how long each metric was at the checkpoint is enough."""
    few = {"tracking": {"store_checkpoints": "none", "max_points": 10}}
    elsewhere = MongoStore(mongomock_store.database, "trainings", tmp_path / "elsewhere", "mongomock")

    def log(run: Run, steps: range) -> None:
        for step in steps:
            run.log_scalar("loss", 1 / step, step)

    def first(run: Run) -> None:
        path = mongomock_store.runs_directory / "checkpoint"
        log(run, range(1, 51))
        path.write_text("x")
        run.register_checkpoint(path, 50)
        log(run, range(51, 91))

    def second(run: Run) -> None:
        log(run, range(51, 201))

    run_experiment(name="train", config=few, main=first, store=mongomock_store)
    run_experiment(name="train", config=few, main=second, store=elsewhere, continues=Continuation(1, 50))
    (document,) = mongomock_store.database["metrics"].find({"run_id": 1})
    indices = sorted({*range(0, 200, 32), 199})
    assert (document["stride"], document["count"]) == (32, 200)
    assert document["steps"] == [index + 1 for index in indices]
    assert document["values"] == [1 / (index + 1) for index in indices]
    summary = mongomock_store.get(1).info["summary"]["loss"]
    assert (summary["max"], summary["min"], summary["last_step"]) == (1.0, 1 / 200, 200)
    assert elsewhere.metrics_log(1) is mongomock_store.metrics_log(1) is None  # neither has all of it

    def third(run: Run) -> None:
        log(run, range(201, 211))

    run_experiment(name="train", config=few, main=third, store=mongomock_store, continues=Continuation(1, 200))
    (document,) = mongomock_store.database["metrics"].find({"run_id": 1})
    assert (document["stride"], document["steps"][-1]) == (32, 210)
    assert document["steps"][:-1] == [index + 1 for index in range(0, 193, 32)]


def test_a_journal_of_another_server_stays_where_it_is(
    mongomock_store: MongoStore, switch: Callable[[bool], None], tmp_path: Path
) -> None:
    import mongomock

    def main(run: Run) -> None:
        switch(False)
        run.log_scalar("loss", 0.5, 1)

    run_experiment(name="train", config=NO_UPLOADS, main=main, store=mongomock_store)
    switch(True)
    other = MongoStore(mongomock.MongoClient()["incasem_trainings"], "trainings", tmp_path / "runs", "another")
    assert "another server" in sync_journals(other)[0].what
    run_experiment(name="train", config=NO_UPLOADS, main=lambda run: run.log_scalar("loss", 2.0, 1), store=other)
    assert "another server" in sync_journals(other)[0].what
    assert other.get(1).metrics["loss"].values == (2.0,)
    assert [synced.delivered_as for synced in sync_journals(mongomock_store)] == [1]
    assert mongomock_store.get(1).metrics["loss"].values == (0.5,)
    logs = [store.metrics_log(1) for store in (other, mongomock_store)]
    assert None not in logs
    assert logs[0] != logs[1]


def test_a_database_restored_from_an_older_state_gets_all_again(mongomock_store: MongoStore) -> None:
    def main(run: Run) -> None:
        for step in range(5):
            run.log_scalar("loss", float(step), step)
        run.add_artifact("text", "a.txt")
        run.flush()
        mongomock_store.database["runs"].delete_many({})
        mongomock_store.database["metrics"].delete_many({})
        run.log_scalar("loss", 5.0, 5)

    run_experiment(name="train", config={"a": 1, **NO_UPLOADS}, main=main, store=mongomock_store)
    record = mongomock_store.get(1)
    assert (record.status, record.config["a"]) == ("COMPLETED", 1)
    assert record.metrics["loss"].values == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    assert record.artifact("a.txt") == b"text"


def test_tags_given_while_a_run_goes_on_outlive_an_outage_of_it(
    mongomock_store: MongoStore, switch: Callable[[bool], None]
) -> None:
    run_experiment(name="train", config=NO_UPLOADS, main=lambda run: None, store=mongomock_store)
    mongomock_store.annotate(1, add_tags=["draft"])

    def main(run: Run) -> None:
        mongomock_store.annotate(1, add_tags=["good"], remove_tags=["draft"], notes="kept")
        switch(False)
        run.log_scalar("loss", 0.5, 1)
        run.flush()
        switch(True)

    run_experiment(name="train", config=NO_UPLOADS, main=main, store=mongomock_store, continues=Continuation(1, 0))
    record = mongomock_store.get(1)
    assert (list(record.tags), record.notes) == (["good"], "kept")
    assert record.metrics["loss"].values == (0.5,)


def test_a_run_taken_for_dead_and_closed_says_again_that_it_lives(store: RunStore) -> None:
    def main(run: Run) -> None:
        run.log_scalar("loss", 0.5, 1)
        run.flush()
        if isinstance(store, MongoStore):
            closed = {"status": "KILLED", "stop_time": datetime(2026, 1, 1)}
            store.database["runs"].update_one({"_id": 1}, {"$set": closed})
        run.set_info("seen", 1)
        run.flush()
        assert (store.get(1).recorded_status, store.get(1).stop_time) == ("RUNNING", None)

    run_experiment(name="train", config=NO_UPLOADS, main=main, store=store)
    assert store.get(1).status == "COMPLETED"


def test_passwords_are_in_no_journal(mongomock_store: MongoStore, switch: Callable[[bool], None]) -> None:
    url = "mongodb://ada:s3cret@db.lab:27017/incasem"

    def main(run: Run) -> None:
        switch(False)
        print("using", url)
        run.set_info("where", url)

    config = {"tracking": {"url": url, "store_checkpoints": "none"}}
    run_experiment(name="train", config=config, main=main, store=mongomock_store, comment=url)
    files = [path for path in mongomock_store.runs_directory.rglob("*") if path.is_file()]
    assert any(path.name == "run.json" for path in files)
    assert not [path for path in files if b"s3cret" in path.read_bytes()]


def test_a_server_that_goes_away_at_the_start_is_one_sentence(
    mongomock_store: MongoStore, switch: Callable[[bool], None]
) -> None:
    switch(False)
    with pytest.raises(StoreError, match="incasem_trainings at mongomock stopped answering"):
        run_experiment(name="train", config={}, main=lambda run: None, store=mongomock_store)
    with pytest.raises(StoreError, match="does not answer"):
        mongomock_store.ids()
