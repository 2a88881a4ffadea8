"""What was recorded elsewhere becomes a run of any store, under its own id, once."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained import incasem_runs
from pretrained.dumps import archive_bytes
from pretrained.small_models import SMALL_MODEL, checkpoint_bytes, make_network

from incasem_like.config import resolve_training_config
from incasem_like.errors import CheckpointError, DataError, InputError
from incasem_like.networks import load_checkpoint
from incasem_like.pretrained.importing import Imported, Importer
from incasem_like.pretrained.manifest import read_manifest
from incasem_like.pretrained.sources import Description, Sources
from incasem_like.tracking import RunStore, delete_run, file_sha256, open_store, run_experiment
from incasem_like.tracking.moving.transfer import export_run, import_runs
from incasem_like.tracking.stores.mongo import MongoStore

SMALL = incasem_runs.config(**SMALL_MODEL)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(read_manifest(), tmp_path / "models")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The database of two trainings, of which the second was started from the first."""
    child = incasem_runs.config(**SMALL_MODEL)
    child["training"]["start_from"] = [1841, "~/incasem/models/model_checkpoint_1841_er_CF.pt"]
    runs = [incasem_runs.run(1841, "er", SMALL), incasem_runs.run(1900, "er_cell_3", child)]
    path = tmp_path / "fiborganelle_trainings"
    path.write_bytes(archive_bytes(incasem_runs.database(*runs)))
    return path


def put(sources: Sources, importer: Importer, path: Path, **said: Any) -> list[Imported]:
    found = sources.find(str(path))
    return [importer.add(*candidate) for candidate in sources.read(found, Description(**said))]


def test_the_archive_becomes_runs_with_all_that_they_had(store: RunStore, sources: Sources, archive: Path) -> None:
    done = put(sources, Importer(store), archive)
    assert [(one.run_id, one.how) for one in done] == [(1841, "imported"), (1900, "imported")]
    record = store.get(1841)
    start = (incasem_runs.START + timedelta(days=41)).replace(tzinfo=UTC)
    assert (record.name, record.status, record.start_time, record.result) == ("er", "COMPLETED", start, 0.25)
    assert record.stop_time == start + timedelta(days=3)
    assert record.metrics["loss_train_0"].values == (0.7, 0.5, 0.25)
    assert record.metrics["loss_train_0"].timestamps[0] == incasem_runs.START.replace(tzinfo=UTC)
    assert record.artifact("er.json") == incasem_runs.TRAINING_JSON
    assert [name for name, _ in record.experiment["sources"]] == ["train.py"]
    assert record.captured_output == "epoch 1\n"
    assert record.host["hostname"] == "dgx1"
    assert record.experiment["repositories"][0]["commit"] == "366151b"
    assert record.info["original_config"] == SMALL
    assert resolve_training_config(record.config).training.iterations == 90000
    assert store.get(1900).parent == {
        "training_run_id": 1841,
        "checkpoint": "~/incasem/models/model_checkpoint_1841_er_CF.pt",
    }
    assert [child.id for child in store.children(1841)] == [1900]
    original = json.loads(record.artifact("original_run.json"))
    assert (original["_id"], original["config"]["directories"]["db"]) == (1841, "/nfs/mock_db")
    (summary, _) = store.summaries()
    assert summary.summary["loss_train_0"]["min"] == 0.25


def test_importing_twice_does_nothing(store: RunStore, sources: Sources, archive: Path, checkpoint_file: Path) -> None:
    put(sources, Importer(store), archive)
    put(sources, Importer(store), checkpoint_file)
    before = [store.read_document(run_id) for run_id in store.ids()]
    again = [*put(sources, Importer(store), archive), *put(sources, Importer(store, remap=True), checkpoint_file)]
    assert [(one.run_id, one.how) for one in again] == [(1841, "there"), (1900, "there"), (1841, "there")]
    assert [store.read_document(run_id) for run_id in store.ids()] == before


def test_a_checkpoint_alone_becomes_a_run_that_can_be_used(
    store: RunStore, sources: Sources, checkpoint_file: Path
) -> None:
    (done,) = put(sources, Importer(store), checkpoint_file)
    record = store.get(1841)
    assert (done.run_id, record.name, record.status) == (1841, "er_CF", "COMPLETED")
    checkpoint = record.checkpoint("last")
    assert (checkpoint.iteration, checkpoint.sha256) == (90000, file_sha256(checkpoint_file))
    assert checkpoint.fetch() == store.runs_directory / "models" / "1841" / "model_checkpoint_90000"
    assert set(record.tags) == {"pretrained", "er", "CF"}
    network = make_network()
    torch.nn.init.zeros_(network.get_parameter("final_conv_pass.conv_pass.0.weight"))
    load_checkpoint(checkpoint.fetch(), network)
    expected = make_network().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    checkpoint_file.unlink()
    assert record.checkpoint("last").fetch().is_file()


def test_a_bare_state_dict_of_nobody_gets_the_next_id(store: RunStore, sources: Sources, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(checkpoint_bytes(make_network(num_fmaps_out=3), bare=True))
    (done,) = put(sources, Importer(store), path, name="mine", voxel_size=(4, 4, 4))
    record = store.get(done.run_id)
    assert (done.run_id, record.name, record.checkpoint("last").iteration) == (1, "mine", 0)
    assert record.info["checkpoint_file"] == {"file": "mine.pt", "iteration_known": False}
    assert record.config["data"] == {"voxel_size": [4, 4, 4], "downsample_factor": 1, "num_classes": 3}


@pytest.mark.parametrize("first", ["archive", "checkpoint"])
def test_a_record_and_its_checkpoint_find_together_in_either_order(
    store: RunStore, sources: Sources, archive: Path, checkpoint_file: Path, first: str
) -> None:
    order = [archive, checkpoint_file] if first == "archive" else [checkpoint_file, archive]
    how = [one.how for path in order for one in put(sources, Importer(store), path) if one.run_id == 1841]
    assert how == (["imported", "checkpoint"] if first == "archive" else ["imported", "imported"])
    record = store.get(1841)
    assert (record.name, len(record.metrics["loss_train_0"].values)) == ("er", 3)
    assert [checkpoint.sha256 for checkpoint in record.checkpoints] == [file_sha256(checkpoint_file)]
    assert record.checkpoint("last").fetch().is_file()


def test_a_downloaded_checkpoint_comes_with_its_record(
    store: RunStore, sources: Sources, archive: Path, checkpoint_content: bytes
) -> None:
    folder = sources.models_directory / "pretrained_checkpoints"
    folder.mkdir(parents=True)
    (folder / "model_checkpoint_1841_er_CF.pt").write_bytes(checkpoint_content)
    put(sources, Importer(store), archive)
    assert store.get(1841).checkpoint("last").iteration == 90000
    assert store.get(1900).checkpoints == []


def test_an_id_that_is_taken_is_said_with_the_ways_out(
    store: RunStore, sources: Sources, archive: Path, checkpoint_file: Path
) -> None:
    run_experiment(name="train", config={}, main=lambda run: None, store=store, run_id=1841, run_name="own")
    for path in (checkpoint_file, archive):
        with pytest.raises(InputError, match=r"1841 is taken by another run \(own\).*--id ID.*--remap") as refusal:
            put(sources, Importer(store), path)
        assert "--replace" not in str(refusal.value)
    assert store.ids() == [1841]
    assert not (store.runs_directory / "models").exists()
    assert put(sources, Importer(store, run_id=7), checkpoint_file)[0].run_id == 7
    assert store.get(7).checkpoint("last").fetch().is_file()
    done = put(sources, Importer(store, remap=True), archive)
    assert [one.run_id for one in done] == [1842, 1900]
    again = put(sources, Importer(store, remap=True), archive)
    assert [(one.run_id, one.how) for one in again] == [(1842, "there"), (1900, "there")]
    assert store.get(1841).name == "own"


def test_an_earlier_import_can_be_replaced_and_keeps_its_checkpoint(
    store: RunStore, sources: Sources, archive: Path, tmp_path: Path, checkpoint_file: Path
) -> None:
    (tmp_path / "er_1841.json").write_text(json.dumps(SMALL))
    put(sources, Importer(store), tmp_path / "er_1841.json")
    put(sources, Importer(store), checkpoint_file)
    store.annotate(1841, add_tags=["good"], notes="for cell 6")
    with pytest.raises(InputError, match="--replace"):
        put(sources, Importer(store), archive)
    put(sources, Importer(store, replace=True), archive)
    record = store.get(1841)
    assert (record.name, record.tags, record.notes) == ("er", ("good",), "for cell 6")
    assert record.checkpoint("last").fetch().read_bytes() == checkpoint_file.read_bytes()


def test_a_checkpoint_of_another_network_is_not_given_to_a_run(
    store: RunStore, sources: Sources, archive: Path, checkpoint_file: Path
) -> None:
    put(sources, Importer(store), archive)
    checkpoint_file.write_bytes(checkpoint_bytes(make_network(num_fmaps=3)))
    with pytest.raises(CheckpointError, match="another architecture"):
        put(sources, Importer(store), checkpoint_file)
    assert store.get(1841).checkpoints == []


def test_a_damaged_archive_leaves_no_half_of_a_run(store: RunStore, sources: Sources, tmp_path: Path) -> None:
    content = archive_bytes(incasem_runs.database(incasem_runs.run(1841, "er", SMALL)))
    path = tmp_path / "archive"
    path.write_bytes(content[: content.rindex(b"loss_train_0")])
    with pytest.raises(DataError, match="breaks off"):
        put(sources, Importer(store), path)
    assert store.ids() == []


def test_a_checkpoint_that_wants_to_run_code_is_refused_and_runs_none(
    store: RunStore, sources: Sources, checkpoint_file: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "was_here"

    class Malice:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(trace),)

    buffer = io.BytesIO()
    torch.save({"model_state_dict": make_network().state_dict(), "optimizer_state_dict": Malice()}, buffer)
    for content in (buffer.getvalue(), pickle.dumps(Malice(), protocol=2), pickle.dumps({"a": Malice()})):
        checkpoint_file.write_bytes(content)
        with pytest.raises(CheckpointError) as refusal:
            put(sources, Importer(store), checkpoint_file)
        assert str(refusal.value).count(". ") == 0
        assert not trace.exists()
    assert store.ids() == []


def test_a_run_of_an_unknown_network_is_kept_as_a_record(store: RunStore, sources: Sources, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    run = incasem_runs.run(1700, "two_tasks", incasem_runs.config(type="MultitaskUnet"))
    path.write_bytes(archive_bytes(incasem_runs.database(run)))
    (done,) = put(sources, Importer(store), path)
    assert "MultitaskUnet" in done.run.problem
    assert store.get(1700).metrics["loss_train_0"].values == (0.7, 0.5, 0.25)


def test_passwords_in_an_imported_record_are_taken_out(store: RunStore, sources: Sources, tmp_path: Path) -> None:
    settings = incasem_runs.config(**SMALL_MODEL) | {"sacred": {"log_every": 1000, "url": "mongodb://u:hunter2@db"}}
    run = incasem_runs.run(1841, "er", settings)
    run["experiment"]["repositories"][0]["url"] = "https://me:hunter2@github.com/lab/incasem"
    path = tmp_path / "archive"
    path.write_bytes(archive_bytes(incasem_runs.database(run)))
    put(sources, Importer(store), path)
    record = store.get(1841)
    assert "hunter2" not in repr(store.read_document(1841))
    assert b"hunter2" not in record.artifact("original_run.json")


def test_new_runs_are_numbered_above_the_imported_ones(
    store: RunStore, sources: Sources, checkpoint_file: Path
) -> None:
    put(sources, Importer(store), checkpoint_file)
    ids: list[int] = []
    run_experiment(name="train", config={}, main=lambda run: ids.append(run.id), store=store)
    assert ids == [1842]


def test_checkpoints_of_a_run_in_another_store_are_not_mixed_with(
    store: RunStore, sources: Sources, checkpoint_file: Path
) -> None:
    folder = store.runs_directory / "models" / "1841"
    folder.mkdir(parents=True)
    (folder / "model_checkpoint_5").write_bytes(b"of another store")
    with pytest.raises(InputError, match="already holds checkpoints"):
        put(sources, Importer(store), checkpoint_file)
    assert store.ids() == []
    assert [path.name for path in folder.iterdir()] == ["model_checkpoint_5"]


def test_a_machine_that_has_only_the_database_gets_the_checkpoint_from_there(
    store: RunStore, sources: Sources, checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(store, MongoStore):
        pytest.skip("a store of files keeps no checkpoints")
    monkeypatch.setenv("INCASEM_CACHE", str(tmp_path / "cache"))
    put(sources, Importer(store, upload=False), checkpoint_file)
    assert store.checkpoint_files.of_run(1841) == []
    delete_run(store, 1841)
    put(sources, Importer(store), checkpoint_file)
    shutil.rmtree(store.runs_directory)
    there = MongoStore(store.database, "trainings", tmp_path / "elsewhere").get(1841).checkpoint("last").fetch()
    assert there.is_relative_to(tmp_path / "cache")
    assert there.read_bytes() == checkpoint_file.read_bytes()


def test_a_deleted_import_leaves_the_file_that_it_was_made_of(
    store: RunStore, sources: Sources, checkpoint_file: Path
) -> None:
    put(sources, Importer(store), checkpoint_file)
    content = checkpoint_file.read_bytes()
    delete_run(store, 1841)
    assert not (store.runs_directory / "models" / "1841").exists()
    assert checkpoint_file.read_bytes() == content
    assert put(sources, Importer(store), checkpoint_file)[0].how == "imported"


def test_two_stores_of_one_runs_directory_share_the_files_of_an_import(
    store: RunStore, sources: Sources, checkpoint_file: Path, tmp_path: Path
) -> None:
    other = open_store(tmp_path / "other", "trainings", store.runs_directory)
    for one in (store, other):
        put(sources, Importer(one), checkpoint_file)
    delete_run(store, 1841)
    assert other.get(1841).checkpoint("last").fetch().read_bytes() == checkpoint_file.read_bytes()


def test_an_imported_run_moves_between_stores_like_any_other(
    store: RunStore, sources: Sources, archive: Path, checkpoint_file: Path, tmp_path: Path
) -> None:
    put(sources, Importer(store), archive)
    put(sources, Importer(store), checkpoint_file)
    exported = export_run(store.get(1841), tmp_path / "exported")
    other = open_store(None, "trainings", tmp_path / "other_runs")
    record = import_runs([exported], other)[0]
    assert (record.id, record.metrics["loss_train_0"].values) == (1841, (0.7, 0.5, 0.25))
    assert record.artifact("er.json") == incasem_runs.TRAINING_JSON
    assert record.checkpoint("last").fetch().read_bytes() == checkpoint_file.read_bytes()


def test_metrics_longer_than_a_store_keeps_are_whole_on_this_machine(
    store: RunStore, sources: Sources, tmp_path: Path
) -> None:
    run = incasem_runs.run(1841, "er", SMALL)
    values = [1 / (1 + number) for number in range(5000)]
    path = tmp_path / "archive"
    path.write_bytes(archive_bytes(incasem_runs.database(run, metrics=[incasem_runs.metric(1841, "loss", values)])))
    put(sources, Importer(store), path)
    log = store.metrics_log(1841)
    assert log is not None
    points = [json.loads(line) for line in log.read_text().splitlines()]
    assert [point["value"] for point in points if "name" in point] == values
    assert len(store.read_metric_documents(1841)["loss"]["steps"]) <= 2000
    assert store.summaries()[0].summary["loss"]["last_step"] == 4_999_000


def test_a_replacement_that_fails_leaves_the_earlier_import(
    store: RunStore, sources: Sources, archive: Path, checkpoint_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(sources, Importer(store), checkpoint_file)
    store.annotate(1841, notes="for cell 6")

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("incasem_like.pretrained.importing.write_run", full)
    with pytest.raises(OSError, match="No space"):
        put(sources, Importer(store), archive)
    record = store.get(1841)
    assert (record.name, record.notes) == ("er_CF", "for cell 6")
    assert record.checkpoint("last").fetch().read_bytes() == checkpoint_file.read_bytes()


def test_a_checkpoint_does_not_push_another_one_of_its_iteration_aside(
    store: RunStore, sources: Sources, archive: Path, checkpoint_file: Path
) -> None:
    folder = store.runs_directory / "models" / "1841"
    put(sources, Importer(store), archive)
    folder.mkdir(parents=True)
    (folder / "model_checkpoint_90000").write_bytes(b"of another store")
    with pytest.raises(InputError, match="already holds checkpoints"):
        put(sources, Importer(store), checkpoint_file)
    assert (folder / "model_checkpoint_90000").read_bytes() == b"of another store"
    assert store.get(1841).checkpoints == []
