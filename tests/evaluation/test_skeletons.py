"""Skeletons: files of all kinds, published scores of small examples, and edits of hand-made graphs."""

import subprocess
import sys
from pathlib import Path

import mongomock
import networkx
import numpy as np
import pymongo
import pytest
from instances import NEIGHBOURS, affinities_of

from incasem_like.errors import DataError, InputError
from incasem_like.evaluation.skeleton_run import SkeletonEvaluation, evaluate_skeletons_as_run, ids_at
from incasem_like.evaluation.skeleton_scores import (
    FragmentGraph,
    edits_needed,
    site_scores,
    skeleton_scores,
    split_graph,
)
from incasem_like.evaluation.skeletons import Skeletons, read_sites, read_skeletons
from incasem_like.graphs import open_graph
from incasem_like.segmentation.pipeline import segment
from incasem_like.segmentation.planning import plan_segmentation
from incasem_like.segmentation.settings import SegmentationSection
from incasem_like.tracking import open_store
from incasem_like.volumes import open_volume

SCRIPT = Path(__file__).parents[2] / "scripts/04_postprocessing/17_evaluate_skeletons.py"


def chains(*lengths, step=1.0):
    """Skeletons without branches, one behind the other along x."""
    owners = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.arange(len(owners))[:, None] * np.array([0, 0, step])
    edges = np.array([(node, node + 1) for node in range(len(owners) - 1) if owners[node] == owners[node + 1]])
    return Skeletons(positions, owners, edges.reshape(-1, 2))


@pytest.mark.parametrize(
    ("lengths", "segments", "erl"),
    [((5,), (1, 1, 1, 2, 2), 1.25), ((5,), (1, 1, 1, 1, 2), 2.25), ((3, 3), (7,) * 6, 0.0), ((5,), (4,) * 5, 4.0)],
)
def test_published_expected_run_lengths_are_reproduced(lengths, segments, erl):
    found = skeleton_scores(chains(*lengths), np.array(segments, np.uint64))
    assert found["expected_run_length"] == pytest.approx(erl)
    assert found["normalized_erl"] == pytest.approx(erl / found["max_erl"])


def test_edges_are_split_merged_omitted_or_correct():
    skeletons = Skeletons(np.sqrt(2) * np.array([[0, 0, 0], [0, 0, 1], [0, 0, 2]]), np.zeros(3, int),
                          np.array([[0, 1], [1, 2]]))  # fmt: skip
    assert skeleton_scores(skeletons, np.array([1, 1, 2], np.uint64))["expected_run_length"] == pytest.approx(
        0.5 * np.sqrt(2)
    )
    found = skeleton_scores(chains(4, 4, 3, step=10), np.array([1, 1, 2, 0, 3, 3, 3, 3, 2, 2, 4], np.uint64))
    kinds = {name: found[f"{name}_edges"] for name in ("omitted", "split", "merged", "correct")}
    assert kinds == {"omitted": 1, "split": 2, "merged": 1, "correct": 4}
    assert found["path_length"] == 80
    assert found["max_erl"] == pytest.approx((30**2 + 30**2 + 20**2) / 80)
    assert found["expected_run_length"] == pytest.approx((10**2 + 30**2) / 80)
    assert found["merges"] == [{"id": 2, "parts": [0, 2]}]
    assert found["splits"] == [{"id": 0, "parts": [1, 2]}, {"id": 2, "parts": [2, 4]}]
    assert (found["background_nodes"], found["merging_segments"], found["split_skeletons"]) == (1, 1, 2)


def test_published_partition_scores_are_reproduced():
    truth = np.array([1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4])
    predicted = np.array([3, 3, 3, 3, 4, 5, 6, 6, 5, 5, 5], np.uint64)
    skeletons = Skeletons(np.zeros((11, 3)), truth, np.zeros((0, 2), int))
    found = skeleton_scores(skeletons, predicted)
    expected = {"rand_split": 0.636364, "rand_merge": 0.567568, "voi_split": 0.614081, "voi_merge": 0.727273,
                "nid": 0.375607}  # fmt: skip
    assert {name: round(found[name], 6) for name in expected} == expected


def test_a_published_chain_is_cut_into_six_parts():
    nodes = [1, 2, 3, 4, 5, 6, 66, 7, 8, 9]
    graph = networkx.path_graph(nodes)
    networkx.set_edge_attributes(graph, 1, "capacity")
    places = {node: np.array([0, 0, 2.1 if node == 2 else float(x)]) for x, node in enumerate(nodes, 1)}
    found = split_graph(graph, [[1, 3, 4], [2, 5], [6, 66], [7, 8, 9]], places)
    assert found.cuts == 5
    assert [found.labels[node] for node in nodes] == [0, 1, 2, 2, 3, 4, 4, 5, 5, 5]


def test_the_cut_is_the_cheapest_of_all_cuts():
    rng = np.random.default_rng(0)
    for _ in range(20):
        graph = networkx.gnm_random_graph(7, 13, seed=int(rng.integers(1000)))
        if not networkx.is_connected(graph):
            continue
        for u, v in graph.edges:
            graph[u][v]["capacity"] = float(rng.random())
        found = split_graph(graph, [[0], [6]], {0: np.zeros(3), 6: np.ones(3)})

        def cost(side, graph=graph):
            return sum(data["capacity"] for u, v, data in graph.edges(data=True) if (u in side) != (v in side))

        cheapest = min(cost({0} | {n for n in range(1, 6) if bits >> n & 1}) for bits in range(64))
        own = {node for node in range(7) if found.labels[node] == found.labels[0]}
        assert 6 not in own
        assert sum(
            data["capacity"] for u, v, data in graph.edges(data=True) if found.labels[u] != found.labels[v]
        ) == pytest.approx(cheapest)


def test_edits_are_cuts_of_merges_and_merges_of_pieces():
    # two skeletons of three fragments each, merged by one weak edge; the first also has a piece of its own
    skeletons = chains(4, 3)
    fragments = np.array([1, 2, 3, 9, 4, 5, 6], np.uint64)
    segments = np.array([1, 1, 1, 2, 1, 1, 1], np.uint64)
    ids = np.array([1, 2, 3, 4, 5, 6, 9], np.uint64)
    edges = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [2, 6]])
    graph = FragmentGraph(ids, edges, np.array([0.1, 0.1, 0.4, 0.1, 0.1, 0.9]))
    found = edits_needed(skeletons, fragments, segments, graph, 0.5)
    assert (found["splits_needed"], found["merges_needed"], found["edits_needed"]) == (1, 1, 2)
    # the cheapest cut lies within the second skeleton, whose pieces must be merged afterwards
    strong = FragmentGraph(ids, edges, np.array([0.1, 0.1, 0.0, 0.45, 0.1, 0.9]))
    apart = edits_needed(skeletons, np.where(fragments == 4, 3, fragments), segments, strong, 0.5)
    assert apart["unsplittable_fragments"] == 1
    assert edits_needed(chains(3), fragments[:3], segments[:3], graph, 0.5)["edits_needed"] == 0


def test_synaptic_sites_are_scored_by_kind(tmp_path):
    rows = ["z,y,x,skeleton_id,kind,synapse", "1,0,0,1,pre,0", "2,0,0,2,post,0", "3,0,0,3,post,0", "4,0,0,2,pre,1",
            "5,0,0,2,post,1"]  # fmt: skip
    (tmp_path / "sites.csv").write_text("\n".join(rows))
    sites = read_sites(str(tmp_path / "sites.csv"), scale=2)
    assert sites.positions[:, 0].tolist() == [2, 4, 6, 8, 10]
    found = site_scores(sites, np.array([5, 5, 6, 7, 5], np.uint64))
    assert (found["synapses"], found["false_autapses"]) == (2, 1)
    assert found["post_synapse_voi_split"] == pytest.approx(0)
    assert found["pre_synapse_voi_merge"] == pytest.approx(0)
    assert found["post_synapse_voi_merge"] == 0
    assert found["synapse_voi_merge"] == pytest.approx(3 / 5 * -(1 / 3 * np.log2(1 / 3) + 2 / 3 * np.log2(2 / 3)))
    assert site_scores(sites, np.array([0, 5, 6, 7, 5], np.uint64))["background_sites"] == 1


def same(found, expected):
    np.testing.assert_allclose(found.positions, expected.positions)
    assert len(np.unique(np.stack([found.skeletons, expected.skeletons]), axis=1).T) == len(np.unique(found.skeletons))
    assert {tuple(sorted(edge)) for edge in found.edges.tolist()} == {
        tuple(sorted(edge)) for edge in expected.edges.tolist()
    }


def test_every_kind_of_file_gives_the_same_skeletons(tmp_path, monkeypatch):
    expected = chains(3, 2, step=10)
    parents = [-1, 0, 1, -1, 3]
    rows = list(enumerate(zip(expected.positions.tolist(), parents, expected.skeletons.tolist(), strict=True)))
    lines = [f"{n + 1} 0 {x} {y} {z} 1 {p + 1 if p >= 0 else -1}\n" for n, ((z, y, x), p, _) in rows]
    (tmp_path / "one.swc").write_text("# comment\n" + "".join(lines))
    same(read_skeletons([str(tmp_path / "one.swc")]), expected)
    folder = tmp_path / "swc"
    folder.mkdir()
    (folder / "a.swc").write_text("".join(lines[:3]))
    (folder / "b.swc").write_text("".join(lines[3:]))
    same(read_skeletons([str(folder)]), expected)
    table = ["id,z,y,x,parent,skeleton_id\n"]
    table += [f"{n},{z},{y},{x},{'' if p < 0 else p},{s}\n" for n, ((z, y, x), p, s) in rows]
    (tmp_path / "a.csv").write_text("".join(table))
    same(read_skeletons([str(tmp_path / "a.csv")]), expected)
    graph = networkx.Graph()
    for n, ((z, y, x), p, _) in rows:
        graph.add_node(n, position_z=z, position_y=y, position_x=x)
        if p >= 0:
            graph.add_edge(p, n)
    networkx.write_graphml(graph, tmp_path / "a.graphml")
    same(read_skeletons([str(tmp_path / "a.graphml")]), expected)
    client = mongomock.MongoClient()
    monkeypatch.setattr(pymongo, "MongoClient", lambda *arguments, **options: client)
    there = client["brain"]
    more = [{"id": 90, "z": 0.0, "y": 0.0, "x": 5.0}]
    nodes = [{"id": n + 5, "z": z, "y": y, "x": x} for n, ((z, y, x), _, _) in rows]
    there["manual.nodes"].insert_many(nodes + more)
    there["manual.edges"].insert_many([{"source": n + 5, "target": p + 5} for n, (_, p, _) in rows if p >= 0])
    there["nodes_inside"].insert_many([{"id": node["id"], "masked": True} for node in nodes])
    there["nodes_parts"].insert_many([{"id": n + 5, "component_id": s} for n, (_, _, s) in rows])
    url = "mongodb://localhost/brain/manual"
    same(read_skeletons([url], node_mask="inside", node_components="parts"), expected)
    assert len(read_skeletons([url]).positions) == 6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.swc", "1 0 1 2 3 1 -1\n2 0 x 2 3 1 1\n", "Line 2 of"),
        ("a.swc", "1 0 1 2 3 1 7\n", "parent 7"),
        ("a.swc", "# nothing\n", "no skeleton node"),
        ("a.csv", "id,z,y,x\n1,2,3,4\n", "no column parent"),
        ("a.csv", "id,z,y,x,parent\n1,2,,4,\n", "not a number"),
        ("a.csv", "id,z,y,x,parent\n99999999999999999999,2,3,4,\n", "whole number of 64 bits"),
        ("a.graphml", "<nothing", "cannot be read as GraphML"),
        ("a.txt", "", "Skeletons are one or more files"),
        ("missing.swc", None, "does not exist"),
    ],
)
def test_a_wrong_file_is_named_in_one_sentence(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_skeletons([str(tmp_path / name)])
    assert "\n" not in str(caught.value)


@pytest.fixture
def segmented(make_volume):
    """Two touching neurons along x whose contact is broken, so that threshold 0.9 merges them and 0.2 does not."""
    labels = np.ones((6, 12, 40), np.uint32)
    labels[:, 6:] = 2
    values = affinities_of(labels, NEIGHBOURS).astype(np.float32)
    values[1, :, 6, 10:14] = 0.4
    values[2, :, :, 20] *= 0.5
    volume = make_volume("affs", values, axes="czyx", attributes={"offsets": [list(o) for o in NEIGHBOURS]},
                         chunk_shape=(4, 4, 4))  # fmt: skip
    section = SegmentationSection.model_validate(
        {"watershed": {"threshold": [0.2, 0.95], "flood_boundaries": True, "seed_distance": 25},
         "block_shape": [6, 12, 16]}
    )  # fmt: skip
    made = segment(plan_segmentation(volume, section))
    return [one["address"] for one in made["segmentations"]]


def write_skeletons(path, rows=(2.5, 8.5), ends=(0.5, 39.5)):
    lines, number = [], 0
    for y in rows:
        for x in np.linspace(*ends, 14):
            number += 1
            parent = -1 if x == ends[0] else number - 1
            lines.append(f"{number} 0 {x * 5} {y * 5} 15 1 {parent}\n")
    path.write_text("".join(lines))
    return str(path)


def test_a_segmentation_is_scored_as_its_array_and_the_edits_of_its_merges_are_counted(segmented, tmp_path):
    skeletons = write_skeletons(tmp_path / "neurons.swc")
    request = SkeletonEvaluation(skeletons=(skeletons,), segmentations=tuple(segmented), edits=True)
    store = open_store(None, kind="evaluations", runs_directory=tmp_path / "runs")
    result = evaluate_skeletons_as_run(request, store=store, num_workers=1)
    read = read_skeletons([skeletons])
    voxels = np.floor(read.positions / 5).astype(int)
    for address in segmented:
        at_nodes = open_volume(address).read()[tuple(voxels.T)]
        expected = skeleton_scores(read, at_nodes.astype(np.uint64))
        assert {name: result["scores"][address][name] for name in expected} == expected
    merged = result["scores"][segmented[1]]
    assert merged["merging_segments"] == 1
    assert merged["splits_needed"] >= 1
    assert merged["expected_run_length"] == 0
    for scores in result["scores"].values():
        assert (scores["splits_needed"] > 0) == (scores["merging_segments"] > 0)
    assert store.get(1).result["best"] == result["best"]


def test_ids_are_read_where_nodes_are(make_volume):
    labels = np.random.default_rng(0).integers(0, 2**40, (9, 10, 11)).astype(np.uint64)
    volume = make_volume("labels", labels, begin=(3, 0, 5))
    nodes = np.argwhere(labels > 2**39)[:50] + np.array((3, 0, 5))
    np.testing.assert_array_equal(ids_at(volume, nodes), labels[tuple((nodes - (3, 0, 5)).T)])


def test_nodes_outside_are_refused_or_left_out(make_volume, tmp_path):
    labels = make_volume("seg", np.ones((6, 12, 20), np.uint32))
    skeletons = write_skeletons(tmp_path / "neurons.swc")
    request = {"skeletons": (skeletons,), "segmentations": (str(labels.address),)}
    with pytest.raises(DataError, match=r"14 of 28 skeleton nodes lie outside .*--scale"):
        evaluate_skeletons_as_run(SkeletonEvaluation(**request), store=None)
    found = evaluate_skeletons_as_run(SkeletonEvaluation(**request, intersect=True), store=None)
    scores = found["scores"][str(labels.address)]
    assert (scores["nodes_outside"], scores["nodes"], scores["correct_edges"] + scores["merged_edges"]) == (14, 14, 12)
    with pytest.raises(DataError, match="no fragments beside it"):
        evaluate_skeletons_as_run(SkeletonEvaluation(**request, intersect=True, edits=True), store=None)


def test_a_segmentation_that_is_empty_at_all_nodes_has_undefined_scores(make_volume, tmp_path):
    empty = make_volume("empty", np.zeros((6, 12, 40), np.uint32))
    sites = tmp_path / "sites.csv"
    sites.write_text("z,y,x,skeleton_id\n15,12,10,1\n")
    skeletons = write_skeletons(tmp_path / "neurons.swc")
    request = SkeletonEvaluation(skeletons=(skeletons,), segmentations=(str(empty.address),), sites=str(sites))
    scores = evaluate_skeletons_as_run(request, store=None)["scores"][str(empty.address)]
    assert (scores["voi"], scores["synapse_voi_split"], scores["expected_run_length"]) == (None, None, 0)
    assert (scores["background_nodes"], scores["omitted_edges"]) == (28, 26)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graph": "sqlite:////tmp/graph.db"}, "--graph is the graph for --edits"),
        ({"node_mask": "proofread"}, "are for skeletons in MongoDB"),
        ({"segmentations": ("a.zarr/one", "a.zarr/one")}, "named twice"),
    ],
)
def test_options_without_effect_are_refused(tmp_path, options, message):
    request = {"skeletons": (str(tmp_path),), "segmentations": ("a.zarr/one",)} | options
    with pytest.raises(InputError, match=message):
        evaluate_skeletons_as_run(SkeletonEvaluation(**request), store=None)


def test_the_graph_of_another_segmentation_is_refused(segmented, tmp_path):
    request = {"skeletons": (write_skeletons(tmp_path / "neurons.swc"),), "segmentations": (segmented[0],)}
    url = f"sqlite:///{tmp_path}/graph.db"
    store = open_graph(url, "mean")
    one = np.ones(1, np.uint64)
    store.write_nodes(0, {"id": one, "size": one, "z": one, "y": one, "x": one})
    store.write_edges(0, {"u": one, "v": one, "merge_score": np.ones(1, np.float32)})
    wrong = SkeletonEvaluation(**request, edits=True, graph=url)
    with pytest.raises(DataError, match=r"lacks fragments of .*--graph"):
        evaluate_skeletons_as_run(wrong, store=None)
    store.clear()
    store.claim("/data/other.zarr/affs_watershed")
    store.write_nodes(0, {"id": one, "size": one, "z": one, "y": one, "x": one})
    store.write_edges(0, {"u": one, "v": one, "merge_score": np.ones(1, np.float32)})
    with pytest.raises(InputError, match="graph of another segmentation, /data/other"):
        evaluate_skeletons_as_run(wrong, store=None)


def test_the_script_prints_scores_and_one_sentence_on_errors(segmented, tmp_path):
    skeletons = write_skeletons(tmp_path / "neurons.swc")
    command = [sys.executable, SCRIPT, "-s", skeletons, "-p", *segmented, "-n", "1", "--runs_directory",
               tmp_path / "runs"]  # fmt: skip
    done = subprocess.run([*command, "--edits"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Fewest edits: " in done.stdout
    assert "evaluation run 1" in done.stdout
    wrong = subprocess.run([*command, "--scale", "1000"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert len(wrong.stderr.strip().splitlines()) == 1
