"""Checkpoints as runs register them: relocation, verification and choice."""

import hashlib
import math
from pathlib import Path

import pytest

from incasem_like.errors import CheckpointError
from incasem_like.tracking import Run, RunStore, open_store, run_experiment
from incasem_like.tracking.stores.records import choose_checkpoint

DICE = {10: 0.5, 20: 0.9, 30: math.nan, 40: 0.7}
CONFIG = {"training": {"checkpoints": {"best_metric": "dice_class_1", "best_mode": "max"}}}


def train(store: RunStore, keep: tuple[int, ...] = (10, 20, 30, 40)) -> int:
    def main(run: Run) -> int:
        folder = run.runs_directory / "models" / f"{run.id:04d}"
        folder.mkdir(parents=True)
        for iteration, dice in DICE.items():
            path = folder / f"model_checkpoint_{iteration}"
            path.write_bytes(f"weights {iteration}".encode())
            run.register_checkpoint(path, iteration, {"dice_class_1": dice})
        for iteration in set(DICE) - set(keep):
            run.forget_checkpoint(folder / f"model_checkpoint_{iteration}")
        return run.id

    return run_experiment(name="train", config=CONFIG, main=main, store=store)


def test_checkpoints_come_back_with_hash_and_metrics(store: RunStore) -> None:
    record = store.get(train(store, keep=(20, 10)))
    first, second = record.checkpoints
    assert (first.iteration, second.iteration) == (10, 20)
    assert first.path == store.runs_directory / "models" / "0001" / "model_checkpoint_10"
    assert first.sha256 == hashlib.sha256(b"weights 10").hexdigest()
    assert (first.bytes, second.metrics) == (10, {"dice_class_1": 0.9})
    assert first.fetch() == first.path
    assert record.info["checkpoints"][0]["path"] == "models/0001/model_checkpoint_10"


def test_a_checkpoint_is_on_record_as_soon_as_it_is_registered(store: RunStore, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere"
    path.write_bytes(b"x")

    def main(run: Run) -> None:
        run.register_checkpoint(path, 1)
        assert [found.path for found in store.get(run.id).checkpoints] == [path]
        run.forget_checkpoint(path)
        assert store.get(run.id).checkpoints == []

    run_experiment(name="train", config={}, main=main, store=store)


def test_best_last_and_iteration_choose_a_checkpoint(store: RunStore) -> None:
    record = store.get(train(store))
    assert record.checkpoint("best").iteration == 20
    record.config = {"training": {"checkpoints": {"best_metric": "dice_class_1", "best_mode": "min"}}}
    assert record.checkpoint("best").iteration == 10
    assert record.checkpoint("last").iteration == 40
    assert record.checkpoint("30").iteration == record.checkpoint(30).iteration == 30
    assert choose_checkpoint(record, str(record.checkpoints[2].path)).iteration == 30


def test_a_checkpoint_that_is_not_there_names_those_that_are(store: RunStore) -> None:
    record = store.get(train(store))
    with pytest.raises(CheckpointError, match=r"no checkpoint '25': choose best, last or one of .* 10, 20, 30, 40"):
        record.checkpoint(25)
    record.config = {"training": {"checkpoints": {"best_metric": "jaccard"}}}
    with pytest.raises(CheckpointError, match=r"measured by 'jaccard' .metrics known: dice_class_1.: choose last"):
        record.checkpoint("best")
    run_experiment(name="train", config={}, main=lambda run: None, store=store)
    with pytest.raises(CheckpointError, match=r"Run 2 in .* has no checkpoint"):
        store.get(2).checkpoint("last")


def test_a_changed_or_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    store = open_store(None, "trainings", tmp_path)
    same_length, other_length, missing, _ = store.get(train(store)).checkpoints
    same_length.path.write_bytes(b"weights 1O")
    other_length.path.write_bytes(b"weights")
    missing.path.unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint_10 is another file \(SHA-256 .*restore"):
        same_length.fetch()
    with pytest.raises(CheckpointError, match=r"checkpoint_20 is another file \(7 bytes, not 10\)"):
        other_length.fetch()
    with pytest.raises(CheckpointError, match=r"cannot be had here: .*checkpoint_30 does not exist"):
        missing.fetch()


def test_a_runs_folder_that_was_moved_still_works(tmp_path: Path) -> None:
    train(open_store(None, "trainings", tmp_path / "before"))
    (tmp_path / "before").rename(tmp_path / "after")
    moved = open_store(None, "trainings", tmp_path / "after").get(1).checkpoint("last")
    assert moved.fetch() == tmp_path / "after" / "models" / "0001" / "model_checkpoint_40"


def test_checkpoints_are_found_where_the_run_wrote_them_when_the_reader_keeps_runs_elsewhere(tmp_path: Path) -> None:
    address = tmp_path / "tracking"
    train(open_store(address, "trainings", tmp_path / "writer"))
    found = open_store(address, "trainings", tmp_path / "reader").get(1).checkpoint("last")
    assert found.fetch() == tmp_path / "writer" / "models" / "0001" / "model_checkpoint_40"
