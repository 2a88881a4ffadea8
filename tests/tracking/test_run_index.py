"""The cache of what lists show of runs: it holds what did not change, notices what did, and may be lost at any time."""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from incasem_like.tracking import delete_run, open_store
from incasem_like.tracking.run_folder import RunFolder
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore

WriteRun = Callable[..., None]


def _age(folder: Path, seconds: float) -> None:
    for path in folder.glob("[0-9]*/*"):
        os.utime(path, (time.time() - seconds,) * 2)


def _count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    import incasem_like.tracking.stores.index as module

    read: list[Path] = []
    whole = module._folder_record

    def counted(run: RunFolder) -> Any:
        read.append(run.folder)
        return whole(run)

    monkeypatch.setattr(module, "_folder_record", counted)
    return read


@pytest.fixture
def indexed(tmp_path: Path, write_run: WriteRun) -> FileStore:
    """A store of files of twenty runs that ended long ago."""
    store = open_store(None, "trainings", tmp_path / "runs")
    assert isinstance(store, FileStore)
    for run_id in range(1, 21):
        write_run(store, run_id, result=run_id, config={"seed": run_id})
    _age(store.folder, 1000)
    return store


def test_only_runs_that_changed_are_read_again(indexed: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read = _count_reads(monkeypatch)
    first = indexed.summaries(("seed",))
    assert len(read) == 20
    read.clear()
    assert indexed.summaries(("seed",)) == first
    assert read == []
    indexed.annotate(3, add_tags=["x"])
    assert [run.id for run in indexed.summaries() if run.tags] == [3]
    assert {path.name for path in read} == {"3"}


def test_a_run_just_written_is_not_trusted_to_the_index(indexed: FileStore) -> None:
    path = indexed.folder / "4" / "run.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "result": 1}))
    assert indexed.summaries()[3].result == 1
    before = path.stat()
    path.write_text(json.dumps({**document, "result": 2}))  # as long, and within one tick of a coarse clock
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert indexed.summaries()[3].result == 2


def cached_index() -> Path:
    (path,) = Path(os.environ["INCASEM_CACHE"], "run_index").glob("*.sqlite")
    return path


def write_other_version(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE configs")
        connection.execute("UPDATE records SET record = '{}'")
        connection.execute("PRAGMA user_version = 4")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"[" * 5000),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "another version": write_other_version,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_made_anew(indexed: FileStore, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = indexed.summaries(("seed",))
    DAMAGES[damage](cached_index())
    assert indexed.summaries(("seed",)) == whole
    indexed.summaries(("seed",))
    read = _count_reads(monkeypatch)
    assert indexed.summaries(("seed",)) == whole
    assert read == []


def test_an_index_that_is_in_use_costs_time_only(indexed: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incasem_like.tracking.stores.index._SECONDS_TO_WAIT_FOR_OTHERS", 0.05)
    whole = indexed.summaries(("seed",))
    indexed.annotate(3, add_tags=["x"])
    _age(indexed.folder, 1000)
    with contextlib.closing(sqlite3.connect(cached_index(), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert [run.id for run in indexed.summaries(("seed",))] == [run.id for run in whole]


def test_deleted_and_new_runs_come_and_go_from_the_index(indexed: FileStore, write_run: WriteRun) -> None:
    indexed.summaries()
    delete_run(indexed, 5)
    write_run(indexed, 30)
    assert [run.id for run in indexed.summaries()] == [*range(1, 5), *range(6, 21), 30]


def test_a_half_made_folder_is_no_run(indexed: FileStore) -> None:
    (indexed.folder / "40").mkdir()
    (indexed.folder / "41").write_text("")
    (indexed.folder / "007").mkdir()
    assert indexed.summaries()[-1].id == 20


@pytest.fixture
def listed(database: MongoStore, write_run: WriteRun) -> MongoStore:
    """A database of twenty runs that ended long ago, listed once."""
    for run_id in range(1, 21):
        write_run(database, run_id, result=run_id, config={"seed": run_id, "a": {"b.c": 1}})
    assert [run.result for run in database.summaries(("seed",))] == [*range(1, 21)]
    return database


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the runs whose records are fetched from databases."""
    import incasem_like.tracking.stores.index as module

    found: list[int] = []
    whole = module._database_record
    monkeypatch.setattr(module, "_database_record", lambda run: (found.append(run["_id"]), whole(run))[1])
    return found


def test_of_a_database_only_runs_that_changed_are_fetched_again(listed: MongoStore, fetched: list[int]) -> None:
    first = listed.summaries(("seed",))
    assert fetched == []
    listed.annotate(3, add_tags=["x"], notes="good")
    assert [run.id for run in listed.summaries() if run.tags == ("x",) and run.notes == "good"] == [3]
    assert fetched == [3]
    others = [run for run in listed.summaries(("seed",)) if run.id != 3]
    assert others == [run for run in first if run.id != 3]


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"omniboard": {"tags": ["best"]}}, "tags", ("best",)),
        ({"omniboard": {"notes": "look again"}}, "notes", "look again"),
        ({"status": "FAILED"}, "status", "FAILED"),
        ({"stop_time": datetime(2026, 1, 1, 13)}, "stop_time", datetime(2026, 1, 1, 13, tzinfo=UTC)),
        ({"result": 0.125}, "result", 0.125),
        ({"experiment": {"name": "other"}}, "name", "other"),
        (
            {"heartbeat": datetime(2026, 1, 2), "info": {"summary": {"dice": {"last": 1}}}},
            "summary",
            {"dice": {"last": 1}},
        ),
    ],
)
def test_what_others_write_into_a_database_is_noticed(
    listed: MongoStore, fetched: list[int], change: dict[str, Any], field: str, value: Any
) -> None:
    listed.database["runs"].update_one({"_id": 7}, {"$set": change})
    found = getattr(listed.summaries()[6], field)
    assert (dict(found) if field == "summary" else found) == value
    assert fetched == [7]


def test_what_is_noted_of_a_run_afterwards_is_noticed(listed: MongoStore, fetched: list[int]) -> None:
    listed.note(7, {"parent": {"training_run_id": 3}})
    assert listed.summaries()[6].parents == (("trainings", 3),)
    assert fetched == [7]


def test_runs_come_and_go_from_the_list_of_a_database(listed: MongoStore, write_run: WriteRun) -> None:
    delete_run(listed, 5)
    listed.database["runs"].delete_one({"_id": 9})
    write_run(listed, 30, config={"seed": 30})
    found = listed.summaries(("seed",))
    assert [run.id for run in found] == [run_id for run_id in (*range(1, 21), 30) if run_id not in (5, 9)]
    assert all(run.config == {"seed": run.id} for run in found)


@pytest.mark.parametrize("status", ["RUNNING", "COMPLETED", "never heard of"])
def test_a_run_that_may_still_be_written_is_fetched_each_time(
    database: MongoStore, write_run: WriteRun, fetched: list[int], status: str
) -> None:
    heard = None if status == "never heard of" else datetime.now(UTC).replace(tzinfo=None)
    write_run(database, 1, status=status, heartbeat=heard)
    database.summaries()
    database.database["runs"].update_one({"_id": 1}, {"$set": {"info": {"summary": {"dice": {"last": 1.0}}}}})
    assert dict(database.summaries()[0].summary) == {"dice": {"last": 1.0}}
    assert fetched == [1, 1]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_of_a_database_is_made_anew(listed: MongoStore, fetched: list[int], damage: str) -> None:
    whole = listed.summaries(("seed",))
    DAMAGES[damage](cached_index())
    assert listed.summaries(("seed",)) == whole
    listed.summaries(("seed",))
    fetched.clear()
    assert listed.summaries(("seed",)) == whole
    assert fetched == []


def test_without_a_cache_that_can_be_written_runs_are_listed_all_the_same(
    listed: MongoStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = listed.summaries(("seed",))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INCASEM_CACHE", str(tmp_path / "file"))
    assert listed.summaries(("seed",)) == whole


def test_databases_of_one_server_do_not_share_a_cache(listed: MongoStore, write_run: WriteRun) -> None:
    other = listed.sibling("predictions")
    write_run(other, 1, result="another")
    assert [run.result for run in other.summaries()] == ["another"]
    assert listed.summaries()[0].result == 1
