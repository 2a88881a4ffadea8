"""All graph stores behave alike: Parquet files, SQLite, PostgreSQL, MongoDB."""

import os
import shutil
import subprocess
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import mongomock
import numpy as np
import pytest
from instances import NEIGHBOURS, affinities_of

from incasem_like.errors import DataError, IncasemError, InputError
from incasem_like.graphs import check_graph_url, open_graph
from incasem_like.graphs.mongo import MongoGraph
from incasem_like.graphs.parquet import ParquetGraph
from incasem_like.segmentation.pipeline import segment
from incasem_like.segmentation.planning import plan_segmentation
from incasem_like.segmentation.settings import SegmentationSection
from incasem_like.volumes import NanometreRoi, create_volume, open_volume


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    """URL of a PostgreSQL server, started here over a socket in a folder."""
    if named := os.environ.get("INCASEM_TEST_POSTGRESQL_URL"):
        yield named
        return
    if not shutil.which("initdb"):
        pytest.skip("PostgreSQL's initdb is not installed: name a server in INCASEM_TEST_POSTGRESQL_URL")
    folder = Path("/tmp") / f"pg_{os.getpid()}"  # the path of a socket is short
    folder.mkdir()
    as_user = []
    if os.getuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "nobody")
        as_user = ["runuser", "-u", "nobody", "--"]
    try:
        subprocess.run([*as_user, "initdb", "-D", folder / "data", "-A", "trust"], check=True, capture_output=True)
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        command = [*as_user, "pg_ctl", "-D", folder / "data", "-w", "-o", options, "-l", folder / "log"]
        subprocess.run([*command, "start"], check=True, capture_output=True)
        try:
            user = "nobody" if as_user else os.environ.get("USER", "postgres")
            yield f"postgresql://{user}@/postgres?host={folder}"
        finally:
            subprocess.run([*command, "-m", "immediate", "stop"], check=False, capture_output=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["parquet", "sqlite", "postgresql", "mongodb"])
def opened(request, tmp_path, monkeypatch):
    """Open the same empty store, with the scores of one function."""
    if request.param == "mongodb":
        client = mongomock.MongoClient()
        monkeypatch.setattr(MongoGraph, "database", property(lambda self: client["graph"]))
        yield lambda scoring="": MongoGraph("mongodb://localhost/graph", scoring)
        return
    addresses = {"parquet": tmp_path / "graph", "sqlite": f"sqlite:///{tmp_path}/graph.db"}
    address = addresses.get(request.param) or request.getfixturevalue("postgresql")
    open_graph(address).clear()
    yield lambda scoring="": open_graph(address, scoring)


def nodes(ids, x, **more):
    count = len(ids)
    return {
        "id": np.array(ids, np.uint64), "size": np.full(count, 5), "z": np.zeros(count), "y": np.zeros(count),
        "x": np.array(x, float), **more,
    }  # fmt: skip


def edges(u, v, scores):
    return {"u": np.array(u, np.uint64), "v": np.array(v, np.uint64), "merge_score": np.array(scores, np.float32)}


def test_a_block_written_again_replaces_what_it_wrote(opened):
    graph = opened()
    graph.write_nodes(3, nodes([7, 5, 6], [10.0, 20.0, 0.0], is_seed=np.array([True, False, True])))
    graph.write_nodes(12, nodes([2**62 + 1], [50.0], is_seed=np.array([False])))
    graph.write_nodes(3, nodes([7, 5], [10.0, 20.0], is_seed=np.array([True, False])))
    found = opened().read_nodes()
    assert found["id"].tolist() == ([5, 7, 2**62 + 1])
    assert found["x"].tolist() == [20.0, 10.0, 50.0]
    assert found["is_seed"].tolist() == [False, True, False]
    kinds = {name: values.dtype for name, values in found.items()}
    assert kinds == {"id": np.uint64, "size": np.int64, "z": float, "y": float, "x": float, "is_seed": bool}


def test_an_roi_has_the_nodes_with_their_centre_inside_and_the_edges_that_begin_there(opened):
    graph = opened("mean")
    graph.write_nodes(0, nodes([1, 2, 3], [0.0, 10.0, 20.0]))
    graph.write_edges(0, edges([1, 2], [2, 3], [0.7, np.nan]))
    inside = graph.read_nodes(NanometreRoi((0, 0, 10), (10, 10, 10)))
    assert inside["id"].tolist() == [2]
    found = graph.read_edges(inside["id"])
    assert (found["u"].tolist(), found["v"].tolist()) == ([2], [3])
    assert np.isnan(found["merge_score"]).all()
    every = graph.read_edges()
    assert every["merge_score"].dtype == np.float32
    assert every["merge_score"][0] == np.float32(0.7)
    nothing = graph.read_nodes(NanometreRoi((0, 0, 100), (10, 10, 10)))
    assert not len(graph.read_edges(nothing["id"])["u"])


def test_each_scoring_function_has_its_own_edges(opened):
    opened("mean").write_edges(0, edges([1], [2], [0.25]))
    opened("hist_quant_50").write_edges(0, edges([1], [2], [0.5]))
    assert opened("mean").read_edges()["merge_score"].tolist() == [0.25]
    assert opened("hist_quant_50").read_edges()["merge_score"].tolist() == [0.5]
    opened("mean").clear()
    assert opened("hist_quant_50").read_edges() == {}


def test_a_store_of_another_segmentation_is_refused(opened):
    opened().claim("/data/a.zarr/one")
    opened().claim("/data/a.zarr/one")
    with pytest.raises(InputError, match="graph of another segmentation, /data/a"):
        opened().claim("/data/a.zarr/two")
    opened().clear()
    opened().claim("/data/a.zarr/two")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_of_processes_that_claim_a_database_at_the_same_time_one_has_it(kind, tmp_path, request):
    address = f"sqlite:///{tmp_path}/graph.db" if kind == "sqlite" else request.getfixturevalue("postgresql")
    open_graph(address).clear()
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        assert sum(pool.map(claims, [address] * 8, range(8))) == 1


def claims(address, number):
    try:
        open_graph(address).claim(f"/data/{number}.zarr/affs")
    except InputError:
        return False
    return True


def test_an_id_beyond_63_bits_is_refused_where_it_does_not_fit(opened):
    graph = opened()
    if isinstance(graph, ParquetGraph):
        graph.write_nodes(0, nodes([2**63 + 1], [0.0]))
        assert graph.read_nodes()["id"].tolist() == [2**63 + 1]
        return
    with pytest.raises(DataError, match="9223372036854775809 does not fit"):
        graph.write_nodes(0, nodes([2**63 + 1], [0.0]))
    assert graph.read_nodes() == {}


def write_block(address, block):
    graph = open_graph(address, "mean")
    graph.write_nodes(block, nodes([block + 1], [float(block)]))
    graph.write_edges(block, edges([block + 1], [block + 2], [0.5]))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_may_begin_a_database_at_the_same_time(kind, tmp_path, request):
    address = f"sqlite:///{tmp_path}/graph.db" if kind == "sqlite" else request.getfixturevalue("postgresql")
    open_graph(address).clear()
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        list(pool.map(write_block, [address] * 16, range(16)))
    assert open_graph(address).read_nodes()["id"].tolist() == list(range(1, 17))
    assert open_graph(address, "mean").read_edges()["v"].tolist() == list(range(2, 18))


def test_what_lsd_wrote_is_read(monkeypatch):
    client = mongomock.MongoClient()
    monkeypatch.setattr(MongoGraph, "database", property(lambda self: client["lsd"]))
    client["lsd"]["nodes"].insert_many(
        [{"id": 4, "center_z": 8.0, "center_y": 16, "center_x": 24.5}, {"id": 2, "center_z": 0.0, "center_y": 0.0,
         "center_x": 1.0}]
    )  # fmt: skip
    client["lsd"]["edges_hist_quant_75"].insert_many(
        [{"u": 2, "v": 4, "merge_score": None, "agglomerated": True},
         {"u": 4, "v": 9, "merge_score": 0.25, "agglomerated": True}]
    )  # fmt: skip
    graph = MongoGraph("mongodb://localhost/lsd", "hist_quant_75")
    found = graph.read_nodes()
    assert (found["id"].tolist(), found["z"].tolist(), found["x"].tolist()) == ([2, 4], [0.0, 8.0], [1.0, 24.5])
    scores = graph.read_edges()["merge_score"]
    assert np.isnan(scores[0])
    assert scores[1] == 0.25


@pytest.mark.mongo
def test_a_server_stores_a_graph(fresh_mongo_url):
    graph = open_graph(fresh_mongo_url, "mean")
    graph.claim("here")
    graph.write_nodes(1, nodes([7, 5], [10.0, 20.0]))
    graph.write_edges(1, edges([5], [7], [np.nan]))
    graph.write_edges(1, edges([5], [7], [0.5]))
    assert graph.read_nodes()["id"].tolist() == [5, 7]
    assert open_graph(fresh_mongo_url, "mean").read_edges()["merge_score"].tolist() == [0.5]


def test_wrong_addresses_end_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="Unknown graph store neo4j"):
        check_graph_url("neo4j://host/db")
    with pytest.raises(InputError, match="contains a password"):
        check_graph_url("postgresql://me:secret@host/db")
    with pytest.raises(InputError, match="variable GRAPH_PASSWORD"):
        open_graph("mongodb://me:$GRAPH_PASSWORD@host/db")
    monkeypatch.setenv("GRAPH_PASSWORD", "secret")
    assert str(open_graph("postgresql://me:$GRAPH_PASSWORD@host/db")) == "postgresql://me:***@host/db"
    with pytest.raises(InputError, match=r"folder of the graph store .* does not exist"):
        open_graph(f"sqlite:///{tmp_path}/missing/graph.db").read_nodes()
    (tmp_path / "file.db").write_text("not a database")
    with pytest.raises(IncasemError, match="cannot be read or written") as caught:
        open_graph(f"sqlite:///{tmp_path}/file.db").read_nodes()
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="names no database"):
        open_graph("mongodb://host").read_nodes()


def test_a_segmentation_is_the_same_with_any_graph_store(tmp_path):
    labels = np.kron(np.arange(1, 9).reshape(2, 2, 2), np.ones((5, 6, 7), int))
    values = affinities_of(labels, NEIGHBOURS).astype(np.float32)
    volume = create_volume(
        tmp_path / "cell.zarr", "affs", shape=values.shape, dtype="float32", voxel_size=(8, 8, 8), axes="czyx",
        chunk_shape=(4, 4, 4), attributes={"offsets": NEIGHBOURS},
    )  # fmt: skip
    volume.write(values)
    volume.mark_complete()
    found = {}
    for name, graph in (("files", None), ("sqlite", f"sqlite:///{tmp_path}/graph.db")):
        section = SegmentationSection(output=name, graph=graph, block_shape=(6, 6, 8))
        made = segment(plan_segmentation(volume, section))
        found[name] = open_volume(made["segmentations"][0]["address"]).read()
        assert made["edges"] > 0
    np.testing.assert_array_equal(found["files"], found["sqlite"])
    with pytest.raises(InputError, match="another segmentation"):
        segment(plan_segmentation(volume, SegmentationSection(output="third", graph=f"sqlite:///{tmp_path}/graph.db")))
