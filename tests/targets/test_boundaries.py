"""Boundary labels against a brute-force search for the nearest other instance."""

import numpy as np
import pytest
from skimage.segmentation import find_boundaries

from incasem_like.errors import InputError
from incasem_like.targets import boundary_labels


@pytest.mark.parametrize("thickness", [0, 1, 2, 3])
def test_a_voxel_is_boundary_when_another_id_lies_within_the_thickness(thickness):
    instances = np.random.default_rng(3).integers(0, 3, (3, 3, 3)).repeat(3, 0).repeat(2, 1).repeat(3, 2)
    marked = boundary_labels(instances, thickness)
    positions = np.array(list(np.ndindex(instances.shape)))
    ids = instances.ravel()
    distance = np.abs(positions[:, None] - positions[None]).sum(-1)
    expected = ((distance <= thickness) & (ids[:, None] != ids[None])).any(1).reshape(instances.shape)
    np.testing.assert_array_equal(marked, expected)
    assert marked.dtype == np.uint8


def test_thickness_one_is_what_skimage_calls_thick_boundaries():
    instances = np.random.default_rng(4).integers(0, 4, (4, 5, 6)).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(boundary_labels(instances, 1), find_boundaries(instances, mode="thick"))


def test_axes_keep_boundaries_to_the_section():
    instances = np.zeros((4, 5, 5), dtype=np.uint64)
    instances[2:] = 1
    assert not boundary_labels(instances, 2, axes=(1, 2)).any()
    assert boundary_labels(instances, 1)[1:3].all()


def test_impossible_arguments_get_one_sentence():
    with pytest.raises(InputError, match="-1 voxels thick"):
        boundary_labels(np.zeros((2, 2, 2), dtype=int), -1)
    with pytest.raises(InputError, match="with 3 axes"):
        boundary_labels(np.zeros((2, 2, 2), dtype=int), 1, axes=(3,))
