"""Weights against their formulas written voxel by voxel, and balance weights against gunpowder's BalanceLabels."""

import gunpowder as gp
import numpy as np
import pytest

from incasem_like.errors import InputError
from incasem_like.targets import (
    affinities,
    balance_weights,
    boundary_labels,
    boundary_weights,
    class_fractions,
    instance_weights,
    separation_weights,
)


def test_weights_follow_the_formula_voxel_by_voxel():
    rng = np.random.default_rng(1)
    labels = rng.choice(3, size=(6, 7, 8), p=[0.895, 0.1, 0.005]).astype(np.uint8)
    mask = (rng.random(labels.shape) < 0.8).astype(np.uint8)
    scale = balance_weights(labels, mask, 3, 0.02, 0.85)
    for voxel in np.ndindex(labels.shape):
        share = np.mean(labels[mask > 0] == labels[voxel])
        expected = 1 / (3 * min(max(share, 0.02), 0.85)) if mask[voxel] else 0.0
        assert scale[voxel] == pytest.approx(expected, rel=1e-6)


def test_each_unclipped_class_has_the_same_total_weight():
    labels = np.zeros((10, 10, 10), dtype=np.int64)
    labels[:3] = 1
    scale = balance_weights(labels, np.ones_like(labels), 2)
    assert scale[labels == 1].sum() == pytest.approx(scale[labels == 0].sum(), rel=1e-5)
    assert scale.sum() == pytest.approx(labels.size, rel=1e-5)


@pytest.mark.parametrize("foreground", [0.0, 0.002, 0.3, 1.0])
def test_weights_equal_those_of_gunpowders_balance_labels(foreground):
    rng = np.random.default_rng(2)
    labels = (rng.random((12, 12, 12)) < foreground).astype(np.uint8)
    mask = (rng.random(labels.shape) < 0.9).astype(np.uint8)
    keys = [gp.ArrayKey(name) for name in ("BALANCE_LABELS", "BALANCE_MASK", "BALANCE_SCALE")]
    node = gp.BalanceLabels(keys[0], keys[2], mask=keys[1], num_classes=2, clipmin=0.01, clipmax=0.99)
    roi = gp.Roi((0, 0, 0), labels.shape)
    spec = gp.ArraySpec(roi=roi, voxel_size=gp.Coordinate(1, 1, 1))
    batch, request = gp.Batch(), gp.BatchRequest()
    batch[keys[0]], batch[keys[1]] = gp.Array(labels, spec.copy()), gp.Array(mask, spec.copy())
    request[keys[2]] = gp.ArraySpec(roi=roi)
    node._spec = gp.ProviderSpec({keys[2]: spec.copy()})
    reference = node.process(batch, request)[keys[2]].data
    np.testing.assert_allclose(balance_weights(labels, mask, 2), reference, rtol=1e-6)


def test_an_empty_mask_gives_zeros_whatever_lies_under_it():
    labels = np.full((3, 3, 3), 200, dtype=np.uint8)
    mask = np.zeros_like(labels)
    assert not balance_weights(labels, mask, 2).any()
    assert not class_fractions(labels, mask, 2).any()


def test_a_class_beyond_num_classes_and_impossible_clips_get_one_sentence():
    labels = np.full((2, 2, 2), 2, dtype=np.uint8)
    with pytest.raises(InputError, match=r"hold class 2, but there are 2 classes"):
        balance_weights(labels, np.ones_like(labels), 2)
    with pytest.raises(InputError, match="0 < clipmin"):
        balance_weights(labels, np.ones_like(labels), 3, 0.0, 0.9)


def test_binary_targets_of_several_channels_are_balanced_together_over_what_is_valid():
    instances = np.random.default_rng(7).integers(0, 3, (4, 5, 6)).repeat(3, 1).repeat(3, 2)
    target, valid = affinities(instances, [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
    weights = balance_weights(target, valid, 2, 0.05, 0.95)
    share = target.sum() / valid.sum()
    assert weights[target == 1] == pytest.approx(1 / (2 * share))
    assert weights[(target == 0) & (valid == 1)] == pytest.approx(1 / (2 * (1 - share)))
    assert not weights[valid == 0].any()


def test_instances_have_equal_total_weights_up_to_the_limit():
    instances = np.zeros((10, 10), dtype=np.uint64)
    instances[:4], instances[5, :8], instances[7, 0] = 2**63, 5, 6
    weights = instance_weights(instances, limit=5)
    mean = (40 + 8 + 1) / 3
    assert weights[0, 0] == pytest.approx(mean / 40)
    assert weights[5, 0] == pytest.approx(mean / 8)
    assert weights[7, 0] == 5
    assert np.all(weights[instances == 0] == 1)
    mask = np.zeros((10, 10), dtype=np.uint8)
    mask[:2] = 255
    np.testing.assert_array_equal(instance_weights(instances, mask), mask > 0)
    np.testing.assert_array_equal(instance_weights(np.zeros((3, 4), dtype=int)), np.ones((3, 4)))


def test_boundaries_have_their_weight_and_the_rest_one():
    instances = np.random.default_rng(8).integers(0, 3, (3, 4, 5)).repeat(2, 0).repeat(3, 1).repeat(3, 2)
    mask = np.random.default_rng(9).integers(0, 2, instances.shape)
    boundary = boundary_labels(instances, 2, (1, 2), mask)
    weights = boundary_weights(instances, 7.5, 2, (1, 2), mask)
    np.testing.assert_array_equal(weights, np.where(boundary, 7.5, 1) * mask)


def test_background_between_close_objects_has_the_weight_of_the_unet_paper():
    instances = np.zeros((14, 15), dtype=np.int64)
    instances[1:5, 1:6], instances[6:12, 2:5], instances[3:9, 9:13] = 4, 8, 6
    weights = separation_weights(instances, sigma=3, voxel_size=(1.5, 1), weight=10)
    for voxel in np.ndindex(instances.shape):
        distances = sorted(
            np.linalg.norm((np.argwhere(instances == number) - voxel) * (1.5, 1), axis=1).min() for number in (4, 6, 8)
        )
        expected = 1 + 10 * np.exp(-((distances[0] + distances[1]) ** 2) / 18) if instances[voxel] == 0 else 1
        assert weights[voxel] == pytest.approx(expected, abs=1e-3)


def test_no_object_and_one_object_need_no_separation():
    for instances in (np.zeros((5, 6), dtype=int), np.eye(5, dtype=int)):
        np.testing.assert_array_equal(separation_weights(instances, 2), 1)


def test_weights_that_are_not_positive_get_one_sentence():
    instances = np.ones((3, 3), dtype=int)
    for call, part in (
        (lambda: instance_weights(instances, limit=0), "limit must be above 0, but is 0"),
        (lambda: boundary_weights(instances, -1), "weight must be above 0, but is -1"),
        (lambda: separation_weights(instances, (1, 2)), "sigma has 2 values, but it is one length"),
    ):
        with pytest.raises(InputError, match=part):
            call()
