"""Deleting runs: what goes, what stays since others need it, and what breaks off halfway."""

import shutil
import sys
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from incasem_like.errors import InputError, RunNotFoundError
from incasem_like.tracking import Run, RunRecord, RunStore, delete_run, open_store, run_experiment
from incasem_like.tracking.model.checkpoints import series_log_folder
from incasem_like.tracking.moving.model_files import finish_deletion, owners, share
from incasem_like.tracking.stores.base import DELETING
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore

WriteRun = Callable[..., None]
pytestmark = pytest.mark.usefixtures("small_package")


def _train(store: RunStore, run_id: int | None = None, content: str = "weights") -> int:
    """Run something that leaves all that a training leaves."""
    ids = []

    def work(run: Run) -> None:
        folders = {
            name: store.runs_directory / name / f"{run.id:04d}" for name in ("models", "tensorboard", "snapshots")
        }
        for folder in folders.values():
            folder.mkdir(parents=True)
            (folder / "file").write_text("x")
        for iteration in (5, 10):
            (folders["models"] / f"training_state_{iteration}").write_text("state")
            model = folders["models"] / f"model_checkpoint_{iteration}"
            model.write_text(f"{content} {run.id} {iteration}")
            run.register_checkpoint(model, iteration)
        run.log_scalar("loss", 0.5, 1)
        run.log_scalar("dice", 0.5, 1)
        run.add_artifact("{}", "data.json")
        ids.append(run.id)

    run_experiment(name="train", config={}, main=work, store=store, run_id=run_id)
    return ids[0]


def _files_left(store: RunStore) -> int:
    if isinstance(store, MongoStore):
        return int(store.database["fs.files"].count_documents({})) + int(
            store.database["fs.chunks"].count_documents({})
        )
    assert isinstance(store, FileStore)
    return sum(path.is_file() for path in store.folder.glob("[0-9_]*/*"))


def test_a_deleted_run_leaves_nothing_and_its_neighbours_whole(store: RunStore) -> None:
    assert [_train(store), _train(store), _train(store)] == [1, 2, 3]
    freed = delete_run(store, 2)
    assert freed.bytes > sum(len(f"weights 2 {iteration}") for iteration in (5, 10))
    assert freed.kept == ()
    runs = store.runs_directory
    assert sorted(freed.folders) == [runs / name / "0002" for name in ("models", "snapshots", "tensorboard")]
    assert not list(runs.glob("*/*0002*"))
    assert store.ids() == [1, 3]
    assert [run.id for run in store.summaries()] == [1, 3]
    with pytest.raises(RunNotFoundError):
        store.get(2)
    for run_id in (1, 3):
        record = store.get(run_id)
        assert record.artifact("data.json") == b"{}"
        assert set(record.metrics) == {"loss", "dice"}
        assert [checkpoint.fetch().name for checkpoint in record.checkpoints] == [
            "model_checkpoint_5",
            "model_checkpoint_10",
        ]


def test_the_last_run_takes_the_sources_with_it(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)  # what runs the tests would be kept too
    for _ in range(3):
        run_experiment(name="x", config={}, main=lambda run: None, store=store)
    delete_run(store, 1)
    delete_run(store, 2)
    assert [content is None for _, content in store.read_stored(3, "sources")] == [False]
    monkeypatch.setattr(RunStore, "LONGEST_START", timedelta(seconds=-10))
    delete_run(store, 3)
    assert _files_left(store) == 0


def test_a_run_that_others_came_from_is_kept_unless_forced(store: RunStore, write_run: WriteRun) -> None:
    write_run(store, 1)
    write_run(store, 2, info={"parent": {"training_run_id": 1}})
    write_run(store.sibling("predictions"), 4, info={"parent": {"training_run_id": 1, "sha256": "ab"}})
    write_run(store.sibling("predictions"), 5, info={"parent": {"training_run_id": 2}})
    write_run(store.sibling("evaluations"), 1, info={"prediction_run_id": 5})
    assert [(run.kind, run.id) for run in store.children(1)] == [("trainings", 2), ("predictions", 4)]
    assert [(run.kind, run.id) for run in store.sibling("predictions").children(5)] == [("evaluations", 1)]
    with pytest.raises(InputError, match=r"other runs came from it|came from \(training 2, prediction 4\)"):
        delete_run(store, 1)
    assert store.ids() == [1, 2]
    delete_run(store, 1, force=True)
    assert store.ids() == [2]
    assert store.sibling("predictions").ids() == [4, 5]


def test_folders_of_another_stores_run_of_the_same_number_stay(store: RunStore, tmp_path: Path) -> None:
    _train(store)
    other = open_store(tmp_path / "other", "trainings", store.runs_directory)
    run_experiment(name="train", config={}, main=lambda run: None, store=other)
    freed = delete_run(other, 1)
    models = store.runs_directory / "models" / "0001"
    assert (models / "model_checkpoint_10").is_file()
    assert freed.folders == ()
    assert str(models) in freed.kept[0]
    (models / "model_checkpoint_5").write_text("changed")
    (models / "model_checkpoint_10").write_text("changed")
    assert delete_run(store, 1).folders == ()
    assert models.is_dir()


def test_checkpoints_in_another_runs_directory_stay(store: RunStore, tmp_path: Path) -> None:
    _train(store)
    info = {**store.get(1).info, "runs_directory": str(store.runs_directory)}
    outside = tmp_path / "model_checkpoint_5"
    outside.write_bytes((store.runs_directory / "models" / "0001" / "model_checkpoint_5").read_bytes())
    info["checkpoints"] = [*info["checkpoints"], {**info["checkpoints"][0], "path": str(outside)}]
    info["checkpoints"].append({**info["checkpoints"][0], "path": "../model_checkpoint_5"})
    copy = open_store(None, "trainings", tmp_path / "copy")
    keys = ("checkpoints", "runs_directory")
    run_experiment(name="x", config={}, main=lambda run: [run.set_info(key, info[key]) for key in keys], store=copy)
    assert delete_run(copy, 1).folders == ()
    assert outside.is_file()
    assert store.get(1).checkpoint(10).fetch().is_file()


def test_a_folder_that_two_stores_share_goes_with_the_last_of_them(store: RunStore, tmp_path: Path) -> None:
    _train(store)
    models = store.runs_directory / "models" / "0001"
    other = open_store(tmp_path / "other", "trainings", store.runs_directory)
    info = {"checkpoints": store.get(1).info["checkpoints"]}
    run_experiment(
        name="train", config={}, main=lambda run: run.set_info("checkpoints", info["checkpoints"]), store=other
    )
    share(models, [(store.description, 1), (other.description, 1)])
    freed = delete_run(store, 1)
    assert (freed.folders, len(freed.kept)) == ((), 1)
    assert owners(models) == [(other.description, 1)]
    assert models in delete_run(other, 1).folders
    assert not models.exists()


def test_copies_of_checkpoints_in_the_database_are_freed(mongomock_store: MongoStore) -> None:
    store = mongomock_store
    _train(store)
    _train(store)
    for run_id in (1, 2):
        for checkpoint in store.get(run_id).checkpoints:
            store.checkpoint_files.upload(checkpoint.path, run_id, checkpoint.sha256)
    assert sum(checkpoint.bytes for checkpoint in store.get(1).checkpoints) < delete_run(store, 1).bytes
    assert {stored.run_id for stored in store.checkpoint_files.of_run(None)} == {2}


@pytest.mark.parametrize("moment", ["at once", "models gone", "half of the folders gone", "record half gone"])
def test_a_deletion_that_broke_off_is_out_of_sight_and_can_be_finished(
    store: RunStore, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(store)
    _train(store)

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    places = {
        "at once": ("incasem_like.tracking.moving.model_files.free_model_files", killed),
        "models gone": (f"{type(store).__module__}.{type(store).__name__}.remove", killed),
        "half of the folders gone": ("os.rename", _after(killed, 1 + isinstance(store, FileStore))),
        "record half gone": _in_the_record(store, killed),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*places[moment])
        with pytest.raises(KeyboardInterrupt):
            delete_run(store, 1)
    assert store.ids() == [2]
    assert [run.id for run in store.summaries()] == [2]
    assert store.read_document(1) is None
    assert list(store.unfinished(DELETING)) == [1]
    finish_deletion(store, 1)
    assert store.unfinished(DELETING) == {}
    assert not list(store.runs_directory.glob("*/*0001*"))
    assert store.get(2).artifact("data.json") == b"{}"
    before = _files_left(store)
    delete_run(store, 2)
    assert _files_left(store) < before


def _in_the_record(store: RunStore, killed: Callable[..., None]) -> tuple[str, Callable[..., None]]:
    if isinstance(store, FileStore):
        return "incasem_like.tracking.stores.files.folder_size", killed
    return "incasem_like.tracking.stores.push.artifact_address", killed


def _after(killed: Callable[..., None], calls: int) -> Callable[..., None]:
    """Let some calls of ``os.rename`` pass, then be killed."""
    import os

    rename, seen = os.rename, []

    def counted(source: object, target: object) -> None:
        seen.append(source)
        if len(seen) > calls:
            killed()
        rename(source, target)  # type: ignore[arg-type]

    return counted


def test_a_run_of_files_that_somebody_just_took_up_is_not_deleted(tmp_path: Path, write_run: WriteRun) -> None:
    from incasem_like.tracking.metrics_log import MetricsLog

    store = open_store(None, "trainings", tmp_path)
    assert isinstance(store, FileStore)
    write_run(store, 1, status="RUNNING", heartbeat=datetime(2026, 1, 1))
    log = MetricsLog(store.folder / "1" / "metrics.jsonl")
    log.open()
    for change in (store.begin_deletion, lambda run_id: store.set_killed(run_id)):
        with pytest.raises(InputError, match="is still running"):
            change(1)
    log.close()
    assert store.get(1).recorded_status == "RUNNING"
    delete_run(store, 1)


def test_a_run_in_mongodb_that_is_being_deleted_cannot_be_taken_up(mongomock_store: MongoStore) -> None:
    run_experiment(name="x", config={}, main=lambda run: None, store=mongomock_store)
    runs = mongomock_store.database["runs"]
    found = runs.find_one({"_id": 1})
    mongomock_store.begin_deletion(1)
    as_found = {key: found[key] for key in ("_id", "session", "status", "heartbeat")}
    assert runs.update_one(as_found, {"$set": {"status": "RUNNING"}}).matched_count == 0


def test_a_run_in_mongodb_that_somebody_just_took_up_is_left_to_them(
    database: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(database)
    look = MongoStore.refuse_live

    def look_too_early(store: MongoStore, run_id: int) -> RunRecord:
        record = look(store, run_id)
        store.database["runs"].update_one({"_id": run_id}, {"$set": {"session": uuid.uuid4().hex}})
        return record

    monkeypatch.setattr(MongoStore, "refuse_live", look_too_early)
    with pytest.raises(InputError, match="was just continued"):
        delete_run(database, 1)
    with pytest.raises(InputError, match="was just continued"):
        database.note(1, {"seen": True})
    assert database.ids() == [1]
    assert database.unfinished(DELETING) == {}
    assert "seen" not in database.get(1).info


def test_the_log_of_a_series_goes_with_the_last_run_that_wrote_into_it(store: RunStore, tmp_path: Path) -> None:
    here, there = (open_store(tmp_path / name, "predictions", store.runs_directory) for name in ("here", "there"))
    for predictions in (here, there):
        run_experiment(name="predict_multiple", config={}, main=lambda run: None, store=predictions)
    log = series_log_folder(store.runs_directory, 1)
    log.mkdir(parents=True)
    (log / "events.out.tfevents.1").write_bytes(bytes(1000))
    for predictions in (here, there):
        share(log, [(predictions.description, 1)])
    assert delete_run(here, 1).folders == ()
    assert owners(log) == [(there.description, 1)]
    freed = delete_run(there, 1)
    assert (freed.folders, freed.kept) == ((log,), ())
    assert freed.bytes > 1000
    assert not log.exists()


def test_a_log_of_which_nobody_knows_whose_it_is_stays(store: RunStore) -> None:
    predictions = store.sibling("predictions")
    for _ in range(2):
        run_experiment(name="predict_multiple", config={}, main=lambda run: None, store=predictions)
    for run_id in (1, 2):
        series_log_folder(store.runs_directory, run_id).mkdir(parents=True)
    share(series_log_folder(store.runs_directory, 2), [("another store", 2)])
    assert str(series_log_folder(store.runs_directory, 1)) in delete_run(predictions, 1).kept[0]
    assert delete_run(predictions, 2).kept == ()
    assert all(series_log_folder(store.runs_directory, run_id).is_dir() for run_id in (1, 2))


def test_a_prediction_has_no_folders_to_free(store: RunStore) -> None:
    _train(store)
    predictions = store.sibling("predictions")
    run_experiment(name="predict", config={}, main=lambda run: None, store=predictions)
    freed = delete_run(predictions, 1)
    assert (predictions.ids(), freed.folders, freed.kept) == ([], (), ())
    assert (store.runs_directory / "models" / "0001" / "model_checkpoint_5").is_file()
    shutil.rmtree(store.runs_directory / "models")
    delete_run(store, 1)
    assert store.ids() == []
