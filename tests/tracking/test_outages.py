"""A MongoDB server that goes away while a run goes on."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymongo.errors
import pytest
from bson import json_util

from incasem_like.errors import StoreError
from incasem_like.tracking import Run, run_experiment
from incasem_like.tracking.mongo import observer as mongo_observer
from incasem_like.tracking.mongo.store import MongoStore


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
    monkeypatch.setattr(mongo_observer, "SECONDS_BETWEEN_ATTEMPTS", 0.0)
    monkeypatch.setattr(mongo_observer.time, "sleep", lambda seconds: None)
    return lambda on: state.update(on=on)


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
        switch(True)
        run.log_scalar("loss", 6.0, 6)
        run.flush()
        assert mongomock_store.get(run.id).info["step"] == 5
        return "done"

    with caplog.at_level(logging.WARNING):
        run_experiment(name="train", config={}, main=main, store=mongomock_store)
    record = mongomock_store.get(1)
    assert (record.status, record.result) == ("COMPLETED", "done")
    assert record.metrics["loss"].values == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert [record.artifact(f"{step}.txt") for step in range(1, 6)] == [b"text %d" % step for step in range(1, 6)]
    assert ["does not answer" in line for line in caplog.messages] == [True, False]
    assert "answers again" in caplog.messages[1]


def test_what_cannot_be_delivered_by_the_end_is_kept_on_disk(
    mongomock_store: MongoStore, switch: Callable[[bool], None], tmp_path: Path
) -> None:
    def main(run: Run) -> str:
        switch(False)
        run.log_scalar("loss", 0.5, 1)
        run.add_artifact("text", "a.txt")
        return "done"

    assert run_experiment(name="train", config={"a": 1}, main=main, store=mongomock_store) == "done"
    (path,) = (tmp_path / "runs" / "tracking" / "undelivered").iterdir()
    kept = json_util.loads(path.read_text())
    assert (kept["run"]["_id"], kept["run"]["status"], kept["run"]["result"]) == (1, "COMPLETED", "done")
    assert kept["metrics"]["loss"]["values"] == [0.5]
    assert kept["artifacts"][0]["content"] == b"text"


def test_a_server_that_goes_away_at_the_start_is_one_sentence(
    mongomock_store: MongoStore, switch: Callable[[bool], None]
) -> None:
    switch(False)
    with pytest.raises(StoreError, match="incasem_trainings at mongomock stopped answering"):
        run_experiment(name="train", config={}, main=lambda run: None, store=mongomock_store)
    with pytest.raises(StoreError, match="does not answer"):
        mongomock_store.ids()


def test_sources_are_stored_once_for_all_runs(mongomock_store: MongoStore) -> None:
    for _ in range(2):
        run_experiment(name="train", config={}, main=lambda run: None, store=mongomock_store)
    files = mongomock_store.database["fs.files"]
    assert files.count_documents({}) == len(mongomock_store.get(1).experiment["sources"])
    assert mongomock_store.get(1).experiment["sources"] == mongomock_store.get(2).experiment["sources"]


def test_omniboard_finds_the_metrics_by_the_links_in_info(mongomock_store: MongoStore) -> None:
    run_experiment(name="train", config={}, main=lambda run: run.log_scalar("loss", 0.5, 1), store=mongomock_store)
    (link,) = mongomock_store.database["runs"].find_one({"_id": 1})["info"]["metrics"]
    (series,) = mongomock_store.database["metrics"].find()
    assert link == {"name": "loss", "id": str(series["_id"])}
    assert series["run_id"] == 1
    assert "metrics" not in mongomock_store.get(1).info
