"""Intervals over parts of a volume, and the comparison of evaluations."""

import numpy as np
import pytest
import skimage.metrics

from incasem_like.errors import InputError
from incasem_like.evaluation.blocks import (
    OBJECT_SCORES,
    PARTS,
    InstanceParts,
    ObjectParts,
    VoxelParts,
    compare,
    intervals,
    part_shape,
    parts_within,
)
from incasem_like.evaluation.instance_run import instance_parts, object_parts, pack_parts, unpack_parts
from incasem_like.evaluation.instances import PARTITION_SCORES, Contingency, object_scores, partition_scores
from incasem_like.volumes import Roi

SHAPE = (16, 16, 16)


def rows_of(truth, predicted, number=4):
    """Cut along the first axis into parts."""
    tables = [Contingency.of(one, other) for one, other in zip(np.split(truth, number), np.split(predicted, number),
                                                               strict=True)]  # fmt: skip
    numbers = np.concatenate([np.full(len(table.counts), part) for part, table in enumerate(tables)])
    names = ("truth", "predicted", "counts", "positions")
    return numbers, Contingency(*(np.concatenate([getattr(table, name) for table in tables]) for name in names))


@pytest.fixture
def arrays():
    rng = np.random.default_rng(5)
    truth = np.kron(rng.integers(1, 9, (8, 4, 4)), np.ones((2, 4, 4), int))
    good = np.where(rng.random(SHAPE) < 0.95, truth, 0)
    bad = np.where(rng.random(SHAPE) < 0.5, truth, rng.integers(1, 30, SHAPE))
    return truth, good, bad


def test_parts_cover_the_roi_once():
    roi = Roi((3, 5, 7), (40, 100, 90))
    shape = part_shape(roi, (10, 4, 4))
    covered = np.zeros(roi.shape, int)
    numbers = set()
    for begin in range(3, 43, 7):
        block = Roi((begin, 5, 7), (7, 100, 90)).intersect(roi)
        for number, part in parts_within(roi, shape, block):
            covered[(part - roi.begin).to_slices()] += 1
            numbers.add(number)
    assert (covered == 1).all()
    assert numbers == set(range(len(numbers)))
    assert len(numbers) >= PARTS / 2
    assert min(part_shape(Roi((0, 0, 0), (8, 8, 20)), (1, 1, 1))) >= 5


def test_a_draw_is_scored_as_the_volume_of_the_drawn_parts(arrays):
    truth, good, _ = arrays
    parts = InstanceParts.of(*rows_of(truth, good))
    weights = np.array([[1, 2, 0], [1, 0, 0], [1, 1, 3], [1, 1, 1]], float)
    found = parts.scores(weights)
    for draw, column in enumerate(weights.T.astype(int)):
        drawn = [np.concatenate([part for part, times in zip(np.split(array, 4), column, strict=True)
                                 for _ in range(times)]) for array in (truth, good)]  # fmt: skip
        expected = partition_scores(Contingency.of(*drawn))
        for name in PARTITION_SCORES:
            assert found[name][draw] == pytest.approx(expected[name]), name
        split, merge = skimage.metrics.variation_of_information(*drawn)
        assert (found["voi_split"][draw], found["voi_merge"][draw]) == pytest.approx((split, merge))


def test_the_interval_of_the_mean_of_equal_parts_is_that_of_the_binomial_distribution():
    rng = np.random.default_rng(0)
    tp = rng.binomial(100, 0.8, 64)
    parts = VoxelParts(np.arange(64), np.stack([tp, 100 - tp, np.zeros(64, int)], axis=1))
    low, high = intervals(parts, 4000)["precision"]
    error = np.std(tp / 100) / 8
    assert (low, high) == pytest.approx((tp.mean() / 100 - 1.96 * error, tp.mean() / 100 + 1.96 * error), abs=0.002)
    assert intervals(VoxelParts(np.arange(1), parts.counts[:1])) == {}


def test_the_better_of_two_segmentations_is_named_whatever_their_order(arrays):
    truth, good, bad = arrays
    one, other = (InstanceParts.of(*rows_of(truth, array)) for array in (good, bad))
    found = compare(one, other, "voi")
    assert found.better == 0
    expected = [sum(skimage.metrics.variation_of_information(truth, array)) for array in (good, bad)]
    assert found.values == pytest.approx(tuple(expected))
    assert found.interval[0] <= found.difference <= found.interval[1] < 0
    assert found.sentence("Run 12", "run 9").startswith("Run 12 is better than run 9: voi is lower by")
    assert compare(other, one, "voi").sentence("Run 9", "run 12").startswith("Run 12 is better than run 9")
    assert compare(one, other, "rand_index").sentence("a", "b").startswith("A is better than b: rand_index is higher")
    same = compare(one, one, "voi")
    assert same.better is None
    assert "cannot be told apart" in same.sentence("a", "b")
    with pytest.raises(InputError, match="Unknown metric 'dice'"):
        compare(one, other, "dice")


def test_parts_survive_in_the_artifact_and_volumes_are_pooled(arrays):
    truth, good, bad = arrays
    group = [rows_of(truth, good), rows_of(truth, bad, 2)]
    groups = {"all": group, "one": group[:1]}
    packed = pack_parts(groups, {name: object_parts(rows) for name, rows in groups.items()})
    found = unpack_parts(packed, "all")
    assert found.numbers.tolist() == list(range(6))
    pooled = found.scores(np.ones((6, 1)))
    # ids of the second volume are those of other objects
    both = [
        np.concatenate([one, np.where(other > 0, other + 1000, 999)]) for one, other in ((truth, truth), (good, bad))
    ]
    split, merge = skimage.metrics.variation_of_information(*both)
    assert (pooled["voi_split"][0], pooled["voi_merge"][0]) == pytest.approx((split, merge))
    assert instance_parts([]) is None
    objects, expected = unpack_parts(packed, "all", "f1"), object_parts(group)
    np.testing.assert_array_equal(objects.numbers, expected.numbers)
    np.testing.assert_array_equal(objects.counts, expected.counts)
    np.testing.assert_array_equal(objects.iou, expected.iou)
    assert unpack_parts(pack_parts({"one": group[:1]}, {"one": None}), "one", "f1").numbers.tolist() == [0, 1, 2, 3]


def scores_of(truth, predicted):
    found = object_scores(Contingency.of(truth, predicted))
    return {**found["thresholds"][0], "mean_ap": found["mean_ap"], "panoptic_quality": found["panoptic_quality"]}


def test_objects_of_drawn_parts_are_scored_as_the_volume_of_these_parts():
    rng = np.random.default_rng(8)
    truth = np.kron(rng.integers(0, 6, (8, 4, 4)), np.ones((2, 4, 4), int))
    predicted = np.where(rng.random(SHAPE) < 0.8, truth, rng.integers(0, 9, SHAPE))
    own = np.repeat(np.arange(4), 4)[:, None, None] * 100  # no object in two parts
    truth, predicted = (np.where(array > 0, array + own, 0) for array in (truth, predicted))
    truth[:4] = 0  # all predicted objects of the first part are wrong
    parts = ObjectParts.of(*rows_of(truth, predicted))
    weights = np.array([[1, 2, 0], [1, 0, 0], [1, 1, 3], [1, 1, 1]])
    found = parts.scores(weights.astype(float))
    for draw, column in enumerate(weights.T):
        chosen = [part for part, times in enumerate(column) for _ in range(times)]
        drawn = [
            np.concatenate([np.where(cut > 0, cut + 1000 * copy, 0) for copy, part in enumerate(chosen)
                            for cut in [np.split(array, 4)[part]]])
            for array in (truth, predicted)
        ]  # fmt: skip
        expected = scores_of(*drawn)
        for name in OBJECT_SCORES:
            assert found[name][draw] == pytest.approx(expected[name]), name


def test_an_object_in_several_parts_counts_once_where_most_of_it_lies():
    truth, predicted = np.zeros((2, 4, 1, 8), int)
    truth[:3, 0, :4] = 1  # two parts of two sections
    predicted[:3, 0, :4] = 5
    predicted[1:, 0, 6] = 6
    parts = ObjectParts.of(*rows_of(truth, predicted, 2))
    assert parts.counts[:, 0].tolist() == [[1, 0], [0, 1], [0, 0]]
    assert parts.iou.tolist() == [1, 0]
    whole = parts.scores(np.ones((2, 1)))
    expected = scores_of(truth, predicted)
    assert {name: values[0] for name, values in whole.items()} == {name: expected[name] for name in OBJECT_SCORES}


def test_the_interval_of_a_share_of_matched_objects_is_that_of_the_binomial_distribution():
    truth = np.arange(1, 641).reshape(64, 1, 10)  # ten objects of a voxel in each part
    predicted = np.where(np.random.default_rng(1).random(truth.shape) < 0.7, truth, 0)
    found = intervals(ObjectParts.of(*rows_of(truth, predicted, 64)), 4000)
    shares = (predicted > 0).mean(axis=(1, 2))
    error = 1.96 * np.std(shares) / 8
    assert found["recall"] == pytest.approx([shares.mean() - error, shares.mean() + error], abs=0.004)
    assert found["precision"] == [1, 1]
