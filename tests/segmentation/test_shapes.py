"""Skeletons and meshes: read by other programs, compared with closed forms and with the whole array at once."""

import itertools
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import neuroglancer.skeleton
import numpy as np
import pyarrow.parquet
import pytest
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from incasem_like.errors import DataError, InputError
from incasem_like.segmentation import object_files, shape_run, shapes
from incasem_like.segmentation.shape_run import Meshes, Skeletons, extract_as_run
from incasem_like.volumes import Roi, create_volume, open_volume

SCRIPTS = Path(__file__).parents[2] / "scripts/04_postprocessing"
VOXELS = (10.0, 4.0, 5.0)
OFFSET = (30.0, 8.0, 0.0)


@pytest.fixture
def write(tmp_path):
    numbers = itertools.count()

    def written(labels):
        name = f"data_{next(numbers)}"
        volume = create_volume(
            tmp_path / "cell.zarr", name, shape=labels.shape, dtype=labels.dtype, voxel_size=VOXELS, offset=OFFSET,
            chunk_shape=(5, 6, 7),
        )  # fmt: skip
        volume.write(labels)
        volume.mark_complete()
        return str(open_volume(tmp_path / "cell.zarr", name).address)

    return written


@pytest.fixture
def blobs():
    """Smooth objects that touch each other and the border, and a large id."""
    rng = np.random.default_rng(4)
    smooth = ndimage.gaussian_filter(rng.random((20, 24, 28)), 2)
    labels = np.digitize(smooth, np.quantile(smooth, [0.3, 0.6, 0.8])).astype(np.uint64)
    labels[labels == 3] = 2**40 + 3
    return labels


def read_precomputed(folder, number):
    """A mesh as neuroglancer reads it."""
    assert json.loads((folder / "info").read_text()) == {"@type": "neuroglancer_legacy_mesh"}
    parts = []
    for name in json.loads((folder / f"{number}:0").read_text())["fragments"]:
        content = (folder / name).read_bytes()
        (count,) = struct.unpack("<I", content[:4])
        vertices = np.frombuffer(content[4 : 4 + 12 * count], "<f4").reshape(-1, 3)
        parts.append((vertices, np.frombuffer(content[4 + 12 * count :], "<u4").reshape(-1, 3)))
    return parts


def triangles(parts):
    """All triangles of a mesh, wherever they are listed."""
    return np.unique(
        np.concatenate(
            [np.sort(vertices[faces].reshape(len(faces), -1, 3), axis=1).reshape(-1, 9) for vertices, faces in parts]
        ),
        axis=0,
    )


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(block=st.tuples(st.integers(5, 21), st.integers(6, 25), st.integers(7, 29)))
def test_meshes_of_blocks_fit_together_to_that_of_the_whole(write, blobs, tmp_path_factory, block):
    folder = tmp_path_factory.mktemp("meshes") / "out"
    request = Meshes(
        segmentation=write(blobs),
        output=str(folder),
        min_size=1,
        block_shape=block,
        formats=("precomputed", "ply", "obj"),
    )
    extract_as_run(request, store=None)
    ids = np.unique(blobs[blobs > 0]).tolist()
    names = [path.name.split(":") for path in (folder / "precomputed").glob("*:0")]
    assert sorted(int(name[0]) for name in names if len(name) == 2) == ids
    for number in ids:
        vertices, faces = shapes.surface(np.pad(blobs == number, 1))
        vertices = ((vertices - 1 + 0.5) * VOXELS + OFFSET)[:, ::-1].astype(np.float32)
        expected = triangles([(vertices, faces)])
        np.testing.assert_allclose(triangles(read_precomputed(folder / "precomputed", number)), expected, rtol=1e-6)
        for name in ("ply", "obj"):
            mesh = trimesh.load(folder / name / f"{number}.{name}", process=False)
            np.testing.assert_allclose(
                triangles([(np.asarray(mesh.vertices), np.asarray(mesh.faces))]), expected, rtol=1e-5
            )
            assert len(mesh.faces) == len(faces)
            assert mesh.is_winding_consistent


def test_a_mesh_is_closed_and_encloses_the_volume_of_its_object(write, tmp_path):
    grid = np.indices((24, 40, 34)) * np.array(VOXELS).reshape(3, 1, 1, 1) - np.array([110, 80, 90]).reshape(3, 1, 1, 1)
    ball = (np.square(grid).sum(axis=0) <= 70**2).astype(np.uint8)
    for name, reduction in (("whole", 0.0), ("reduced", 0.7)):
        request = Meshes(
            segmentation=write(ball),
            output=str(tmp_path / name),
            formats=("ply", "precomputed"),
            reduction=reduction,
            block_shape=(10, 12, 14),
        )
        extract_as_run(request, store=None)
        mesh = trimesh.load(tmp_path / name / "ply" / "1.ply", process=False)
        assert mesh.is_watertight
        shown = read_precomputed(tmp_path / name / "precomputed", 1)
        np.testing.assert_allclose(triangles(shown), triangles([(np.asarray(mesh.vertices), np.asarray(mesh.faces))]))
        assert mesh.volume == pytest.approx(4 / 3 * np.pi * 70**3, rel=0.05)
        np.testing.assert_allclose(
            mesh.center_mass, np.array([90, 80, 110]) + np.array(OFFSET)[::-1] + np.array(VOXELS)[::-1] / 2, atol=2
        )
    faces = [len(trimesh.load(tmp_path / name / "ply" / "1.ply").faces) for name in ("whole", "reduced")]
    assert faces[1] < 0.7 * faces[0]


@pytest.fixture
def tree():
    """A cross of bars of known length, and a bar that is too small."""
    labels = np.zeros((11, 60, 70), np.uint32)
    labels[4:7, 28:33, 5:65] = 9
    labels[4:7, 5:55, 33:37] = 9
    labels[0, 0, :4] = 3
    return labels


def read_swc(path):
    rows = np.array([line.split() for line in path.read_text().splitlines() if not line.startswith("#")], float)
    positions = {int(row[0]): row[2:5][::-1] for row in rows}
    edges = [(int(row[0]), int(row[6])) for row in rows if row[6] >= 0]
    assert all(parent < number for number, parent in edges)
    return positions, edges, rows


@pytest.mark.parametrize("engine", ["bioimage-cpp", "kimimaro"])
def test_a_skeleton_has_the_length_and_the_ends_of_its_object(write, tree, tmp_path, engine):
    if engine == "kimimaro":
        pytest.importorskip("kimimaro", reason="needs kimimaro, an extra for its licence, the GPL")
        nodes, edges, radii = shapes.skeletonize(np.pad(np.ones((1, 1, 1), bool), 1), VOXELS, engine=engine)
        assert (nodes.tolist(), edges.shape, radii.tolist()) == ([list(VOXELS)], (0, 2), [4])
    request = Skeletons(segmentation=write(tree), output=str(tmp_path / "out"), min_size=20, constant=20, engine=engine)
    result = extract_as_run(request, store=None)
    assert result["objects"] == 1
    table = pyarrow.parquet.read_table(tmp_path / "out" / "skeletons.parquet").to_pylist()
    (row,) = table
    assert row["id"] == 9
    assert row["length_nm"] == pytest.approx(60 * 5 + 50 * 4, rel=0.13)  # ends lie in corners
    assert (row["ends"], row["parts"], row["coarsened"]) == (4, 1, 1)
    assert row["branches"] in (1, 2)
    positions, edges, rows = read_swc(tmp_path / "out" / "swc" / "9.swc")
    length = sum(np.linalg.norm(positions[a] - positions[b]) for a, b in edges)
    assert length == pytest.approx(row["length_nm"], rel=1e-4)
    assert result["length_nm"] == pytest.approx(length, rel=1e-4)
    for position in positions.values():
        index = tuple(np.floor((position - OFFSET) / VOXELS).astype(int))
        assert tree[index] == 9
    assert rows[:, 5].max() == pytest.approx(10, abs=6)


def test_neuroglancer_would_write_the_same_skeleton(write, tree, tmp_path):
    extract_as_run(Skeletons(segmentation=write(tree), output=str(tmp_path / "out"), ids=(9,), constant=20), store=None)
    folder = tmp_path / "out" / "precomputed"
    about = json.loads((folder / "info").read_text())
    assert about["@type"] == "neuroglancer_skeletons"
    content = (folder / "9").read_bytes()
    nodes, edges = struct.unpack("<II", content[:8])
    positions = np.frombuffer(content, "<f4", 3 * nodes, 8).reshape(-1, 3)
    pairs = np.frombuffer(content, "<u4", 2 * edges, 8 + 12 * nodes).reshape(-1, 2)
    radii = np.frombuffer(content, "<f4", nodes, 8 + 12 * nodes + 8 * edges)
    (attribute,) = about["vertex_attributes"]
    source = type("Source", (), {})()
    source.vertex_attributes = {
        attribute["id"]: neuroglancer.skeleton.VertexAttributeInfo(attribute["data_type"], attribute["num_components"])
    }
    again = neuroglancer.skeleton.Skeleton(positions, pairs, {attribute["id"]: radii}).encode(source)
    assert again == content
    swc, _, _ = read_swc(tmp_path / "out" / "swc" / "9.swc")
    np.testing.assert_allclose(np.unique(positions[:, ::-1], axis=0), np.unique(list(swc.values()), axis=0), rtol=1e-4)


def test_a_large_object_is_coarsened_and_keeps_its_length(write, tree, tmp_path):
    source = write(tree)
    request = Skeletons(segmentation=source, output=str(tmp_path / "out"), ids=(9,), constant=20, most_voxels=2000)
    result = extract_as_run(request, store=None)
    assert result["length_nm"] == pytest.approx(60 * 5 + 50 * 4, rel=0.2)
    box = Roi((3, 2, 0), tree.shape)
    mask, factors = shapes.mask_of(open_volume(source), 9, box, 2000)
    assert max(factors) > 1
    assert mask.size <= 2000
    padded = np.pad(tree == 9, [(0, -size % factor) for size, factor in zip(tree.shape, factors, strict=True)])
    cells = padded.reshape(
        [length for size, factor in zip(padded.shape, factors, strict=True) for length in (size // factor, factor)]
    )
    np.testing.assert_array_equal(mask, cells.any(axis=(1, 3, 5)))


def test_many_objects_are_processed_in_batches(write, tmp_path):
    labels = np.arange(1, 28).reshape(3, 3, 3).repeat(5, 0).repeat(6, 1).repeat(7, 2).astype(np.uint16)
    request = Skeletons(segmentation=write(labels), output=str(tmp_path / "out"), min_size=1, most_voxels=500)
    assert extract_as_run(request, store=None)["objects"] == 27
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "skeletons.parquet").to_pylist()
    assert [row["id"] for row in rows] == list(range(1, 28))
    assert len(list((tmp_path / "out" / "swc").iterdir())) == 27


def test_a_skeleton_of_several_parts_has_a_root_for_each(tmp_path):
    nodes = np.array([[0, 0, 0], [0, 0, 1], [5, 5, 5], [0, 0, 2]], float)
    object_files.write_swc(tmp_path / "a.swc", nodes, np.array([[0, 1], [3, 1]]), np.ones(4))
    _, edges, rows = read_swc(tmp_path / "a.swc")
    assert np.count_nonzero(rows[:, 6] == -1) == 2
    assert len(edges) == 2


def test_objects_that_cannot_be_extracted_are_named(write, tree, tmp_path, monkeypatch):
    names = {"segmentation": write(tree), "output": str(tmp_path / "out")}
    with pytest.raises(DataError, match="has no object 17: correct --ids"):
        extract_as_run(Meshes(**names, ids=(9, 17)), store=None)
    with pytest.raises(DataError, match=f"has no object {2**64}: correct --ids"):
        extract_as_run(Meshes(**names, ids=(9, 2**64)), store=None)
    with pytest.raises(DataError, match="give --min_size less"):
        extract_as_run(Skeletons(**names, min_size=10**6), store=None)
    with pytest.raises(InputError, match="more than --most_objects 1"):
        extract_as_run(Meshes(**names, min_size=1, most_objects=1), store=None)
    with pytest.raises(InputError, match="from 0 to below 1"):
        extract_as_run(Meshes(**names, reduction=1.0), store=None)
    with pytest.raises(InputError, match="--formats names ply twice"):
        extract_as_run(Meshes(**names, formats=("ply", "obj", "ply")), store=None)
    with pytest.raises(InputError, match="--constant is -1: give 0 or more"):
        extract_as_run(Skeletons(**names, constant=-1.0), store=None)
    monkeypatch.setattr(shape_run, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'incasem-like\[kimimaro\]'"):
        extract_as_run(Skeletons(**names, engine="kimimaro"), store=None)
    assert not (tmp_path / "out").exists()


def test_the_scripts_print_what_they_wrote(write, tree, tmp_path):
    source = write(tree)
    environment = {**os.environ, "INCASEM_RUNS": str(tmp_path / "runs")}

    def call(script, *words):
        command = [sys.executable, SCRIPTS / script, "-s", source, "-n", "1", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    made = call("30_extract_skeletons.py", "-o", tmp_path / "skeletons", "--ids", 9, "--constant", 20)
    assert f"Wrote skeletons (1 objects, 0.6 um): {tmp_path}/skeletons" in made
    made = call("35_extract_meshes.py", "-o", tmp_path / "meshes", "--min_size", 20, "--formats", "obj")
    assert f"Wrote meshes (1 objects): {tmp_path}/meshes" in made
    assert "Already there: meshes" in call(
        "35_extract_meshes.py", "-o", tmp_path / "meshes", "--min_size", 20, "--formats", "obj"
    )
    measured = call("25_measure_objects.py", "-o", tmp_path / "tables")
    assert "Wrote tables (2 objects of" in measured
    assert "Wrote measurement run 3" in measured
