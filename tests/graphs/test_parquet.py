"""A graph in Parquet files: blocks write, everything or an ROI is read."""

import numpy as np
import pytest

from incasem_like.errors import DataError
from incasem_like.graphs.parquet import ParquetGraph
from incasem_like.volumes import NanometreRoi


@pytest.fixture
def graph(tmp_path):
    return ParquetGraph(tmp_path)


def nodes(ids, x):
    count = len(ids)
    return {
        "id": np.array(ids, np.uint64), "size": np.full(count, 5), "z": np.zeros(count), "y": np.zeros(count),
        "x": np.array(x, float),
    }  # fmt: skip


def edges(u, v, scores):
    return {"u": np.array(u, np.uint64), "v": np.array(v, np.uint64), "merge_score": np.array(scores, np.float32)}


def test_blocks_are_read_together_and_a_block_written_twice_counts_once(graph):
    graph.write_nodes(12, nodes([2**63 + 1], [50.0]))
    graph.write_nodes(3, nodes([7, 5], [10.0, 20.0]))
    graph.write_nodes(3, nodes([7, 5], [10.0, 20.0]))
    found = graph.read_nodes()
    assert found["id"].tolist() == [5, 7, 2**63 + 1]
    assert found["id"].dtype == np.uint64
    assert found["x"].tolist() == [20.0, 10.0, 50.0]


def test_an_roi_has_the_nodes_with_their_centre_inside_and_the_edges_that_begin_there(graph):
    graph.write_nodes(0, nodes([1, 2, 3], [0.0, 10.0, 20.0]))
    graph.write_edges(0, edges([1, 2], [2, 3], [0.25, np.nan]))
    inside = graph.read_nodes(NanometreRoi((0, 0, 10), (10, 10, 10)))
    assert inside["id"].tolist() == [2]
    found = graph.read_edges(inside["id"])
    assert (found["u"].tolist(), found["v"].tolist()) == ([2], [3])
    assert np.isnan(found["merge_score"]).all()
    assert graph.read_edges()["merge_score"].dtype == np.float32


def test_a_graph_without_nodes_is_empty(graph):
    graph.write_nodes(0, nodes([], []))
    assert graph.read_nodes() == {}
    assert graph.read_edges() == {}


def test_a_damaged_file_is_named(graph):
    graph.write_edges(4, edges([1], [2], [0.5]))
    (graph.edges / "4.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="cannot be read"):
        graph.read_edges()
