"""A database that is slow, or loses what it had, while runs are kept in it."""

import logging
from typing import Any

import pymongo.errors
import pytest

from incasem_like.tracking import Run, run_experiment
from incasem_like.tracking.moving.transfer import copy_run
from incasem_like.tracking.stores.mongo import MongoStore

pytestmark = pytest.mark.usefixtures("small_package")
CONFIG = {"tracking": {"store_checkpoints": "none"}}
INDEX = "run_id_1_name_1"


def log_some(run: Run) -> None:
    for step in range(5):
        run.log_scalar("loss", float(step), step)


def test_metrics_have_an_index_by_run_in_every_database_that_gets_one(mongomock_store: MongoStore) -> None:
    run_experiment(name="train", config=CONFIG, main=log_some, store=mongomock_store)
    assert INDEX in mongomock_store.database["metrics"].index_information()
    runs, database = mongomock_store.runs_directory.parent / "other", mongomock_store.database.client["other_trainings"]
    other = MongoStore(database, "trainings", runs)
    copy_run(mongomock_store.get(1), other)
    assert INDEX in other.database["metrics"].index_information()


def test_a_database_too_large_to_be_indexed_in_passing_takes_runs(
    mongomock_store: MongoStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    collections = type(mongomock_store.database["metrics"])
    create_index = collections.create_index

    def slow(collection: Any, *arguments: Any, **options: Any) -> Any:
        if collection.name == "metrics":
            raise pymongo.errors.NetworkTimeout("timed out")
        return create_index(collection, *arguments, **options)

    monkeypatch.setattr(collections, "create_index", slow)
    with caplog.at_level(logging.WARNING):
        run_experiment(name="train", config=CONFIG, main=log_some, store=mongomock_store)
    assert "db.metrics.createIndex({run_id: 1, name: 1})" in caplog.text
    assert mongomock_store.get(1).metrics["loss"].steps == (0, 1, 2, 3, 4)


def test_a_database_that_lost_some_points_has_all_when_the_run_is_over(database: MongoStore) -> None:
    def main(run: Run) -> None:
        log_some(run)
        run.flush()
        lost = {"steps": [0], "values": [0.0], "timestamps": [None], "count": 1}
        database.database["metrics"].update_one({"run_id": 1}, {"$set": lost})
        database.database["runs"].update_one({"_id": 1}, {"$unset": {"config": ""}})
        run.log_scalar("loss", 5.0, 5)

    run_experiment(name="train", config=CONFIG, main=main, store=database)
    record = database.get(1)
    assert record.config == CONFIG
    assert record.metrics["loss"].values == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    assert None not in record.metrics["loss"].timestamps
