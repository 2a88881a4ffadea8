"""What a replica set confirms: writes that matter are on most of its members, unless the URL says otherwise."""

from functools import partial
from pathlib import Path
from typing import Any

import pymongo
import pymongo.errors
import pytest
from pymongo.monitoring import CommandListener, CommandStartedEvent

from incasem_like.errors import StoreError
from incasem_like.tracking import Run, run_experiment
from incasem_like.tracking.address import MongoAddress, parse_address
from incasem_like.tracking.stores.mongo import MongoStore, connect

pytestmark = pytest.mark.usefixtures("small_package")
CONFIG = {"tracking": {"store_checkpoints": "last"}}
MAJORITY = {"w": "majority", "wtimeout": 15000}


class Writes(CommandListener):
    """Notes what writes ask the server to confirm, by collection."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in ("insert", "update", "delete"):
            self.asked.append((event.command[event.command_name], event.command.get("writeConcern")))

    def succeeded(self, event: object) -> None:
        """Nothing more to note."""

    def failed(self, event: object) -> None:
        """Nothing more to note."""


def connected(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[MongoStore, Writes]:
    writes = Writes()
    monkeypatch.setattr(pymongo, "MongoClient", partial(pymongo.MongoClient, event_listeners=[writes]))
    address = parse_address(url, folder)
    assert isinstance(address, MongoAddress)
    return connect(address, "trainings", folder), writes


def train(run: Run) -> None:
    model = run.runs_directory / "models" / "0001" / "model_checkpoint_5"
    model.parent.mkdir(parents=True)
    model.write_text("weights")
    run.log_scalar("loss", 0.5, 1)
    run.register_checkpoint(model, 5)
    run.add_artifact("{}", "data.json")


@pytest.mark.mongo
def test_every_write_is_to_be_confirmed_by_a_majority(
    fresh_mongo_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, writes = connected(fresh_mongo_url, tmp_path, monkeypatch)
    run_experiment(name="train", config=CONFIG, main=train, store=store)
    assert {collection for collection, _ in writes.asked} >= {"runs", "metrics", "fs.files", "fs.chunks"}
    assert [asked for asked in writes.asked if asked[1]["w"] != "majority"] == []
    store.database.client.close()


@pytest.mark.mongo
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("w=1", {"w": 1, "wtimeout": 15000}),
        ("W=2&wtimeoutms=5&journal=true", {"w": 2, "wtimeout": 5, "j": True}),
        ("appname=w", MAJORITY),
    ],
)
def test_the_url_has_the_last_word(
    fresh_mongo_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, expected: dict[str, Any]
) -> None:
    store, _ = connected(f"{fresh_mongo_url}?{said}", tmp_path, monkeypatch)
    databases = [store.database, store.sibling("predictions").database, store.checkpoint_files._reconnect()]
    assert [database.write_concern.document for database in databases] == [expected] * 3
    store.database.client.close()


def test_a_set_that_lacks_most_members_is_one_sentence_and_takes_no_run(
    mongomock_store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    collections = type(mongomock_store.database["runs"])
    working = collections.insert_one

    def insert_one(collection: Any, *arguments: Any, **options: Any) -> Any:
        working(collection, *arguments, **options)
        if collection.name == "runs":
            raise pymongo.errors.WTimeoutError("waiting for replication timed out", code=64)

    monkeypatch.setattr(collections, "insert_one", insert_one)
    with pytest.raises(StoreError, match=r"cannot bring a write to most members .* add w=1 to the URL"):
        run_experiment(name="train", config=CONFIG, main=train, store=mongomock_store)
    assert mongomock_store.ids() == []
