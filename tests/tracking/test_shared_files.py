"""A source file that runs share, while one of them is deleted and another begins."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from incasem_like.tracking import RunStore, delete_run, open_store, run_experiment
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore

pytestmark = pytest.mark.usefixtures("small_package")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text("print('a source of both runs')")
    return path


def train(store: RunStore, script: Path) -> int:
    return int(run_experiment(name="train", config={}, main=lambda run: run.id, store=store, sources=[script]))


def sources(store: RunStore, run_id: int) -> dict[str, bytes | None]:
    return {Path(name).name: content for name, content in store.read_stored(run_id, "sources")}


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a deletion free sources at once, and not only when no run of the last hour may need them."""
    monkeypatch.setattr(RunStore, "LONGEST_START", timedelta(seconds=-10))


def test_sources_are_stored_once_for_all_runs_and_go_with_the_last(
    store: RunStore, script: Path, settled: None
) -> None:
    assert [train(store, script) for _ in range(3)] == [1, 2, 3]
    assert store.get(1).experiment["sources"] == store.get(3).experiment["sources"]
    if isinstance(store, MongoStore):
        assert store.database["fs.files"].count_documents({}) == len(store.get(1).experiment["sources"])
    for run_id in (1, 2):
        delete_run(store, run_id)
        assert sources(store, 3)["script.py"] == script.read_bytes()
        assert None not in sources(store, 3).values()
    delete_run(store, 3)
    if isinstance(store, MongoStore):
        assert store.database["fs.files"].count_documents({}) == store.database["fs.chunks"].count_documents({}) == 0
    elif isinstance(store, FileStore):
        assert list((store.folder / "_sources").iterdir()) == []
    assert train(store, script) == 4
    assert sources(store, 4)["script.py"] == script.read_bytes()


def test_sources_that_a_new_run_found_stay_until_it_names_them(
    store: RunStore, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(store, script)
    if isinstance(store, MongoStore):
        store.database["fs.files"].update_many({}, {"$set": {"uploadDate": datetime(2026, 1, 1)}})
    elif isinstance(store, FileStore):
        for path in (store.folder / "_sources").iterdir():
            os.utime(path, (1e9, 1e9))
    keep, kept = type(store).keep, []

    def delete_before_the_run_names_it(store: RunStore, *arguments: Any) -> Any:
        kept.append(keep(store, *arguments))
        if len(kept) == 1:
            delete_run(store, 1)
        return kept[-1]

    monkeypatch.setattr(type(store), "keep", delete_before_the_run_names_it)
    assert train(store, script) == 2
    assert sources(store, 2)["script.py"] == script.read_bytes()
    assert None not in sources(store, 2).values()


def test_a_damaged_record_keeps_the_sources_that_it_may_name(tmp_path: Path, script: Path, settled: None) -> None:
    store = open_store(None, "trainings", tmp_path)
    assert isinstance(store, FileStore)
    for _ in range(2):
        train(store, script)
    record = store.folder / "1" / "run.json"
    text = record.read_text()
    record.write_text(text[: len(text) // 2])
    delete_run(store, 2)
    record.write_text(text)
    assert sources(store, 1)["script.py"] == script.read_bytes()


def test_files_of_other_programs_stay(database: MongoStore, script: Path, settled: None) -> None:
    theirs = database.files.put(b"x", filename="theirs.py", md5="ab")
    train(database, script)
    delete_run(database, 1)
    assert [file["_id"] for file in database.database["fs.files"].find({})] == [theirs]
