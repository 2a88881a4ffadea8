"""Meshes, skeletons, graphs and places to paint: found by their own metadata, in the bytes that neuroglancer reads."""

import json
import struct
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapes_on_disk import write_meshes, write_skeletons

from incasem_like.commands.cli import answer
from incasem_like.graphs.parquet import ParquetGraph
from incasem_like.tracking import run_experiment
from incasem_like.tracking.opening import open_store
from incasem_like.viewing.objects import GraphEdges, PrecomputedShapes, SwcSkeletons, find_objects
from incasem_like.viewing.opening import scene_of_places
from incasem_like.viewing.server import serving
from incasem_like.volumes import NanometreRoi, create_volume

NODES = np.array([[10, 20, 30], [10, 20, 60], [10, 50, 60]], float)
EDGES = np.array([[0, 1], [1, 2]])


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Folders as the scripts leave them: meshes of object 7, skeletons of 7 and 9."""
    write_meshes(tmp_path / "meshes/precomputed", {7: (NODES, [[0, 1, 2]])})
    write_skeletons(tmp_path / "skeletons/precomputed", {7: (NODES, EDGES), 9: (NODES, EDGES)})
    write_skeletons(tmp_path / "skeletons/swc", {7: (NODES + 7, EDGES), 9: (NODES + 9, EDGES)}, swc=True)
    return tmp_path


def test_shapes_are_found_in_folders_as_scripts_leave_them(shapes: Path) -> None:
    (meshes,), (skeletons,), (swc,) = (find_objects(shapes / name) for name in ("meshes", "skeletons", "skeletons/swc"))
    assert isinstance(meshes, PrecomputedShapes)
    assert meshes.state("http://x")["segments"] == ["7"]
    assert isinstance(skeletons, PrecomputedShapes)
    assert skeletons.ids == [7, 9]
    assert isinstance(swc, SwcSkeletons)
    assert list(swc.files) == [7, 9]
    for found in (meshes, skeletons):
        assert found.extent == NanometreRoi((10, 20, 30), (1, 30, 30))
    assert find_objects(shapes) == []


def test_swc_is_sent_as_a_precomputed_skeleton(shapes: Path) -> None:
    (swc,) = find_objects(shapes / "skeletons/swc/9.swc")
    sent = swc.read("9")
    nodes, edges = struct.unpack_from("<II", sent)
    assert (nodes, edges) == (3, 2)
    positions = np.frombuffer(sent, "<f4", 9, 8).reshape(3, 3)
    np.testing.assert_allclose(np.sort(positions, axis=0), np.sort((NODES + 9)[:, ::-1], axis=0))
    lengths = np.linalg.norm(np.diff(positions[np.frombuffer(sent, "<u4", 4, 44).reshape(2, 2)], axis=1)[:, 0], axis=1)
    np.testing.assert_allclose(lengths, 30)
    with pytest.raises(FileNotFoundError):
        swc.read("8")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A container whose segmentation left its graph beside it."""
    container = tmp_path / "cell.zarr"
    ids = create_volume(container, "seg/segmentation", shape=(4, 8, 8), dtype="uint64", voxel_size=(10, 10, 10))
    ids.write(np.ones((4, 8, 8), np.uint64))
    ids.mark_complete()
    store = ParquetGraph(container / "seg" / "graph", "mean")
    nodes = {"id": np.array([3, 5, 9], np.uint64), "size": np.ones(3, np.int64)}
    store.write_nodes(0, {**nodes, **{axis: NODES[:, number] for number, axis in enumerate("zyx")}})
    scores = np.array([0.25, 0.75])
    store.write_edges(0, {"u": np.array([3, 5], np.uint64), "v": np.array([5, 9], np.uint64), "score": scores})
    return container


def test_edges_are_lines_between_centres_with_their_score(graph: Path) -> None:
    scene = scene_of_places([str(graph)])
    (edges,) = scene.objects
    assert isinstance(edges, GraphEdges)
    assert edges.name == "seg edges mean"
    about = json.loads(edges.read("info"))
    assert (about["annotation_type"], about["lower_bound"]) == ("LINE", [29, 19, 9])
    sent = edges.read("all/0_0_0")
    assert struct.unpack_from("<Q", sent) == (2,)
    first = np.frombuffer(sent, "<f4", 7, 8)
    np.testing.assert_allclose(first, [60, 20, 10, 60, 50, 10, 0.75])  # the largest score first
    assert edges.read("by_id/0") == first.tobytes()
    assert len(sent) == 8 + 2 * 28 + 2 * 8


@pytest.fixture
def round_folder(tmp_path: Path) -> Path:
    """Places to paint, as a round of bootstrapping writes them."""
    folder = tmp_path / "places"
    for rank, z in ((1, 5), (2, 9)):
        for name, dtype in (("raw", "uint8"), ("labels", "uint32")):
            crop = create_volume(
                folder / "crops.zarr", f"place_{rank:02d}/{name}", shape=(1, 16, 16), dtype=dtype,
                voxel_size=(40, 4, 4), offset=(40 * z, 64, 128),
            )  # fmt: skip
            crop.write(np.full((1, 16, 16), 100, dtype))
            crop.mark_complete()
    (folder / "places.csv").write_text("rank,z,y,x,height,width,error\n1,5,16,32,16,16,0.5\n2,9,16,32,16,16,0.25\n")
    return folder


@pytest.mark.parametrize("name", ["", "places.csv"])
def test_places_to_paint_are_boxes_with_a_link_each(round_folder: Path, name: str) -> None:
    scene = scene_of_places([str(round_folder / name)])
    assert scene.places["place 2, error 0.25"] == NanometreRoi((360, 64, 128), (40, 64, 64))
    with serving(scene) as link:
        state = link.partition("#!")[2]
        second = json.loads(urllib.request.urlopen(state.replace(".json", "-2.json")).read())
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(state.replace(".json", "-3.json"))
    assert second["position"] == [40, 24, 9.5]  # x, y, z in voxels: its centre
    boxes = second["layers"][-1]
    assert boxes["name"] == "places to paint"
    assert boxes["annotations"][0]["pointA"] == [128, 64, 200]


def test_a_round_of_bootstrapping_is_shown_with_its_error_map_and_places(
    round_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = create_volume(tmp_path / "cell.zarr", "errors_1/error_map", shape=(12, 64, 64), dtype="uint8",
                           voxel_size=(40, 4, 4), attributes={"scale": 255})  # fmt: skip
    errors.write(np.full((12, 64, 64), 9, np.uint8))
    errors.mark_complete()

    def work(run: Any) -> dict[str, str]:
        result = {"group": f"{tmp_path / 'cell.zarr'}/errors_1"}
        run.set_info("steps", [{"name": "errors", "result": result}])
        return {"places": str(round_folder)}

    store = open_store(str(tmp_path / "runs"), "bootstrapping", tmp_path)
    run_experiment(name="bootstrap", config={}, main=work, store=store)
    monkeypatch.setattr("incasem_like.commands.view.offer_link", lambda *_, **__: None)  # would wait for ctrl-C
    flags = ["-F", str(tmp_path / "runs"), "--export", str(tmp_path / "view.json")]
    answer(["view", "bootstrapping/1", *flags])
    layers = json.loads((tmp_path / "view.json").read_text())["layers"]
    assert [layer["name"] for layer in layers] == ["errors_1/error_map", "places to paint"]
    assert [box["description"] for box in layers[1]["annotations"]] == ["place 1, error 0.5", "place 2, error 0.25"]
    links = [line for line in capsys.readouterr().out.splitlines() if line.startswith("place ")]
    assert [link[-7:] for link in links] == ["-1.json", "-2.json"]


def test_files_of_objects_are_served_and_nothing_beside_them(shapes: Path) -> None:
    (shapes / "meshes" / "private").write_text("x")
    with serving(scene_of_places([str(shapes / "meshes")])) as link:
        base = link.partition("#!")[2].replace("state.json", "objects/0/")
        assert urllib.request.urlopen(base + "7:0").read() == b'{"fragments": ["7:0:0"]}'
        for wrong in ("../private", "%2e%2e/private", "private", "8:0"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(base + wrong)
