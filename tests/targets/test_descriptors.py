"""Shape descriptors against their definition written voxel by voxel, closed forms, and values of the package lsds."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from incasem_like.errors import InputError
from incasem_like.targets import DESCRIPTOR_NAMES, local_shape_descriptors
from incasem_like.targets import descriptor_moments as module
from incasem_like.volumes import Roi


def random_instances(shape, seed, cells=6, background=0.4):
    """Blobs of random form: the maxima of smoothed noise, grown to the nearest, with some background."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros(shape, dtype=np.uint64)
    for number in range(1, cells + 1):
        seeds[tuple(rng.integers(size) for size in shape)] = 10**9 * number + 7
    nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    instances = seeds[tuple(nearest)]
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 1)
    instances[smooth < np.quantile(smooth, background)] = 0
    return instances


def described_by_definition(instances, sigma, voxel_size, mode="gaussian"):
    """All descriptors in float64, from the sums over all pairs of voxels."""
    dimensions, sigma, voxel_size = instances.ndim, np.asarray(sigma, float), np.asarray(voxel_size, float)
    pairs = list(itertools.combinations(range(dimensions), 2))
    described = np.zeros((2 * dimensions + len(pairs) + 1, *instances.shape))
    for voxel in zip(*np.nonzero(instances), strict=True):
        others = np.argwhere(instances == instances[voxel]) - voxel
        weight = np.prod([_weights(mode, sigma[d] / voxel_size[d], others[:, d]) for d in range(dimensions)], axis=0)
        if mode == "sphere":
            weight = (((others * voxel_size / sigma) ** 2).sum(1) <= 1 + 1e-9).astype(float)
        size, away = weight.sum(), others * voxel_size
        mean = weight @ away / size
        covariance = (away * weight[:, None]).T @ away / size - np.outer(mean, mean)
        variance = np.maximum(np.diag(covariance), 1e-3)
        correlation = [covariance[a, b] / np.sqrt(variance[a] * variance[b]) for a, b in pairs]
        reached = sigma if mode == "gaussian" else sigma / 2
        if mode == "sphere":
            radius = np.ceil(sigma / voxel_size).astype(int)
            around = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in radius), indexing="ij"), -1)
            size /= np.count_nonzero(((around * voxel_size / sigma) ** 2).sum(-1) <= 1 + 1e-9)
        channels = [mean / reached / 2 + 0.5, variance / sigma**2, np.array(correlation) / 2 + 0.5, [size]]
        described[(slice(None), *voxel)] = np.clip(np.concatenate(channels), 0, 1)
    return described


def _weights(mode, radius, distance):
    if mode == "sphere":
        return np.ones(len(distance))
    reach = int(3 * radius + 0.5)
    total = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2).sum()
    return np.where(np.abs(distance) <= reach, np.exp(-0.5 * (distance / radius) ** 2) / total, 0)


@pytest.mark.parametrize("mode", ["gaussian", "sphere"])
@pytest.mark.parametrize(
    ("shape", "sigma", "voxel_size"),
    [
        ((11, 12, 13), (2, 2, 2), (1, 1, 1)),
        ((6, 14, 15), (80, 80, 80), (50, 20.5, 18)),
        ((4, 9, 17), (1.2, 3.7, 2.5), (1, 1, 1)),
        ((1, 15, 16), (4, 4, 4), (1, 1, 1)),
        ((23, 21), (3, 3), (1, 1)),
        ((19, 30), (40, 25), (9, 10)),
    ],
)
def test_descriptors_equal_their_definition(shape, sigma, voxel_size, mode):
    for seed, background in enumerate((0.0, 0.5, 0.9)):
        instances = random_instances(shape, seed, background=background)
        described = local_shape_descriptors(instances, sigma, voxel_size, mode=mode)
        expected = described_by_definition(instances, sigma, voxel_size, mode)
        assert described.dtype == np.float32
        np.testing.assert_allclose(described, expected, atol=1e-5)
        assert not described[:, instances == 0].any()


def test_values_of_lsds_for_one_object_that_fills_the_block():
    described = local_shape_descriptors(np.ones((61, 61, 61), dtype=np.uint8), 10)
    half = [0.5] * 3
    np.testing.assert_allclose(described[:, 30, 30, 30], [*half, *[0.976769] * 3, *half, 1], atol=1e-5)
    np.testing.assert_allclose(described[:, 0, 0, 0], [*[0.8805] * 3, *[0.360092] * 3, *half, 0.140602], atol=1e-4)
    np.testing.assert_allclose(
        described[:, 0, 30, 30], [0.8805, 0.5, 0.5, 0.360092, 0.976769, 0.976769, *half, 0.519993], atol=1e-4
    )


def test_values_of_lsds_for_a_ball_in_voxels_and_in_nanometres():
    z, y, x = np.mgrid[-20:21, -20:21, -20:21]
    ball = (z**2 + y**2 + x**2 <= 225).astype(np.int64)
    described = local_shape_descriptors(ball, 5)
    half = [0.5] * 3
    np.testing.assert_allclose(described[:, 20, 20, 20], [*half, *[0.917927] * 3, *half, 0.976317], atol=1e-5)
    np.testing.assert_allclose(
        described[:, 35, 20, 20], [0.017371, 0.5, 0.5, 0.329404, 0.684128, 0.684128, *half, 0.366731], atol=1e-5
    )
    np.testing.assert_allclose(local_shape_descriptors(ball, 40, 8), described, atol=1e-6)


def test_value_of_lsds_in_the_middle_of_a_diagonal_band():
    y, x = np.mgrid[:61, :61]
    described = local_shape_descriptors((abs(y - x) <= 2).astype(np.uint8), 10)
    np.testing.assert_allclose(described[:, 30, 30], [0.5, 0.5, 0.50476, 0.50476, 0.990129, 0.140984], atol=1e-5)


def test_an_object_of_one_voxel_is_exact_wherever_it_lies():
    instances = np.zeros((60, 60, 60), dtype=np.uint16)
    instances[51, 37, 44] = 9
    described = local_shape_descriptors(instances, 80, 8)[:, 51, 37, 44]
    np.testing.assert_allclose(described[:9], [0.5] * 3 + [1e-3 / 6400] * 3 + [0.5] * 3, atol=1e-9)


def test_an_object_far_from_the_origin_has_the_same_descriptors():
    ball = random_instances((12, 12, 12), 3, cells=1)
    far = np.pad(ball, [(200, 0), (150, 0), (300, 0)])
    near = np.pad(ball, [(0, 200), (0, 150), (0, 300)])
    np.testing.assert_array_equal(
        local_shape_descriptors(far, 3)[:, 200:, 150:, 300:], local_shape_descriptors(near, 3)[:, :12, :12, :12]
    )


def test_winding_objects_are_split_and_keep_their_values(monkeypatch):
    line = np.zeros((50, 60, 70), dtype=np.uint8)
    for step in np.linspace(0, 1, 400):
        angle = 6 * np.pi * step
        line[round(3 + 44 * step), round(30 + 25 * np.cos(angle)), round(35 + 28 * np.sin(angle))] = 1
    helix = ndimage.binary_dilation(line, iterations=2).astype(np.uint8)
    monkeypatch.setattr(module, "CHARGE_PER_PART", 0)
    parts = module._parts(helix > 0, helix > 0, (12, 12, 12), tuple(slice(0, size) for size in helix.shape))
    assert len(parts) > 3
    described = local_shape_descriptors(helix, 4)
    monkeypatch.setattr(module, "SMALLEST_PART", 1000)
    np.testing.assert_allclose(described, local_shape_descriptors(helix, 4), atol=2e-6)


@pytest.mark.parametrize("components", ["0129", "345", "9", [7, 0, 7], [1]])
def test_chosen_channels_are_those_of_all(components):
    instances = random_instances((9, 10, 11), 5)
    everything = local_shape_descriptors(instances, 2)
    chosen = local_shape_descriptors(instances, 2, components=components)
    np.testing.assert_array_equal(chosen, everything[[int(channel) for channel in components]])


@pytest.mark.parametrize("downsample", [1, 2])
def test_a_roi_is_cut_out_of_the_whole(downsample):
    instances = random_instances((12, 16, 14), 6)
    whole = local_shape_descriptors(instances, 3, downsample=downsample)
    part = local_shape_descriptors(instances, 3, downsample=downsample, roi=Roi((4, 2, 6), (6, 10, 8)))
    np.testing.assert_allclose(part, whole[:, 4:10, 2:12, 6:14], atol=1e-6)


def test_downsampling_describes_every_nth_voxel_and_repeats_it():
    # Objects of whole 2-voxel cubes: each has the sampled voxel of the cube.
    cubes = random_instances((7, 8, 9), 7)
    instances = cubes.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    expected = local_shape_descriptors(cubes, (6, 4, 8), (3, 2, 4)).repeat(2, 1).repeat(2, 2).repeat(2, 3)
    described = local_shape_descriptors(instances, (6, 4, 8), (1.5, 1, 2), downsample=2)
    np.testing.assert_allclose(described, expected, atol=1e-6)


def test_an_object_between_the_sampled_voxels_has_size_zero():
    instances = np.zeros((8, 8), dtype=np.int32)
    instances[3, 3] = 1
    described = local_shape_descriptors(instances, 2, downsample=2)
    np.testing.assert_allclose(described[:, 3, 3], [0.5, 0.5, 2.5e-4, 2.5e-4, 0.5, 0], atol=1e-6)
    assert np.count_nonzero(described.any(0)) == 1


@pytest.mark.parametrize("base", [0, 2**63])
def test_only_the_chosen_labels_are_described(base):
    numbers = np.random.default_rng(8).integers(0, 5, (3, 3, 3), dtype=np.uint64).repeat(3, 0).repeat(3, 1).repeat(3, 2)
    instances = np.where(numbers > 0, numbers + np.uint64(base), 0)
    everything = local_shape_descriptors(instances, 2)
    some = local_shape_descriptors(instances, 2, labels=[base + 1, base + 4, base + 77])
    np.testing.assert_array_equal(some, everything * np.isin(numbers, [1, 4]))


@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 2)])
def test_sections_are_described_by_themselves(axes):
    instances = random_instances((6, 11, 12), 9)
    (across,) = {0, 1, 2} - set(axes)
    described = local_shape_descriptors(instances, (30, 20), (10, 8, 7), axes=axes, downsample=1)
    voxel_size = [(10, 8, 7)[axis] for axis in axes]
    for at in range(instances.shape[across]):
        section = local_shape_descriptors(instances.take(at, across), (30, 20), voxel_size)
        np.testing.assert_allclose(described.take(at, across + 1), section, atol=1e-6)
    assert len(described) == len(DESCRIPTOR_NAMES[2]) == 6


def test_a_tensor_is_described_as_a_tensor_whatever_the_threads_and_the_precision_of_others():
    instances = random_instances((40, 41, 42), 10, cells=3)
    expected = local_shape_descriptors(instances, 6)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            described = local_shape_descriptors(torch.from_numpy(instances.astype(np.int64)), 6)
        assert torch.get_num_threads() == 2
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(described.numpy(), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("mode", ["gaussian", "sphere"])
def test_a_gpu_computes_the_same(mode):
    instances = random_instances((40, 41, 42), 11).astype(np.int64)
    described = local_shape_descriptors(torch.from_numpy(instances).cuda(), 4, mode=mode)
    assert described.is_cuda
    expected = local_shape_descriptors(instances, 4, mode=mode)
    np.testing.assert_allclose(described.cpu().numpy(), expected, atol=1e-5)


def test_labels_without_objects_have_no_descriptors():
    assert not local_shape_descriptors(np.zeros((5, 6, 7), dtype=np.uint32), 2).any()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"sigma": (5, 5)}, "sigma has 2 values, but the labels have 3 axes"),
        ({"sigma": (5, 5, 5), "axes": (1, 2)}, "sigma has 3 values, but 2 axes are used"),
        ({"sigma": 0.9}, "less than one sampled voxel along axis 0: 0.9"),
        ({"sigma": 8, "voxel_size": (10, 4, 4)}, "along axis 0: 8, but voxel_size"),
        ({"sigma": 3, "downsample": 4}, "less than one sampled voxel"),
        ({"sigma": -1}, "sigma must be above 0"),
        ({"sigma": 2, "voxel_size": (1, 1)}, "voxel_size has 2 values"),
        ({"sigma": 2, "components": "0a"}, "not channels of shape descriptors in 3-D"),
        ({"sigma": 2, "components": [10]}, "choose from 0 to 9"),
        ({"sigma": 2, "mode": "cube"}, "Unknown mode of the shape descriptors: cube"),
        ({"sigma": 9, "downsample": 3}, "not a multiple of downsample 3"),
        ({"sigma": 9, "downsample": 0}, "downsample must be 1 or more"),
        ({"sigma": 2, "roi": Roi((0, 0, 5), (4, 4, 4))}, "not inside the labels"),
        ({"sigma": 2, "axes": (2,)}, "at least two axes"),
        ({"sigma": 2, "axes": (1, 3)}, "not axes of an array with 3 axes"),
    ],
)
def test_impossible_arguments_get_one_sentence(options, part):
    with pytest.raises(InputError, match=part):
        local_shape_descriptors(np.ones((8, 8, 8), dtype=np.uint8), **options)


def test_sections_with_the_sigma_of_a_volume_and_labels_that_are_not_integers_get_one_sentence():
    with pytest.raises(InputError, match="sigma has 3 values, but the labels have 2 axes"):
        local_shape_descriptors(np.ones((8, 8), dtype=np.uint8), (5, 5, 5))
    with pytest.raises(InputError, match="must be integers, but their data type is float32"):
        local_shape_descriptors(np.ones((8, 8), dtype=np.float32), 5)
