"""Class maps against a voxel-by-voxel definition."""

import numpy as np
import pytest

from incasem_like.errors import InputError
from incasem_like.targets import class_map


def test_a_voxel_claimed_by_one_class_gets_its_id_and_one_claimed_by_two_or_three_is_background():
    rng = np.random.default_rng(0)
    masks = {c: (rng.random((5, 6, 7)) < 0.4).astype(np.uint8) * 255 for c in (1, 2, 3)}
    merged = class_map(masks)
    for voxel in np.ndindex(merged.shape):
        claims = [c for c in masks if masks[c][voxel] > 0]
        assert merged[voxel] == (claims[0] if len(claims) == 1 else 0)
    assert merged.dtype == np.uint8


def test_a_single_mask_of_instance_ids_is_binarized():
    instances = np.array([[[0, 7, 900000]]], dtype=np.uint64)
    np.testing.assert_array_equal(class_map({1: instances}), [[[0, 1, 1]]])


@pytest.mark.parametrize(
    ("masks", "part"),
    [
        ({}, "at least one mask"),
        ({0: np.ones((2, 2, 2))}, "outside 1-255"),
        ({1: np.ones((2, 2, 2)), 2: np.ones((2, 2, 3))}, "different shapes"),
    ],
)
def test_impossible_masks_get_one_sentence(masks, part):
    with pytest.raises(InputError, match=part):
        class_map(masks)
