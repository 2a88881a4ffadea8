"""What is shown of a container, a group, snapshots, runs and data configurations."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from incasem_like.errors import DataError, InputError
from incasem_like.viewing.opening import (
    comparison_scene,
    open_place,
    prediction_address,
    scene_of_data_config,
    scene_of_places,
)
from incasem_like.volumes import create_volume
from incasem_like.volumes.opening import locate


def write(path: Path, name: str, dtype: str = "uint8", shape: tuple[int, ...] = (8, 16, 16), **options: Any) -> None:
    options = {"voxel_size": (40, 4, 4), **options}
    axes = "czyx" if len(shape) == 4 else "zyx"
    volume = create_volume(path, name, shape=shape, dtype=dtype, axes=axes, **options)
    volume.write(np.ones(shape, dtype))
    volume.mark_complete()


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    path = tmp_path / "cell.zarr"
    write(path, "volumes/raw/s0")
    write(path, "volumes/raw/s1", shape=(8, 8, 8), voxel_size=(40, 8, 8))
    write(path, "volumes/labels/mito", "uint32")
    for number in (0, 1):
        write(path, f"volumes/prob_maps/class_{number}", attributes={"scale": 255})
    write(path, "volumes/affs", shape=(3, 8, 16, 16))
    return path


def test_a_container_shows_all_datasets_and_pyramids_once(cell: Path) -> None:
    layers = {layer.name: layer for layer in open_place(str(cell))}
    assert sorted(layers) == ["affs", "labels/mito", "prob_maps/class_0", "prob_maps/class_1", "raw"]
    assert layers["raw"].served.level_count == 2
    assert {name: layer.meaning for name, layer in layers.items()} == {
        "affs": "channels", "labels/mito": "labels", "prob_maps/class_0": "probabilities",
        "prob_maps/class_1": "probabilities", "raw": "raw",
    }  # fmt: skip


def test_a_group_a_pyramid_and_a_dataset_are_places(cell: Path) -> None:
    assert [layer.name for layer in open_place(f"{cell}/volumes/prob_maps")] == [
        "prob_maps/class_0",
        "prob_maps/class_1",
    ]
    assert open_place(f"{cell}/volumes/raw")[0].served.level_count == 2
    assert open_place(f"{cell}/volumes/raw/s1")[0].served.finest.shape == (8, 8, 8)


def test_raw_lies_below_and_few_layers_are_visible_at_first(cell: Path) -> None:
    scene = scene_of_places([str(cell)])
    assert scene.layers[0].meaning == "raw"
    assert [layer.name for layer in scene.layers if layer.visible] == ["raw", "labels/mito"]


def test_layers_of_several_containers_are_told_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / f"{name}.zarr", "raw")
    scene = scene_of_places([str(tmp_path / "one.zarr"), str(tmp_path / "two.zarr")])
    assert [layer.name for layer in scene.layers] == ["one/raw", "two/raw"]
    assert [layer.visible for layer in scene.layers] == [True, False]


def test_snapshots_are_steps_in_order_of_iterations(tmp_path: Path) -> None:
    for iteration in (900, 1000):
        write(tmp_path / f"{iteration}.zarr", "raw")
        write(tmp_path / f"{iteration}.zarr", "predictions", shape=(2, 8, 8, 8))
    write(tmp_path / "1000.zarr", "instances", "uint64")
    layers = open_place(str(tmp_path))
    assert [layer.name for layer in layers] == ["raw", "predictions"]
    assert layers[0].served.step_names == ("900", "1000")
    state = scene_of_places([str(tmp_path)]).state("http://here")
    assert state["dimensions"]["step"]["labels"] == ["900", "1000"]


def test_the_view_begins_in_the_middle_of_the_volume(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", "raw", offset=(400, 40, 80))
    state = scene_of_places([str(tmp_path / "a.zarr")]).state("http://here")
    assert state["dimensions"] == {"x": [4e-9, "m"], "y": [4e-9, "m"], "z": [4e-8, "m"]}
    assert state["position"] == [20 + 8, 10 + 8, 10 + 4]


def test_regions_of_a_data_config_are_boxes_in_nm(cell: Path, tmp_path: Path) -> None:
    write(cell, "volumes/flat")
    entry = {"file": str(cell), "voxel_size": [40, 4, 4], "raw": "volumes/flat", "labels": {"volumes/labels/mito": 1}}
    config = tmp_path / "data.json"
    config.write_text(json.dumps({"a": {**entry, "offset": [1, 2, 3], "shape": [4, 8, 10]}, "b": entry}))
    scene = scene_of_data_config([config], context=3)
    state = scene.state("http://here")
    outer, inner = (layer for layer in state["layers"] if layer["type"] == "annotation")
    boxes = {box["description"]: (box["pointA"], box["pointB"]) for box in outer["annotations"]}
    assert boxes == {"a": ([12, 8, 40], [52, 40, 200]), "b": ([0, 0, 0], [64, 64, 320])}
    smaller = {box["description"]: (box["pointA"], box["pointB"]) for box in inner["annotations"]}
    assert smaller["b without context"] == ([12, 12, 120], [52, 52, 200])
    assert smaller["a without context"] == ([24, 20, 80], [40, 28, 160])  # z has only 4 voxels
    assert [layer.name for layer in scene.layers] == ["flat", "labels/mito"]


def test_entries_of_several_containers_need_a_choice(tmp_path: Path) -> None:
    entries = {}
    for name in ("one", "two"):
        write(tmp_path / f"{name}.zarr", "raw")
        entries[name] = {"file": f"{name}.zarr", "voxel_size": [40, 4, 4], "raw": "raw"}
    config = tmp_path / "data.json"
    config.write_text(json.dumps(entries))
    with pytest.raises(InputError, match="2 containers: choose one with --only_cell"):
        scene_of_data_config([config])
    assert len(scene_of_data_config([config], only_container="two.zarr").boxes["regions"]) == 1
    with pytest.raises(InputError, match=r"No entry is in three\.zarr"):
        scene_of_data_config([config], only_container="three.zarr")


def test_a_comparison_is_a_grid(cell: Path) -> None:
    write(cell, "volumes/predictions/7/1000/prob_maps/class_1")
    address = prediction_address(str(cell), "volumes/predictions/7", "1000", "prob_maps/class_1")
    raw = locate(cell, "volumes/raw")
    scene = comparison_scene(raw, [locate(cell, "volumes/labels/mito")], [[address]], [["run 7, 1000"]])
    layout = scene.state("http://here")["layout"]
    rows = [[view["layers"] for view in row["children"]] for row in layout["children"]]
    assert rows == [[["raw", "labels/mito"]], [["raw", "run 7, 1000"]]]


@pytest.mark.parametrize(
    ("place", "sentence"),
    [("nothing.zarr", "does not exist"), ("empty.zarr", "holds no Zarr, N5 or precomputed volume")],
)
def test_nothing_to_view_is_one_sentence(tmp_path: Path, place: str, sentence: str) -> None:
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(DataError, match=sentence):
        open_place(str(tmp_path / place))


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "incasem_like", "view", *words], capture_output=True, text=True, timeout=120
    )


def test_a_port_in_use_and_a_wrong_place_end_with_status_2(cell: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = command(str(cell), "--port", str(taken.getsockname()[1]))
    assert (ended.returncode, "choose another with --port" in ended.stderr) == (2, True)
    ended = command("missing.zarr")
    assert (ended.returncode, "missing.zarr does not exist" in ended.stderr) == (2, True)
