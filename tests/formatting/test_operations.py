"""Operations on whole volumes: numpy, scipy and scikit-image on the array at once are the definition."""

import numpy as np
import pytest
import zarr
from scipy import ndimage
from skimage.exposure import match_histograms
from skimage.measure import label

from incasem_like.errors import DataError, InputError
from incasem_like.formatting import operations
from incasem_like.formatting.derive import Derivation, derive
from incasem_like.formatting.foreground_mask import label_components
from incasem_like.formatting.operations import OPERATIONS, dilate_labels, is_labels
from incasem_like.volumes import open_volume

SHAPE = (19, 23, 21)


@pytest.fixture
def raw():
    return np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)


@pytest.fixture
def labels():
    coarse = np.random.default_rng(1).integers(0, 5, (7, 8, 7)) * 1000
    return np.kron(coarse, np.ones((3, 3, 3), int))[: SHAPE[0], : SHAPE[1], : SHAPE[2]].astype(np.uint32)


def run(place, operation, out="out", chunk_shape=(8, 8, 8), **options):
    keywords = {key: options.pop(key) for key in ("out_container", "storage", "overwrite") if key in options}
    derivation = Derivation(*place, out, chunk_shape, **keywords)
    return open_volume(derive(derivation, OPERATIONS[operation], **options).address)


@pytest.mark.parametrize("format", ["zarr2", "zarr3", "n5"])
def test_a_copy_in_another_format_is_read_by_others(volume_of, raw, tmp_path, format):
    place = volume_of(raw, voxel_size=(40, 4.6, 4.6), begin=(5, 0, 7))
    other = tmp_path / f"other.{'n5' if format == 'n5' else 'zarr'}"
    shards = {"shard_shape": (16, 16, 16)} if format == "zarr3" else {}
    copied = run(place, "convert", "a/b", out_container=str(other), storage={"format": format, **shards})
    np.testing.assert_array_equal(copied.read(), raw)
    assert (copied.voxel_size, copied.offset, copied.format.name) == ((40, 4.6, 4.6), (200, 0, 32.2), format)
    assert copied.provenance["inputs"][0]["address"] == "/".join(place)
    if format == "zarr2":
        np.testing.assert_array_equal(zarr.open(str(other), mode="r")["a/b"][:], raw)
    if format == "n5":
        np.testing.assert_array_equal(zarr.open_array(zarr.N5FSStore(str(other)), path="a/b", mode="r")[:], raw)


def test_channels_are_copied_cropped_and_shrunk(volume_of, raw):
    pair = np.stack([raw, 255 - raw])
    place = volume_of(pair)
    np.testing.assert_array_equal(run(place, "convert").read(), pair)
    np.testing.assert_array_equal(
        run(place, "crop", "c", offset=(2, 3, 4), shape=(0, 5, 6)).read(), pair[:, 2:, 3:8, 4:10]
    )
    small = run(place, "downsample", "s", factors=(1, 1, 3)).read()
    np.testing.assert_array_equal(small, np.rint(pair.reshape(2, 19, 23, 7, 3).mean(-1)))
    with pytest.raises(DataError, match="one channel"):
        run(place, "match_histogram", "m", reference="/".join(place))


def test_a_crop_keeps_its_position(volume_of, raw):
    place = volume_of(raw, voxel_size=(40, 4.6, 4.6), begin=(5, 10, 15))
    cropped = run(place, "crop", offset=(7, 12, 20), shape=(9, 0, 10))
    assert tuple(cropped.roi.begin) == (7, 12, 20)
    np.testing.assert_array_equal(cropped.read(), raw[2:11, 2:, 5:15])
    with pytest.raises(DataError, match="covers z 5-23, y 10-32, x 15-35"):
        run(place, "crop", "no", offset=(4, 12, 20))


@pytest.mark.parametrize(("mode", "numpys"), [("constant", {"constant_values": 7}), ("edge", {}), ("reflect", {})])
def test_padding_is_that_of_numpy(volume_of, raw, mode, numpys):
    before, after = (30, 0, 5), (3, 40, 1)
    padded = run(volume_of(raw, begin=(2, 2, 2)), "pad", before=before, after=after, mode=mode, value=7)
    wanted = np.pad(raw, list(zip(before, after, strict=True)), mode, **numpys)
    np.testing.assert_array_equal(padded.read(), wanted)
    assert tuple(padded.roi.begin) == (-28, 2, -3)


def test_padding_with_a_value_that_does_not_fit_is_refused(volume_of, raw):
    with pytest.raises(InputError, match="--value is 256"):
        run(volume_of(raw), "pad", before=(1, 1, 1), value=256)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_inversion(volume_of, raw, dtype):
    values = raw.astype(dtype)
    np.testing.assert_array_equal(run(volume_of(values), "invert").read(), np.iinfo(dtype).max - values)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_only_unsigned_integers_are_inverted(volume_of, raw, dtype):
    with pytest.raises(DataError, match="unsigned"):
        run(volume_of(raw.astype(dtype)), "invert")


def cells(array, begin, factors):
    """Yield each voxel of the shrunk array with the voxels that it covers, on the grid of the world."""
    first = np.array(begin) // factors
    last = -(-(np.array(begin) + array.shape) // factors)
    for index in np.ndindex(*(last - first)):
        low = np.maximum((first + index) * factors - begin, 0)
        high = (first + index + 1) * factors - begin
        yield index, array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]


@pytest.mark.parametrize("begin", [(0, 0, 0), (5, 1, 3)])
@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 3, 2), (4, 1, 5)])
def test_shrinking_by_mean_and_mode_of_sizes_that_no_factor_divides(
    volume_of, raw, labels, begin, factors, monkeypatch
):
    monkeypatch.setattr(operations, "VOXELS_AT_ONCE", 500)
    small = run(volume_of(raw, begin=begin), "downsample", factors=factors)
    modes = run(volume_of(labels, "cell.zarr/volumes/labels", begin=begin), "downsample", "m", factors=factors)
    assert small.provenance["parameters"]["method"] == "mean"
    assert modes.provenance["parameters"]["method"] == "mode"
    assert small.voxel_size == tuple(4 * factor for factor in factors)
    assert tuple(small.roi.begin) == tuple(np.array(begin) // factors)
    means, frequent = small.read(), modes.read()
    count = 0
    for index, voxels in cells(raw, begin, factors):
        assert means[index] == np.rint(voxels.astype(float).mean()), index
        count += 1
    assert count == means.size
    for index, voxels in cells(labels, begin, factors):
        values, counts = np.unique(voxels, return_counts=True)
        assert frequent[index] == values[counts.argmax()], index  # the smallest of several


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [("raw", "uint8", False), ("raw", "uint64", True), ("labels/er", "uint8", True), ("masks", "float32", False)],
)
def test_labels_are_told_by_type_and_name(volume_of, raw, name, dtype, expected):
    assert is_labels(open_volume(*volume_of(raw.astype(dtype), f"cell.zarr/volumes/{name}"))) is expected


def overlap_mean(array, axis, ratio):
    """Average along an axis over new voxels of ``ratio`` old ones by counting 1/120 parts of a voxel."""
    fine = np.repeat(np.moveaxis(array.astype(float), axis, 0), 120, axis=0)
    step = round(ratio * 120)
    parts = [fine[first : first + step].mean(0) for first in range(0, len(fine), step)]
    return np.moveaxis(np.array(parts), 0, axis)


def test_resampling_to_larger_voxels_averages_over_their_volume(volume_of, raw):
    place = volume_of(raw.astype(np.float64), voxel_size=(10, 4, 4))
    result = run(place, "resample", voxel_size=(15, 10, 4))
    assert result.voxel_size == (15, 10, 4)
    np.testing.assert_allclose(result.read(), overlap_mean(overlap_mean(raw, 0, 1.5), 1, 2.5))


def test_resampling_to_smaller_voxels_interpolates(volume_of, raw):
    result = run(volume_of(raw.astype(np.float64), voxel_size=(40, 4, 4)), "resample", voxel_size=(10, 4, 4)).read()
    z, y, x = np.meshgrid((np.arange(76) + 0.5) / 4 - 0.5, np.arange(23), np.arange(21), indexing="ij")
    wanted = ndimage.map_coordinates(raw.astype(float), [z, y, x], order=1, mode="nearest")
    np.testing.assert_allclose(result, wanted)


def test_resampled_labels_are_those_at_the_centres(volume_of, labels):
    result = run(volume_of(labels, begin=(1, 2, 3)), "resample", voxel_size=(6, 3, 4))
    roi = result.roi
    indices = []
    for axis, ratio in enumerate((1.5, 0.75, 1)):
        centres = (np.arange(roi.begin[axis], roi.end[axis]) + 0.5) * ratio
        indices.append(np.clip(np.floor(centres).astype(int) - axis - 1, 0, SHAPE[axis] - 1))
    np.testing.assert_array_equal(result.read(), labels[np.ix_(*indices)])


def test_whole_ratios_shrink(volume_of, labels):
    result = run(volume_of(labels), "resample", voxel_size=(8, 8, 4))
    assert result.provenance["tool"] == "downsample"
    with pytest.raises(InputError, match="more than 4096 voxels of each"):  # micrometres instead of nanometres
        run(volume_of(labels, "b.zarr/x"), "resample", voxel_size=(0.008, 0.008, 0.004))


def test_dilation_grows_each_object_by_city_block_distance_and_ties_go_to_the_larger(volume_of):
    seeds = np.zeros(SHAPE, np.uint64)
    rng = np.random.default_rng(3)
    for number in range(1, 9):
        seeds[tuple(rng.integers(0, SHAPE))] = number
    ids = np.unique(seeds)[1:]
    far = np.array([ndimage.distance_transform_cdt(seeds != one, "taxicab") for one in ids])
    nearest = far.min(0)
    largest = ids[len(ids) - 1 - np.argmin(far[::-1], axis=0)]  # of those at the same distance
    wanted = np.where(nearest <= 4, largest, 0)
    np.testing.assert_array_equal(run(volume_of(seeds), "dilate", steps=4).read(), wanted)
    plane = run(volume_of(seeds, "b.zarr/x"), "dilate", steps=4, in_plane=True).read()
    np.testing.assert_array_equal(plane, [dilate_labels(section[None], 4)[0] for section in seeds])
    with pytest.raises(InputError, match="would read 300 voxels around each block"):
        run(volume_of(seeds, "c.zarr/x"), "dilate", steps=300)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_percentiles_of_the_whole_volume_become_0_and_255(volume_of, dtype):
    values = (np.random.default_rng(2).normal(100, 20, SHAPE).clip(0)).astype(dtype)
    result = run(volume_of(values), "rescale", percentiles=(1, 99)).read()
    low, high = np.percentile(values, (1, 99), method="inverted_cdf").astype(float)
    wanted = np.rint((values.astype(float).clip(low, high) - low) * (255 / (high - low)))
    difference = np.abs(result - wanted)
    assert difference.max() <= (1 if dtype == "float32" else 0)


def test_a_stated_range_and_its_errors(volume_of, raw):
    place = volume_of(raw.astype(np.uint16) * 200)
    result = run(place, "rescale", value_range=(0, 51000)).read()
    np.testing.assert_array_equal(result, raw)
    for wrong, words in [
        ({}, "are needed"),
        ({"value_range": (5, 5)}, "below the second"),
        ({"percentiles": (9, 101)}, "to 100"),
    ]:
        with pytest.raises(InputError, match=words):
            run(place, "rescale", "no", **wrong)
    broken = np.full(SHAPE, np.nan, np.float32)
    with pytest.raises(DataError, match="NaN"):
        run(volume_of(broken, "n.zarr/raw"), "rescale", percentiles=(1, 99))


def test_histograms_are_matched_as_by_scikit_image(volume_of, raw):
    dark = (raw // 3 + 10).astype(np.uint8)
    reference = volume_of(
        (np.random.default_rng(5).normal(120, 30, (9, 30, 40)).clip(0, 255)).astype(np.uint8), "r.zarr/raw"
    )
    result = run(volume_of(dark), "match_histogram", reference="/".join(reference)).read()
    wanted = match_histograms(dark, open_volume(*reference).read())
    np.testing.assert_array_equal(result, np.rint(wanted))


def test_matching_within_masks_ignores_what_is_outside(volume_of, raw):
    inner = np.zeros(SHAPE, np.uint8)
    inner[4:15, 3:20, 2:18] = 1
    spoiled = np.where(inner, raw // 2, 255).astype(np.uint8)
    reference = np.where(inner, raw // 3 + 90, 0).astype(np.uint8)
    mask, place = volume_of(inner, "cell.zarr/mask"), volume_of(spoiled)
    other = volume_of(reference, "cell.zarr/reference")
    masks = {"mask": "/".join(mask), "reference_mask": "/".join(mask)}
    result = run(place, "match_histogram", reference="/".join(other), **masks).read()
    provenance = open_volume(place[0], "out").provenance
    assert [each["address"] for each in provenance["inputs"]] == ["/".join(each) for each in (place, other, mask, mask)]
    assert "table" not in provenance["parameters"]
    wanted = match_histograms(spoiled[inner > 0], reference[inner > 0])
    np.testing.assert_array_equal(result[inner > 0], np.rint(wanted))
    empty = volume_of(np.zeros(SHAPE, np.uint8), "cell.zarr/empty")
    with pytest.raises(DataError, match="0 everywhere"):
        run(place, "match_histogram", "no", reference="/".join(other), mask="/".join(empty))


def test_every_connected_part_gets_an_id_of_its_own(volume_of, labels):
    labels[labels == 4000] = 0
    written = label_components(Derivation(*volume_of(labels, chunk_shape=(5, 7, 9)), "parts", (8, 8, 8)))
    found = open_volume(written.address).read()
    wanted, count = label(labels.astype(int), background=0, connectivity=1, return_num=True)
    pairs = np.unique(np.stack([found.ravel(), wanted.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]  # the same parts by other names
    assert set(np.unique(found)) == set(range(count + 1))
    assert f"{count} connected parts; removed 0" in written.note
    sizes = np.bincount(wanted.ravel())
    large = label_components(Derivation(*volume_of(labels, "l.zarr/x"), "parts", (8, 8, 8)), object_size=100)
    np.testing.assert_array_equal(open_volume(large.address).read() > 0, (sizes >= 100)[wanted] & (wanted > 0))
    assert f"removed {(sizes[1:] < 100).sum()}" in large.note


def test_a_second_call_does_nothing_and_other_parameters_are_refused(volume_of, raw):
    place = volume_of(raw)
    run(place, "pad", before=(1, 1, 1))
    derivation = Derivation(*place, "out", (8, 8, 8))
    assert derive(derivation, OPERATIONS["pad"], before=(1, 1, 1)).already_complete
    with pytest.raises(InputError, match="--overwrite"):
        derive(derivation, OPERATIONS["pad"], before=(1, 1, 1), value=3)
    with pytest.raises(InputError, match="replace the input"):
        run(place, "pad", "volumes/raw", before=(1, 1, 1))


def test_a_copy_of_a_prediction_says_what_its_values_and_channels_are(volume_of, raw):
    said = {"scale": 100, "target": "affinities", "offsets": [[-1, 0, 0], [0, -9, 0]], "channel_names": ["near", "far"]}
    container, dataset = volume_of(np.stack([raw, raw]), attributes={**said, "comment": "not of every copy"})

    def of(volume):
        return {key: value for key, value in volume.attributes.items() if key in (*said, "comment")}

    assert of(run((container, dataset), "convert", storage={"format": "zarr2"})) == said
    assert of(run((container, dataset), "crop", "c", offset=(1, 2, 3))) == said
    assert of(run((container, dataset), "pad", "p", before=(1, 1, 1))) == said
    without = {key: value for key, value in said.items() if key != "offsets"}
    assert of(run((container, dataset), "downsample", "d", factors=(2, 2, 2))) == without
    assert of(run((container, f"{dataset}@c=1"), "convert", "one")) == {"scale": 100, "target": "affinities"}


@pytest.mark.parametrize(("dtype", "value"), [("int8", 0), ("int8", -128), ("bool", 1), ("int16", 1000)])
def test_padding_with_any_value_that_fits(volume_of, raw, dtype, value):
    padded = run(volume_of((raw % 2).astype(dtype)), "pad", before=(1, 0, 0), value=value).read()
    np.testing.assert_array_equal(
        padded, np.pad((raw % 2).astype(dtype), ((1, 0), (0, 0), (0, 0)), constant_values=value)
    )


def test_a_crop_does_not_replace_the_labels_that_it_is_cut_around(volume_of, raw, labels):
    place, around = volume_of(raw), volume_of(labels, "cell.zarr/volumes/labels")
    with pytest.raises(InputError, match="labels"):
        run(place, "crop", around[1], around="/".join(around), overwrite=True)
    np.testing.assert_array_equal(open_volume("/".join(around)).read(), labels)


def test_the_margin_around_labels_reaches_beyond_them(volume_of, raw, labels):
    place = volume_of(raw)
    around = volume_of(labels[5:10], "cell.zarr/volumes/labels", begin=(5, 0, 0))
    assert run(place, "crop", around="/".join(around), margin=(2, 0, 0)).roi.begin[0] == 3
