"""Records that a person, another program or a failing disk made odd: what can be read of them is, and they can go."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from incasem_like.errors import DamagedRecordError
from incasem_like.tracking import Run, RunStore, delete_run, open_store, run_experiment
from incasem_like.tracking.stores.base import DELETING
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore

WriteRun = Callable[..., None]
pytestmark = pytest.mark.usefixtures("small_package")


def train(store: RunStore) -> None:
    """Leave a run with a checkpoint in the folder of its number."""

    def work(run: Run) -> None:
        model = store.runs_directory / "models" / f"{run.id:04d}" / "model_checkpoint_5"
        model.parent.mkdir(parents=True)
        model.write_text("weights")
        run.register_checkpoint(model, 5)
        run.log_scalar("loss", 0.5, 1)

    run_experiment(name="train", config={}, main=work, store=store)


def test_of_a_damaged_run_goes_what_is_known_to_be_its_own(store: RunStore) -> None:
    train(store)
    if isinstance(store, FileStore):
        (store.folder / "1" / "run.json").write_bytes(b"{")
        with pytest.raises(DamagedRecordError, match="incasem-like runs delete"):
            store.get(1)
    else:
        assert isinstance(store, MongoStore)
        store.database["runs"].update_one({"_id": 1}, {"$set": {"artifacts": 3, "start_time": "noon", "host": None}})
    freed = delete_run(store, 1)
    assert freed.bytes > 0
    assert not list(store.runs_directory.glob("models/*"))
    assert (store.ids(), store.unfinished(DELETING)) == ([], {})


@pytest.mark.parametrize(
    "odd",
    [
        {"start_time": "noon", "heartbeat": "2020-13-13", "stop_time": 5},
        {"info": {"checkpoints": [{}, 5, {"iteration": 5, "path": 3, "sha256": "a", "bytes": 1}], "sessions": 5}},
        {"info": {"checkpoints": "none", "sessions": [1, {}]}, "experiment": {"sources": [1, [2]]}},
        {"info": 1, "config": 3, "experiment": 2, "meta": "x", "omniboard": "y", "resources": 7},
    ],
)
def test_odd_parts_of_a_record_are_passed_over(store: RunStore, write_run: WriteRun, odd: dict[str, Any]) -> None:
    write_run(store, 1, **odd)
    record = store.get(1)
    assert record.checkpoints == record.superseded_checkpoints == []
    assert (record.status, record.start_time is None) == ("COMPLETED", "start_time" in odd)
    assert store.children(1) == []
    delete_run(store, 1)
    assert store.ids() == []


def test_a_damaged_run_can_be_deleted(tmp_path: Path, write_run: WriteRun) -> None:
    store = open_store(None, "trainings", tmp_path)
    assert isinstance(store, FileStore)
    for run_id in (1, 2):
        write_run(store, run_id)
        (store.folder / str(run_id) / ("run.json", "info.json")[run_id - 1]).write_text("{")
    for run_id in (1, 2):
        delete_run(store, run_id)
    assert (store.ids(), store.unfinished(DELETING)) == ([], {})
