"""A training that goes on in its own run: as if it had never stopped, from what is whole, if it is the same."""

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from incasem_like.config import TrainingConfig, load_training_config, resolve_training_config
from incasem_like.errors import CheckpointError, ConfigError
from incasem_like.tracking import CheckpointRecord, RunRecord, open_store
from incasem_like.training.checkpoints import CheckpointFolder
from incasem_like.training.continuing import check_same_training, find_resumption
from incasem_like.training.experiment import FinishedTraining, train
from incasem_like.training.trainer import Trainer

LEAN = (
    *("training.iterations=12", "training.save_every=3", "training.optimizer.lr=0.01", "training.batch_size=2"),
    *("training.snapshot.every=0", "training.image_every=0", "validation.snapshot.every=0"),
    "training.augmentation.elastic=null",
)


class CrashError(Exception):
    """What ends a training here in the middle."""


class Bench:
    """Trains in one runs directory, with crashes where they are asked for."""

    def __init__(self, project: Path, runs: Path) -> None:
        self.project, self.runs = project, runs
        self.store = open_store(None, "trainings", runs)

    def configure(self, *updates: str) -> TrainingConfig:
        data = [f"training.data={self.project}/train.json", f"validation.data={self.project}/validate.json"]
        here = [f"directories.runs={self.runs}", "torch.num_threads=null"]
        return load_training_config([self.project / "tiny.yaml"], [*data, *here, *LEAN, *updates])

    def train(
        self,
        *updates: str,
        continued: int | None = None,
        crash: int | None = None,
        interrupt: int | None = None,
        **records: RunRecord,
    ) -> FinishedTraining | None:
        """Train; None when it crashed, which it does after the update of iteration ``crash``, or was interrupted."""
        conclude = Trainer._conclude

        def crashing(trainer: Trainer, progress: Any) -> None:
            if trainer.iteration == crash:
                raise CrashError
            if trainer.iteration == interrupt:
                signal.raise_signal(signal.SIGINT)
            conclude(trainer, progress)

        record = None if continued is None else self.store.get(continued)
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(CrashError, KeyboardInterrupt):
            patch.setattr(Trainer, "_conclude", crashing)
            return train(self.configure(*updates), store=lambda: self.store, continued=record, **records)
        return None

    @property
    def folder(self) -> Path:
        """Of the checkpoints of run 1."""
        return self.runs / "models" / "0001"

    def assert_equals(self, other: "Bench") -> None:
        """Hold its run 1 against another's: files, metrics, result, and the checkpoints on record."""
        first, second = self.store.get(1), other.store.get(1)
        assert files(self.folder) == files(other.folder)
        assert numbers(first) == numbers(second)
        assert (first.result, first.status) == (second.result, second.status)
        assert [(c.iteration, c.sha256, c.metrics) for c in first.checkpoints] == [
            (c.iteration, c.sha256, c.metrics) for c in second.checkpoints
        ]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() if path.name.startswith("model") else b"" for path in folder.iterdir()}


def numbers(record: RunRecord) -> dict[str, list[tuple[int, float]]]:
    return {name: list(zip(metric.steps, metric.values, strict=True)) for name, metric in record.metrics.items()}


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture(scope="module")
def undisturbed(tiny_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A run 1 of 12 iterations that never stopped, with checkpoints 6, 9 and 12."""
    bench = Bench(tiny_project, tmp_path_factory.mktemp("undisturbed"))
    bench.train()
    return bench


@pytest.fixture(scope="module")
def crashed_runs(tiny_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bench = Bench(tiny_project, tmp_path_factory.mktemp("crashed"))
    assert bench.train(crash=8) is None
    assert bench.store.get(1).status == "FAILED"
    return bench.runs.rename(bench.runs.with_name("crashed_and_moved"))


@pytest.fixture
def crashed(tiny_project: Path, crashed_runs: Path, tmp_path: Path) -> Bench:
    """The same training, crashed in iteration 8, with checkpoints 3 and 6; in a folder that was moved since."""
    shutil.copytree(crashed_runs, tmp_path / "runs")
    return Bench(tiny_project, tmp_path / "runs")


@pytest.fixture
def complete(tiny_project: Path, undisturbed: Bench, tmp_path: Path) -> Bench:
    """A copy of the one that never stopped."""
    shutil.copytree(undisturbed.runs, tmp_path / "runs")
    return Bench(tiny_project, tmp_path / "runs")


def test_a_crashed_and_continued_run_equals_one_that_never_stopped(crashed: Bench, undisturbed: Bench) -> None:
    finished = crashed.train(continued=1)
    assert finished is not None
    assert not finished.was_complete
    crashed.assert_equals(undisturbed)
    record = crashed.store.get(1)
    assert [session["from_iteration"] for session in record.info["sessions"]] == [0, 6]
    assert crashed.store.ids() == [1]


def test_an_interrupted_and_continued_run_leaves_no_trace_of_its_last_checkpoint(
    crashed: Bench, undisturbed: Bench
) -> None:
    assert crashed.train(continued=1, interrupt=7) is None
    record = crashed.store.get(1)
    assert (record.status, record.checkpoints[-1].iteration) == ("INTERRUPTED", 7)
    crashed.train(continued=1)
    crashed.assert_equals(undisturbed)


def test_a_run_without_any_checkpoint_begins_again(tiny_project: Path, tmp_path: Path, undisturbed: Bench) -> None:
    bench = Bench(tiny_project, tmp_path)
    bench.train(crash=2)
    bench.folder.mkdir(parents=True)
    (bench.folder / "model_checkpoint_3").write_bytes(b"of a process that died before it wrote the state")
    bench.train(continued=1)
    bench.assert_equals(undisturbed)


@pytest.mark.parametrize(
    ("which", "how"),
    [
        ("model_checkpoint_6", damage), ("training_state_6", damage), ("model_checkpoint_6", empty),
        ("model_checkpoint_6", Path.unlink), ("training_state_6", Path.unlink),
    ],
)  # fmt: skip
def test_a_damaged_newest_checkpoint_is_passed_over(crashed: Bench, which: str, how: Callable[[Path], Any]) -> None:
    how(crashed.folder / which)
    found = find_resumption(crashed.store.get(1), CheckpointFolder(crashed.folder))
    assert found.iteration == 3
    assert (found.model, found.state) == (crashed.folder / "model_checkpoint_3", crashed.folder / "training_state_3")
    assert len(found.passed_over) == 1
    assert which in found.passed_over[0]


def test_going_on_from_the_checkpoint_before_is_told_and_leaves_no_trace(
    crashed: Bench, undisturbed: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    damage(crashed.folder / "model_checkpoint_6")
    with caplog.at_level(logging.WARNING):
        crashed.train(continued=1)
    assert "model_checkpoint_6" in caplog.text
    assert "resumes from iteration 3" in caplog.text
    crashed.assert_equals(undisturbed)


@pytest.mark.slow
def test_several_crashes_in_a_row_leave_no_trace_either(crashed: Bench, undisturbed: Bench) -> None:
    for crash in (7, 7, 10, 11, 12):
        assert crashed.train(continued=1, crash=crash) is None
    crashed.train(continued=1)
    crashed.assert_equals(undisturbed)


def test_a_complete_run_has_nothing_left_to_do_and_stays_as_it_is(complete: Bench) -> None:
    before = complete.store.read_document(1)
    again = complete.train(continued=1)
    assert again is not None
    assert again.was_complete
    assert again.result == complete.store.get(1).result
    assert complete.store.read_document(1) == before


def test_a_finished_run_goes_on_when_its_iterations_are_raised(
    tiny_project: Path, tmp_path: Path, undisturbed: Bench
) -> None:
    bench = Bench(tiny_project, tmp_path)
    bench.train("training.iterations=6")
    longer = bench.train(continued=1)
    assert longer is not None
    assert longer.result["iteration"] == 12
    bench.assert_equals(undisturbed)
    assert bench.store.get(1).config["training"]["iterations"] == 12


def test_a_run_killed_after_its_last_checkpoint_is_brought_to_its_end(complete: Bench, undisturbed: Bench) -> None:
    entry = complete.runs / "tracking/incasem_trainings/1/run.json"
    content = json.loads(entry.read_text())
    dead = subprocess.Popen(["true"])
    dead.wait()
    content.update(status="RUNNING", stop_time=None, result=None)
    content["host"].update(pid=dead.pid, process_start=0)
    entry.write_text(json.dumps(content))
    assert complete.store.get(1).status == "KILLED"
    again = complete.train(continued=1)
    assert again is not None
    assert not again.was_complete
    complete.assert_equals(undisturbed)


def test_fewer_iterations_than_it_has_had_are_refused(complete: Bench) -> None:
    with pytest.raises(ConfigError, match=r"Run 1 has had 12 iterations, but training\.iterations is 6: raise it"):
        complete.train("training.iterations=6", continued=1)


def write_data(project: Path, folder: Path, **changes: Any) -> Path:
    data = json.loads((project / "train.json").read_text())
    data["left"] |= {"file": str(project / "cell.zarr"), **changes}
    (folder / "data.json").write_text(json.dumps(data, indent=8))
    return folder / "data.json"


def test_another_data_configuration_is_refused(crashed: Bench, tmp_path: Path, tiny_project: Path) -> None:
    other = write_data(tiny_project, tmp_path, shape=[48, 48, 26])
    with pytest.raises(ConfigError, match=r"training\.data says something else .* --start_from 1"):
        crashed.train(f"training.data={other}", continued=1)
    with pytest.raises(ConfigError, match=r"validation\.data says something else"):
        crashed.train("validation.data=null", continued=1)
    assert crashed.store.get(1).status == "FAILED"


def test_the_same_data_configuration_elsewhere_and_written_otherwise_is_the_same(
    crashed: Bench, tmp_path: Path, tiny_project: Path, undisturbed: Bench
) -> None:
    crashed.train(f"training.data={write_data(tiny_project, tmp_path)}", continued=1)
    crashed.assert_equals(undisturbed)


def test_volumes_that_changed_are_told_of(crashed: Bench, caplog: pytest.LogCaptureFixture, tiny_project: Path) -> None:
    crashed.train(continued=1, crash=7)
    assert "volumes" not in caplog.text
    chunk = max((tiny_project / "cell.zarr/volumes/raw").rglob("*"), key=lambda path: path.stat().st_size)
    times = chunk.stat()
    chunk.touch()
    crashed.train(continued=1, crash=7)
    os.utime(chunk, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "The volumes of left, right were written or copied since run 1 read them" in caplog.text


def test_other_arithmetic_is_reported_and_recorded(
    crashed: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed.train(continued=1, crash=7)
    assert "bit for bit" not in caplog.text
    assert len(crashed.store.get(1).info["arithmetic"]) == 1
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    crashed.train(continued=1, crash=7)
    assert "The same numbers are not to be expected bit for bit: MKL_CBWR unset, now COMPATIBLE." in caplog.messages
    assert [one.get("MKL_CBWR") for one in crashed.store.get(1).info["arithmetic"]] == [None, "COMPATIBLE"]


@pytest.mark.parametrize("mode", ["repeats", "starts_from"])
def test_a_repeated_or_further_training_is_told_of_changed_volumes_of_the_same_data(
    mode: str, crashed: Bench, caplog: pytest.LogCaptureFixture, tiny_project: Path, tmp_path: Path
) -> None:
    record = crashed.store.get(1)
    assert crashed.train(crash=1, **{mode: record}) is None
    assert "volumes" not in caplog.text
    chunk = max((tiny_project / "cell.zarr/volumes/raw").rglob("*"), key=lambda path: path.stat().st_size)
    times = chunk.stat()
    chunk.touch()
    try:
        crashed.train(crash=1, **{mode: record})
        assert "The volumes of left, right were written or copied since run 1 read them" in caplog.text
        caplog.clear()
        other = write_data(tiny_project, tmp_path, shape=[48, 48, 27])
        crashed.train(f"training.data={other}", crash=1, **{mode: record})
        assert "The volumes of right were written" in caplog.text  # the validation's data are the same ones
    finally:
        os.utime(chunk, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_no_whole_checkpoint_is_one_sentence_and_touches_nothing(crashed: Bench) -> None:
    for path in crashed.folder.glob("training_state_*"):
        damage(path)
    before = files(crashed.folder)
    with pytest.raises(CheckpointError, match=r"Run 1 cannot be continued from any .* --repeat_run 1, .* --start_from"):
        crashed.train(continued=1)
    assert crashed.store.get(1).status == "FAILED"
    assert files(crashed.folder) == before


def test_a_run_that_brings_no_training_state_can_only_be_started_from(crashed: Bench) -> None:
    for path in crashed.folder.glob("training_state_*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="--start_from 1"):
        find_resumption(crashed.store.get(1), CheckpointFolder(crashed.folder))


def hide(record: RunRecord, entries: Sequence[CheckpointRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a run one of another machine, which alone has some of its checkpoints."""
    names = {path.name for entry in entries for path in entry.candidates}
    monkeypatch.setattr(Path, "is_file", lambda self: self.name not in names and os.path.isfile(self))
    monkeypatch.setattr(record, "host", {"hostname": "node17"})


def test_newer_checkpoints_on_another_machine_are_named_and_passed_over(
    crashed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = crashed.store.get(1)
    hide(record, record.checkpoints[-1:], monkeypatch)
    found = find_resumption(record, CheckpointFolder(crashed.folder))
    assert (found.iteration, len(found.passed_over)) == (3, 1)
    assert re.search(
        r"of iteration 6 is neither on this .* nor in .*: to go on from it, continue on node17, or copy "
        r"model_checkpoint_6 and training_state_6 from there to ",
        found.passed_over[0],
    )


def test_where_all_checkpoints_are_on_another_machine_that_is_said(
    crashed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = crashed.store.get(1)
    hide(record, record.checkpoints, monkeypatch)
    with pytest.raises(CheckpointError, match=r"cannot be continued from any .* iteration 6 .* continue on node17"):
        find_resumption(record, CheckpointFolder(crashed.folder))


def test_the_configuration_on_record_reads_back_as_the_same_training(undisturbed: Bench) -> None:
    tracked = resolve_training_config(undisturbed.store.get(1).config)
    check_same_training(tracked, undisturbed.configure(), lambda key: "here", 1)
