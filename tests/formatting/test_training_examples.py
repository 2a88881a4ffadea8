"""Training examples from regions, and the scaling factor of their intensities."""

import h5py
import numpy as np
import pytest

from incasem_like.errors import DataError, InputError
from incasem_like.formatting.intensity_scale import measure_scaling, scaling_factor
from incasem_like.formatting.training_examples import (
    AnnotatedRegion,
    Choice,
    choose_examples,
    scaling_factors,
    split_regions,
    write_examples,
)
from incasem_like.volumes import open_volume

CHOICE = Choice((8, 8, 8), (3, 3, 3), per_region=10, seed=1)
SHAPE = (36, 40, 44)  # 5 x 5 x 6 tiles, the last ones smaller


@pytest.fixture
def region(volume_of):
    """Return a function that writes a region with foreground in about half of its tiles."""

    def write(name, begin=(5, 0, 3), labelled=0.5, **options):
        rng = np.random.default_rng(len(name))
        raw = rng.exponential(200, SHAPE).astype(np.uint16)
        labels = np.zeros(SHAPE, np.uint8)
        for index in np.ndindex(5, 5, 6):
            if rng.random() < labelled:
                labels[tuple(slice(8 * i + 1, 8 * i + 3) for i in index)] = 255
        places = (volume_of(array, f"{name}.zarr/{part}", begin=begin) for part, array in (("raw", raw), ("l", labels)))
        return AnnotatedRegion(name, *("/".join(place) for place in places)), raw, labels

    return write


@pytest.mark.parametrize("mean", [20.0, 150.0, 400.0])
def test_the_factor_of_exponential_intensities_follows_from_their_mean(mean):
    # counts fall as exp(-x / mean): tenfold per mean * ln 10, which becomes 0.5
    values = np.random.default_rng(0).exponential(mean, 10**6)
    assert scaling_factor(values) == pytest.approx(0.5 / (np.log(10) * mean), rel=0.03)


def test_saturated_voxels_hardly_change_the_factor():
    values = np.random.default_rng(0).exponential(100, 10**6)
    saturated = np.append(values, np.full(10**5, 1200))
    assert scaling_factor(saturated) == pytest.approx(scaling_factor(values), rel=0.02)


@pytest.mark.parametrize("values", [np.zeros(1000), np.full(1000, 700), np.full(1000, 9000), np.arange(9) * 100])
def test_a_block_without_a_histogram_has_no_factor(values):
    assert scaling_factor(values) is None


def test_empty_tiles_are_counted_and_left_out_of_the_mean(volume_of):
    values = np.random.default_rng(0).exponential(100, (40, 40, 40)).astype(np.uint16)
    values[:20] = 0
    volume = open_volume(*volume_of(values))
    found = measure_scaling(volume, tile_shape=(20, 20, 20))
    halves = [scaling_factor(values[20:, y : y + 20, x : x + 20]) for y in (0, 20) for x in (0, 20)]
    assert found.factor == pytest.approx(np.mean(halves))
    assert (found.used, found.without, found.tiles) == (4, 4, 8)
    assert measure_scaling(volume, tile_shape=(20, 20, 20), count=5, seed=3) == measure_scaling(
        volume, tile_shape=(20, 20, 20), count=5, seed=3
    )
    with pytest.raises(DataError, match="None of 8 tiles"):
        measure_scaling(open_volume(*volume_of(np.zeros((40, 40, 40), np.uint16), "e.zarr/x")), tile_shape=(20,) * 3)
    with pytest.raises(InputError, match="--share"):
        measure_scaling(volume, share=1.5)
    with pytest.raises(InputError, match="--limits"):
        measure_scaling(volume, limits=(5, 1))


def test_examples_are_foreground_tiles_in_the_asked_ratio(region):
    place, _, labels = region("a")
    examples, told = choose_examples(place, CHOICE)
    shares = {}
    for number, index in enumerate(np.ndindex(5, 5, 6)):
        shares[number] = (labels[tuple(slice(8 * i, 8 * i + 8) for i in index)] > 0).sum() / 512
    assert [example.share for example in examples] == [shares[example.tile] for example in examples]
    assert sum(example.share > 0.001 for example in examples) == 9
    assert len({example.tile for example in examples}) == 10
    assert "9 of" in told
    assert choose_examples(place, CHOICE)[0] == examples
    assert choose_examples(place, CHOICE, 1)[0] != examples
    z, y, x = np.unravel_index(examples[0].tile, (5, 5, 6))
    assert tuple(examples[0].roi.begin) == (5 + 8 * z, 8 * y, 3 + 8 * x)


@pytest.mark.parametrize(("labelled", "high"), [(0.0, 0), (1.0, 10)])
def test_tiles_of_the_other_kind_take_the_place_of_missing_ones(region, labelled, high):
    examples, _ = choose_examples(region("b", labelled=labelled)[0], CHOICE)
    assert len(examples) == 10
    assert sum(example.share > 0 for example in examples) == high


def test_a_file_holds_scaled_images_and_masks_with_context(region, tmp_path):
    place, raw, labels = region("a")
    examples, _ = choose_examples(place, CHOICE)
    factors = scaling_factors([place], 0.01)
    assert factors == {"a": 0.01}
    write_examples(tmp_path / "e.h5", examples, CHOICE, factors)
    padded, masks = (np.pad(array, [(3, 16)] * 3, mode="reflect") for array in (raw, labels))
    with h5py.File(tmp_path / "e.h5") as file:
        assert sorted(file) == sorted(f"a{example.tile}" for example in examples)
        for example in examples:
            group = file[f"a{example.tile}"]
            begin = np.array(example.roi.begin) - (5, 0, 3)
            box = tuple(slice(low, low + 14) for low in begin)
            np.testing.assert_allclose(group["image"][:], padded[box] * np.float32(0.01), rtol=1e-6)
            np.testing.assert_array_equal(group["mask"][:], masks[box] > 0)
            assert group.attrs["region"] == "a"
            assert tuple(group.attrs["offset"]) == tuple(np.array(example.roi.begin) - 3)
    with pytest.raises(InputError, match="--overwrite"):
        write_examples(tmp_path / "e.h5", examples, CHOICE, factors)
    assert scaling_factors([place])["a"] == pytest.approx(scaling_factor(raw))


def test_regions_are_split_whole(region):
    regions = [region(name)[0] for name in ("a", "bb", "ccc")]
    train, held_out = split_regions(regions, 0.3)
    assert (len(train), len(held_out)) == (2, 1)
    assert {one.name for one in train + held_out} == {"a", "bb", "ccc"}
    assert [one.name for one in split_regions(regions, ["bb"])[1]] == ["bb"]
    assert split_regions(regions, 0.0)[1] == []
    for wrong, words in [(["x"], "no region x"), (["a", "bb", "ccc"], "leave one")]:
        with pytest.raises(InputError, match=words):
            split_regions(regions, wrong)
    for names, words in [(("a/b",), "leave out slashes"), (("part1", "part11"), "the same names")]:
        with pytest.raises(InputError, match=words):  # part1 has a tile 10, part11 a tile 0
            split_regions([AnnotatedRegion(name, regions[0].raw, regions[0].labels) for name in names], 0.0)
    twice = [regions[0], AnnotatedRegion("again", regions[0].raw, regions[0].labels)]
    with pytest.raises(InputError, match="share voxels"):
        split_regions(twice, ["again"])


def test_the_scripts_write_two_files_and_print_a_factor(region, run_stage, tmp_path):
    places = [region(name)[0] for name in ("a", "bb")]
    words = ["-r", *(place.raw for place in places), "-l", *(place.labels for place in places)]
    words += ["-o", "train.h5", "--validation", 0.5, "--samples_per_region", 4, "--tile_shape", 8, 8, 8]
    done = run_stage("70_make_training_examples.py", *words, "--context", 2, 2, 2)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "train.h5") as train, h5py.File(tmp_path / "train_validation.h5") as held_out:
        assert len(train) == len(held_out) == 4
        assert not {group.attrs["region"] for group in train.values()} & {
            group.attrs["region"] for group in held_out.values()
        }
    container, _, dataset = places[0].raw.rpartition("/")
    assert "Scaling factor" in run_stage("75_measure_scaling.py", "-f", container, "-d", dataset).stdout
    assert run_stage("70_make_training_examples.py", *words[:4], "-o", "x.h5").returncode == 2
    (tmp_path / "train.h5").unlink()
    refused = run_stage("70_make_training_examples.py", *words, "--context", 2, 2, 2)
    assert "train_validation.h5 exists already" in refused.stderr
    assert not (tmp_path / "train.h5").exists()  # neither of the two is written
    negative = run_stage("70_make_training_examples.py", *words, "--seed", -1, "--overwrite")
    assert (negative.returncode, "at least 0" in negative.stderr) == (2, True)
