"""Repeating, continuing and starting from tracked runs: what the flags and what stands behind ``with`` come to."""

import argparse
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from incasem_like.commands.command_line import CommandLine, parse_command_line
from incasem_like.commands.options import StoreChoice
from incasem_like.commands.prediction_request import find_training
from incasem_like.commands.tracked import check_commit, stores_of
from incasem_like.commands.train import predict_command, resume_command
from incasem_like.commands.training_request import TrainingRequest, add_flags, read_request
from incasem_like.config import PredictionConfig, TrainingConfig
from incasem_like.errors import ConfigError, InputError, RunNotFoundError, StoreError
from incasem_like.tracking import RunRecord, open_store, run_experiment
from incasem_like.training.continuing import differences, with_tracked_data

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "02_train" / "train.py"
DATA = {"cell": {"file": "cell.zarr", "voxel_size": [8, 8, 8], "offset": [0, 0, 0], "shape": [9, 9, 9], "raw": "raw"}}


def parse(*argv: str) -> CommandLine:
    parser = argparse.ArgumentParser(prog="train.py", allow_abbrev=False)
    add_flags(parser)
    return parse_command_line(argv, parser)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def tracked(place: Path) -> RunRecord:
    """Run 1 of a store of files: a configuration that differs from the defaults, with its data configuration."""
    (place / "data").mkdir()
    (place / "train.json").write_text(json.dumps(DATA))
    values: dict[str, Any] = {
        "seed": 77,
        "directories": {"runs": str(place / "runs"), "data": str(place / "data")},
        "training": {"iterations": 40, "optimizer": {"lr": 0.25}, "data": str(place / "train.json")},
        "model": {"num_fmaps": 6},
    }
    store = open_store(None, "trainings", place / "runs")
    run_experiment(
        name="train", config=TrainingConfig.model_validate(values).model_dump(mode="json"), main=lambda run: None,
        store=store, artifacts={"training_data.json": (place / "train.json").read_text()},
    )  # fmt: skip
    return store.get(1)


@pytest.fixture
def order(tracked: RunRecord, place: Path) -> Callable[..., TrainingRequest]:
    def order(*words: str, updates: tuple[str, ...] = ()) -> TrainingRequest:
        return read_request(parse(*words, "with", f"directories.runs={place}/runs", *updates), SCRIPT)

    return order


Order = Callable[..., TrainingRequest]


def test_repeating_takes_the_configuration_and_the_seed(order: Order, tracked: RunRecord, place: Path) -> None:
    found = order("--repeat_run", "1", updates=("training.iterations=50",))
    config = found.config
    assert (config.seed, config.model.num_fmaps, config.training.optimizer.lr) == (77, 6, 0.25)
    assert config.directories.data == place / "data"
    assert found.continued is None
    assert differences(tracked, config) == [("training.iterations", 40, 50)]
    assert order("--repeat_run", "1", updates=("seed=5",)).config.seed == 5


def test_starting_from_a_run_takes_its_configuration_but_not_its_seed(order: Order, place: Path) -> None:
    config = order("--start_from", "1", "40", updates=("training.optimizer.lr=0.5",)).config
    assert (config.seed, config.model.num_fmaps, config.training.optimizer.lr) == (None, 6, 0.5)
    assert (config.training.start_from.run_id, config.training.start_from.checkpoint) == (1, "40")
    assert order("--start_from", "1").config.training.start_from.checkpoint is None
    kept = order("--start_from", "1", updates=("training.start_from.optimizer=keep", "seed=3")).config
    assert (kept.training.start_from.optimizer, kept.seed) == ("keep", 3)
    path = order("--start_from", "1", "weights: 1.pt").config.training.start_from.checkpoint
    assert path == str(Path("weights: 1.pt").absolute())


def test_a_whole_configuration_file_overrides_the_tracked_one_but_not_the_flag(order: Order) -> None:
    config = order("--start_from", "1", "last", updates=("config_training.yaml",)).config
    assert (config.model.num_fmaps, config.training.start_from.run_id) == (32, 1)


def test_continuing_keeps_everything_and_takes_what_may_change(order: Order) -> None:
    found = order("--continue_run", "1", updates=("training.iterations=90", "torch.device=cpu"))
    assert found.continued is not None
    assert found.continued.id == 1
    assert (found.config.seed, found.config.training.iterations, found.config.torch.device) == (77, 90, "cpu")
    with pytest.raises(ConfigError, match=r"trained with model\.num_fmaps=6, but 7 is asked for on the command line"):
        order("--continue_run", "1", updates=("model.num_fmaps=7",))
    with pytest.raises(ConfigError, match=r"but .* is asked for in .*config_training\.yaml: leave that out"):
        order("--continue_run", "1", updates=("config_training.yaml",))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--repeat_run", "1", "--continue_run", "1"), "--repeat_run and --continue_run exclude each other"),
        (("--continue_run", "1", "--start_from", "1"), "--continue_run and --start_from exclude each other"),
        (("--start_from", "1", "best", "more"), "takes a run id and perhaps a checkpoint, found 1 best more"),
        (("--start_from", "best"), "found 'best'; for a file of weights without a run, set"),
        (("--continue_run", "1", "--id", "4"), "leave --id out"),
        (("--continue_run", "1", "--name", "x"), "leave --name out"),
        (("--continue_run", "1", "-u"), "leave --unobserved out"),
        (("--check_commit",), "compares with a tracked run: name one with --repeat_run, --continue_run or"),
        (("--repeat_run", "mito"), "takes the id of a run, a whole number from 1, found 'mito'"),
    ],
)
def test_flags_that_make_no_sense_are_one_sentence(order: Order, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        order(*words)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_that_there_is_not_is_named_with_the_nearest(order: Order) -> None:
    with pytest.raises(RunNotFoundError, match=r"no training run 7.*did you mean 1"):
        order("--repeat_run", "7")


def test_a_data_configuration_that_is_gone_is_had_from_the_run(order: Order, tracked: RunRecord, place: Path) -> None:
    (place / "cell.zarr").mkdir()
    found = order("--repeat_run", "1")
    config, copies = with_tracked_data(found.config, tracked, lambda section: True, exactly=True)
    assert (config, copies) == (found.config, {})
    (place / "train.json").write_text("{}")
    assert with_tracked_data(found.config, tracked, lambda section: True, exactly=False)[1] == {}
    assert with_tracked_data(found.config, tracked, lambda section: False, exactly=True)[1] == {}
    config, copies = with_tracked_data(found.config, tracked, lambda section: True, exactly=True)
    assert config.training.data == copies["training"] == place / "runs/data_configs/0001/training_data.json"
    copied = json.loads(copies["training"].read_text())
    assert copied == {"cell": {**DATA["cell"], "file": str(place / "cell.zarr")}}
    (place / "train.json").unlink()
    assert with_tracked_data(found.config, tracked, lambda section: True, exactly=False)[1] == copies
    (place / "train.json").write_text(json.dumps(DATA))


def test_the_command_that_goes_on_names_the_store_without_its_password(order: Order) -> None:
    config = order("--continue_run", "1").config

    def stores(*argv: str) -> StoreChoice:
        return stores_of(parse(*argv), config.directories, config.tracking)

    choice = stores("-m", "mongodb://ada:s3cret@db/incasem_trainings", "with", "a=1")
    command = resume_command(choice, 12, SCRIPT)
    assert "s3cret" not in command
    assert "--continue_run 12 --mongodb mongodb://db/incasem_trainings --runs_directory " in command
    assert "--file_storage folder" in resume_command(stores("-F", "folder"), 3, SCRIPT)
    assert "--run_id 12 --mongodb mongodb://db/incasem_trainings" in predict_command(choice, 12, SCRIPT)
    assert " --offline with" in predict_command(stores("--offline"), 12, SCRIPT)


def test_an_offline_prediction_needs_the_record_of_its_training(tmp_path: Path) -> None:
    config = PredictionConfig.model_validate({"directories": {"runs": str(tmp_path)}})
    line = parse("--offline", "-m", "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300")
    line.own.mongodb_training = line.own.mongodb_predictions = None
    with pytest.raises(StoreError, match=r"run 4 was not begun with --offline, and the database .* does not answer"):
        find_training(line, config, 4)
    assert not list(tmp_path.iterdir())


def test_offline_builds_only_on_what_waits_on_this_machine(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunNotFoundError, match=r"No training run 1 waits on this machine .* leave --offline out"):
        order("--continue_run", "1", "--offline", "-m", "mongodb://127.0.0.1:9")
    monkeypatch.delenv("INCASEM_TRACKING_URL", raising=False)
    with pytest.raises(RunNotFoundError, match="There is no training run 9"):
        order("--continue_run", "9", "--offline")


def test_offline_runs_wait_below_the_runs_directory_unless_no_database_is_meant(tmp_path: Path) -> None:
    config = TrainingConfig.model_validate({"directories": {"runs": str(tmp_path)}})
    for argv, place in (
        (("--offline", "-m", "mongodb://db"), "offline/incasem_trainings"),
        (("--offline",), "incasem_trainings"),
    ):
        store = stores_of(parse(*argv), config.directories, config.tracking).open("trainings")
        assert store.description == str(tmp_path / "tracking" / place)


class Repository:
    """A git repository with a script in it, and a run that was made with its commit."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.script = folder, folder / "train.py"
        folder.mkdir()
        self.script.write_text("")
        self.git("init", "-q")
        self.git("add", "train.py")
        self.git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", "-C", str(self.folder), *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def run(self, **changes: Any) -> Any:
        entry = {"url": "x", "commit": self.git("rev-parse", "HEAD"), "dirty": False, **changes}
        return FakeRecord([entry] if entry["commit"] else [])


class FakeRecord:
    id = 5

    def __init__(self, repositories: list[dict[str, Any]]) -> None:
        self.experiment = {"repositories": repositories}
        self.store = argparse.Namespace(description="the store")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    # the package itself lies in a repository of its own, whose state is none of these tests' business
    monkeypatch.setattr("incasem_like.commands.tracked.__file__", str(tmp_path / "repository" / "records.py"))
    return Repository(tmp_path / "repository")


def test_the_same_commit_without_changes_passes(repository: Repository) -> None:
    check_commit(repository.run(), repository.script)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"commit": "0123456789abcdef"}, "was made with commit 0123456789ab, but HEAD is"),
        ({"commit": None}, "knows no commit"),
        ({"dirty": True}, "was made with files that differed from its commit"),
    ],
)
def test_another_or_no_commit_is_refused(repository: Repository, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check_commit(repository.run(**changes), repository.script)


def test_changed_files_are_refused(repository: Repository) -> None:
    record = repository.run()
    repository.script.write_text("changed")
    with pytest.raises(InputError, match=r"Files differ from commit .* commit, stash or undo"):
        check_commit(record, repository.script)


def test_code_outside_a_repository_cannot_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incasem_like.commands.tracked.__file__", str(tmp_path / "records.py"))
    with pytest.raises(InputError, match="in no git repository"):
        check_commit(FakeRecord([{"commit": "a"}]), tmp_path / "train.py")  # type: ignore[arg-type]


@pytest.mark.parametrize("flag", ["--start_from", "--repeat_run"])
def test_other_targets_are_learnt_with_the_network_of_a_run(order: Order, flag: str) -> None:
    targets = "targets=[{type: affinities, offsets: [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]}]"
    found = order(flag, "1", updates=(targets,)).config
    assert (found.model.num_fmaps, found.model.num_fmaps_out) == (6, 3)
    assert found.training.checkpoints.best_metric == "affinities_dice"
    assert [output.name for output in found.model.outputs] == ["affinities"]
    with pytest.raises(ConfigError, match=r"model\.num_fmaps_out is 2"):
        order(flag, "1", updates=(targets, "model.num_fmaps_out=2"))
