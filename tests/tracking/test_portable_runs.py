"""Runs in a folder of their own: exported, carried away, damaged on the way, imported."""

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tracking.moved_runs import points, train

from incasem_like.errors import DataError, InputError, StoreError
from incasem_like.tracking import RunStore, delete_run, open_store
from incasem_like.tracking.moving.transfer import copy_run, copy_runs, export_run, import_runs

WriteRun = Callable[..., None]
pytestmark = pytest.mark.usefixtures("small_package")
POINTS = 5000


def test_an_exported_run_needs_neither_its_store_nor_its_checkpoints(store: RunStore, tmp_path: Path) -> None:
    original = train(store)
    folder = export_run(original, tmp_path / "deep" / "carried")
    before, metrics, kept = original, points(original), [one.fetch().read_bytes() for one in original.checkpoints]
    artifacts = {name: original.artifact(name) for name in original.artifacts}
    sources = list(store.read_stored(1, "sources"))
    delete_run(store, 1)
    shutil.rmtree(store.runs_directory)
    moved = folder.rename(tmp_path / "moved")
    other = open_store(None, "trainings", tmp_path / "new" / "machine")
    found = import_runs([moved], other)[0]
    assert points(found) == metrics
    assert (found.config, found.tags, found.result, found.status) == (
        before.config, before.tags, before.result, "COMPLETED",
    )  # fmt: skip
    assert {name: found.artifact(name) for name in found.artifacts} == artifacts
    assert [one.fetch().read_bytes() for one in found.checkpoints] == kept
    assert list(other.read_stored(1, "sources")) == sources != []


def test_folders_come_in_together_each_among_its_kind(store: RunStore, write_run: WriteRun, tmp_path: Path) -> None:
    others = open_store(None, "trainings", tmp_path / "others")
    write_run(others, 7)
    write_run(others.sibling("predictions"), 9, info={"parent": {"training_run_id": 7}})
    folders = [
        export_run(others.sibling("predictions").get(9), tmp_path / "p9"),
        export_run(others.get(7), tmp_path / "t7"),
    ]
    found = import_runs(folders, store, keep_ids=False)
    assert [(record.kind, record.id) for record in found] == [("trainings", 1), ("predictions", 1)]
    assert found[1].parent == {"training_run_id": 1}


def test_checkpoints_that_cannot_be_had_are_left_out_and_named(
    store: RunStore, elsewhere: RunStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    original = train(store)
    if store.checkpoint_files is not None:
        store.checkpoint_files.remove_run(1)
    original.checkpoint(5).fetch().unlink()
    (store.runs_directory / "models" / "0001" / "model_checkpoint_10").write_text("damaged")
    with caplog.at_level("WARNING", logger="incasem_like.tracking"):
        copy = import_runs([export_run(store.get(1), tmp_path / "out")], elsewhere)[0]
    assert [one.can_be_had() for one in copy.checkpoints] == [False, False]
    assert copy.checkpoints[0].fetch_state().read_text() == "state 1 5"
    assert "moves without model_checkpoint_5" in caplog.text
    assert "moves without model_checkpoint_10" in caplog.text


def test_checkpoints_may_stay_behind(store: RunStore, elsewhere: RunStore, tmp_path: Path) -> None:
    folder = export_run(train(store), tmp_path / "out", with_checkpoints=False)
    assert not (folder / "checkpoints").exists()
    record = import_runs([folder], elsewhere)[0]
    assert [one.iteration for one in record.checkpoints] == [5, 10]
    assert not (elsewhere.runs_directory / "models").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "checkpoints" / "model_checkpoint_5").write_text("x"), "changed since"),
        (lambda folder: (folder / "data.json").unlink(), "is missing from the exported run"),
        (lambda folder: (folder / "manifest.json").unlink(), "is not an exported run"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "is not an exported run"),
        (lambda folder: _edit(folder, lambda manifest: manifest.update(version=99)), "later version"),
        (lambda folder: _edit(folder, lambda manifest: manifest.update(files={"../x": {}})), "outside the folder"),
        (
            lambda folder: _edit(folder, lambda manifest: manifest.update(checkpoints={"ab": "../../passwords"})),
            "names a checkpoint",
        ),
        (lambda folder: _edit(folder, lambda manifest: manifest.update(files={})), "missing from the list"),
        (lambda folder: _edit(folder, lambda manifest: manifest.update(files=[])), "is not an exported run"),
        (lambda folder: _edit(folder, lambda manifest: manifest.update(kind="dreams")), "is not an exported run"),
        (lambda folder: _edit(folder, lambda manifest: manifest.update(id="1")), "is not an exported run"),
    ],
)
def test_a_damaged_folder_is_refused_before_anything_is_written(
    damage: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    store, target = open_store(None, "trainings", tmp_path / "a"), open_store(None, "trainings", tmp_path / "b")
    folder = export_run(train(store), tmp_path / "out")
    damage(folder)
    with pytest.raises(DataError, match=said):
        import_runs([folder], target)
    assert not (tmp_path / "b").exists()


def _edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_an_export_does_not_overwrite_and_does_not_stay_half_made(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = train(store)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(InputError, match="exists already and is not empty"):
        export_run(record, tmp_path / "full")
    (tmp_path / "empty").mkdir()
    assert export_run(record, tmp_path / "empty").is_dir()
    from incasem_like.tracking.moving import transfer as exporting

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "file_sha256", full)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(StoreError, match="No space left"):
        export_run(record, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_killed_run_moves_as_killed(
    store: RunStore, elsewhere: RunStore, write_run: WriteRun, tmp_path: Path
) -> None:
    heard = datetime(2026, 1, 1, 12, 0, 10)
    write_run(store, 1, status="RUNNING", heartbeat=heard)
    record = import_runs([export_run(store.get(1), tmp_path / "out")], elsewhere)[0]
    assert (record.recorded_status, record.status) == ("KILLED", "KILLED")
    assert record.stop_time == store.get(1).heartbeat


def test_ids_can_be_given_up(store: RunStore, write_run: WriteRun, tmp_path: Path) -> None:
    others = open_store(None, "trainings", tmp_path / "others")
    write_run(others, 40)
    assert copy_run(others.get(40), store, keep_id=False).id == 1


def test_a_prediction_under_a_new_id_says_so_in_its_result(
    store: RunStore, write_run: WriteRun, tmp_path: Path
) -> None:
    others = open_store(None, "predictions", tmp_path / "others")
    outputs = {"outputs": {"cell": "/data/cell.zarr/predict_0007/segmentation"}}
    write_run(others, 7, start_time=datetime(2025, 1, 1), result={**outputs, "prediction_id": 7})
    write_run(others, 8, start_time=datetime(2025, 2, 1), result={**outputs, "prediction_id": 7})
    write_run(others, 9, start_time=datetime(2025, 3, 1), result={"prediction_id": 5})
    write_run(others, 10, start_time=datetime(2025, 4, 1), result=[1])
    copies = copy_runs([others.get(run_id) for run_id in others.ids()], store, keep_ids=False)
    assert [copy.id for copy in copies] == [1, 2, 3, 4]
    assert copies[0].result == copies[1].result == {**outputs, "prediction_id": 1}, "the second resumed the first"
    assert [copy.result for copy in copies[2:]] == [{"prediction_id": 5}, [1]], "the one it resumed did not come along"
