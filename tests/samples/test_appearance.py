"""Augmentations of raw against what they are defined to do, and in the pipeline: labels stay, samples repeat."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.exposure import equalize_adapthist

from incasem_like.config.appearance_sections import AppearanceSections, DefectsConfig
from incasem_like.config.training_sections import AugmentationConfig
from incasem_like.samples import TrainingSamples
from incasem_like.samples.appearance import AUGMENTATIONS


@pytest.fixture
def raw():
    """Smooth raw from 0 to 1, another brightness in each section."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((24, 40, 50)), (0, 2, 2))
    smooth += np.linspace(-0.3, 0.3, 24)[:, None, None]
    return ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)


def changed(raw, name, seed=1, **options):
    config = AppearanceSections.model_validate({name: {"probability": 1, **options} if name != "defects" else options})
    return AUGMENTATIONS[name](raw, getattr(config, name), np.random.default_rng(seed))


def test_every_section_of_the_configuration_has_its_augmentation_in_the_same_order():
    assert list(AUGMENTATIONS) == list(AppearanceSections.model_fields)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_depends_on_its_generator_alone_and_keeps_shape_type_and_range(raw, name):
    before = raw.copy()
    options = {
        "clahe": {"kernel_size": [8, 16, 12]},
        "defects": {"missing": 0.3, "low_contrast": 0.3, "artefact": 0.3},
    }
    one, same, other = (changed(raw, name, seed, **options.get(name, {})) for seed in (1, 1, 2))
    np.testing.assert_array_equal(raw, before)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, raw)
    assert (one.shape, one.dtype) == (raw.shape, np.float32)
    assert one.min() >= 0
    assert one.max() <= 1


def test_brightness_and_contrast_vary_from_section_to_section(raw):
    middle = 0.4 + 0.2 * raw
    varied = changed(middle, "section_intensity", scale=0.2, shift=0.1)
    scales, shifts = [], []
    for section, result in zip(middle.astype(float), varied.astype(float), strict=True):
        scale, offset = np.polyfit(section.ravel(), result.ravel(), 1)
        np.testing.assert_allclose(result, section * scale + offset, atol=1e-5)
        scales.append(scale)
        shifts.append(result.mean() - section.mean())
    assert min(scales) >= 0.8 - 1e-4
    assert max(scales) <= 1.2 + 1e-4
    assert np.abs(shifts).max() <= 0.1 + 1e-4
    assert np.std(scales) > 0.05
    assert np.std(shifts) > 0.03


@pytest.mark.parametrize("per_section", [True, False])
def test_gamma_is_one_power_per_section_or_block(raw, per_section):
    inner = 0.1 + 0.8 * raw
    powers = np.log(changed(inner, "gamma", gamma=[0.5, 2], per_section=per_section)) / np.log(inner)
    assert np.ptp(powers, axis=(1, 2)).max() < 1e-3
    assert powers.min() >= 0.5 - 1e-3
    assert powers.max() <= 2 + 1e-3
    assert (np.ptp(powers) > 0.2) == per_section


def test_equalisation_is_that_of_skimage(raw):
    equalised = changed(raw, "clahe", kernel_size=[8, 16, 12], clip_limit=[0.02, 0.02])
    rescaled = (equalised - equalised.min()) / np.ptp(equalised)
    np.testing.assert_allclose(rescaled, equalize_adapthist(raw, (8, 16, 12), 0.02), atol=1e-3)


def test_blur_stays_within_its_section():
    raw = np.zeros((5, 21, 21), dtype=np.float32)
    raw[2, 10, 10] = 1
    blurred = changed(raw, "blur", sigma=[1.5, 1.5])
    assert not blurred[[0, 1, 3, 4]].any()
    np.testing.assert_allclose(blurred[2], ndimage.gaussian_filter(raw[2], 1.5), atol=1e-6)


def test_noise_has_the_spread_it_is_given():
    raw = np.full((30, 60, 60), 0.4, dtype=np.float32)
    gaussian = changed(raw, "gaussian_noise", std=[0.05, 0.05])
    assert gaussian.std() == pytest.approx(0.05, rel=0.02)
    assert gaussian.mean() == pytest.approx(0.4, abs=1e-3)
    counted = changed(raw, "poisson_noise", counts=[200, 200])
    assert counted.std() == pytest.approx(np.sqrt(0.4 / 200), rel=0.02)
    assert counted.mean() == pytest.approx(0.4, abs=1e-3)


def test_impulses_hit_their_share_of_the_voxels_whatever_the_probability_of_the_block():
    raw = np.full((30, 60, 60), 0.4, dtype=np.float32)
    hit = changed(raw, "impulse_noise", share=[0.05, 0.05])
    assert np.mean(hit == 0) == pytest.approx(0.025, rel=0.1)
    assert np.mean(hit == 1) == pytest.approx(0.025, rel=0.1)
    assert np.mean(hit == raw) == pytest.approx(0.95, rel=0.01)


def test_sections_are_missing_pale_or_stained_as_often_as_asked():
    rng = np.random.default_rng(4)
    raw = rng.uniform(0.2, 0.8, (2000, 12, 12)).astype(np.float32)
    config = DefectsConfig(missing=0.1, low_contrast=0.2, contrast=0.25, artefact=0.3)
    damaged = AUGMENTATIONS["defects"](raw, config, rng)
    missing = ~damaged.any(axis=(1, 2))
    pale = np.isclose(damaged.std(axis=(1, 2)), 0.25 * raw.std(axis=(1, 2)), rtol=1e-3)
    np.testing.assert_allclose(damaged[pale].mean(axis=(1, 2)), raw[pale].mean(axis=(1, 2)), atol=1e-5)
    untouched = np.all(damaged == raw, axis=(1, 2))
    stained = ~(missing | pale | untouched)
    for kind, share in ((missing, 0.1), (pale, 0.2), (stained, 0.3), (untouched, 0.4)):
        assert kind.mean() == pytest.approx(share, abs=0.035)
    assert np.all((np.abs(damaged - raw)[stained] > 0.2).mean(axis=(1, 2)) < 0.3)


def test_one_box_of_the_given_size_is_black_anywhere_in_the_block():
    raw = np.ones((10, 12, 14), dtype=np.float32)
    corners = []
    for seed in range(200):
        black = np.argwhere(changed(raw, "occlusion", seed, size=[4, 20, 5]) == 0)
        corners.append(black.min(axis=0))
        np.testing.assert_array_equal(np.ptp(black, axis=0) + 1, [4, 12, 5])
        assert len(black) == 4 * 12 * 5
    assert np.min(corners, axis=0).tolist() == [0, 0, 0]
    assert np.max(corners, axis=0).tolist() == [6, 0, 9]


def test_in_the_pipeline_raw_changes_and_everything_else_stays(cell, make_settings, full_augmentation):
    config = cell.config(cell.entry(offset=(4, 4, 4), shape=(32, 36, 40)))
    everything = {name: {"probability": 1} if name != "defects" else {"missing": 0.5} for name in AUGMENTATIONS}

    def samples(**sections):
        augmentation = AugmentationConfig.model_validate({**full_augmentation.model_dump(), **sections})
        return TrainingSamples(config, make_settings(augmentation=augmentation), seed=4)

    plain, all_on = samples(), samples(**everything)
    never = samples(blur={"probability": 0}, gamma={"probability": 0})
    for index in range(3):
        sample, altered = plain[index], all_on[index]
        np.testing.assert_array_equal(sample["labels"], altered["labels"])
        np.testing.assert_array_equal(sample["mask"], altered["mask"])
        assert not np.array_equal(sample["raw"], altered["raw"])
        np.testing.assert_array_equal(altered["raw"], all_on[index]["raw"])
        np.testing.assert_array_equal(sample["raw"], never[index]["raw"])
        assert altered["raw"].min() >= -1
        assert altered["raw"].max() <= 1


def test_an_augmentation_happens_to_its_share_of_the_samples(cell, make_settings):
    config = cell.config(cell.entry(offset=(4, 4, 4), shape=(32, 36, 40)))
    off = {"simple": None, "elastic": None, "intensity": None}
    raws = []
    for sections in ({}, {"occlusion": {"probability": 0.3, "size": [24, 24, 24]}}):
        augmentation = AugmentationConfig.model_validate({**off, **sections})
        samples = TrainingSamples(config, make_settings(augmentation=augmentation), seed=5)
        raws.append([samples[index]["raw"] for index in range(100)])
    occluded = [not np.array_equal(one, other) for one, other in zip(*raws, strict=True)]
    assert 0.15 < np.mean(occluded) < 0.45
