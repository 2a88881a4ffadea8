"""The columns that a new database gets for Omniboard's table."""

from typing import Any

import pytest

from incasem_like.tracking import Run, RunStore, run_experiment
from incasem_like.tracking.stores.mongo import COLUMNS, MongoStore


@pytest.fixture(params=["mongomock", pytest.param("server", marks=pytest.mark.mongo)])
def mongo_store(request: pytest.FixtureRequest) -> MongoStore:
    store: MongoStore = request.getfixturevalue(f"{request.param}_store")
    return store


def run_once(store: RunStore) -> None:
    def main(run: Run) -> None:
        run.log_scalar("loss_train_0", 0.5, 1)
        run.log_scalar("loss_train_0", 0.25, 2)
        run.set_info("parent", {"training_run_id": 7})

    run_experiment(name="x", config={"training": {"optimizer": {"lr": 0.1}, "data": "a.json"}}, main=main, store=store)


def columns(store: MongoStore) -> dict[str, str]:
    return {column["name"]: column["config_path"] for column in store.database[COLUMNS].find()}


def at(document: Any, path: str) -> Any:
    for key in path.split("."):
        document = document.get(key, {})
    return document


def test_the_columns_of_a_new_database_name_what_its_runs_hold(mongo_store: MongoStore) -> None:
    run_once(mongo_store)
    document = mongo_store.database["runs"].find_one({"_id": 1})
    found = {name: at(document, path) for name, path in columns(mongo_store).items()}
    assert found.pop("Dice, best") == {}, "this run has no Dice"
    assert found == {
        "Loss": 0.25, "Iteration": 2, "Learning rate": 0.1, "Training data": "a.json", "Started from run": 7,
    }  # fmt: skip


def test_a_column_that_was_removed_stays_away(mongo_store: MongoStore) -> None:
    run_once(mongo_store)
    mongo_store.database[COLUMNS].delete_many({})
    run_once(mongo_store)
    assert columns(mongo_store) == {}


def test_a_database_with_columns_of_its_own_is_left_alone(mongo_store: MongoStore) -> None:
    mongo_store.database[COLUMNS].insert_one({"name": "Mine", "config_path": "config.a"})
    run_once(mongo_store)
    assert columns(mongo_store) == {"Mine": "config.a"}


def test_omniboard_finds_the_metrics_by_the_links_in_info(mongomock_store: MongoStore) -> None:
    run_experiment(name="train", config={}, main=lambda run: run.log_scalar("loss", 0.5, 1), store=mongomock_store)
    (link,) = mongomock_store.database["runs"].find_one({"_id": 1})["info"]["metrics"]
    (series,) = mongomock_store.database["metrics"].find()
    assert link == {"name": "loss", "id": str(series["_id"])}
    assert series["run_id"] == 1
    assert "metrics" not in mongomock_store.get(1).info
