"""Files over defaults, updates over files; where files are looked for; tracked configurations on another machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from incasem_like.config import (
    DirectoriesConfig,
    PredictionConfig,
    TrainingConfig,
    load_prediction_config,
    load_series_config,
    load_training_config,
    resolve_training_config,
)
from incasem_like.errors import ConfigError


@pytest.fixture
def script_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a script's own, with the person standing in another one."""
    folder = tmp_path / "02_train"
    (folder / "data_configs").mkdir(parents=True)
    (folder / "data_configs" / "er.json").write_text("{}")
    (folder / "config_training.yaml").write_text("training:\n  iterations: 10\n  batch_size: 2\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def test_later_files_win_and_updates_win_over_files(script_folder: Path) -> None:
    Path("mine.yaml").write_text("training:\n  iterations: 20\n  save_every: 5\n")
    config = load_training_config(
        [Path("config_training.yaml"), Path("mine.yaml")], ["training.save_every=7"], script_folder
    )
    assert (config.training.iterations, config.training.batch_size, config.training.save_every) == (20, 2, 7)


def test_no_file_means_the_one_beside_the_script(script_folder: Path) -> None:
    assert load_training_config([], [], script_folder).training.iterations == 10


def test_named_files_are_looked_for_here_before_beside_the_script(script_folder: Path) -> None:
    name = "training.data=data_configs/er.json"
    beside_script = load_training_config([], [name], script_folder).training.data
    assert beside_script == script_folder / "data_configs" / "er.json"
    Path("data_configs").mkdir()
    Path("data_configs/er.json").write_text("{}")
    assert load_training_config([], [name], script_folder).training.data == Path.cwd() / "data_configs" / "er.json"


def test_paths_in_a_file_are_relative_to_that_file(script_folder: Path) -> None:
    file = script_folder / "mine.yaml"
    file.write_text("directories: {runs: ../runs}\ntraining: {data: data_configs/er.json}\n")
    config = load_training_config([file])
    assert config.directories.runs == script_folder.parent / "runs"
    assert config.training.data == script_folder / "data_configs" / "er.json"


def test_home_and_environment_variables_expand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PROJECT", "fly")
    config = load_training_config(
        [], ["directories.runs=~/runs", "directories.data=${NOT_SET_HERE:-/volumes}/$PROJECT/${PROJECT}"]
    )
    assert config.directories.runs == tmp_path / "runs"
    assert config.directories.data == Path("/volumes/fly/fly")


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(ConfigError, match="environment variable NOT_SET_HERE is not set"):
        load_training_config([], ["directories.runs=$NOT_SET_HERE/runs"])


def test_a_missing_file_says_where_it_was_looked_for(script_folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_training_config([Path("nope.yaml")], [], script_folder)
    assert f"looked for {Path.cwd() / 'nope.yaml'} and {script_folder / 'nope.yaml'}" in str(caught.value)
    with pytest.raises(ConfigError, match=r"training.data names a file that does not exist: looked for .*nope.json"):
        load_training_config([], ["training.data=nope.json"], script_folder)
    with pytest.raises(ConfigError, match=r"training.data names the folder"):
        load_training_config([], [f"training.data={script_folder}"])


def test_a_json_file_is_a_configuration_too(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{\n\t"training": {\n\t\t"optimizer": {"lr": 1e-3}}}', encoding="utf-8-sig")
    assert load_training_config([tmp_path / "mine.json"]).training.optimizer.lr == 1e-3


def test_dotted_keys_work_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("training.optimizer.lr: 1e-3\ntraining:\n  iterations: 4\n")
    config = load_training_config([tmp_path / "mine.yaml"])
    assert (config.training.optimizer.lr, config.training.iterations) == (1e-3, 4)


def test_a_file_that_was_commented_out_altogether_is_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# training:\n")
    assert load_training_config([tmp_path / "mine.yaml"]) == TrainingConfig()


def test_predictions_go_beside_the_data_unless_told_otherwise(tmp_path: Path) -> None:
    config = load_prediction_config([], [f"directories.data={tmp_path}"])
    assert config.prediction.directories.prefix == tmp_path
    config = load_prediction_config([], [f"directories.data={tmp_path}", "prediction.directories.prefix=/out"])
    assert config.prediction.directories.prefix == Path("/out")
    assert PredictionConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(("given", "kept"), [("best", "best"), ("last", "last"), ("5000", "5000"), ("'5000'", "5000")])
def test_a_checkpoint_is_named_by_a_word_or_an_iteration(given: str, kept: str) -> None:
    assert load_prediction_config([], [f"prediction.checkpoint={given}"]).prediction.checkpoint == kept


def test_a_checkpoint_path_becomes_absolute_or_is_missing(script_folder: Path) -> None:
    (script_folder / "model_checkpoint_5").write_bytes(b"")
    config = load_prediction_config([], ["prediction.checkpoint=model_checkpoint_5"], script_folder)
    assert config.prediction.checkpoint == str(script_folder / "model_checkpoint_5")
    with pytest.raises(ConfigError, match=r"prediction.checkpoint names a file that does not exist"):
        load_prediction_config([], ["prediction.checkpoint=model_checkpoint_6"], script_folder)
    with pytest.raises(ConfigError, match=r"prediction.checkpoint must be best, last, an iteration or"):
        load_prediction_config([], ["prediction.checkpoint=[true]"])


def test_several_runs_may_have_a_checkpoint_each(script_folder: Path) -> None:
    (script_folder / "model_checkpoint_5").write_bytes(b"")
    updates = ["prediction.run_id_training=[7,9,7]", "prediction.checkpoint=[best,300,model_checkpoint_5]"]
    section = load_prediction_config([], updates, script_folder).prediction
    assert section.run_id_training == (7, 9, 7)
    assert section.checkpoint == ("best", "300", str(script_folder / "model_checkpoint_5"))
    with pytest.raises(ConfigError, match=r"prediction.checkpoint names a file that does not exist"):
        load_prediction_config([], ["prediction.checkpoint=[best,model_checkpoint_6]"], script_folder)
    assert load_prediction_config([], ["prediction.run_id_training=[7]"]).prediction.run_id_training == 7
    with pytest.raises(ConfigError, match=r"prediction.run_id_training must be the id of a run, or a list"):
        load_prediction_config([], ["prediction.run_id_training=[7,0]"])
    with pytest.raises(ConfigError, match=r"prediction.weights must be a list of numbers above 0"):
        load_prediction_config([], ["prediction.weights=[1,-1]"])


@pytest.mark.parametrize(
    ("updates", "sentence"),
    [
        (["series.start=300", "series.stop=200"], "series.start is 300 and series.stop is 200"),
        (["series.step=100", "series.best=3"], "no fixed step apart"),
        (["series.best=3", "series.checkpoint_dir=."], "series.checkpoint_dir names files that it does not know"),
        (["series.keep=some"], "series.keep must be one of 'all', 'best', 'none'"),
        (["prediction.checkpoint=best"], "prediction.checkpoint is best, but a series predicts with many"),
        (["prediction.run_id_training=[1,2]"], "a series is of one training"),
        (["series.stride=2"], "Unknown key 'series.stride'"),
    ],
)
def test_contradictions_in_a_series_are_one_sentence(updates: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        load_series_config([], updates)


def test_a_predictions_file_will_do_for_a_series(tmp_path: Path) -> None:
    path = tmp_path / "config_prediction.yaml"
    path.write_text("prediction:\n  output_dtype: uint8\n")
    config = load_series_config([path], ["series.keep=best"])
    assert (config.prediction.output_dtype, config.series.keep, config.series.start) == ("uint8", "best", None)


def test_training_keys_are_unknown_to_a_prediction() -> None:
    with pytest.raises(ConfigError, match=r"Unknown key 'model' on the command line"):
        load_prediction_config([], ["model.num_fmaps=3"])


def test_a_tracked_training_gets_the_folders_of_this_machine(tmp_path: Path) -> None:
    tracked = load_training_config([], ["training.iterations=5", "data.voxel_size=[4,4,4]"]).model_dump(mode="json")
    tracked["directories"] = {"runs": "/nowhere/runs", "data": "/nowhere/data", "scratch": "/nowhere"}
    tracked["training"]["data"] = "/nowhere/er.json"
    here = DirectoriesConfig(runs=tmp_path / "runs", data=tmp_path / "data")
    config = resolve_training_config(tracked, ["training.iterations=9"], directories=here)
    assert config.directories == here
    assert config.training.iterations == 9
    assert config.training.data == Path("/nowhere/er.json")
    assert tracked["directories"]["runs"] == "/nowhere/runs"


def test_a_configuration_that_incasem_tracked_is_read() -> None:
    tracked: dict[str, Any] = {
        "directories": {"runs": "/scratch/training_runs", "data": "/scratch/data"},
        "training": {"iterations": 90000, "continue_id": 12, "start_from": [1, "x.pt"], "data": "data_configs/er.json"},
        "data": {"voxel_size": [5, 5, 5], "downsample_factor": 1, "num_classes": 2},
        "model": {"type": "Unet", "num_fmaps": 32, "num_fmaps_out": 2, "fmap_inc_factor": 2, "constant_upsample": True},
        "sources": {"class": "DataSourcesSemantic"},
        "torch": {"device": 0},
        "seed": 42,
    }
    config = resolve_training_config(tracked)
    assert (config.training.iterations, config.seed) == (90000, 42)
    assert config.directories == DirectoriesConfig()


def test_a_key_is_accepted_under_its_former_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("prediction: {num_workers: 3}")
    assert load_prediction_config([tmp_path / "mine.yaml"]).prediction.num_threads == 3
    assert load_prediction_config([tmp_path / "mine.yaml"], ["prediction.num_threads=2"]).prediction.num_threads == 2
    assert load_prediction_config([], ["prediction.num_workers=1"]).prediction.num_threads == 1
    tracked = PredictionConfig().model_dump(mode="json")
    tracked["prediction"]["num_workers"] = tracked["prediction"].pop("num_threads") + 1
    assert PredictionConfig.model_validate(tracked).prediction.num_threads == 9
    with pytest.raises(ConfigError, match=r"prediction.num_threads must be a whole number of at least 0, found -1"):
        load_prediction_config([], ["prediction.num_workers=-1"])
