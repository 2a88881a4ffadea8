"""A training that goes on in its own run: as if it had never stopped, from what is whole, if it is the same."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from incasem_like.config import TrainingConfig, resolve_training_config
from incasem_like.errors import CheckpointError, ConfigError
from incasem_like.tracking import RunRecord, RunStore
from incasem_like.training.checkpoints import CheckpointFolder
from incasem_like.training.continuing import check_same_training, find_resumption
from incasem_like.training.experiment import FinishedTraining, train
from incasem_like.training.trainer import Trainer

LONG = (
    *("training.iterations=12", "training.save_every=3", "training.optimizer.lr=0.01", "training.batch_size=2"),
    *("training.snapshot.every=0", "training.image_every=0", "validation.snapshot.every=0"),
    "training.augmentation.elastic=null",
)


class CrashError(Exception):
    """What ends a training here in the middle."""


class Bench:
    """Trains in one runs directory, with crashes where they are asked for."""

    def __init__(self, configure: Callable[..., TrainingConfig], store: RunStore, monkeypatch: Any) -> None:
        self.configure, self.store, self._patch = configure, store, monkeypatch

    def train(self, *updates: str, continued: int | None = None, crash: int | None = None) -> FinishedTraining | None:
        """Train; None when it crashed, which it does after the update of iteration ``crash``."""
        report = Trainer._report

        def crashing(trainer: Trainer, iteration: int, clock: Any) -> None:
            if iteration == crash:
                raise CrashError
            report(trainer, iteration, clock)

        self._patch.setattr(Trainer, "_report", crashing)
        record = None if continued is None else self.store.get(continued)
        try:
            return train(self.configure(*LONG, *updates), store=lambda: self.store, continued=record)
        except CrashError:
            return None
        finally:
            self._patch.setattr(Trainer, "_report", report)

    def folder(self, run_id: int) -> Path:
        return self.store.runs_directory / "models" / f"{run_id:04d}"

    def assert_equal(self, one: int, other: int) -> None:
        """Hold two runs against each other: files, metrics, result, and the checkpoints on record."""
        first, second = self.store.get(one), self.store.get(other)
        assert files(self.folder(one)) == files(self.folder(other))
        assert numbers(first) == numbers(second)
        assert (first.result, first.status) == (second.result, second.status)
        assert [(c.iteration, c.sha256, c.metrics) for c in first.checkpoints] == [
            (c.iteration, c.sha256, c.metrics) for c in second.checkpoints
        ]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("model")} | {
        path.name: b"" for path in folder.iterdir()
    }


def numbers(record: RunRecord) -> dict[str, list[tuple[int, float]]]:
    return {name: list(zip(metric.steps, metric.values, strict=True)) for name, metric in record.metrics.items()}


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture
def bench(configure: Any, store_of: Any, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(configure, store_of(configure()), monkeypatch)


def test_a_crashed_and_continued_run_equals_one_that_never_stopped(bench: Bench) -> None:
    bench.train()
    assert bench.train(crash=8) is None
    assert bench.store.get(2).status == "FAILED"
    finished = bench.train(continued=2)
    assert finished is not None
    assert not finished.was_complete
    bench.assert_equal(1, 2)
    record = bench.store.get(2)
    assert record.metrics["num_params"].steps == (0,)
    assert [session["from_iteration"] for session in record.info["sessions"]] == [0, 6]
    assert bench.store.ids() == [1, 2]


def test_a_run_without_any_checkpoint_begins_again(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.train()
    bench.train(crash=2)
    (bench.folder(2) / "model_checkpoint_3").write_bytes(b"of a process that died before it wrote the state")
    bench.train(continued=2)
    bench.assert_equal(1, 2)
    assert bench.store.get(2).metrics["num_params"].steps == (0,)


@pytest.mark.parametrize("which", ["model_checkpoint_6", "training_state_6"])
@pytest.mark.parametrize("how", [damage, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_newest_checkpoint_is_passed_over_and_told_of(
    bench: Bench, which: str, how: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    bench.train("validation.data=null")
    bench.train("validation.data=null", crash=8)
    how(bench.folder(2) / which)
    with caplog.at_level(logging.WARNING):
        bench.train("validation.data=null", continued=2)
    assert which in caplog.text
    assert "goes on from iteration 3" in caplog.text
    bench.assert_equal(1, 2)


def test_several_crashes_in_a_row_leave_no_trace_either(bench: Bench) -> None:
    bench.train()
    bench.train(crash=2)
    for crash in (4, 4, 7, 11, 12):
        bench.train(continued=2, crash=crash)
    bench.train(continued=2)
    bench.assert_equal(1, 2)


def test_a_complete_run_has_nothing_left_to_do_and_stays_as_it_is(bench: Bench) -> None:
    done = bench.train()
    before = bench.store.read_document(1)
    again = bench.train(continued=1)
    assert again is not None
    assert done is not None
    assert again.was_complete
    assert again.result == done.result
    assert bench.store.read_document(1) == before


def test_a_finished_run_goes_on_when_its_iterations_are_raised(bench: Bench) -> None:
    bench.train("training.iterations=9")
    bench.train("training.iterations=6")
    longer = bench.train("training.iterations=9", continued=2)
    assert longer is not None
    assert longer.result["iteration"] == 9
    bench.assert_equal(1, 2)
    assert bench.store.get(2).config["training"]["iterations"] == 9


def test_a_run_killed_after_its_last_checkpoint_is_brought_to_its_end(bench: Bench) -> None:
    bench.train()
    bench.train()
    bench.store.set_state(2, "KILLED", None)
    again = bench.train(continued=2)
    assert again is not None
    assert not again.was_complete
    bench.assert_equal(1, 2)


def test_fewer_iterations_than_it_has_had_are_refused(bench: Bench) -> None:
    bench.train()
    with pytest.raises(ConfigError, match=r"Run 1 has had 12 iterations, but training\.iterations is 6: raise it"):
        bench.train("training.iterations=6", continued=1)


def test_another_data_configuration_is_refused(bench: Bench, tmp_path: Path, tiny_project: Path) -> None:
    bench.train("training.iterations=3")
    other = json.loads((tiny_project / "train.json").read_text())
    other["left"]["shape"] = [48, 48, 26]
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match=r"training\.data says something else .* --start_from 1"):
        bench.train(f"training.data={tmp_path}/other.json", continued=1)
    with pytest.raises(ConfigError, match=r"validation\.data says something else"):
        bench.train("validation.data=null", continued=1)
    assert bench.store.get(1).status == "COMPLETED"


def test_the_same_data_configuration_elsewhere_and_written_otherwise_is_the_same(
    bench: Bench, tmp_path: Path, tiny_project: Path
) -> None:
    bench.train("training.iterations=3", crash=2)
    same = json.loads((tiny_project / "train.json").read_text())
    (tmp_path / "same.json").write_text(json.dumps(same, indent=8))
    assert bench.train(f"training.data={tmp_path}/same.json", "training.iterations=3", continued=1) is not None


def test_volumes_that_changed_are_told_of(bench: Bench, caplog: pytest.LogCaptureFixture, tiny_project: Path) -> None:
    bench.train(crash=4)
    with caplog.at_level(logging.WARNING):
        bench.train(continued=1, crash=7)
    assert "volumes" not in caplog.text
    chunk = next(path for path in (tiny_project / "cell.zarr/volumes/raw").rglob("*") if path.name == "0")
    chunk.touch()
    with caplog.at_level(logging.WARNING):
        bench.train(continued=1)
    assert "The volumes of left, right were written or copied since run 1 read them" in caplog.text


def test_no_whole_checkpoint_is_one_sentence_and_touches_nothing(bench: Bench) -> None:
    bench.train(crash=8)
    for path in bench.folder(1).glob("training_state_*"):
        damage(path)
    before = sorted(path.name for path in bench.folder(1).iterdir())
    with pytest.raises(CheckpointError, match=r"Run 1 cannot be continued from any .* --repeat_run 1, .* --start_from"):
        bench.train(continued=1)
    assert bench.store.get(1).status == "FAILED"
    assert sorted(path.name for path in bench.folder(1).iterdir()) == before


def test_a_run_that_brings_no_training_state_can_only_be_started_from(bench: Bench) -> None:
    bench.train("training.iterations=3")
    (bench.folder(1) / "training_state_3").unlink()
    with pytest.raises(CheckpointError, match="--start_from 1"):
        find_resumption(bench.store.get(1), CheckpointFolder(bench.folder(1)))


def test_the_newest_checkpoint_on_another_machine_is_not_passed_over(bench: Bench, monkeypatch: Any) -> None:
    bench.train(crash=8)
    record = bench.store.get(1)
    shutil.move(bench.folder(1) / "model_checkpoint_6", bench.folder(1) / "hidden")
    monkeypatch.setattr(type(record), "host", {"hostname": "node17"})
    with pytest.raises(
        CheckpointError, match=r"of iteration 6, is neither on this machine nor in .*: continue on node17"
    ):
        find_resumption(record, CheckpointFolder(bench.folder(1)))


def test_what_makes_no_other_training_may_change(bench: Bench) -> None:
    tracked = bench.configure()
    wanted = bench.configure(
        *("training.iterations=9", "training.save_every=7", "training.precache.num_workers=3", "torch.device=0"),
        *("directories.runs=elsewhere", "tracking.url=mongodb://db", "sacred.log_every=5", "training.data=null"),
        *("training.checkpoints.keep_last=9", "validation.validate_every=5", "training.snapshot.every=0"),
    )
    check_same_training(tracked, wanted, lambda key: "here", 5)


@pytest.mark.parametrize(
    ("update", "key"),
    [
        ("training.optimizer.lr=0.5", "training.optimizer.lr=3e-05"),
        ("model.num_fmaps=4", "model.num_fmaps=2"),
        ("seed=8", "seed=3"),
        ("torch.precision=bf16", 'torch.precision="fp32"'),
        ("training.augmentation.elastic=null", "training.augmentation.elastic.control_point_spacing="),
        ("training.batch_size=3", "training.batch_size=1"),
        ("training.start_from.run_id=3", "training.start_from.run_id=null"),
        ("training.checkpoints.best_metric=jaccard_class_1", 'best_metric="dice_class_1"'),
    ],
)
def test_what_makes_another_training_is_named_with_the_way_to_it(bench: Bench, update: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_same_training(bench.configure(), bench.configure(update), lambda key: "on the command line", 5)
    assert str(caught.value).startswith("Run 5 was trained with ")
    assert key in str(caught.value)
    assert "is asked for on the command line: leave that out" in str(caught.value)
    assert "--start_from 5" in str(caught.value)


def test_the_configuration_on_record_reads_back_as_the_same_training(bench: Bench) -> None:
    bench.train("training.iterations=3")
    tracked = resolve_training_config(bench.store.get(1).config)
    check_same_training(tracked, bench.configure(*LONG), lambda key: "here", 1)
