"""Runs begun with --offline on their way into a database."""

from pathlib import Path
from typing import Any

import pytest
from tracking.moved_runs import write_journal

from incasem_like.errors import InputError, StoreError
from incasem_like.tracking import Run, RunStore, open_store, run_experiment
from incasem_like.tracking.moving.sync import offline_store, open_offline, sync_journals
from incasem_like.tracking.stores.mongo import MongoStore

CONFIG: dict[str, Any] = {"tracking": {"max_points": 10, "store_checkpoints": "none"}}


@pytest.fixture(params=["mongomock", pytest.param("server", marks=pytest.mark.mongo)])
def database(request: pytest.FixtureRequest) -> MongoStore:
    found: MongoStore = request.getfixturevalue(f"{request.param}_store")
    return found


def work(run: Run) -> str:
    for step in range(40):
        run.log_scalar("loss", step / 4, step)
    run.add_artifact("text", "a.txt")
    run.set_info("seen", run.id)
    print("was here")
    return "done"


def offline(store: RunStore, **options: Any) -> None:
    run_experiment(
        **{
            "name": "train",
            "config": CONFIG,
            "main": work,
            "store": offline_store(store.kind, store.runs_directory),
            **options,
        }
    )


def test_an_offline_run_comes_into_the_database_as_it_was(database: MongoStore) -> None:
    offline(database, run_name="at sea", id_above=6)
    waiting = offline_store(database.kind, database.runs_directory).get(7)
    (synced,) = sync_journals(database)
    assert (synced.run_id, synced.delivered_as, synced.what) == (7, 7, "run delivered")
    record = database.get(7)
    for part in ("status", "name", "config", "result", "captured_output", "artifacts"):
        assert getattr(record, part) == getattr(waiting, part)
    assert (record.info["seen"], record.artifact("a.txt")) == (7, b"text")
    assert len(record.metrics["loss"].steps) <= 10
    log = database.metrics_log(7)
    assert log is not None
    assert len([line for line in log.read_text().splitlines() if '"name"' in line]) == 40
    assert offline_store(database.kind, database.runs_directory).ids() == []
    assert sync_journals(database) == []


def test_a_taken_id_is_replaced_and_children_follow(database: MongoStore) -> None:
    run_experiment(name="train", config=CONFIG, main=lambda run: None, store=database)
    offline(database)
    predictions = database.sibling("predictions")

    def predict(run: Run) -> None:
        run.set_info("parent", {"training_run_id": 1, "checkpoint": "x"})

    offline(predictions, main=predict)
    (training,) = sync_journals(database)
    (prediction,) = sync_journals(predictions)
    assert (training.run_id, training.delivered_as) == (1, 2)
    assert "as run 2" in training.what
    assert database.get(2).result == "done"
    assert database.get(1).result is None
    assert prediction.delivered_as == 1
    assert predictions.get(1).parent["training_run_id"] == 2


def test_ids_of_offline_runs_go_on_above_those_this_machine_knows(database: MongoStore) -> None:
    for _ in range(2):
        run_experiment(name="train", config=CONFIG, main=lambda run: None, store=database)
    waiting = open_offline(f"mongodb://127.0.0.1:1/{database.database.name}", "trainings", database.runs_directory)
    run_experiment(name="train", config=CONFIG, main=work, store=waiting)
    assert waiting.ids() == [3]
    assert [(one.run_id, one.delivered_as) for one in sync_journals(database)] == [(3, 3)]


def test_delivering_that_broke_off_is_taken_up(database: MongoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from incasem_like.tracking.moving import sync

    def stop(store: RunStore, run_id: int, *, force: bool = False) -> None:
        raise KeyboardInterrupt

    offline(database)
    with monkeypatch.context() as patched:
        patched.setattr(sync, "delete_run", stop)
        with pytest.raises(KeyboardInterrupt):
            sync_journals(database)
    assert offline_store(database.kind, database.runs_directory).ids() == [1]
    assert [synced.delivered_as for synced in sync_journals(database)] == [1]
    assert database.ids() == [1]
    assert offline_store(database.kind, database.runs_directory).ids() == []


def test_a_run_that_is_offline_still_is_left_alone(database: MongoStore) -> None:
    def main(run: Run) -> None:
        (synced,) = sync_journals(database)
        assert synced.delivered_as is None
        assert "is still running" in synced.what

    offline(database, main=main)
    assert offline_store(database.kind, database.runs_directory).get(1).status == "COMPLETED"
    assert database.ids() == []


def test_the_journal_of_one_run_can_be_asked_for(database: MongoStore) -> None:
    run_experiment(name="train", config=CONFIG, main=work, store=database)
    assert database.pending(1) == offline_store(database.kind, database.runs_directory).pending(1) == []
    (journal,) = database.journals
    document = {**(database.database["runs"].find_one({"_id": 1}) or {}), "result": "later"}
    write_journal(journal, document, database.description)
    assert database.pending(2) == []
    (journal,) = database.pending(1)
    assert database.deliver(journal) is None
    assert database.get(1).result == "later"


def test_files_that_a_killed_process_did_not_note_any_more_stay_with_the_run(database: MongoStore) -> None:
    run_experiment(name="train", config=CONFIG, main=work, store=database)
    (journal,) = database.journals
    document = database.database["runs"].find_one({"_id": 1}) or {}
    write_journal(journal, {**document, "artifacts": []}, database.description)
    assert database.deliver(journal) is None
    assert database.get(1).artifact("a.txt") == b"text"


def test_what_cannot_be_delivered_is_named_and_does_not_hold_up_the_rest(database: MongoStore) -> None:
    for _ in range(2):
        run_experiment(name="train", config=CONFIG, main=work, store=database)
    damaged, whole = database.journals
    (damaged.folder / "run.json").write_text('{"run": ')
    write_journal(
        whole, {**(database.database["runs"].find_one({"_id": 2}) or {}), "result": "later"}, database.description
    )
    offline(database)
    offline(database, id_above=5)
    (offline_store(database.kind, database.runs_directory).folder / "1" / "config.json").write_text("{")
    first, second, third, fourth = sync_journals(database)
    assert (first.delivered_as, second.delivered_as, third.delivered_as, fourth.delivered_as) == (None, 6, None, 2)
    assert "config.json is damaged" in first.what
    assert "run.json is damaged" in third.what
    assert database.get(2).result == "later"


@pytest.mark.mongo
def test_a_refused_login_quotes_no_password(mongo_url: str, tmp_path: Path) -> None:
    """The test server knows no logins at all; what it says of one is passed on without the URL."""
    with pytest.raises((StoreError, InputError)) as caught:
        open_store(mongo_url.replace("://", "://ada:s3cret@"), "trainings", tmp_path)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert "refuses" in str(caught.value)
