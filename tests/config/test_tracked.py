"""Tracked configurations as the ground for another run, and the keys that name a checkpoint to start from."""

from pathlib import Path
from typing import Any

import pytest

from incasem_like.config import TrainingConfig, load_places, load_training_config, overlay_tracked
from incasem_like.errors import ConfigError


def test_a_file_named_in_a_yaml_need_not_exist_when_the_command_line_names_another(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("training: {data: gone.json}\nvalidation: {data: gone_too.json}\n")
    (tmp_path / "here.json").write_text("{}")
    updates = [f"training.data={tmp_path}/here.json", "validation.data=null"]
    config = load_training_config([tmp_path / "a.yaml"], updates)
    assert (config.training.data, config.validation.data) == (tmp_path / "here.json", None)
    with pytest.raises(ConfigError, match=r"validation\.data names a file that does not exist"):
        load_training_config([tmp_path / "a.yaml"], updates[:1])


def test_an_unset_variable_matters_only_where_its_value_is_used(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("directories: {runs: $NOT_SET_AT_ALL/runs}\n")
    assert load_training_config([tmp_path / "a.yaml"], [f"directories.runs={tmp_path}"]).directories.runs == tmp_path
    with pytest.raises(ConfigError, match="NOT_SET_AT_ALL is not set"):
        load_training_config([tmp_path / "a.yaml"])


def test_files_and_updates_lie_over_the_tracked_configuration(tmp_path: Path) -> None:
    tracked = TrainingConfig.model_validate({"seed": 4, "training": {"iterations": 10, "save_every": 3}})
    (tmp_path / "a.yaml").write_text("training: {save_every: 4}\n")
    config, source = overlay_tracked(
        tracked.model_dump(mode="json"), [tmp_path / "a.yaml"], ["training.log_every=2"], places=load_places([])
    )
    training = config.training
    assert (config.seed, training.iterations, training.save_every, training.log_every) == (4, 10, 4, 2)
    assert source(("training", "save_every")) == f"in {tmp_path / 'a.yaml'}"
    assert source(("training", "log_every")) == "on the command line"
    assert source(("training", "iterations")) == "in the tracked configuration"


def test_folders_and_store_are_those_of_this_machine(tmp_path: Path) -> None:
    tracked = TrainingConfig.model_validate(
        {"directories": {"runs": "/there", "data": "/there"}, "tracking": {"url": "mongodb://there"}}
    ).model_dump(mode="json")
    places = load_places([], [f"directories.runs={tmp_path}", "tracking.url=mongodb://ada:secret@here"])
    assert places.given == {"directories.runs", "directories", "tracking", "tracking.url"}
    config, _ = overlay_tracked(tracked, places=places)
    assert config.directories == places.directories
    assert config.tracking.url == "mongodb://ada:secret@here"


def test_places_are_read_whatever_the_other_sections_hold(tmp_path: Path) -> None:
    places = load_places([], ["data.num_classes=7", f"directories.data={tmp_path}"])
    assert places.directories.data == tmp_path
    with pytest.raises(ConfigError, match=r"did you mean 'directories\.data'"):
        load_places([], ["directories.dta=x"])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, (None, None)), (5, (5, None)), ([5, "best"], (5, "best")), ([5, 3000], (5, "3000")),
        ({"run_id": 5, "checkpoint": "/a/b.pt"}, (5, "/a/b.pt")), ({"checkpoint": "/a/b.pt"}, (None, "/a/b.pt")),
    ],
)  # fmt: skip
def test_a_checkpoint_to_start_from_has_short_forms(value: Any, found: tuple[Any, Any]) -> None:
    section = TrainingConfig.model_validate({"training": {"start_from": value}}).training.start_from
    assert (section.run_id, section.checkpoint) == found
    assert section.optimizer == "reset"
    assert section.named == (found != (None, None))


@pytest.mark.parametrize(
    ("updates", "sentence"),
    [
        (["training.start_from.checkpoint=best"], "is best, but of no training run: set training.start_from.run_id"),
        (["training.start_from.run_id=first"], "must be a whole number of at least 1"),
        (["training.start_from.optimizer=kept"], "must be one of 'reset', 'keep'"),
        (["training.start_from.checkpoint=nowhere.pt"], "names a file that does not exist"),
    ],
)
def test_a_wrong_checkpoint_to_start_from_is_one_sentence(updates: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_training_config([], updates)
    assert sentence in str(caught.value)


def test_what_incasem_left_in_a_tracked_configuration_does_no_harm() -> None:
    tracked = {"training": {"iterations": 9, "continue_id": 5, "start_from": [7, "/old/model_checkpoint_3"]}}
    config, _ = overlay_tracked(tracked)
    assert (config.training.start_from.run_id, config.training.start_from.checkpoint) == (7, "/old/model_checkpoint_3")
    tracked["training"]["start_from"] = False
    assert not overlay_tracked(tracked)[0].training.start_from.named


@pytest.mark.parametrize(
    ("update", "ending"),
    [
        ("training.learning_rate_schedule=cosin", "found \"cosin\" on the command line; did you mean 'cosine'?"),
        ("model.type=UNet", "found \"UNet\" on the command line; did you mean 'Unet'?"),
        ("torch.precision=fp8", 'found "fp8" on the command line.'),
        ("training.optimizer=3", "found 3 on the command line: set a key of it, such as training.optimizer.lr=VALUE."),
        ("training.optimizer.learning_rate=1", "did you mean 'training.optimizer.lr'?"),
        ("training.epochs=1", "did you mean 'training.iterations'?"),
        ("iterations=1", "did you mean 'training.iterations'?"),
    ],
)
def test_a_wrong_value_or_key_ends_with_what_was_probably_meant(tmp_path: Path, update: str, ending: str) -> None:
    (tmp_path / "a.yaml").write_text("training: {learning_rate_schedule: {type: linear, warmup_iterations: 4}}\n")
    with pytest.raises(ConfigError) as caught:
        load_training_config([tmp_path / "a.yaml"], [update])
    assert str(caught.value).endswith(ending)
