"""Distances to boundaries against a search among all voxels, and against scipy's distance transform."""

import numpy as np
import pytest
from scipy import ndimage

from incasem_like.errors import InputError
from incasem_like.targets import boundary_distance, normalised_distance


def coarse_instances(seed, shape=(6, 7, 8), ids=4):
    return np.random.default_rng(seed).integers(0, ids, shape).repeat(2, 0).repeat(1, 1).repeat(2, 2) * 2**40


@pytest.mark.parametrize("voxel_size", [(1, 1, 1), (50, 4.6, 4.6)])
@pytest.mark.parametrize("axes", [None, (1, 2), (0,)])
def test_distances_are_those_to_the_nearest_voxel_of_another_id(voxel_size, axes):
    for seed in range(3):
        instances = coarse_instances(seed, (3, 5, 4), ids=2 + seed)
        distance = boundary_distance(instances, voxel_size, axes)
        used = (0, 1, 2) if axes is None else axes
        diagonal = np.linalg.norm([instances.shape[axis] * voxel_size[axis] for axis in used])
        positions, ids = np.argwhere(instances >= 0), instances.ravel()
        for voxel in np.ndindex(instances.shape):
            away = positions - voxel
            reachable = ~np.any(np.delete(away, used, axis=1), axis=1) & (ids != instances[voxel])
            lengths = np.linalg.norm(away[reachable] * voxel_size, axis=1)
            expected = min(lengths, default=diagonal) * (1 if instances[voxel] else -1)
            assert distance[voxel] == pytest.approx(expected, rel=1e-5)


def test_distances_of_a_binary_mask_are_those_of_scipy():
    mask = ndimage.gaussian_filter(np.random.default_rng(5).standard_normal((20, 30, 40)), 3) > 0
    inside = ndimage.distance_transform_edt(mask, sampling=(4, 1, 1.5))
    outside = ndimage.distance_transform_edt(~mask, sampling=(4, 1, 1.5))
    distance = boundary_distance(mask.astype(np.uint8), (4, 1, 1.5))
    np.testing.assert_allclose(distance, inside - outside, rtol=1e-5)
    np.testing.assert_allclose(
        boundary_distance(mask.astype(np.uint8), (4, 1, 1.5), limit=5), np.clip(inside - outside, -5, 5), rtol=1e-5
    )


def test_normalised_distances_are_the_tanh_of_distances():
    instances = coarse_instances(6, (8, 30, 9), ids=2)
    expected = np.tanh(boundary_distance(instances, (3, 1, 1)).astype(float) / 0.5)
    np.testing.assert_allclose(normalised_distance(instances, 0.5, (3, 1, 1)), expected, atol=1e-6)


def test_a_block_without_boundary_is_as_far_from_one_as_it_is_wide():
    full = boundary_distance(np.full((3, 4), 7), voxel_size=10)
    np.testing.assert_allclose(full, 50)
    np.testing.assert_allclose(boundary_distance(np.zeros((3, 4), dtype=int), voxel_size=10), -50)
    np.testing.assert_allclose(normalised_distance(np.full((30, 40), 7), 0.5), 1, atol=1e-7)


def test_impossible_arguments_get_one_sentence():
    instances = np.ones((3, 4, 5), dtype=int)
    for options, part in (
        ({"voxel_size": (1, 1)}, "voxel_size has 2 values, but the labels have 3 axes"),
        ({"axes": (3,)}, "not axes of an array with 3 axes"),
        ({"limit": 0.0}, "limit must be above 0, but is 0"),
    ):
        with pytest.raises(InputError, match=part):
            boundary_distance(instances, **options)
    with pytest.raises(InputError, match="scale must be above 0"):
        normalised_distance(instances, -2)
