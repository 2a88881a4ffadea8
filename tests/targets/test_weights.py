"""Balance weights against the formula and against gunpowder's BalanceLabels."""

import gunpowder as gp
import numpy as np
import pytest

from incasem_like.errors import InputError
from incasem_like.targets import balance_weights, class_fractions


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
