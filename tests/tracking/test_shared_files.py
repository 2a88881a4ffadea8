"""A source file that runs share, while one of them is deleted and another begins."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from incasem_like.tracking import RunStore, delete_run, open_store, run_experiment
from incasem_like.tracking.moving.transfer import copy_run
from incasem_like.tracking.stores import files as shared_by_files
from incasem_like.tracking.stores import mongo as shared_files
from incasem_like.tracking.stores import push
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore

WriteRun = Callable[..., None]
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


def once(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, act: Callable[[], Any], *, before: bool) -> list[Any]:
    """Do something when a function is called for the first time, before or after it does its work."""
    working, done = getattr(module, name), []

    def call(*arguments: Any, **options: Any) -> Any:
        if before and not done:
            done.append(None)
            done[0] = act()
        found = working(*arguments, **options)
        if not before and not done:
            done.append(None)
            done[0] = act()
        return found

    monkeypatch.setattr(module, name, call)
    return done


def test_sources_stay_while_a_run_that_found_them_is_begun(
    database: MongoStore, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(database, script)
    done = once(monkeypatch, push.Delivery, "publish", lambda: delete_run(database, 1), before=True)
    run_id = train(database, script)
    assert (run_id, done[0].sources) == (2, 0)
    assert sources(database, 2)["script.py"] == script.read_bytes()
    assert None not in sources(database, 2).values()


def test_a_source_that_goes_before_a_run_reserves_its_id_is_stored_again(database: MongoStore, script: Path) -> None:
    train(database, script)
    assert delete_run(database, 1).sources > 0
    assert train(database, script) == 2
    assert sources(database, 2)["script.py"] == script.read_bytes()


@pytest.mark.parametrize("step", ["named_by_runs", "free_files"])
def test_a_run_that_begins_while_its_sources_are_deleted_has_them(
    database: MongoStore, script: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    train(database, script)
    done = once(monkeypatch, shared_files, step, lambda: train(database, script), before=step == "free_files")
    delete_run(database, 1)
    assert done == [2]
    assert sources(database, 2)["script.py"] == script.read_bytes()
    assert None not in sources(database, 2).values()


def test_a_run_that_is_copied_while_its_sources_are_deleted_has_them(
    database: MongoStore, script: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = open_store(None, "trainings", tmp_path / "elsewhere")
    train(files, script)
    copy_run(files.get(1), database)
    again = train(files, script)
    done = once(monkeypatch, push.Delivery, "publish", lambda: delete_run(database, 1), before=True)
    copy_run(files.get(again), database)
    assert done[0].sources == 0
    assert sources(database, 2)["script.py"] == script.read_bytes()
    assert None not in sources(database, 2).values()


def test_a_source_that_another_run_needs_stays_and_is_shared_on(database: MongoStore, script: Path) -> None:
    assert [train(database, script) for _ in range(3)] == [1, 2, 3]
    stored = database.database["fs.files"].count_documents({})
    assert delete_run(database, 1).sources == 0
    train(database, script)
    assert database.database["fs.files"].count_documents({}) == stored
    assert delete_run(database, 2).sources + delete_run(database, 3).sources + delete_run(database, 4).sources == stored


def test_in_files_a_run_does_not_begin_while_sources_are_deleted(
    tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(None, "trainings", tmp_path)
    assert isinstance(store, FileStore)
    train(store, script)
    beginning = threading.Thread(target=train, args=(store, script))

    def begin() -> None:
        beginning.start()
        beginning.join(0.5)  # it waits, or is done by now

    once(monkeypatch, shared_by_files, "unnamed", begin, before=False)
    delete_run(store, 1)
    beginning.join()
    assert sources(store, 2)["script.py"] == script.read_bytes()
    assert None not in sources(store, 2).values()


def test_sources_are_stored_once_for_all_runs(mongomock_store: MongoStore) -> None:
    for _ in range(2):
        run_experiment(name="train", config={}, main=lambda run: None, store=mongomock_store)
    files = mongomock_store.database["fs.files"]
    assert files.count_documents({}) == len(mongomock_store.get(1).experiment["sources"])
    assert mongomock_store.get(1).experiment["sources"] == mongomock_store.get(2).experiment["sources"]


def test_sources_stay_while_a_run_is_being_started(tmp_path: Path) -> None:
    store = open_store(None, "trainings", tmp_path)
    assert isinstance(store, FileStore)
    run_experiment(name="x", config={}, main=lambda run: None, store=store)
    (store.folder / "2").mkdir()  # it has found its sources stored, and not said so yet
    assert delete_run(store, 1).sources == 0
    assert len(list((store.folder / "_sources").iterdir())) == 1


def test_which_sources_others_need_is_found_in_few_questions(
    database: MongoStore, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    files = [database.files.put(b"x", filename=f"{number}.py", md5=str(number)) for number in range(40)]
    pairs = [[f"{number}.py", file] for number, file in enumerate(files)]
    for run_id, own in ((1, pairs[:30]), (2, pairs[10:]), (3, pairs)):
        write_run(database, run_id, experiment={"name": "train", "sources": own})
    runs = type(database.database["runs"])
    find_one = runs.find_one
    monkeypatch.setattr(runs, "find_one", lambda self, *query: asked.append(query) or find_one(self, *query))
    assert delete_run(database, 3).sources == 0
    assert len(asked) < 10
    monkeypatch.undo()
    assert delete_run(database, 2).sources == 10
    assert database.database["fs.files"].count_documents({}) == 30
