"""The files in ``scripts/`` and ``docs/`` say what the models say."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from incasem_like.config import (
    PredictionConfig,
    SeriesConfig,
    SeriesSection,
    TrainingConfig,
    load_prediction_config,
    load_series_config,
    load_training_config,
)
from incasem_like.config.checking import all_keys
from incasem_like.config.data_config import parse_data_config
from incasem_like.config.locations import default_data_directory, default_runs_directory
from incasem_like.config.reading import read_keys
from incasem_like.config.reference import PAGE, reference_page

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINING = REPOSITORY / "scripts" / "02_train" / "config_training.yaml"
PREDICTION = REPOSITORY / "scripts" / "03_predict" / "config_prediction.yaml"
SERIES = PREDICTION.with_name("config_prediction_multiple.yaml")


def test_the_yaml_files_are_the_defaults() -> None:
    assert load_training_config([TRAINING]) == TrainingConfig()
    assert load_prediction_config([PREDICTION]) == PredictionConfig()
    assert load_series_config([SERIES]) == load_series_config([PREDICTION]) == SeriesConfig()


def test_the_file_of_a_series_has_every_key_of_its_own() -> None:
    assert set(read_keys(SERIES)["series"]) == set(SeriesSection.model_fields)


@pytest.mark.parametrize(("path", "model"), [(TRAINING, TrainingConfig), (PREDICTION, PredictionConfig)])
def test_the_yaml_files_have_every_key_with_a_comment(
    path: Path, model: type[TrainingConfig] | type[PredictionConfig]
) -> None:
    values = read_keys(path)
    for keys, _ in all_keys(model):
        section = values
        for key in keys[:-1]:
            section = section[key]
            if section is None:  # a section that is off by default: docs/configuration.md has its keys
                break
        else:
            assert keys[-1] in section, ".".join(keys)
    bare = [line for line in path.read_text().splitlines() if re.match(r"\s*\w+: *[^# ]", line) and " # " not in line]
    assert bare == []


@pytest.mark.parametrize("model", [TrainingConfig, PredictionConfig, SeriesSection])
def test_every_key_has_a_description(model: type[TrainingConfig] | type[PredictionConfig]) -> None:
    assert [".".join(keys) for keys, field in all_keys(model) if not field.description] == []


@pytest.mark.parametrize(
    "path", sorted(REPOSITORY.glob("scripts/0[23]_*/data_configs/example_*.json")), ids=lambda p: p.stem
)
def test_the_example_data_configurations_are_valid(path: Path, tmp_path: Path) -> None:
    for cell in ("cell_1", "cell_2", "cell_3", "cell_6"):
        (tmp_path / cell / f"{cell}.zarr").mkdir(parents=True)
    classes = 2 if "labels" in path.read_text() else None
    config = parse_data_config(path.read_text(), path, tmp_path, num_classes=classes, voxel_size=(5, 5, 5))
    assert config.entries


def test_the_examples_of_incasem_are_all_there() -> None:
    names = {path.stem for path in REPOSITORY.glob("scripts/0[23]_*/data_configs/example_*.json")}
    assert names >= {"example_train_er", "example_validation_er", "example_finetune_mito", "example_cell6"}


def test_the_reference_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference_page(), "run python -m incasem_like.config.reference"


def test_the_reference_page_is_the_same_whatever_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    page = reference_page()
    monkeypatch.setenv("INCASEM_DATA", "/somewhere")
    monkeypatch.setenv("INCASEM_RUNS", "/somewhere")
    assert reference_page() == page


def test_a_stale_reference_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from argparse import Namespace

    from incasem_like.config import reference

    page = tmp_path / "configuration.md"
    monkeypatch.setattr(reference, "PAGE", page)
    assert reference.main(Namespace(check=True, print=False)) == 1
    assert reference.main(Namespace(check=False, print=False)) == 0
    assert reference.main(Namespace(check=True, print=False)) == 0
    page.write_text(page.read_text().replace("200000", "100000"))
    assert reference.main(Namespace(check=True, print=False)) == 1


def test_environment_variables_move_the_default_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_runs_directory() == REPOSITORY / "training_runs"
    assert default_data_directory() == REPOSITORY / "data"
    monkeypatch.setenv("INCASEM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("INCASEM_DATA", "~/data")
    monkeypatch.setenv("HOME", str(tmp_path))
    for config in (TrainingConfig(), load_training_config([TRAINING]), load_prediction_config([PREDICTION])):
        assert config.directories.runs == tmp_path / "runs"
        assert config.directories.data == tmp_path / "data"


def test_a_relative_environment_variable_means_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INCASEM_DATA", "volumes")
    for config in (TrainingConfig(), load_training_config([TRAINING])):
        assert config.directories.data == tmp_path / "volumes"


def test_configurations_travel_to_worker_processes() -> None:
    config = load_training_config([TRAINING])
    assert pickle.loads(pickle.dumps(config)) == config


def test_outside_a_repository_the_default_folders_are_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from incasem_like.config import locations

    monkeypatch.setattr(locations, "__file__", str(tmp_path / "site-packages" / "incasem_like" / "config" / "x.py"))
    monkeypatch.chdir(tmp_path)
    assert default_runs_directory() == tmp_path / "training_runs"
    assert default_data_directory() == tmp_path / "data"


def test_importing_the_room_loads_no_heavy_library() -> None:
    heavy = ("torch", "gunpowder", "numpy", "tensorstore", "sacred", "zarr")
    code = f"import sys, incasem_like.config; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
