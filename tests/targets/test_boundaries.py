"""Boundary labels against a brute-force search for the nearest other instance; gaps against gunpowder's node."""

import gunpowder as gp
import numpy as np
import pytest
from skimage.segmentation import find_boundaries

from incasem_like.errors import InputError
from incasem_like.targets import boundary_labels, grow_boundary


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


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("only_xy", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_gaps_between_instances_are_those_of_gunpowders_grow_boundary(steps, only_xy, masked):
    rng = np.random.default_rng(5)
    instances = rng.integers(0, 4, (3, 4, 5)).repeat(3, 0).repeat(4, 1).repeat(5, 2).astype(np.uint64) * 2**60
    mask = (rng.random(instances.shape) < 0.8).astype(np.uint8) if masked else np.ones(instances.shape, dtype=np.uint8)
    before = instances.copy()
    grown = grow_boundary(instances, steps, mask if masked else None, axes=(1, 2) if only_xy else None)
    np.testing.assert_array_equal(instances, before)
    assert grown.dtype == np.uint64
    np.testing.assert_array_equal(grown[mask == 0], instances[mask == 0])
    if steps:  # scipy takes 0 iterations of an erosion for "until nothing changes"
        keys = [gp.ArrayKey("GROW_LABELS"), gp.ArrayKey("GROW_MASK")]
        node = gp.GrowBoundary(keys[0], keys[1], steps=steps, only_xy=only_xy)
        spec = gp.ArraySpec(roi=gp.Roi((0, 0, 0), instances.shape), voxel_size=gp.Coordinate(1, 1, 1))
        node._spec = gp.ProviderSpec({keys[0]: spec})
        batch = gp.Batch()
        for key, data in zip(keys, (before, mask), strict=True):
            batch[key] = gp.Array(data, spec.copy())
        node.process(batch, None)
        np.testing.assert_array_equal(grown[mask > 0], batch[keys[0]].data[mask > 0])


def test_neither_one_object_nor_none_grows_a_boundary():
    for value in (0, 3):
        instances = np.full((4, 5, 6), value)
        np.testing.assert_array_equal(grow_boundary(instances, 2), instances)
