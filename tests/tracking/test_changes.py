"""What people do to runs from outside: tags and notes, setting down an end, deleting."""

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from incasem_like.errors import InputError, RunNotFoundError, StoreError
from incasem_like.tracking import Run, RunStore, delete_run, open_store, run_experiment
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore

WriteRun = Callable[..., None]
pytestmark = pytest.mark.usefixtures("small_package")


def test_tags_and_notes_are_kept_with_the_run(store: RunStore, write_run: WriteRun) -> None:
    write_run(store, 1)
    write_run(store, 2)
    assert (store.get(1).tags, store.get(1).notes) == ((), "")
    store.annotate(1, add_tags=["published", "er", "published"], notes="the one in figure 2")
    store.annotate(1, add_tags=["er", "5 nm"], remove_tags=["published", "absent"])
    record = store.get(1)
    assert (record.tags, record.notes) == (("er", "5 nm"), "the one in figure 2")
    assert [(run.tags, run.notes) for run in store.summaries()] == [(("er", "5 nm"), "the one in figure 2"), ((), "")]
    store.annotate(1, notes="")
    assert (store.get(1).tags, store.get(1).notes) == (("er", "5 nm"), "")


def test_tags_and_notes_lie_in_mongodb_where_omniboard_looks_for_them(
    mongomock_store: MongoStore, write_run: WriteRun
) -> None:
    write_run(mongomock_store, 1, omniboard={"tags": ["theirs"], "notes": "written in Omniboard"})
    mongomock_store.annotate(1, add_tags=["ours"])
    found = mongomock_store.database["runs"].find_one({"_id": 1})
    assert found["omniboard"] == {"tags": ["theirs", "ours"], "notes": "written in Omniboard"}
    assert mongomock_store.get(1).tags == ("theirs", "ours")


def test_wrong_tags_and_runs_are_refused(store: RunStore, write_run: WriteRun) -> None:
    write_run(store, 1)
    with pytest.raises(InputError, match="tag cannot be empty"):
        store.annotate(1, add_tags=[" "])
    with pytest.raises(RunNotFoundError, match="no training run 2"):
        store.annotate(2, notes="x")
    with pytest.raises(RunNotFoundError, match="no training run 2"):
        store.set_killed(2)
    with pytest.raises(RunNotFoundError, match="no training run 2"):
        delete_run(store, 2)
    assert store.get(1).tags == ()


def test_a_live_run_can_be_tagged_and_goes_on(store: RunStore) -> None:
    def work(run: Run) -> None:
        run.flush()
        store.annotate(run.id, add_tags=["watch"], notes="looks odd")
        run.log_scalar("loss", 0.5, 1)
        run.flush()

    run_experiment(name="x", config={}, main=work, store=store)
    record = store.get(1)
    assert (record.tags, record.notes, record.status) == (("watch",), "looks odd", "COMPLETED")
    assert record.metrics["loss"].values == (0.5,)


def test_two_who_tag_at_once_do_not_lose_each_others_tags(store: RunStore, write_run: WriteRun) -> None:
    if "mongomock" in store.description:
        pytest.skip("mongomock compares and changes a document in two steps: needs files or a server")
    write_run(store, 1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.annotate(1, add_tags=[f"tag {number}"]), range(24)))
    assert sorted(store.get(1).tags) == sorted(f"tag {number}" for number in range(24))


def _tag(folder: Path, number: int) -> None:
    open_store(None, "trainings", folder).annotate(1, add_tags=[f"tag {number}"])


def test_two_processes_that_tag_one_run_take_turns(tmp_path: Path, write_run: WriteRun) -> None:
    store = open_store(None, "trainings", tmp_path)
    write_run(store, 1)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_tag, args=(tmp_path, number)) for number in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(store.get(1).tags) == 6


def test_a_store_of_files_that_cannot_be_written_says_so(
    tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from incasem_like.tracking import run_folder

    store = open_store(None, "trainings", tmp_path)
    write_run(store, 1)

    def refused(path: Path, write: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_folder, "write_whole", refused)
    with pytest.raises(StoreError, match="cannot be changed \\(Permission denied\\)"):
        store.annotate(1, add_tags=["x"])


def test_the_end_of_a_run_that_died_is_set_down(store: RunStore, write_run: WriteRun) -> None:
    heard = datetime(2026, 1, 1, 12, 0, 10)
    write_run(store, 1, status="RUNNING", heartbeat=heard, info={"inputs": [{"address": "x"}]}, result=3)
    assert store.get(1).status == "KILLED"
    store.set_killed(1)
    record = store.get(1)
    assert (record.recorded_status, record.stop_time) == ("KILLED", heard.replace(tzinfo=UTC))
    assert (record.result, record.inputs, record.heartbeat) == (3, [{"address": "x"}], heard.replace(tzinfo=UTC))
    assert not store.set_killed(1)


def test_a_run_that_lives_is_neither_ended_nor_deleted(store: RunStore) -> None:
    def work(run: Run) -> None:
        run.flush()
        with pytest.raises(InputError, match=r"Run 1 in .* is still running \(process \d+ on .*\): stop it first"):
            store.set_killed(1)
        with pytest.raises(InputError, match="is still running"):
            delete_run(store, 1, force=True)

    run_experiment(name="x", config={}, main=work, store=store)
    assert store.get(1).status == "COMPLETED"


def test_annotations_of_a_run_of_files_lie_beside_its_record(tmp_path: Path, write_run: WriteRun) -> None:
    store = open_store(None, "trainings", tmp_path)
    assert isinstance(store, FileStore)
    write_run(store, 1)
    store.annotate(1, add_tags=["a"], notes="b")
    assert json.loads((store.folder / "1" / "annotations.json").read_text()) == {"tags": ["a"], "notes": "b"}
    (store.folder / "1" / "annotations.json").write_text("damaged")
    assert store.get(1).tags == ()
