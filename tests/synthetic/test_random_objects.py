"""Random objects against independent definitions: plain recipes, scipy, scikit-image; faults by their own draws."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure, morphology, segmentation

from incasem_like.errors import InputError
from incasem_like.synthetic import random_objects as module
from incasem_like.synthetic.obfuscation import Faults, obfuscate
from incasem_like.synthetic.random_objects import basins, dilated_shape, random_objects, smooth_noise

SHAPE = (5, 48, 50)


@pytest.mark.parametrize("kind", ["A", "B", "C", "tubes", "random"])
def test_the_same_seed_makes_the_same_objects_of_the_wanted_shape(kind):
    one, _ = random_objects(kind, SHAPE, np.random.default_rng(3), 6.25)
    other, _ = random_objects(kind, SHAPE, np.random.default_rng(3), 6.25)
    assert np.array_equal(one, other)
    assert one.shape == SHAPE
    assert len(np.unique(one)) > 1
    assert not np.array_equal(one, random_objects(kind, SHAPE, np.random.default_rng(4), 6.25)[0])


@pytest.mark.parametrize(("kind", "expected"), [("C", range(1, 7)), ("tubes", range(2, 7))])
def test_every_anisotropy_is_drawn_alike(kind, expected, monkeypatch):
    monkeypatch.setattr(module, "_grown", lambda seeds, distance, repeats: np.ones(SHAPE, np.uint32))
    rng = np.random.default_rng(0)
    drawn = np.bincount([random_objects(kind, SHAPE, rng, 6.25)[1] for _ in range(600)], minlength=8)
    assert np.flatnonzero(drawn).tolist() == list(expected)
    assert (np.abs(drawn[drawn > 0] - 600 / len(expected)) < 5 * np.sqrt(600 / len(expected))).all()


@pytest.mark.parametrize("name", ["square", "disk", "star", "ellipse"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_shape_dilated_n_times_is_a_point_dilated_n_times(name, steps):
    size = (3,) if name == "square" else (2, 3) if name == "ellipse" else (3,)
    shapes = {"square": lambda: np.ones((3, 3)), "ellipse": lambda: morphology.ellipse(2, 3)}
    structure = shapes.get(name, lambda: getattr(morphology, name)(3))()
    point = np.zeros((121, 121), bool)
    point[60, 60] = True
    expected = ndimage.binary_dilation(point, structure, iterations=steps)
    stamp = dilated_shape(name, size, steps)
    half_y, half_x = stamp.shape[0] // 2, stamp.shape[1] // 2
    assert np.array_equal(expected[60 - half_y : 61 + half_y, 60 - half_x : 61 + half_x], stamp)
    assert expected.sum() == stamp.sum()


@pytest.mark.parametrize("distance", [6.0, 100.0])
def test_objects_grow_to_their_nearest_voxels_and_the_rest_is_objects_too(distance):
    seeds = np.zeros((9, 30, 31), np.uint32)
    for number, at in enumerate([(2, 5, 5), (7, 20, 8), (4, 12, 27)], start=1):
        seeds[at] = number
    grown = segmentation.expand_labels(seeds, distance)
    grown[grown == 0] = 4
    expected = measure.label(grown)[::3]
    found = module._grown(seeds, distance, 3)
    pairs = np.unique(np.stack([expected.ravel(), found.ravel()]), axis=1)
    # Voxels as near to two objects may go to either.
    distances = [ndimage.distance_transform_edt(seeds != one) for one in (1, 2, 3)]
    tied = (np.sort(distances, axis=0)[0] == np.sort(distances, axis=0)[1])[::3]
    pairs = np.unique(np.stack([expected[~tied], found[~tied]]), axis=1)
    assert pairs.shape[1] == len(np.unique(expected)) == len(np.unique(found))


def test_basins_are_the_watershed_from_the_maxima_of_the_window():
    field = smooth_noise((14, 40, 44), 5.0, np.random.default_rng(0)).astype(np.float32)
    seeds, count = ndimage.label(ndimage.maximum_filter(field, 10) == field)
    expected = segmentation.watershed(-field, seeds)
    found = basins(field, 10)
    assert len(np.unique(found)) == count
    table = np.zeros((count + 1, found.max() + 1))
    np.add.at(table, (expected.ravel(), found.ravel()), 1)
    assert table.max(axis=1).sum() > 0.97 * field.size
    for one in np.unique(found):
        assert ndimage.label(found == one)[1] == 1  # connected by faces


def test_smooth_noise_has_the_correlation_of_its_gaussian():
    field = smooth_noise((3, 400, 400), 5.0, np.random.default_rng(0))
    field = (field - field.mean()) / field.std()
    for distance in (2, 5, 10):
        correlation = (field[:, :, distance:] * field[:, :, :-distance]).mean()
        assert correlation == pytest.approx(np.exp(-(distance**2) / (4 * 5.0**2)), abs=0.05)


def test_counts_and_sizes_are_those_of_the_plain_recipe():
    rng, shape = np.random.default_rng(0), (6, 96, 96)
    found = [len(np.unique(random_objects("B", shape, rng)[0])) for _ in range(4)]
    plain = []
    for _ in range(4):
        noise = ndimage.gaussian_filter(rng.random(shape, dtype=np.float32), 5)
        plain.append(ndimage.label(ndimage.maximum_filter(noise, 10) == noise)[1])
    assert np.mean(found) == pytest.approx(np.mean(plain), rel=0.35)


def test_holes_are_ids_divisible_by_three_or_five(monkeypatch):
    ids = np.arange(1, 31, dtype=np.uint32).reshape(1, 5, 6)
    monkeypatch.setitem(module._MAKERS, "tubes", lambda shape, repeats, rng: ids.copy())
    rng, holes = np.random.default_rng(0), []
    for _ in range(500):
        left = random_objects("tubes", (1, 5, 6), rng)[0]
        holes.append(((left % 3 == 0) & (left > 0)).any() + 2 * ((left % 5 == 0) & (left > 0)).any())
    # 0: both removed, 1: those of 5, 2: those of 3, 3: none; independent, 0.2 each
    shares = np.bincount(holes, minlength=4) / 500
    np.testing.assert_allclose(shares, [0.04, 0.16, 0.16, 0.64], atol=0.06)


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="Unknown kind of random objects: D"):
        random_objects("D", SHAPE, np.random.default_rng(0))


@pytest.fixture
def touching():
    return np.kron(np.arange(1, 17).reshape(1, 4, 4), np.ones((6, 8, 8), int)).astype(np.uint32)


def test_each_fault_occurs_with_its_own_probability(touching):
    rng, faults = np.random.default_rng(0), Faults(tries=2, split=0.5, merge=0.2, artefact=0.1)
    made = np.array([list(obfuscate(touching, faults, rng)[1].values()) for _ in range(400)])
    np.testing.assert_allclose(made.mean(axis=0) / 2, [0.5, 0.2, 0.1], atol=0.06)
    correlations = np.corrcoef(made.T)[np.triu_indices(3, 1)]
    assert (np.abs(correlations) < 0.2).all()  # one number decided on all three


@pytest.mark.parametrize("seed", range(5))
def test_a_split_gives_a_part_of_one_object_a_new_id_in_one_or_two_sections(touching, seed):
    changed, made = obfuscate(touching, Faults(tries=1, split=1, merge=0, artefact=0), np.random.default_rng(seed))
    assert made == {"split": 1, "merge": 0, "artefact": 0}
    different = changed != touching
    assert 1 <= different.any(axis=(1, 2)).sum() <= 2
    assert set(np.unique(changed[different])) == {17}
    assert len(np.unique(touching[different])) == 1
    for section in np.flatnonzero(different.any(axis=(1, 2))):
        part = different[section]
        assert part.sum() < 64
        assert ndimage.label(part)[1] == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_merge_gives_one_object_the_id_of_its_neighbour_there(touching, seed):
    changed, _ = obfuscate(touching, Faults(tries=1, split=0, merge=1, artefact=0), np.random.default_rng(seed))
    different = changed != touching
    sections = np.flatnonzero(different.any(axis=(1, 2)))
    assert len(sections) in (1, 2)
    assert len(np.unique(touching[different])) == 1
    assert different[sections[0]].sum() == 64
    for section in sections:
        assert ndimage.label(changed[section] == changed[different][0], np.ones((3, 3)))[1] == 1  # corners may touch


def test_an_artefact_has_an_id_of_its_own(touching):
    changed, _ = obfuscate(touching, Faults(tries=1, split=0, merge=0, artefact=1), np.random.default_rng(0))
    different = changed != touching
    assert set(np.unique(changed[different])) == {17}
    assert len(np.unique(touching[different])) > 1
