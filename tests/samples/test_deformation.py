"""The deformation against augment-nd's, which gunpowder's ElasticAugment applies, and reading against scipy's."""

import numpy as np
import pytest
from scipy import ndimage

from incasem_like.samples.deformation import deformation, random_deformation
from incasem_like.samples.resampling import resample_linearly, resample_nearest

STATED = {
    "control_point_spacing": (8, 6, 6),
    "jitter_sigma": (1.0, 2.0, 2.0),
    "subsample": 3,
    "rotation": True,
    "section_shift_probability": 0.2,
    "section_slip_probability": 0.0,
    "max_misalign": 2,
}


def whole(shape):
    return tuple(slice(0, size) for size in shape)


def coordinates(deformed, box, sections_at_once=4):
    return np.concatenate([part for _, part in deformed.sections(box, sections_at_once)], axis=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("subsample", [1, 2, 4])
@pytest.mark.parametrize("shape", [(24, 24, 24), (11, 30, 26), (8, 33, 32)])
def test_coordinates_are_those_of_augment_nd(shape, subsample):
    import augment

    spacing, sigma, angle = (8, 6, 6), (1.0, 2.0, 2.0), 0.7
    points = tuple(max(1, round(size / step)) for size, step in zip(shape, spacing, strict=True))
    np.random.seed(5)
    jitter = np.stack([np.random.normal(scale=s, size=points) for s in sigma]).astype(np.float32)
    np.random.seed(5)
    expected = augment.create_identity_transformation(shape, subsample=subsample)
    expected += augment.create_elastic_transformation(shape, spacing, sigma, subsample=subsample)
    expected += augment.create_rotation_transformation(shape, angle, subsample=subsample)
    if subsample > 1:
        expected = augment.upscale_transformation(expected, shape)
    found = coordinates(deformation(shape, jitter, angle, np.zeros((shape[0], 2), int), subsample), whole(shape))
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_without_jitter_a_quarter_turn_reads_the_block_turned():
    block = np.random.default_rng(0).random((3, 9, 9)).astype(np.float32)
    turned = deformation(block.shape, np.zeros((3, 1, 1, 1), np.float32), np.pi / 2, np.zeros((3, 2), int), 2)
    read = resample_linearly(block, (0, 0, 0), turned, whole(block.shape))
    # y of the source grows with x of the block, x of the source falls with y of the block.
    np.testing.assert_allclose(read, block.transpose(0, 2, 1)[:, ::-1, :], atol=1e-5)


def test_a_shifted_section_and_those_after_it_read_from_elsewhere():
    shape = (6, 8, 8)
    shifts = np.array([[0, 0], [0, 0], [2, -1], [2, -1], [1, 1], [1, 1]])
    still = np.zeros((3, 2, 2, 2), np.float32)
    moved = coordinates(deformation(shape, still, 0.0, shifts, 2), whole(shape))
    np.testing.assert_allclose(moved[0], np.indices(shape)[0], atol=1e-5)
    np.testing.assert_allclose(
        moved[1:] - np.indices(shape)[1:], np.broadcast_to(shifts.T[:, :, None, None], moved[1:].shape), atol=1e-5
    )


def test_section_shifts_start_as_often_as_asked_and_reach_the_largest_of_both_signs():
    rng = np.random.default_rng(1)
    shifts = random_deformation((4000, 2, 2), rng, **{**STATED, "section_shift_probability": 0.05}).section_shifts
    steps = np.diff(shifts, axis=0)
    assert set(np.unique(steps)) == {-2, -1, 0, 1, 2}
    # Of 25 equally likely steps one is none at all.
    assert np.mean(np.any(steps != 0, axis=1)) == pytest.approx(0.05 * 24 / 25, abs=0.012)


def test_a_slip_moves_one_section_and_a_shift_all_later_ones_too():
    rng = np.random.default_rng(1)
    options = {**STATED, "section_shift_probability": 0.0, "section_slip_probability": 0.1}
    slips = random_deformation((4000, 2, 2), rng, **options).section_shifts
    moved = np.any(slips != 0, axis=1)
    assert moved.mean() == pytest.approx(0.1 * 24 / 25, abs=0.015)
    assert np.abs(slips).max() == 2


@pytest.mark.parametrize(
    "box", [(slice(0, 20), slice(0, 24), slice(0, 22)), (slice(4, 15), slice(6, 18), slice(5, 17))]
)
def test_a_part_of_the_block_has_the_coordinates_it_has_in_the_whole_and_bounds_enclose_them(box):
    shape = (20, 24, 22)
    deformed = random_deformation(shape, np.random.default_rng(2), **STATED)
    everything = coordinates(deformed, whole(shape))
    part = coordinates(deformed, box, sections_at_once=3)
    np.testing.assert_array_equal(part, everything[(slice(None), *box)])
    lowest, highest = (np.array(bound) for bound in deformed.bounds(box))
    assert (lowest <= part.min(axis=(1, 2, 3))).all()
    assert (highest >= part.max(axis=(1, 2, 3))).all()
    assert (highest - lowest <= np.ptp(part, axis=(1, 2, 3)) + 20).all()


def test_reading_equals_scipys_map_coordinates():
    shape, box = (20, 24, 22), (slice(3, 17), slice(2, 20), slice(4, 18))
    rng = np.random.default_rng(3)
    deformed = random_deformation(shape, rng, **STATED)
    lowest, highest = deformed.bounds(box)
    extent = [high - low + 1 for low, high in zip(lowest, highest, strict=True)]
    image, labels = rng.random(extent).astype(np.float32), rng.integers(0, 200, extent).astype(np.uint8)
    there = coordinates(deformed, box) - np.array(lowest)[:, None, None, None]
    read = resample_linearly(image, lowest, deformed, box)
    np.testing.assert_allclose(read, ndimage.map_coordinates(image, there, order=1, mode="nearest"), atol=2e-5)
    one, other = resample_nearest([labels, labels[::-1]], lowest, deformed, box)
    expected = ndimage.map_coordinates(labels, there, order=0, mode="nearest")
    assert np.mean(one != expected) < 1e-3  # halves may round either way
    assert np.mean(other != ndimage.map_coordinates(labels[::-1], there, order=0, mode="nearest")) < 1e-3


@pytest.mark.parametrize("shape", [(1, 12, 12), (2, 3, 5), (5, 40, 1)])
def test_thin_blocks_deform_too(shape):
    deformed = random_deformation(shape, np.random.default_rng(4), **STATED)
    lowest, highest = deformed.bounds(whole(shape))
    extent = [high - low + 1 for low, high in zip(lowest, highest, strict=True)]
    read = resample_linearly(np.ones(extent, np.float32), lowest, deformed, whole(shape))
    np.testing.assert_allclose(read, np.ones(shape), atol=1e-5)


def test_nothing_random_switched_on_leaves_every_voxel_where_it_is():
    shape = (9, 10, 11)
    off = {**STATED, "jitter_sigma": (0, 0, 0), "rotation": False, "section_shift_probability": 0.0}
    still = random_deformation(shape, np.random.default_rng(5), **off)
    np.testing.assert_allclose(coordinates(still, whole(shape)), np.indices(shape), atol=1e-5)
