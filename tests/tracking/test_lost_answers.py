"""A database whose answers are lost on the way, after it did what it was asked to."""

import shutil
from collections.abc import Callable
from typing import Any

import pymongo.errors
import pytest

from incasem_like.errors import InputError, StoreError
from incasem_like.tracking import Continuation, Run, run_experiment
from incasem_like.tracking.stores.mongo import MongoStore

pytestmark = pytest.mark.usefixtures("small_package")
CONFIG = {"tracking": {"store_checkpoints": "none"}}


@pytest.fixture
def lose_answers(database: MongoStore, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Lose the answer to the next call of each of some methods of the collection of runs, once armed."""
    collections = type(database.database["runs"])

    def arm(*methods: str) -> list[str]:
        left = list(methods)
        for method in dict.fromkeys(methods):
            monkeypatch.setattr(collections, method, _losing(getattr(collections, method), method, left))
        return left

    return arm


def _losing(working: Callable[..., Any], method: str, left: list[str]) -> Callable[..., Any]:
    def call(collection: Any, *arguments: Any, **options: Any) -> Any:
        found = working(collection, *arguments, **options)
        if collection.name == "runs" and left[:1] == [method]:
            left.pop(0)
            raise pymongo.errors.AutoReconnect("connection closed")
        return found

    return call


def track(store: MongoStore, main: Callable[[Run], Any], **options: Any) -> Any:
    return run_experiment(name="train", config=CONFIG, main=main, store=store, **options)


def one_that_failed(store: MongoStore) -> dict[str, Any]:
    def main(run: Run) -> None:
        run.log_scalar("loss", 1.0, 1)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        track(store, main)
    document = store.read_document(1)
    assert document is not None
    return document


def journals(store: MongoStore) -> list[str]:
    return [journal.folder.name for journal in store.journals]


def test_a_run_that_was_entered_is_found_to_be_there(
    database: MongoStore, lose_answers: Callable[..., list[str]]
) -> None:
    left = lose_answers("insert_one")
    assert track(database, lambda run: run.id) == 1
    assert (left, database.ids(), database.get(1).status) == ([], [1], "COMPLETED")


def test_a_run_that_was_taken_is_gone_on_with(database: MongoStore, lose_answers: Callable[..., list[str]]) -> None:
    one_that_failed(database)
    left = lose_answers("update_one")
    track(database, lambda run: run.log_scalar("loss", 0.5, 2), continues=Continuation(1, 1))
    record = database.get(1)
    assert (left, record.status, record.metrics["loss"].steps) == ([], "COMPLETED", (1, 2))
    assert [session.get("before") for session in record.info["sessions"]] == [None, "FAILED"]


def test_a_run_that_was_taken_before_the_server_went_is_given_back(
    database: MongoStore, lose_answers: Callable[..., list[str]]
) -> None:
    before = one_that_failed(database)
    left = lose_answers("update_one", "find_one")
    with pytest.raises(StoreError, match="stopped answering"):
        track(database, lambda run: None, continues=Continuation(1, 1))
    assert left == []
    assert database.read_document(1) == before


def test_a_run_of_another_program_is_given_back_without_what_it_did_not_have(database: MongoStore) -> None:
    database.database["runs"].insert_one({"_id": 1, "status": "FAILED", "config": {}})

    def nothing() -> int:
        assert database.get(1).document["host"]
        raise InputError("There is no checkpoint: train it anew.")

    with pytest.raises(InputError, match="no checkpoint"):
        track(database, lambda run: None, continues=Continuation(1, nothing))
    assert database.database["runs"].find_one({"_id": 1}) == {"_id": 1, "status": "FAILED", "config": {}}


def test_a_continuation_that_fails_leaves_no_journal_on_a_machine_that_had_none(database: MongoStore) -> None:
    one_that_failed(database)
    kept = journals(database)
    assert len(kept) == 1
    shutil.rmtree(database.journals.folder)

    def nothing() -> int:
        raise InputError("There is no checkpoint: train it anew.")

    with pytest.raises(InputError, match="no checkpoint"):
        track(database, lambda run: None, continues=Continuation(1, nothing))
    assert journals(database) == []
    track(database, lambda run: None, continues=Continuation(1, 1))
    assert journals(database) == kept
