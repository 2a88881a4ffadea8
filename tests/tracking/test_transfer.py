"""Runs on the move: exported, imported, copied between stores; what is the same afterwards, and what is refused."""

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from tracking.moved_runs import assert_same, points, train, write_journal

from incasem_like.errors import IncasemError, InputError
from incasem_like.tracking import Run, RunStore, delete_run, open_store, run_experiment
from incasem_like.tracking.moving.model_files import owners
from incasem_like.tracking.moving.transfer import copy_run, copy_runs, export_run, import_runs
from incasem_like.tracking.stores.base import IMPORTING
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore

WriteRun = Callable[..., None]
pytestmark = pytest.mark.usefixtures("small_package")
POINTS = 5000


def test_a_run_goes_to_files_and_back_and_is_the_same(store: RunStore, elsewhere: RunStore, tmp_path: Path) -> None:
    original = train(store)
    away = copy_run(original, elsewhere)
    assert_same(away, original)
    assert points(away) == points(original)
    for one, other in zip(away.checkpoints, original.checkpoints, strict=True):
        assert one.fetch().is_relative_to(tmp_path / "elsewhere" / "models" / "0001")
        assert one.fetch().read_bytes() == other.fetch().read_bytes()
        assert one.fetch_state().read_bytes() == other.fetch_state().read_bytes()
    delete_run(store, 1)
    back = copy_run(away, store)
    assert back.id == 1
    assert_same(back, away)
    assert points(back) == points(away)
    assert back.checkpoint("last").fetch().is_relative_to(store.runs_directory)


def test_metrics_come_at_full_resolution_where_their_log_is_and_bounded_in_the_store(
    store: RunStore, elsewhere: RunStore
) -> None:
    original = train(elsewhere, points=POINTS)
    copy = copy_run(original, store)
    assert len(store.read_metric_documents(copy.id)["loss"]["steps"]) <= 2000
    log = store.metrics_log(copy.id)
    assert log is not None
    assert log.read_bytes() == elsewhere.metrics_log(1).read_bytes()  # type: ignore[union-attr]
    third = open_store(None, "trainings", elsewhere.runs_directory.parent / "third")
    assert points(copy_run(copy, third)) == points(original)
    (line,) = [line for line in store.summaries() if line.id == copy.id]
    assert line.summary["loss"]["min_step"] == POINTS - 1


def test_a_copied_run_can_be_continued(store: RunStore, elsewhere: RunStore) -> None:
    copy = copy_run(train(elsewhere), store)

    def work(run: Run) -> None:
        run.log_scalar("loss", 7.0, 2)

    from incasem_like.tracking.sessions import Continuation

    run_experiment(name="train", config=copy.config, main=work, store=store, continues=Continuation(copy.id, 1))
    record = store.get(copy.id)
    assert points(record)["loss"] == [(0, "1.0"), (1, "0.5"), (2, "7.0")]
    assert len(record.info["sessions"]) == 2


def test_a_taken_id_gives_way_and_parents_follow(store: RunStore, write_run: WriteRun, tmp_path: Path) -> None:
    others = open_store(None, "trainings", tmp_path / "others")
    for run_id in (1, 2):
        write_run(others, run_id, start_time=datetime(2025, 1, run_id), config={"mine": True})
    write_run(others, 3, start_time=datetime(2025, 2, 1), info={"parent": {"training_run_id": 2, "sha256": "ab"}})
    predictions = others.sibling("predictions")
    write_run(predictions, 1, start_time=datetime(2025, 3, 1), info={"parent": {"training_run_id": 3}})
    members = [{"training_run_id": 2, "weight": 3.0}, {"training_run_id": 3, "weight": 1.0}]
    write_run(predictions, 2, start_time=datetime(2025, 5, 1), info={"parent": {"members": members}})
    write_run(predictions.sibling("evaluations"), 5, start_time=datetime(2025, 4, 1), info={"prediction_run_id": 1})
    write_run(store, 2, start_time=datetime(2024, 1, 1))
    write_run(store.sibling("predictions"), 1, start_time=datetime(2024, 1, 1))
    records = [
        predictions.sibling("evaluations").get(5),
        predictions.get(1),
        predictions.get(2),
        others.get(3),
        others.get(2),
    ]
    copies = copy_runs(records, store)
    assert [(copy.kind, copy.id) for copy in copies] == [
        ("trainings", 3), ("trainings", 4), ("predictions", 2), ("predictions", 3), ("evaluations", 5),
    ]  # fmt: skip
    assert copies[0].config == {"mine": True}
    assert copies[0].info["original_id"] == 2
    assert copies[1].parent == {"training_run_id": 3, "sha256": "ab"}
    assert copies[2].parent == {"training_run_id": 4}
    assert copies[3].parent == {
        "members": [{"training_run_id": 3, "weight": 3.0}, {"training_run_id": 4, "weight": 1.0}]
    }
    assert copies[4].info["prediction_run_id"] == 2
    assert [(run.kind, run.id) for run in store.children(4)] == [("predictions", 2), ("predictions", 3)]


def test_the_same_run_does_not_come_in_twice(store: RunStore, elsewhere: RunStore, tmp_path: Path) -> None:
    folder = export_run(train(store), tmp_path / "out")
    with pytest.raises(InputError, match=r"is run 1 in .* already"):
        import_runs([folder], store)
    copy_run(store.get(1), elsewhere, keep_id=False)
    with pytest.raises(InputError, match=r"is run 1 in .* already"):
        import_runs([folder], elsewhere)
    assert elsewhere.ids() == store.ids() == [1]


def test_a_run_that_goes_on_does_not_move(store: RunStore, elsewhere: RunStore, tmp_path: Path) -> None:
    def work(run: Run) -> None:
        run.flush()
        with pytest.raises(InputError, match="is still running"):
            export_run(store.get(run.id), tmp_path / "out")
        with pytest.raises(InputError, match="is still running"):
            copy_run(store.get(run.id), elsewhere)

    run_experiment(name="x", config={}, main=work, store=store)
    assert not (tmp_path / "out").exists()
    assert elsewhere.ids() == []


def test_stores_of_one_runs_directory_share_the_checkpoints(store: RunStore, tmp_path: Path) -> None:
    original = train(store)
    second = open_store(tmp_path / "second", "trainings", store.runs_directory)
    models = store.runs_directory / "models" / "0001"
    copy = copy_run(original, second)
    assert copy.id == 1
    assert owners(models) == [(store.description, 1), (second.description, 1)]
    assert [one.fetch() for one in copy.checkpoints] == [one.fetch() for one in original.checkpoints]
    assert delete_run(store, 1).kept != ()
    assert second.get(1).checkpoint("last").fetch().is_file()
    assert len(delete_run(second, 1).folders) == 1
    assert not models.exists()


def test_a_run_that_is_renumbered_has_checkpoints_of_its_own(store: RunStore, tmp_path: Path) -> None:
    original = train(store)
    (store.runs_directory / "tensorboard" / "0001").mkdir(parents=True)
    (store.runs_directory / "tensorboard" / "0001" / "events").write_text("curve")
    second = open_store(tmp_path / "second", "trainings", store.runs_directory)
    copy = copy_run(original, second, keep_id=False)
    assert copy.id == 2  # above the folders of checkpoints, one of which is another run's
    delete_run(store, 1)
    assert not (store.runs_directory / "tensorboard" / "0001").exists()
    assert (store.runs_directory / "tensorboard" / "0002" / "events").read_text() == "curve"
    assert copy.checkpoint("last").fetch() == store.runs_directory / "models" / "0002" / "model_checkpoint_10"


def test_a_number_whose_folder_holds_other_checkpoints_is_not_free(store: RunStore, elsewhere: RunStore) -> None:
    stranger = store.runs_directory / "models" / "0001" / "model_checkpoint_5"
    stranger.parent.mkdir(parents=True)
    stranger.write_text("another run's")
    copy = copy_run(train(elsewhere), store)
    assert copy.id == 2
    assert stranger.read_text() == "another run's"
    assert copy.checkpoint(5).fetch().read_text() == "model 1 5"


def test_a_database_gets_the_checkpoints_that_it_should_hold(mongomock_store: MongoStore, elsewhere: RunStore) -> None:
    copy = copy_run(train(elsewhere), mongomock_store)
    assert {stored.name for stored in mongomock_store.checkpoint_files.of_run(copy.id)} == {
        "model_checkpoint_10", "training_state_10",
    }  # fmt: skip
    shutil.rmtree(mongomock_store.runs_directory / "models")
    third = open_store(None, "trainings", elsewhere.runs_directory.parent / "third")
    again = copy_run(mongomock_store.get(copy.id), third)
    assert again.checkpoint(10).fetch().read_text() == "model 1 10"


def test_what_an_outage_kept_from_the_store_is_delivered_before_a_run_moves(
    mongomock_store: MongoStore, elsewhere: RunStore
) -> None:
    original = train(mongomock_store)
    (journal,) = mongomock_store.journals
    found = mongomock_store.database["runs"].find_one({"_id": 1})
    write_journal(journal, {**found, "result": {"dice": 0.75}}, mongomock_store.description)
    assert copy_run(original, elsewhere).result == {"dice": 0.75}


def test_a_run_that_is_too_large_for_a_document_is_refused(server_store: MongoStore, tmp_path: Path) -> None:
    others = open_store(None, "trainings", tmp_path / "others")
    run_experiment(name="x", config={"long": "x" * (17 << 20)}, main=lambda run: None, store=others)
    with pytest.raises(InputError, match=r"Training run 1 of .* is too large for a document of MongoDB"):
        copy_run(others.get(1), server_store)
    assert server_store.ids() == []
    assert server_store.unfinished(IMPORTING) == {}


def test_a_run_in_mongodb_is_there_for_omniboard(mongomock_store: MongoStore, elsewhere: RunStore) -> None:
    copy_run(train(elsewhere), mongomock_store)
    database = mongomock_store.database
    document = database["runs"].find_one({"_id": 1})
    assert isinstance(document["start_time"], datetime)
    assert document["omniboard"]["tags"] == ["er", "5 nm"]
    assert "unfinished" not in document
    links = {link["name"]: link["id"] for link in document["info"]["metrics"]}
    found = {str(metric["_id"]): metric for metric in database["metrics"].find({"run_id": 1})}
    assert set(links.values()) == set(found)
    assert isinstance(found[links["loss"]]["timestamps"][0], datetime)
    for entry in document["artifacts"]:
        assert mongomock_store.files.get(entry["file_id"]).filename == "artifact://runs/1/data.json"


def test_sources_are_stored_once_for_all_runs(store: RunStore, elsewhere: RunStore) -> None:
    train(elsewhere)
    train(elsewhere)
    copy_runs([elsewhere.get(1), elsewhere.get(2)], store)
    contents = [list(store.read_stored(run_id, "sources")) for run_id in (1, 2)]
    if isinstance(store, MongoStore):
        stored = store.database["fs.files"].count_documents({"md5": {"$exists": True}})
    else:
        assert isinstance(store, FileStore)
        stored = len(list((store.folder / "_sources").iterdir()))
    assert stored == len({*contents[0], *contents[1]})
    delete_run(store, 1)
    assert list(store.read_stored(2, "sources")) == contents[1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_import_that_fails_leaves_nothing(
    store: RunStore, elsewhere: RunStore, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    from incasem_like.tracking.stores import base, push

    original = train(elsewhere)

    def fail(*arguments: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        if isinstance(store, MongoStore):
            patch.setattr(push.Delivery, "_send_artifact", fail)
        else:
            patch.setattr(base, "copy_whole", fail)
        with pytest.raises((KeyboardInterrupt, IncasemError, OSError)):
            copy_run(original, store)
    assert store.ids() == []
    assert store.unfinished(IMPORTING) == {}
    assert store.is_free(1)
    if isinstance(store, MongoStore):
        assert store.database["metrics"].count_documents({}) == 0
        assert store.database["fs.files"].count_documents({"filename": {"$regex": "^artifact"}}) == 0
    else:
        assert isinstance(store, FileStore)
        assert not list(store.folder.glob("[0-9.]*/*"))


def test_runs_of_sacred_itself_move(store: RunStore, elsewhere: RunStore, tmp_path: Path) -> None:
    from sacred import Experiment
    from sacred.observers import FileStorageObserver, MongoObserver

    experiment = Experiment("theirs", interactive=True, save_git_info=False)
    if isinstance(store, MongoStore):
        observer = MongoObserver.create_from(
            store.database["runs"], store.files, metrics_collection=store.database["metrics"]
        )
    else:
        assert isinstance(store, FileStore)
        observer = FileStorageObserver(store.folder)
    experiment.observers.append(observer)
    experiment.add_config({"training": {"iterations": 3}})
    resource = tmp_path / "resource.txt"
    resource.write_text("read by the run")

    def main(_run) -> float:  # type: ignore[no-untyped-def]
        for step in range(2500):
            _run.log_scalar("dice", step / 2500, step)
        _run.open_resource(str(resource)).close()
        _run.add_artifact(str(resource), "artifact.txt")
        return 0.25

    experiment.main(main)
    experiment.run(options={"--capture": "no", "--loglevel": "ERROR"})
    copy = copy_run(store.get(1), elsewhere)
    assert (copy.status, copy.result, copy.name, copy.config["training"]) == (
        "COMPLETED", 0.25, "theirs", {"iterations": 3},
    )  # fmt: skip
    assert points(copy) == points(store.get(1))
    assert copy.artifact("artifact.txt") == b"read by the run"
    (resource_read,) = elsewhere.read_stored(1, "resources")  # in MongoDB Sacred notes it and does not store it
    assert resource_read == (str(resource), None if isinstance(store, MongoStore) else b"read by the run")
    delete_run(store, 1)
    back = copy_run(copy, store)
    assert store.summaries()[0].summary["dice"]["last_step"] == 2499
    assert back.metrics["dice"].steps[0] == 0
    assert back.metrics["dice"].steps[-1] == 2499
