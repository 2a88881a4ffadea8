"""Whole synthetic volumes: ground truth, signal, determinism."""

import numpy as np
import pytest
from pydantic import ValidationError

from incasem_like.errors import InputError
from incasem_like.synthetic import OpticLobeParameters, generate_optic_lobe
from incasem_like.synthetic.columns import draw_columns
from incasem_like.synthetic.fluorescence import EMPTY, _accumulate, draw_kinds
from incasem_like.synthetic.geometry import draw_geometry
from incasem_like.synthetic.imaging import to_uint8

SHAPE = (48, 40, 56)


@pytest.fixture(scope="module")
def volume():
    return generate_optic_lobe(SHAPE, seed=5, parameters=OpticLobeParameters.clear())


def test_types_shapes_and_mask_agree(volume):
    assert (volume.raw.dtype, volume.labels.dtype, volume.mask.dtype) == (np.uint8, np.uint32, np.uint8)
    assert volume.raw.shape == volume.labels.shape == volume.mask.shape == SHAPE
    np.testing.assert_array_equal(volume.mask, volume.labels > 0)
    assert sorted(column["id"] for column in volume.columns) == np.unique(volume.labels)[1:].tolist()


def test_same_seed_same_volume_and_other_seed_or_index_another(volume):
    def again(**which):
        return generate_optic_lobe(SHAPE, parameters=OpticLobeParameters.clear(), **which)

    np.testing.assert_array_equal(again(seed=5).raw, volume.raw)
    np.testing.assert_array_equal(again(seed=5).labels, volume.labels)
    assert (again(seed=6).raw != volume.raw).any()
    assert (again(seed=5, index=1).raw != volume.raw).any()


def test_columns_are_brighter_than_the_rest(volume):
    assert volume.raw[volume.mask == 1].mean() > 1.8 * volume.raw[volume.mask == 0].mean()


def test_the_original_recipe_labels_empty_columns_and_the_clear_one_does_not(volume):
    assert not any(column["kind"] == "empty" for column in volume.columns)
    original = generate_optic_lobe(SHAPE, seed=5)
    assert any(column["kind"] == "empty" for column in original.columns)


def test_labels_are_the_frusta_by_brute_force():
    shape, extents = (20, 24, 16), np.array([20, 24, 16]) / 24
    geometry = draw_geometry(OpticLobeParameters(min_columns=20), extents, np.random.default_rng(1))
    voxel = np.full(3, 1 / 24)
    labels = draw_columns(geometry, 0.7, shape, voxel, np.ones(len(geometry.sites), dtype=bool))
    centres = (np.indices(shape).reshape(3, -1).T + 0.5) / 24
    local = (centres[None] - geometry.sites[:, None]) @ np.linalg.inv(geometry.frames)
    axial = local[..., 2] / geometry.depth
    radius = 0.35 * geometry.spacing * (1 + (geometry.taper - 1) * axial)
    inside = (axial >= 0) & (axial <= 1) & (np.hypot(local[..., 0], local[..., 1]) <= radius)
    np.testing.assert_array_equal(labels.ravel() > 0, inside.any(axis=0))
    alone = inside.sum(axis=0) == 1
    np.testing.assert_array_equal(labels.ravel()[alone], inside.argmax(axis=0)[alone] + 1)


def test_columns_of_the_stretched_lattice_do_not_overlap():
    geometry = draw_geometry(OpticLobeParameters(scale=(1.5, 1.5)), np.ones(3), np.random.default_rng(2))
    one_by_one = np.zeros((48, 48, 48), dtype=int)
    for index in range(len(geometry.sites)):
        only = np.arange(len(geometry.sites)) == index
        one_by_one += draw_columns(geometry, 0.7, (48, 48, 48), np.full(3, 1 / 48), only) > 0
    assert one_by_one.max() == 1


def test_dye_in_one_voxel_adds_up_and_dye_outside_is_dropped():
    flat = np.zeros(8, dtype=np.float32)
    positions = np.array(
        [[0.1, 0.1, 0.1], [0.2, 0.3, 0.4], [0.9, 0.9, 0.9], [-0.1, 0, 0], [1.2, 0, 0]], dtype=np.float32
    )
    _accumulate(flat, positions, np.array([1, 2, 4, 8, 16], dtype=np.float32), (2, 2, 2), np.full(3, 0.5))
    np.testing.assert_array_equal(flat, [3, 0, 0, 0, 0, 0, 0, 4])


def test_kinds_follow_their_shares():
    kinds = draw_kinds(1100, (2, 3, 3, 3), np.random.default_rng(0))
    np.testing.assert_array_equal(np.bincount(kinds), [200, 300, 300, 300])
    assert (draw_kinds(10, (1, 0, 0, 0), np.random.default_rng(0)) == EMPTY).all()


def test_percentiles_become_black_and_white():
    signal = np.arange(1001, dtype=np.float32)
    scaled = to_uint8(signal, (1.0, 99.0))
    assert scaled[10] == 0
    assert scaled[990] == 255
    assert scaled[500] == 128
    assert to_uint8(np.zeros(5, dtype=np.float32), (1.0, 99.0)).max() == 0


def test_anisotropic_voxels_image_the_same_lobe_more_coarsely():
    fine = generate_optic_lobe((40, 40, 40), voxel_size=(100.0, 100.0, 100.0), seed=1)
    coarse = generate_optic_lobe((10, 40, 40), voxel_size=(400.0, 100.0, 100.0), seed=1)
    assert coarse.labels.shape == (10, 40, 40)
    overlap = (fine.labels[2::4] > 0) & (coarse.labels > 0)
    assert overlap.sum() > 0.7 * (coarse.labels > 0).sum()


def test_wrong_parameters_and_sizes_say_so():
    with pytest.raises(InputError, match="8 voxels or more"):
        generate_optic_lobe((4, 64, 64))
    with pytest.raises(ValidationError, match="swap them"):
        OpticLobeParameters(scale=(2.0, 1.0))
    with pytest.raises(ValidationError, match="at least one"):
        OpticLobeParameters(type_ratios=(0, 0, 0, 0))
