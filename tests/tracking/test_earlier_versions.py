"""Stores, journals and exported runs that an earlier version wrote: opened, listed, shown, imported, continued."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from tracking.continued_runs import logging_up_to, track

from incasem_like.tracking import Continuation, RunRecord, RunStore, delete_run, open_store
from incasem_like.tracking.doctor import examine
from incasem_like.tracking.moving.sync import sync_journals
from incasem_like.tracking.moving.transfer import copy_runs, import_runs
from incasem_like.tracking.queries.fields import parse_condition
from incasem_like.tracking.queries.select import select_runs
from incasem_like.tracking.stores.base import DELETING

FIXTURES = Path(__file__).parent / "fixtures"
EARLIER_CONFIG = {"tracking": {"max_points": 8, "store_checkpoints": "best,last"}}


def load_database(store: Any) -> None:
    """Put the documents of the earlier database into a fresh one, and its folder of runs to where it belongs."""
    dump = json_util.loads((FIXTURES / "mongodb.json").read_text(), json_options=json_util.JSONOptions(tz_aware=False))
    for name, collections in dump.items():
        database = store.sibling(name.removeprefix("incasem_")).database
        for collection, documents in collections.items():
            database[collection].insert_many(documents)
    shutil.copytree(FIXTURES / "mongodb", store.runs_directory)
    journals = store.runs_directory / "tracking" / "journal"
    for journal in sorted(journals.glob("incasem_*")):  # the test's databases have names of their own
        kind, number = journal.name.removeprefix("incasem_").split("_")
        target = journals / f"{store.sibling(kind).database.name}_{number}"
        if target != journal:
            journal.rename(target)
    for record in journals.glob("*/run.json"):
        record.write_text(
            record.read_text().replace("MongoDB database incasem_trainings at mongodb://old:27017", store.description)
        )


@pytest.fixture(params=["files", "mongomock", pytest.param("server", marks=pytest.mark.mongo)])
def earlier(request: pytest.FixtureRequest, tmp_path: Path) -> RunStore:
    """The trainings of an earlier version, in a store of each sort in turn."""
    if request.param == "files":
        shutil.copytree(FIXTURES / "files", tmp_path / "runs")
        return open_store(tmp_path / "runs" / "tracking", "trainings", tmp_path / "runs")
    store: RunStore = request.getfixturevalue(f"{request.param}_store")
    load_database(store)
    return store


def steps_of(record: RunRecord) -> dict[str, tuple[int, ...]]:
    return {name: metric.steps for name, metric in record.metrics.items()}


def test_earlier_runs_are_listed_and_found(earlier: RunStore) -> None:
    runs = {run.id: run for run in earlier.summaries(["training.optimizer.lr"], inputs=True)}
    ended = {1: "COMPLETED", 2: "KILLED", 4: "FAILED"}
    assert {run_id: run.status for run_id, run in runs.items() if run_id != 6} == ended
    assert [one.iteration for one in runs[1].checkpoints] == [10, 20, 30]
    assert (runs[1].name, runs[1].comment, runs[1].tags, runs[1].notes) == (
        "er", "first", ("er", "good"), "the one in figure 2",
    )  # fmt: skip
    assert runs[1].config == {"training.optimizer.lr": 0.001}
    assert runs[1].summary["dice_class_1"]["max"] == 0.9
    (prediction,) = earlier.sibling("predictions").summaries()
    (evaluation,) = earlier.sibling("evaluations").summaries()
    assert (prediction.parents, evaluation.parents) == ((("trainings", 1),), (("predictions", 1),))
    found = select_runs([earlier], [parse_condition("dice>0.8"), parse_condition("organelle=er")])
    assert [run.id for run in found.runs] == [1]


def test_an_earlier_run_is_shown_whole(earlier: RunStore) -> None:
    record = earlier.get(1)
    assert (record.name, record.status, record.result) == ("er", "COMPLETED", {"best_value": 0.9, "iteration": 30})
    assert record.artifact("data.json") == b'{"cell_1": {}}'
    assert "trained from 1 to 15" in record.captured_output
    assert "trained from 11 to 30" in record.captured_output
    assert record.start_time is not None
    assert record.start_time.date() == datetime(2025, 11, 30, tzinfo=UTC).date()
    assert [session["from_iteration"] for session in record.info["sessions"]] == [0, 10]
    assert record.checkpoint("best").fetch().read_text() == "model 10"
    assert record.checkpoint("last").fetch_state().read_text() == "state 30"
    assert steps_of(record)["dice_class_1"] == (10, 20, 30)
    assert steps_of(record)["loss"][-1] == 30
    log = earlier.metrics_log(1)
    assert log is not None
    assert [Path(name).name for name, content in earlier.read_stored(1, "sources") if content] == ["package.zip"]
    assert "not a number" in earlier.get(4).fail_trace


def test_checkpoints_of_an_earlier_run_come_from_the_database_alone(earlier: RunStore) -> None:
    if earlier.checkpoint_files is None:
        pytest.skip("files keep no copies of checkpoints")
    shutil.rmtree(earlier.runs_directory / "models")
    assert earlier.get(1).checkpoint("best").fetch().read_text() == "model 10"
    assert earlier.get(1).checkpoint("last").fetch_state().read_text() == "state 30"


def test_an_earlier_run_is_continued(earlier: RunStore) -> None:
    track(earlier, logging_up_to(40, first=21), continues=Continuation(1, 20), config=EARLIER_CONFIG)
    record = earlier.get(1)
    assert (record.status, len(record.info["sessions"])) == ("COMPLETED", 3)
    assert record.info["summary"]["loss"]["last_step"] == 40
    assert record.info["summary"]["dice_class_1"]["last"] == 0.5
    if earlier.checkpoint_files is None:
        assert steps_of(record)["loss"] == tuple(range(1, 41))
    track(earlier, logging_up_to(3), continues=Continuation(2, 0), config=EARLIER_CONFIG)
    assert steps_of(earlier.get(2))["loss"] == (1, 2, 3)


def test_new_runs_go_on_above_earlier_ones_and_earlier_ones_are_deleted(earlier: RunStore) -> None:
    highest = 5 if earlier.checkpoint_files is None else 6
    track(earlier, lambda run: None)
    assert earlier.ids()[-1] == highest + 1
    assert list(earlier.unfinished(DELETING)) == [5]
    assert any(
        "deletion of training run 5 was interrupted" in found.problem
        for found in examine([earlier], earlier.runs_directory)
    )
    freed = delete_run(earlier, 1, force=True)
    assert freed.bytes > 0
    assert not (earlier.runs_directory / "models" / "0001").exists()


def test_an_earlier_outage_is_delivered(mongomock_store: Any) -> None:
    load_database(mongomock_store)
    before = mongomock_store.get(6)
    assert (before.recorded_status, before.artifacts) == ("RUNNING", ())
    (synced,) = sync_journals(mongomock_store)
    assert (synced.run_id, synced.what) == (6, "record delivered")
    record = mongomock_store.get(6)
    assert (record.status, record.result, record.info["late"]) == ("COMPLETED", "done", True)
    assert record.artifact("late.txt") == b"late"
    assert record.info["summary"]["loss"]["last_step"] == 25
    assert len(record.metrics["loss"].steps) <= 8
    assert sync_journals(mongomock_store) == []


def test_an_earlier_run_begun_offline_is_delivered(mongomock_store: Any) -> None:
    shutil.copytree(FIXTURES / "offline", mongomock_store.runs_directory)
    (synced,) = sync_journals(mongomock_store)
    assert (synced.run_id, synced.delivered_as) == (9, 9)
    record = mongomock_store.get(9)
    assert (record.name, record.artifact("data.json")) == ("at sea", b'{"cell_1": {}}')
    assert record.checkpoint("last").fetch().read_text() == "model 10"


def test_earlier_exported_runs_are_imported(store: RunStore) -> None:
    folders = [FIXTURES / "parcels" / name for name in ("prediction_0001", "training_0001")]
    training, prediction = import_runs(folders, store)
    assert (training.status, training.tags, training.name) == ("COMPLETED", ("er", "good"), "er")
    assert training.artifact("data.json") == b'{"cell_1": {}}'
    assert training.checkpoint("best").fetch().read_text() == "model 10"
    assert prediction.parent["training_run_id"] == training.id
    track(store, logging_up_to(40, first=31), continues=Continuation(1, 30), config=EARLIER_CONFIG)
    assert store.get(1).info["summary"]["loss"]["last_step"] == 40


def test_earlier_runs_are_copied_to_another_store(earlier: RunStore, elsewhere: RunStore) -> None:
    training, prediction = copy_runs([earlier.sibling("predictions").get(1), earlier.get(1)], elsewhere)
    assert steps_of(training)["loss"] == tuple(range(1, 31))
    assert training.checkpoint("last").fetch().read_text() == "model 30"
    assert (prediction.parent["training_run_id"], training.info["sessions"]) == (1, earlier.get(1).info["sessions"])
