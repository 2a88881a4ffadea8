"""Synthetic tissue: the same voxels however it is cut, connected neurites, classes and images that fit them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy import ndimage, stats

from incasem_like.errors import InputError
from incasem_like.synthetic.fields import hashed, normal_section, uniform
from incasem_like.synthetic.tissue import CYTOPLASM, MEMBRANE, MITOCHONDRION, VESICLE, Tissue, TissueParameters
from incasem_like.synthetic.tissue_volume import DATASETS, make_tissue
from incasem_like.volumes import open_volume

SCRIPT = Path(__file__).parents[2] / "scripts/01_data_formatting/06_make_synthetic_tissue.py"
SHAPE, SIZE = (20, 150, 170), (40.0, 8.0, 8.0)
SPOILED = TissueParameters(misalignment=2.0, missing_sections=0.2)


def whole(parameters=None, seed=1, shape=SHAPE, size=SIZE):
    return Tissue(parameters or TissueParameters(), seed, shape, size).block((0, 0, 0), shape)


def test_random_numbers_are_uniform_normal_and_unrelated():
    numbers = uniform(3, 4, *np.ix_(range(40), range(50), range(50)))
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers[1:].ravel(), numbers[:-1].ravel())[0, 1]) < 0.02
    assert not np.intersect1d(hashed(3, 4, np.arange(1000)), hashed(3, 5, np.arange(1000))).size
    noise = normal_section(1, 2, 7, np.arange(300), np.arange(400))
    assert abs(noise.mean()) < 0.02
    assert noise.std() == pytest.approx(1, abs=0.01)
    for other in (noise[1:, :-1], noise[:-1, 1:]):
        assert abs(np.corrcoef(noise[:-1, :-1].ravel(), other.ravel())[0, 1]) < 0.015


@pytest.mark.parametrize("parameters", [TissueParameters(), SPOILED])
def test_any_part_is_that_of_the_whole(parameters):
    complete = whole(parameters)
    tissue = Tissue(parameters, 1, SHAPE, SIZE)
    rng = np.random.default_rng(0)
    for _ in range(6):
        begin = rng.integers(0, np.array(SHAPE) - 1)
        shape = [int(rng.integers(1, size - first + 1)) for first, size in zip(begin, SHAPE, strict=True)]
        parts = tissue.block(tuple(map(int, begin)), tuple(shape))
        inside = tuple(slice(first, first + size) for first, size in zip(begin, shape, strict=True))
        for part, array in zip(parts, complete, strict=True):
            np.testing.assert_array_equal(part, array[inside])


def test_chunks_and_workers_do_not_show(tmp_path):
    make_tissue(tmp_path / "a.zarr", SHAPE, SIZE, seed=1, parameters=SPOILED)
    make_tissue(tmp_path / "b.zarr", SHAPE, SIZE, seed=1, parameters=SPOILED, chunk_shape=(7, 64, 50), num_workers=2)
    for dataset, array in zip(DATASETS, whole(SPOILED), strict=True):
        for container in ("a.zarr", "b.zarr"):
            np.testing.assert_array_equal(zarr.open(str(tmp_path / container), mode="r")[dataset][:], array)
    assert make_tissue(tmp_path / "a.zarr", SHAPE, SIZE, seed=1, parameters=SPOILED)
    with pytest.raises(InputError, match="--overwrite"):
        make_tissue(tmp_path / "a.zarr", SHAPE, SIZE, seed=2, parameters=SPOILED)


@pytest.mark.parametrize("size", [(40.0, 8.0, 8.0), (8.0, 8.0, 8.0)])
def test_each_neurite_is_one_object(size):
    _, neurites, _ = whole(shape=(48, 200, 200), size=size)
    apart = 0
    for number, box in enumerate(ndimage.find_objects(neurites.astype(np.int32)), 1):
        # An object at the volume's side may leave and enter again; so may one whose corner is thinner than a voxel.
        if box is None or any(part.start == 0 or part.stop == 200 for part in box[1:]):
            continue
        parts, count = ndimage.label(neurites[box] == number, np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel())[1:]
        assert count == 1 or sizes.max() > 0.999 * sizes.sum(), number
        apart += 1
    assert apart > 5


def test_neurites_touch_and_membranes_lie_between_them():
    raw, neurites, classes = whole(shape=(6, 256, 256))
    assert neurites.min() > 0  # no gaps
    assert len(np.unique(neurites)) > 20
    across = (neurites[:, 1:] != neurites[:, :-1]).nonzero()
    assert (classes[:, 1:][across] == MEMBRANE).mean() > 0.99
    distance = np.stack([ndimage.distance_transform_edt(_inside(section), sampling=8) for section in neurites])
    # Half of 24 nm, in coordinates that are bent by up to about a half.
    assert np.percentile(distance[classes == MEMBRANE], 95) < 30
    assert (classes[distance > 40] == MEMBRANE).mean() < 0.001
    means = [raw[classes == number].mean() for number in (CYTOPLASM, MEMBRANE, MITOCHONDRION)]
    assert means[0] > means[2] + 30 > means[1] + 30
    assert 0.005 < (classes == VESICLE).mean() < 0.1


def _inside(section):
    edges = np.zeros(section.shape, bool)
    edges[1:] |= section[1:] != section[:-1]
    edges[:, 1:] |= section[:, 1:] != section[:, :-1]
    return ~edges


def test_noise_brightness_and_missing_sections_are_as_asked():
    plain = whole(TissueParameters(noise=0, brightness=0), shape=(40, 40, 40))
    noisy = whole(TissueParameters(noise=10, brightness=0), shape=(40, 40, 40))
    np.testing.assert_array_equal(plain[1], noisy[1])
    assert (noisy[0].astype(float) - plain[0]).std() == pytest.approx(10, abs=0.3)
    spoiled = whole(TissueParameters(noise=0, brightness=0, missing_sections=0.3), shape=(40, 40, 40))
    missing = (spoiled[0] == 0).all((1, 2))
    assert 4 <= missing.sum() <= 20
    np.testing.assert_array_equal(spoiled[0][~missing], plain[0][~missing])
    np.testing.assert_array_equal(spoiled[1], plain[1])


def test_a_misaligned_section_is_a_shifted_one():
    parameters = TissueParameters(misalignment=3.0, noise=0, brightness=0)
    shifted, plain = (
        whole(parameters, shape=(12, 100, 100)),
        whole(parameters.model_copy(update={"misalignment": 0.0}), shape=(12, 100, 100)),
    )
    moved = 0
    for z in range(12):
        dy, dx = Tissue(parameters, 1, (12, 100, 100), SIZE).shift(z)
        assert max(abs(dy), abs(dx)) <= 9
        inner = shifted[2][z, 10:90, 10:90]
        there = plain[2][z, 10 + dy : 90 + dy, 10 + dx : 90 + dx]
        assert (inner == there).mean() > 0.98  # vesicles at the sides of tiles may differ
        moved += (dy, dx) != (0, 0)
    assert moved > 6


def test_the_script_writes_a_volume_and_names_what_is_wrong(tmp_path):
    command = [sys.executable, str(SCRIPT), "-o", "t.zarr", "--shape", "8", "60", "70", "--voxel_size", "40", "8", "8"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "10_derive_volume.py select" in done.stdout
    assert open_volume(tmp_path / "t.zarr" / DATASETS[1]).voxel_size == (40, 8, 8)
    wrong = subprocess.run([*command, "--missing_sections", "2"], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "missing_sections" in wrong.stderr
    coarse = subprocess.run([*command[:-3], "40", "200", "8"], cwd=tmp_path, capture_output=True, text=True)
    assert coarse.returncode == 2
    assert "a third of a neurite" in coarse.stderr
