"""The data-config JSON: what is read from it, where its containers are found, and what it may not say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from incasem_like.config import DataConfig, load_data_config, output_container, parse_data_config, required_file
from incasem_like.errors import ConfigError

Write = Callable[[object], Path]


def test_an_entry_keeps_what_the_json_says(entry: dict[str, Any], data_directory: Path, write_json: Write) -> None:
    entry |= {"mask": "volumes/mask", "metric_masks": ["volumes/metric_masks/er"], "voxel_size": [5.24, 4, 4]}
    path = write_json({"cell_1_er": entry})
    config = load_data_config(path, data_directory, num_classes=2, voxel_size=(5.24, 4.0, 4.0))
    (only,) = config.entries
    assert only.name == "cell_1_er"
    assert only.file == data_directory / "cell_1" / "cell_1.zarr"
    assert (only.offset, only.shape) == ((150, 120, 1295), (600, 590, 1350))
    assert only.voxel_size == config.voxel_size == (5.24, 4.0, 4.0)
    assert (only.raw, only.labels, only.mask) == ("volumes/raw", {"volumes/labels/er": 1}, "volumes/mask")
    assert only.metric_masks == ("volumes/metric_masks/er",)
    assert config.path == path
    assert config.text == path.read_text()


def test_region_labels_and_masks_may_be_absent(entry: dict[str, Any], data_directory: Path, write_json: Write) -> None:
    for key in ("offset", "shape", "labels"):
        del entry[key]
    (only,) = load_data_config(write_json({"a": entry}), data_directory, num_classes=5).entries
    assert (only.offset, only.shape, only.labels, only.mask, only.metric_masks) == (None, None, {}, None, ())


def test_entries_keep_their_order(entry: dict[str, Any], data_directory: Path, write_json: Write) -> None:
    config = load_data_config(write_json(dict.fromkeys(("z", "a", "m"), entry)), data_directory)
    assert [item.name for item in config.entries] == ["z", "a", "m"]


def test_negative_offsets_are_positions_too(entry: dict[str, Any], data_directory: Path, write_json: Write) -> None:
    entry["offset"] = [-10, 0, 0]
    assert load_data_config(write_json({"a": entry}), data_directory).entries[0].offset == (-10, 0, 0)


def test_a_container_is_found_beside_the_json_after_the_data_folder(
    entry: dict[str, Any], data_directory: Path, write_json: Write
) -> None:
    entry["file"] = "beside.zarr"
    path = write_json({"a": entry})
    (path.parent / "beside.zarr").mkdir()
    assert load_data_config(path, data_directory).entries[0].file == path.parent / "beside.zarr"
    (data_directory / "beside.zarr").mkdir()
    assert load_data_config(path, data_directory).entries[0].file == data_directory / "beside.zarr"


def test_container_paths_expand(
    entry: dict[str, Any], data_directory: Path, write_json: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(data_directory))
    monkeypatch.setenv("CELL", "cell_2")
    entry["file"] = "~/$CELL/cell_2.zarr"
    expected = data_directory / "cell_2" / "cell_2.zarr"
    assert load_data_config(write_json({"a": entry})).entries[0].file == expected


def test_a_tracked_json_is_read_without_its_file(
    entry: dict[str, Any], data_directory: Path, write_json: Write
) -> None:
    path = write_json({"a": entry})
    config = load_data_config(path, data_directory)
    path.unlink()
    assert parse_data_config(config.text, path, data_directory) == config


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"offest": [0, 0, 0]}, "Unknown key 'cell.offest' in {path}; did you mean 'cell.offset'?"),
        ({"name": "x"}, "Unknown key 'cell.name'"),
        ({"file": None}, "cell.file is missing in {path}: it must be the path of a file"),
        ({"file": 5}, "cell.file must be the path of a file, found 5"),
        ({"file": "nope.zarr"}, "cell.file names a container that does not exist: looked for {data}/nope.zarr and "),
        ({"file": "s3://bucket/cell.zarr"}, "cell.file is the URL s3://bucket/cell.zarr"),
        ({"voxel_size": None}, "cell.voxel_size is missing in {path}"),
        ({"voxel_size": [5, 5, 0]}, "[z, y, x], each a number above 0, found [5, 5, 0]"),
        ({"voxel_size": [5, 5]}, "[z, y, x], each a number above 0, found [5, 5]"),
        ({"offset": [1, 2]}, "cell.offset must be [z, y, x], each a whole number or null, found [1, 2] in {path}"),
        ({"offset": [1, 2, 3.5]}, "found [1, 2, 3.5]"),
        (
            {"shape": [600, -590, 1350]},
            "cell.shape must be [z, y, x], each a whole number of at least 1 or null, found",
        ),
        ({"shape": [600, 0, 1350]}, "found [600, 0, 1350]"),
        ({"raw": None}, "cell.raw is missing"),
        ({"raw": ""}, 'cell.raw must be a text, found ""'),
        ({"metric_masks": "volumes/m"}, 'cell.metric_masks must be a list, each entry a text, found "volumes/m"'),
        ({"labels": ["volumes/labels/er"]}, "cell.labels must be a mapping, each value a whole number of at least 1"),
        ({"labels": {"a": 0}}, 'found {{"a": 0}}'),
        ({"labels": {"a": 2}}, "cell.labels has the class ids 2: 1 label datasets need the ids 1, each once"),
        ({"labels": {"a": 1, "b": 1}}, "has the class ids 1, 1: 2 label datasets need the ids 1, 2, each once"),
        ({"labels": {"a": 1, "b": 2}}, "has 2 label datasets, but data.num_classes 2 needs 1"),
    ],
)
def test_a_wrong_entry_is_one_sentence(
    entry: dict[str, Any], data_directory: Path, write_json: Write, change: dict[str, Any], sentence: str
) -> None:
    entry |= change
    path = write_json({"cell": {key: value for key, value in entry.items() if value is not None}})
    with pytest.raises(ConfigError) as caught:
        load_data_config(path, data_directory, num_classes=2)
    assert sentence.format(path=path, data=data_directory) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a:b", "..", "", " a", "a ", ".hidden", "a.", "x" * 101, "a\nb"])
def test_a_name_that_cannot_be_a_folder_is_refused(
    entry: dict[str, Any], data_directory: Path, write_json: Write, name: str
) -> None:
    with pytest.raises(ConfigError, match=r"The entry name"):
        load_data_config(write_json({name: entry}), data_directory)


@pytest.mark.parametrize("name", ["Cell_6_example_roi_nickname", "cell 1", "cell.1", "Zelle-ä", "1"])
def test_other_names_are_fine(entry: dict[str, Any], data_directory: Path, write_json: Write, name: str) -> None:
    assert load_data_config(write_json({name: entry}), data_directory).entries[0].name == name


def test_names_that_are_one_folder_on_some_systems_are_refused(
    entry: dict[str, Any], data_directory: Path, write_json: Write
) -> None:
    with pytest.raises(ConfigError, match=r"Cell and cell in .* differ in upper and lower case only"):
        load_data_config(write_json({"Cell": entry, "cell": entry}), data_directory)


def test_entries_of_different_voxel_size_are_refused(
    entry: dict[str, Any], data_directory: Path, write_json: Write
) -> None:
    path = write_json({"a": entry, "b": entry | {"voxel_size": [4, 4, 4.5]}})
    with pytest.raises(ConfigError, match=r"b has voxel_size \[4, 4, 4.5\] nm, but a \[5, 5, 5\] nm"):
        load_data_config(path, data_directory)


def test_a_voxel_size_that_contradicts_the_configuration_is_refused(
    entry: dict[str, Any], data_directory: Path, write_json: Write
) -> None:
    path = write_json({"a": entry})
    with pytest.raises(ConfigError, match=r"data.voxel_size is \[4, 4, 4\] nm: .* set data.voxel_size=\[5, 5, 5\]\."):
        load_data_config(path, data_directory, voxel_size=(4, 4, 4))


@pytest.mark.parametrize("document", ["[]", "{}", "5", '"x"'])
def test_a_json_without_entries_is_refused(data_directory: Path, write_json: Write, document: str) -> None:
    with pytest.raises(ConfigError, match="holds no entries"):
        load_data_config(write_json(document), data_directory)


def test_an_entry_that_is_no_object_is_refused(data_directory: Path, write_json: Write) -> None:
    with pytest.raises(ConfigError, match=r"a must be an object with file, voxel_size and raw, found 5"):
        load_data_config(write_json({"a": 5}), data_directory)


def test_an_entry_named_twice_is_refused(data_directory: Path, write_json: Write) -> None:
    with pytest.raises(ConfigError, match=r'the key "a" twice in one object \(line 1, 2\)'):
        load_data_config(write_json('{"a": {},\n"a": {}}'), data_directory)


def test_a_missing_json_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"The data configuration .*nope.json does not exist"):
        load_data_config(tmp_path / "nope.json")
    with pytest.raises(ConfigError, match="is a folder: name a file in it"):
        load_data_config(tmp_path)


def test_a_key_left_empty_is_asked_for() -> None:
    with pytest.raises(
        ConfigError, match=r"training.data is not set: name a data configuration, such as training.data="
    ):
        required_file(None, "training.data")


def test_predictions_keep_the_relative_name_of_their_container() -> None:
    data, prefix = Path("/data"), Path("/out")
    assert output_container(Path("/data/cell/cell.zarr"), data, prefix) == Path("/out/cell/cell.zarr")
    assert output_container(Path("/else/cell.zarr"), data, prefix) == Path("/out/cell.zarr")
    assert output_container(Path("/else/cell.zarr"), data, data) == Path("/else/cell.zarr")


def test_a_data_configuration_does_not_change(entry: dict[str, Any], data_directory: Path, write_json: Write) -> None:
    config = load_data_config(write_json({"a": entry}), data_directory)
    with pytest.raises(ValueError, match="frozen"):
        config.text = ""  # type: ignore[misc]
    assert isinstance(config, DataConfig)
