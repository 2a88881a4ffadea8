"""Metrics of instances against scikit-image, their definitions, and published figures of real volumes."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.metrics

from incasem_like.errors import DataError, InputError
from incasem_like.evaluation.instance_run import (
    InstanceEvaluation,
    best_lines,
    evaluate_instances_as_run,
    instance_table,
    score,
)
from incasem_like.evaluation.instances import Contingency, largest_errors, object_scores, partition_scores
from incasem_like.tracking import open_store
from incasem_like.volumes import create_volume

SCRIPT = Path(__file__).parents[2] / "scripts/04_postprocessing/15_evaluate_segmentation.py"
SHAPE = (9, 10, 11)


@pytest.fixture
def pair():
    """Ground truth and a segmentation of larger and smaller objects, both with background."""
    rng = np.random.default_rng(2)
    truth = np.kron(rng.integers(0, 6, (3, 5, 4)), np.ones((3, 2, 3), int))[:, :, :11]
    predicted = np.where(rng.random(SHAPE) < 0.8, truth, rng.integers(0, 9, SHAPE))
    return truth.astype(np.uint32), predicted.astype(np.uint64)


def blockwise(truth, predicted, step):
    parts = []
    for corner in itertools.product(*(range(0, size, step) for size in SHAPE)):
        slices = tuple(slice(begin, begin + step) for begin in corner)
        parts.append(Contingency.of(truth[slices], predicted[slices], begin=corner))
    return Contingency.merged(parts)


def test_the_table_counts_pairs_and_does_not_depend_on_blocks(pair):
    truth, predicted = pair
    table = Contingency.of(truth, predicted)
    for i, j, count, position in zip(table.truth, table.predicted, table.counts, table.positions, strict=True):
        voxels = np.argwhere((truth == i) & (predicted == j))
        assert len(voxels) == count
        np.testing.assert_array_equal(voxels.sum(axis=0), position)
    assert table.counts.sum() == truth.size
    for step in (1, 4, 7):
        other = blockwise(truth, predicted, step)
        np.testing.assert_array_equal(other.to_array(), table.to_array())
    again = Contingency.from_array(table.to_array())
    np.testing.assert_array_equal(again.positions, table.positions)


def test_masked_voxels_and_large_ids_are_counted_right(pair):
    truth, predicted = pair
    valid = np.random.default_rng(3).integers(0, 2, SHAPE)
    large = predicted + np.uint64(2**60)
    table = Contingency.of(truth, large, valid)
    chosen = valid > 0
    expected = Contingency.of(truth[chosen][None, None], predicted[chosen][None, None])
    np.testing.assert_array_equal(table.counts, expected.counts)
    np.testing.assert_array_equal(table.predicted, expected.predicted + np.uint64(2**60))


def test_voi_and_rand_are_those_of_scikit_image_without_unlabelled_voxels(pair):
    truth, predicted = pair
    scores = partition_scores(Contingency.of(truth, predicted).labelled)
    chosen = truth > 0
    one, other = truth[chosen], predicted[chosen].astype(int) + 1
    split, merge = skimage.metrics.variation_of_information(one, other)
    assert (scores["voi_split"], scores["voi_merge"]) == pytest.approx((split, merge))
    assert scores["voi"] == pytest.approx(split + merge)
    error, precision, recall = skimage.metrics.adapted_rand_error(one, other, ignore_labels=())
    pairs = one.size * (one.size - 1)
    squares = [np.square(np.unique(values, return_counts=True)[1].astype(float)).sum() for values in (one, other)]
    joint = np.square(np.unique(np.stack([one, other]), axis=1, return_counts=True)[1].astype(float)).sum()
    assert scores["adapted_rand_error"] == pytest.approx(error, abs=2 / one.size)  # scikit-image leaves self-pairs out
    assert scores["rand_merge"] == pytest.approx(joint / squares[1])
    assert scores["rand_split"] == pytest.approx(joint / squares[0])
    assert (scores["rand_split"], scores["rand_merge"]) == pytest.approx((precision, recall), abs=2 / one.size)
    assert scores["rand_index"] == pytest.approx(1 - (squares[0] + squares[1] - 2 * joint) / pairs)
    assert scores["cremi_score"] == pytest.approx(np.sqrt((split + merge) * scores["adapted_rand_error"]))


def test_the_rand_index_is_the_share_of_pairs_that_agree():
    rng = np.random.default_rng(4)
    truth, predicted = rng.integers(1, 4, (1, 1, 12)), rng.integers(1, 4, (1, 1, 12))
    agree = [
        (truth[0, 0, a] == truth[0, 0, b]) == (predicted[0, 0, a] == predicted[0, 0, b])
        for a, b in itertools.combinations(range(12), 2)
    ]
    assert partition_scores(Contingency.of(truth, predicted))["rand_index"] == pytest.approx(np.mean(agree))


def test_equal_partitions_have_no_error_and_independent_ones_no_information():
    truth = np.repeat(np.arange(1, 5), 8).reshape(1, 4, 8)
    same = partition_scores(Contingency.of(truth, truth * 7))
    assert [same[name] for name in ("voi", "nvi", "nid", "adapted_rand_error", "cremi_score")] == pytest.approx([0] * 5)
    assert same["rand_index"] == 1
    other = partition_scores(Contingency.of(truth, np.tile(np.arange(1, 9), (1, 4, 1))))
    assert (other["voi_split"], other["voi_merge"]) == pytest.approx((3, 2))
    assert (other["nvi"], other["nid"]) == pytest.approx((1, 1))


def test_objects_match_by_their_iou(pair):
    truth, predicted = pair
    found = object_scores(Contingency.of(truth, predicted), (0.3, 0.5, 0.7))
    ids = [[i for i in np.unique(array) if i] for array in (truth, predicted)]
    iou = np.array(
        [
            [((truth == i) & (predicted == j)).sum() / ((truth == i) | (predicted == j)).sum() for j in ids[1]]
            for i in ids[0]
        ]
    )
    for row in found["thresholds"]:
        reached = iou >= row["iou"]
        best = max(
            sum(reached[i, j] for i, j in zip(range(len(ids[0])), chosen, strict=False))
            for chosen in itertools.permutations(range(len(ids[1])), len(ids[0]))
        )
        assert row["tp"] == best
        assert (row["fp"], row["fn"]) == (len(ids[1]) - best, len(ids[0]) - best)
        assert row["ap"] == pytest.approx(best / (len(ids[0]) + len(ids[1]) - best))
        assert row["f1"] == pytest.approx(2 * best / (len(ids[0]) + len(ids[1])))
    matched = iou[iou > 0.5]
    assert len(matched) > 0
    assert found["panoptic_quality"] == pytest.approx(matched.sum() / ((len(ids[0]) + len(ids[1])) / 2))
    assert found["mean_ap"] == pytest.approx(np.mean([row["ap"] for row in found["thresholds"]]))


def test_the_largest_errors_are_named_with_their_positions():
    truth = np.ones((1, 4, 8), int)
    truth[:, 2:] = 2
    predicted = np.full((1, 4, 8), 5)
    predicted[:, :2, 6:] = 6
    table = Contingency.of(truth, predicted, begin=(10, 20, 30))
    (split,) = largest_errors(table, "split")
    assert (split["id"], split["voxels"]) == (1, 16)
    assert [part["id"] for part in split["parts"]] == [5, 6]
    assert split["parts"][1] == {"id": 6, "voxels": 4, "position": [10, 20, 36]}
    (merge,) = largest_errors(table, "merge")
    assert (merge["id"], [part["id"] for part in merge["parts"]]) == (5, [2, 1])
    scores = partition_scores(table)
    assert split["bits"] == pytest.approx(scores["voi_split"])
    assert merge["bits"] == pytest.approx(scores["voi_merge"])


def test_voxels_that_the_segmentation_does_not_label_can_be_left_out(pair):
    truth, predicted = pair
    table = Contingency.of(truth, predicted)
    both = (truth > 0) & (predicted > 0)
    expected = skimage.metrics.variation_of_information(truth[both], predicted[both].astype(int))
    found = score(table, both_labelled=True)
    assert (found["voi_split"], found["voi_merge"]) == pytest.approx(tuple(expected))
    assert found["coverage"] == pytest.approx(both.sum() / (truth > 0).sum())


def test_ground_truth_without_objects_is_refused():
    with pytest.raises(DataError, match="no object"):
        score(Contingency.of(np.zeros((1, 2, 2), int), np.ones((1, 2, 2), int)))


@pytest.fixture
def write(tmp_path):
    def make(dataset, array, begin=(0, 0, 0)):
        volume = create_volume(
            tmp_path / "cell.zarr", dataset, shape=array.shape, dtype=array.dtype, voxel_size=(8, 4, 4),
            offset=[position * size for position, size in zip(begin, (8, 4, 4), strict=True)], chunk_shape=(4, 4, 4),
        )  # fmt: skip
        volume.write(array)
        volume.mark_complete()
        return str(volume.address)

    return make


def test_volumes_are_scored_like_arrays_and_the_run_is_tracked(pair, write, tmp_path):
    truth, predicted = pair
    labels = write("labels", np.pad(truth, 2), begin=(0, 0, 0))
    segmentations = (write("seg_a", predicted, begin=(2, 2, 2)), write("seg_b", truth, begin=(2, 2, 2)))
    store = open_store(None, kind="evaluations", runs_directory=tmp_path / "runs")
    request = InstanceEvaluation(labels=(labels,), segmentations=segmentations)
    result = evaluate_instances_as_run(request, store=store, num_workers=2)
    expected = score(Contingency.of(truth, predicted, begin=(2, 2, 2)))
    found = result["scores"][segmentations[0]]
    assert {name: found[name] for name in expected} == expected
    assert result["scores"][segmentations[1]]["voi"] == 0
    assert result["best"] == segmentations[1]
    record = store.get(1)
    assert record.document["result"]["scores"][segmentations[0]]["voi"] == pytest.approx(expected["voi"])
    part = InstanceEvaluation(labels=(labels,), segmentations=segmentations[:1], offset=(3, 4, 5), shape=(5, 6, 4))
    slices = (slice(1, 6), slice(2, 8), slice(3, 7))
    found = evaluate_instances_as_run(part, store=None)["scores"][segmentations[0]]
    expected = score(Contingency.of(truth[slices], predicted[slices], begin=(3, 4, 5)))
    assert {name: found[name] for name in expected} == expected


def test_volumes_that_do_not_fit_are_refused(pair, write):
    truth, predicted = pair
    labels, segmentation = write("labels", truth[:5]), write("seg", predicted)
    with pytest.raises(DataError, match="--intersect"):
        InstanceEvaluation(labels=(labels,), segmentations=(segmentation,)).prepare()
    (task,) = InstanceEvaluation(labels=(labels,), segmentations=(segmentation,), intersect=True).prepare()
    assert task.task.grid.roi.shape == (5, 10, 11)
    with pytest.raises(InputError, match="--offset and --shape"):
        InstanceEvaluation(labels=(labels,), segmentations=(segmentation,), offset=(0, 0, 0)).prepare()


def test_the_script_prints_the_scores(pair, write, tmp_path):
    truth, predicted = pair
    command = [sys.executable, SCRIPT, "-l", write("labels", truth), "-p", write("seg", predicted), "-n", "1"]
    done = subprocess.run([*command, "--runs", tmp_path / "runs"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scores = partition_scores(Contingency.of(truth, predicted).labelled)
    assert f"Lowest VOI: {scores['voi']:.4f} ({scores['voi_split']:.4f} + {scores['voi_merge']:.4f})" in done.stdout
    assert "evaluation run 1" in done.stdout


@pytest.mark.realdata
def test_published_scores_of_a_flood_filling_network_are_reproduced():
    root = Path(os.environ.get("INCASEM_REAL_DATA") or pytest.skip("INCASEM_REAL_DATA is not set"))
    import tifffile

    truth = np.stack([tifffile.imread(root / f"fib_medulla/labels/{z:04d}.tif") for z in range(130, 170)])
    with np.load(root / "ffn_fib_medulla/segmentation.npz") as file:
        predicted = file["segmentation"][130:170]
    found = score(Contingency.of(truth, predicted), both_labelled=True)
    assert (round(found["voi_split"], 3), round(found["voi_merge"], 3)) == (0.359, 0.216)
    assert round(found["coverage"], 2) == 0.90


@pytest.mark.realdata
def test_published_scores_of_gala_s_supervoxels_are_reproduced():
    root = Path(os.environ.get("INCASEM_REAL_DATA") or pytest.skip("INCASEM_REAL_DATA is not set"))
    import h5py

    with h5py.File(root / "gala/train-gt.h5") as file, h5py.File(root / "gala/train-ws.h5") as other:
        truth, predicted = file["stack"][:], other["stack"][:]
    table = Contingency.of(truth, predicted)
    every, labelled = partition_scores(table), partition_scores(table.labelled)
    assert (round(every["voi_split"], 3), round(every["voi_merge"], 3)) == (1.643, 0.454)
    assert (round(labelled["voi_split"], 3), round(labelled["voi_merge"], 3)) == (1.336, 0.121)


def test_an_empty_segmentation_is_one_row_and_does_not_stop_the_others(pair, write):
    truth, predicted = pair
    labels, empty, filled = write("labels", truth), write("a/seg", np.zeros_like(predicted)), write("b/seg", predicted)
    request = InstanceEvaluation(labels=(labels,), segmentations=(empty, filled), both_labelled=True)
    result = evaluate_instances_as_run(request, store=None)
    assert result["best"] == filled
    assert (result["scores"][empty]["voi"], result["scores"][empty]["coverage"]) == (None, 0)
    rows = instance_table(result)
    assert [row[0] for row in rows[1:]] == ["a/seg", "b/seg"]
    assert rows[1][1] == "undefined"
    only = evaluate_instances_as_run(
        InstanceEvaluation(labels=(labels,), segmentations=(empty,), both_labelled=True), store=None
    )
    assert only["best"] is None
    assert best_lines(only) == ["No segmentation has a VOI: none labels a voxel that the ground truth labels."]


def test_several_volumes_are_pooled_and_masked(pair, write, tmp_path):
    truth, predicted = pair
    mask = np.random.default_rng(7).integers(0, 2, SHAPE).astype(np.uint8)
    labels = (write("labels", truth), write("labels_2", truth[:5]))
    segmentations = (write("seg", predicted), write("seg_2", predicted[:5]))
    masks = (write("mask", mask), write("mask_2", mask[:5]))
    request = InstanceEvaluation(labels=labels, segmentations=segmentations, mask=masks)
    result = evaluate_instances_as_run(request, store=None)
    arrays = [(truth, predicted, mask), (truth[:5], predicted[:5], mask[:5])]
    one = np.concatenate([array[0][(array[2] > 0) & (array[0] > 0)] + np.uint32(100 * k)
                          for k, array in enumerate(arrays)])  # fmt: skip
    other = np.concatenate([array[1][(array[2] > 0) & (array[0] > 0)].astype(int) + 1 + 100 * k
                            for k, array in enumerate(arrays)])  # fmt: skip
    split, merge = skimage.metrics.variation_of_information(one, other)
    pooled = result["scores"]["all volumes"]
    assert (pooled["voi_split"], pooled["voi_merge"]) == pytest.approx((split, merge))
    single = [result["scores"][name] for name in segmentations]
    assert pooled["truth_objects"] == sum(scores["truth_objects"] for scores in single)
    assert pooled["thresholds"][0]["tp"] == sum(scores["thresholds"][0]["tp"] for scores in single)
    assert result["best"] == "all volumes"
    assert pooled["intervals"]["voi"][0] <= pooled["voi"] <= pooled["intervals"]["voi"][1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offset": (0, 0, 0), "shape": (0, 4, 4)}, "--shape is 0 4 4: give three numbers of voxels above 0"),
        ({"offset": (0, 0, 0), "shape": (20, 4, 4)}, "or --offset and --shape"),
        ({"mask": ("a", "b")}, "2 masks and 1 volumes of labels"),
    ],
)
def test_a_wrong_request_is_one_sentence(pair, write, options, message):
    truth, predicted = pair
    request = InstanceEvaluation(labels=(write("labels", truth),), segmentations=(write("seg", predicted),), **options)
    with pytest.raises(InputError, match=message) as caught:
        request.prepare()
    assert "\n" not in str(caught.value)


def test_as_many_segmentations_as_labels_are_needed(pair, write):
    truth, predicted = pair
    labels = write("labels", truth)
    with pytest.raises(InputError, match="2 volumes of labels and 1 segmentations"):
        InstanceEvaluation(labels=(labels, labels), segmentations=(write("seg", predicted),)).prepare()
