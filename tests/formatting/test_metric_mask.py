"""Metric masks against distances and scipy's morphology."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_cdt

from incasem_like.formatting.label_masks import metric_mask


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    blobs = binary_dilation(rng.random((20, 24, 22)) > 0.998, iterations=5)
    return blobs.astype(np.uint32) * 7


@pytest.mark.parametrize(("outwards", "inwards"), [(4, 4), (2, 1), (1, 3), (0, 2), (2, 0), (0, 0)])
def test_the_zone_is_where_city_block_distances_say(labels, outwards, inwards):
    padded = np.pad(labels, 12) != 0
    to_object = distance_transform_cdt(~padded, metric="taxicab")[(slice(12, -12),) * 3]
    to_outside = distance_transform_cdt(padded, metric="taxicab")[(slice(12, -12),) * 3]
    inside = labels != 0
    zone = (~inside & (to_object <= outwards)) | (inside & (to_outside <= inwards))
    mask = metric_mask(labels, outwards, inwards)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, (~zone).astype(np.uint8))


def test_equals_dilated_minus_eroded(labels):
    objects = labels != 0
    zone = binary_dilation(objects, iterations=3) & ~binary_erosion(objects, iterations=2)
    np.testing.assert_array_equal(metric_mask(labels, 3, 2), (~zone).astype(np.uint8))


def test_zero_on_both_sides_keeps_everything(labels):
    assert metric_mask(labels, 0, 0).all()
