"""What is inconsistent is found, said in a sentence, and repaired; what is in use or may be somebody else's is not."""

import json
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tracking.ailing_stores import WriteRun, findings, folder_of, mend, write_training

from incasem_like.tracking import Run, RunStore, open_store, run_experiment
from incasem_like.tracking.stores.base import DELETING, IMPORTING
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore

pytestmark = pytest.mark.usefixtures("small_package")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCASEM_CACHE", str(tmp_path / "cache"))


def test_a_store_in_order_has_no_findings(store: RunStore) -> None:
    def work(run: Run) -> None:
        folder = folder_of(store, run.id)
        folder.mkdir(parents=True)
        for name in ("model_checkpoint_5", "training_state_5"):
            (folder / name).write_text(name)
        run.register_checkpoint(folder / "model_checkpoint_5", 5, {}, folder / "training_state_5")
        run.log_scalar("loss", 0.5, 1)
        run.add_artifact("{}", "data.json")
        run.flush()
        assert findings(store) == []

    run_experiment(name="train", config={}, main=work, store=store)
    assert findings(store, store.sibling("predictions"), thorough=True) == []


def test_a_run_that_died_is_set_down(store: RunStore, write_run: WriteRun) -> None:
    heard = datetime(2026, 1, 1, 12, 0, 10)
    write_run(store, 1, status="RUNNING", heartbeat=heard)
    (finding,) = found = findings(store)
    assert finding.problem == (
        "Training run 1 is recorded as RUNNING, but its process has ended, last heartbeat 2026-01-01 12:00 UTC."
    )
    mend(found)
    assert store.get(1).recorded_status == "KILLED"
    assert findings(store) == []
    mend(found)  # somebody else did it meanwhile


def test_a_damaged_record_is_explained(tmp_path: Path, write_run: WriteRun) -> None:
    store = open_store(None, "trainings", tmp_path)
    assert isinstance(store, FileStore)
    write_run(store, 1)
    (store.folder / "1" / "info.json").write_text("{")
    (finding,) = findings(store)
    assert str(store.folder / "1" / "info.json") in finding.problem
    assert finding.mend is None


def test_a_deletion_that_broke_off_is_finished(store: RunStore, write_run: WriteRun) -> None:
    folder = write_training(store, write_run)
    store.begin_deletion(1)
    (finding,) = found = findings(store)
    assert "deletion of training run 1 was interrupted" in finding.problem
    mend(found)
    assert not folder.exists()
    assert store.unfinished(DELETING) == {}
    assert findings(store) == []


def test_an_import_that_broke_off_is_cleared_away(store: RunStore, write_run: WriteRun) -> None:
    if isinstance(store, MongoStore):
        store.database["runs"].insert_one({"_id": 3, "unfinished": "importing", "heartbeat": datetime(2026, 1, 1)})
        store.files.put(b"x", filename="artifact://runs/3/data.json")
    else:
        assert isinstance(store, FileStore)
        (store.folder / "3").mkdir(parents=True)
        (store.folder / "3" / "config.json").write_text("{}")
        _age(store.folder / "3" / "config.json", store.folder / "3")
    assert store.unfinished(IMPORTING)[3] > 0
    assert findings(store, settled=timedelta(days=10_000)) == []
    (finding,) = found = findings(store, settled=timedelta(hours=1))
    assert "start or import of training run 3 was interrupted" in finding.problem
    mend(found)
    assert store.unfinished(IMPORTING) == {}
    assert findings(store) == []


def _age(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (1e9, 1e9))


def test_a_run_that_is_being_started_is_left_alone(tmp_path: Path) -> None:
    from incasem_like.tracking.metrics_log import MetricsLog

    store = open_store(None, "trainings", tmp_path)
    assert isinstance(store, FileStore)
    (store.folder / "1").mkdir(parents=True)
    log = MetricsLog(store.folder / "1" / "metrics.jsonl")
    log.open()
    assert findings(store) == []
    log.close()
    assert len(findings(store)) == 1


def test_a_missing_checkpoint_is_taken_out_of_the_record(store: RunStore, write_run: WriteRun) -> None:
    folder = write_training(store, write_run)
    (folder / "model_checkpoint_5").unlink()
    (finding,) = found = findings(store)
    assert finding.problem == (
        "Training run 1 registered models/0001/model_checkpoint_5, which is missing; no other copy was found."
    )
    mend(found)
    assert [checkpoint.iteration for checkpoint in store.get(1).checkpoints] == [10]


def test_a_checkpoint_that_came_back_stays_in_the_record(store: RunStore, write_run: WriteRun) -> None:
    folder = write_training(store, write_run)
    content = (folder / "model_checkpoint_5").read_bytes()
    (folder / "model_checkpoint_5").unlink()
    found = findings(store)
    (folder / "model_checkpoint_5").write_bytes(content)
    mend(found)
    assert [checkpoint.iteration for checkpoint in store.get(1).checkpoints] == [5, 10]


def test_a_disk_that_is_not_mounted_costs_no_record(store: RunStore, write_run: WriteRun) -> None:
    folder = write_training(store, write_run)
    shutil.move(folder.parent, folder.parent.with_name("unplugged"))
    folder.parent.mkdir()
    (finding,) = findings(store)
    assert "the folder is missing" in finding.problem
    assert finding.mend is None


def test_checkpoints_of_another_machine_are_not_missed(store: RunStore, write_run: WriteRun) -> None:
    entry = {"iteration": 5, "path": "models/0001/model_checkpoint_5", "sha256": "ab" * 32, "bytes": 3}
    info = {"checkpoints": [entry], "runs_directory": "/scratch/theirs"}
    write_run(store, 1, info=info, host={"hostname": "another machine"})
    assert findings(store) == []


def test_a_changed_checkpoint_is_found_by_its_hash_when_asked_for(store: RunStore, write_run: WriteRun) -> None:
    folder = write_training(store, write_run)
    length = (folder / "model_checkpoint_5").stat().st_size
    (folder / "model_checkpoint_5").write_text("x" * length)
    assert findings(store) == []
    (finding,) = findings(store, thorough=True)
    assert "model_checkpoint_5, which is changed" in finding.problem
    (folder / "training_state_10").write_text("truncated")
    assert sorted(one.problem.split()[4] for one in findings(store, thorough=True)) == [
        "models/0001/model_checkpoint_5,",
        "models/0001/training_state_10,",
    ]


def test_a_changed_checkpoint_is_restored_from_the_database(mongomock_store: MongoStore, write_run: WriteRun) -> None:
    store = mongomock_store
    folder = write_training(store, write_run)
    model = folder / "model_checkpoint_10"
    content = model.read_bytes()
    store.checkpoint_files.upload(model, 1, store.get(1).checkpoints[1].sha256)
    model.write_text("changed")
    (finding,) = found = findings(store)
    assert "another copy was found" in finding.problem
    mend(found)
    assert model.read_bytes() == content
    model.unlink()
    assert findings(store) == []  # it can be fetched whenever it is wanted


def test_files_that_no_run_registered_are_deleted_and_the_others_kept(store: RunStore, write_run: WriteRun) -> None:
    folder = write_training(store, write_run)
    strays = ["model_checkpoint_15", "training_state_20", ".training_state_10.77.part", ".model_checkpoint_20.abc"]
    for name in (*strays, "notes.txt"):
        (folder / name).write_text("x")
    assert findings(store, settled=timedelta(hours=1)) == []
    (finding,) = found = findings(store)
    assert all(name in finding.problem for name in strays)
    assert "notes.txt" not in finding.problem
    (folder / "training_state_20").write_text("written just now")
    os.utime(folder / "training_state_20", (1e9, 1e9))
    mend(found)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [f"{kind}_{number}" for kind in ("model_checkpoint", "training_state") for number in (5, 10)]
        + ["notes.txt", "training_state_20"]
    )


def test_files_of_a_live_run_are_left_alone(store: RunStore) -> None:
    def work(run: Run) -> None:
        folder_of(store, run.id).mkdir(parents=True)
        (folder_of(store, run.id) / "model_checkpoint_5").write_text("not registered yet")
        run.flush()
        assert findings(store) == []

    run_experiment(name="train", config={}, main=work, store=store)
    assert len(findings(store)) == 1


def test_what_may_be_another_stores_is_shown_and_not_touched(store: RunStore, write_run: WriteRun) -> None:
    write_run(store, 1)
    for run_id in (1, 2):
        folder_of(store, run_id).mkdir(parents=True)
        (folder_of(store, run_id) / "model_checkpoint_5").write_text("whose?")
    (store.runs_directory / "tensorboard" / "0003").mkdir(parents=True)
    found = findings(store)
    assert [finding.mend for finding in found] == [None] * 3
    assert sorted(finding.problem.split()[0] for finding in found)[0] == str(folder_of(store, 2))
    other = open_store(store.runs_directory / "other", "trainings", store.runs_directory)
    write_run(other, 2)
    write_run(other, 3)
    assert all("belongs to no run" not in finding.problem for finding in findings(store, other))


def test_a_folder_that_was_being_deleted_goes(store: RunStore) -> None:
    left = store.runs_directory / "models" / ".deleting-0004"
    left.mkdir(parents=True)
    (left / "model_checkpoint_5").write_text("x")
    mend(findings(store))
    assert not left.exists()


def test_odd_documents_do_not_stop_the_examination(store: RunStore, write_run: WriteRun) -> None:
    write_run(store, 1, info={"checkpoints": "none"}, experiment=5, artifacts=None)
    write_run(store, 2, info=None, resources=["x"], experiment={"sources": "y"})
    assert findings(store, store.sibling("evaluations")) == []
    if isinstance(store, FileStore):
        assert json.loads((store.folder / "1" / "run.json").read_text())["experiment"] == 5
