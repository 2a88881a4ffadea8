"""Opening a data configuration: what fits is read right, and every contradiction is one sentence."""

import re

import numpy as np
import pytest

from incasem_like.errors import ConfigError, DataError, InputError
from incasem_like.samples import open_regions
from incasem_like.volumes import Roi, create_volume

VOXEL_SIZE = (4.6, 5.0, 5.0)


def opened(container, *entries, num_classes=2, voxel_size=VOXEL_SIZE, need_labels=True, **options):
    config = container.config(*entries)
    return open_regions(config, num_classes=num_classes, voxel_size=voxel_size, need_labels=need_labels, **options)


def test_a_region_reads_raw_labels_and_masks_at_their_own_offsets(cell):
    cell.put("volumes/metric_masks/er", np.ones((30, 30, 30), np.uint8), offset=(10, 10, 10))
    entry = cell.entry(offset=(10, 12, 14), shape=(20, 10, 10), metric_masks=("volumes/metric_masks/er",))
    region = opened(cell, entry)[0]
    assert region.name == "cell_1"
    assert region.roi == Roi((10, 12, 14), (20, 10, 10))
    raw = cell.root["volumes/raw"][10:30, 12:22, 14:24]
    np.testing.assert_allclose(region.read_raw(region.roi), raw / 255, rtol=1e-6)
    np.testing.assert_array_equal(region.read_labels(region.roi), cell.root["volumes/labels/er"][6:26, 8:18, 10:20] > 0)
    assert region.read_mask(region.roi).all()
    wider = region.read_metric_mask(Roi((8, 12, 14), (4, 2, 2)))
    np.testing.assert_array_equal(wider[:, 0, 0], [0, 0, 1, 1])
    assert set(region.content_hashes) == {str(volume.address) for volume in region.volumes}


def test_without_offset_and_shape_the_region_is_the_raw_volume(cell):
    entry = cell.entry(labels={})
    assert opened(cell, entry, need_labels=False)[0].roi == Roi((0, 0, 0), (40, 44, 48))
    assert opened(cell, cell.entry(labels={}, offset=(4, 4, 8)), need_labels=False)[0].roi == Roi(
        (4, 4, 8), (36, 40, 40)
    )


def test_several_label_datasets_become_classes_and_contradictions_background(cell):
    mito = np.zeros((40, 44, 48), np.uint8)
    mito[10:20, 10:20, 10:20] = 255
    cell.put("volumes/labels/mito", mito)
    entry = cell.entry(labels={"volumes/labels/er": 1, "volumes/labels/mito": 2}, offset=(8, 8, 8), shape=(16, 16, 16))
    region = opened(cell, entry, num_classes=3)[0]
    labels = region.read_labels(region.roi)
    er = cell.root["volumes/labels/er"][4:20, 4:20, 4:20] > 0
    in_mito = mito[8:24, 8:24, 8:24] > 0
    np.testing.assert_array_equal(labels == 1, er & ~in_mito)
    np.testing.assert_array_equal(labels == 2, in_mito & ~er)


def test_an_entry_without_labels_is_background_when_another_has_them(cell):
    regions = opened(cell, cell.entry("a", offset=(8, 8, 8), shape=(8, 8, 8)), cell.entry("b", labels={}))
    assert not regions[1].read_labels(Roi((0, 0, 0), (40, 44, 48))).any()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_raw_is_scaled_by_the_range_of_its_dtype(cell, dtype):
    top = 1.0 if dtype == "float32" else np.iinfo(dtype).max
    cell.put("volumes/raw", np.full((40, 44, 48), top, dtype=dtype))
    entry = cell.entry(labels={}, shape=(4, 4, 4))
    assert (opened(cell, entry, need_labels=False)[0].read_raw(Roi((0, 0, 0), (4, 4, 4))) == 1).all()


def test_downsampling_takes_every_nth_voxel_of_the_whole_grid(cell):
    entry = cell.entry(offset=(7, 8, 9), shape=(10, 10, 10))
    region = opened(cell, entry, downsample_factor=2)[0]
    assert region.roi == Roi((4, 4, 5), (5, 5, 5))
    assert region.voxel_size == (9.2, 10.0, 10.0)
    raw = cell.root["volumes/raw"][8:18:2, 8:18:2, 10:20:2]
    np.testing.assert_array_equal(region.read_stored_raw(region.roi), raw)
    labels = cell.root["volumes/labels/er"][4:14:2, 4:14:2, 6:16:2] > 0
    np.testing.assert_array_equal(region.read_labels(region.roi), labels)
    everything = region.read_stored_raw(region.raw_roi)
    np.testing.assert_array_equal(everything, cell.root["volumes/raw"][::2, ::2, ::2])
    assert everything.base is None, "a view would keep all stored voxels in memory"


def test_a_downsampled_volume_is_mirrored_about_its_outermost_taken_voxel(cell):
    region = opened(cell, cell.entry(offset=(9, 9, 9), shape=(9, 9, 9)), downsample_factor=3)[0]
    raw = cell.root["volumes/raw"][::3, ::3, ::3]
    wanted = Roi((-2, -3, 0), (raw.shape[0] + 5, raw.shape[1] + 4, 4))
    padded = np.pad(raw, ((2, 3), (3, 1), (0, 0)), mode="reflect")[:, :, :4]
    np.testing.assert_array_equal(region.read_stored_raw(wanted, outside="reflect"), padded)


def test_the_voxel_size_after_downsampling_is_exact(cell):
    region = opened(cell, cell.entry(offset=(9, 9, 9), shape=(9, 9, 9)), downsample_factor=3)[0]
    assert region.voxel_size == (13.8, 15.0, 15.0)  # 3 * 4.6 is 13.799999999999999 in binary


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"offset": (20, 8, 8), "shape": (20, 8, 8)},
            'volumes/labels/er covers z 4-35, but cell_1 asks for z 20-39: reduce "shape" to [16, 8, 8] '
            "or extend the dataset.",
        ),
        (
            {"offset": (0, 8, 2), "shape": (20, 8, 8)},
            'volumes/labels/er covers z 4-35, x 4-43, but cell_1 asks for z 0-19, x 2-9: set "offset" to [4, 8, 4] '
            'and "shape" to [16, 8, 6], or extend the dataset.',
        ),
        (
            {"offset": (8, 8, 100), "shape": (8, 8, 8)},
            "volumes/raw covers x 0-47, but cell_1 asks for x 100-107: no part of the region lies in all of its "
            'datasets, choose another "offset" and "shape".',
        ),
        ({"offset": (8, 8, 48)}, "cell_1 is empty"),
        ({"raw": "volumes/row"}, "has no dataset volumes/row; did you mean 'volumes/raw'?"),
        ({"mask": "volumes/masks"}, "has no dataset volumes/masks"),
        ({"labels": {"volumes/labels/er": 1, "volumes/labels/gol": 2}}, "has labels of class 2"),
        ({"labels": {}}, "names labels, but they are needed"),
        ({"labels": {"volumes/far": 1}}, "volumes/far covers z 500-507"),
        ({"labels": {"volumes/float": 1}}, "volumes/float of cell_1 holds float32, but labels"),
        ({"raw": "volumes/int32"}, "volumes/int32 of cell_1 is int32, but raw has to be uint8, uint16"),
        (
            {"labels": {"volumes/coarse": 1}},
            "volumes/coarse says its voxels are [9.2, 10, 10] nm, but cell_1 says [4.6, 5, 5]",
        ),
        ({"labels": {"volumes/placed": 1}}, "has an offset of [46, 0, 0] but no voxel size"),
        ({"voxel_size": (5.0, 5.0, 5.0)}, "cell_1 has voxel size [5, 5, 5] nm, but data.voxel_size is [4.6, 5, 5]"),
    ],
)
def test_what_does_not_fit_is_one_sentence(cell, fields, sentence):
    cell.put("volumes/far", np.ones((8, 8, 8), np.uint8), offset=(500, 0, 0))
    cell.put("volumes/float", np.ones((40, 44, 48), np.float32))
    cell.put("volumes/int32", np.ones((40, 44, 48), np.int32))
    cell.put("volumes/coarse", np.ones((20, 22, 24), np.uint8), voxel_size=(9.2, 10.0, 10.0))
    cell.put("volumes/placed", np.ones((20, 22, 24), np.uint8), voxel_size=None)
    cell.root["volumes/placed"].attrs["offset"] = [46, 0, 0]
    stated = {"offset": (8, 8, 8), "shape": (8, 8, 8), **fields}
    if fields == {"offset": (8, 8, 48)}:
        del stated["shape"]
    with pytest.raises(InputError, match=re.escape(sentence)) as caught:
        opened(cell, cell.entry(**stated))
    assert "\n" not in str(caught.value)


def test_a_missing_container_and_an_incomplete_dataset_are_refused(cell, tmp_path):
    entry = cell.entry(shape=(8, 8, 8)).model_copy(update={"file": tmp_path / "cell_2.zarr"})
    with pytest.raises(DataError, match=r"cell_2\.zarr does not exist"):
        opened(cell, entry, need_labels=False)
    create_volume(cell.path, "volumes/half", shape=(8, 8, 8), dtype="uint8", voxel_size=VOXEL_SIZE)
    with pytest.raises(DataError, match="is incomplete"):
        opened(cell, cell.entry(raw="volumes/half"), need_labels=False)


def test_a_voxel_size_the_array_does_not_know_is_taken_from_the_entry_and_said(cell, caplog):
    cell.put("volumes/raw", np.zeros((40, 44, 48), np.uint8), voxel_size=None)
    assert opened(cell, cell.entry(labels={}), need_labels=False)[0].voxel_size == VOXEL_SIZE
    assert "volumes/raw of cell_1 does not give its voxel size: the [4.6, 5, 5] nm of the data" in caplog.text


def test_the_voxel_size_that_a_group_gives_is_compared_with_the_entry(cell):
    cell.put("volumes/raw", np.ones((40, 44, 48), np.uint8), voxel_size=None)
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    steps = [{"type": "scale", "scale": [0.04, 0.005, 0.005]}]
    datasets = [{"path": "volumes/raw", "coordinateTransformations": steps}]
    cell.root.attrs["multiscales"] = [{"axes": axes, "datasets": datasets}]
    with pytest.raises(DataError, match=r"volumes/raw says its voxels are \[40, 5, 5\] nm"):
        opened(cell, cell.entry(labels={}), need_labels=False)


def test_channels_are_chosen_behind_the_names_of_datasets(cell):
    voxels = np.random.default_rng(0).integers(0, 255, (3, 40, 44, 48), np.uint8)
    cell.put("volumes/stains", voxels)
    labels = {"volumes/stains@c=0": 1, "volumes/stains@c=2": 2}
    (region,) = opened(cell, cell.entry(raw="volumes/stains@c=1", labels=labels), num_classes=3)
    assert np.array_equal(region.read_stored_raw(region.roi), voxels[1])
    assert np.array_equal(region.labels[2].read(), voxels[2])
    with pytest.raises(DataError, match=r"volumes/stains of cell_1 .* choose one as volumes/stains@c=0"):
        opened(cell, cell.entry(raw="volumes/stains"))


def test_raw_of_which_nothing_is_on_disk_is_refused(cell):
    cell.root.create_dataset("volumes/empty", shape=(40, 44, 48), dtype="u1").attrs["resolution"] = list(VOXEL_SIZE)
    with pytest.raises(DataError, match="volumes/empty of cell_1 has no chunk on disk"):
        opened(cell, cell.entry(raw="volumes/empty"))


def test_float_raw_beyond_zero_to_one_is_refused_when_read(cell):
    cell.put("volumes/raw", np.full((40, 44, 48), 17.0, np.float32))
    region = opened(cell, cell.entry(labels={}), need_labels=False)[0]
    with pytest.raises(DataError, match="holds floats from 17 to 17"):
        region.read_raw(region.roi)


def test_labels_that_are_not_needed_may_be_missing(cell):
    regions = opened(cell, cell.entry(labels={"volumes/none": 1}), need_labels=False)
    assert not regions[0].labels


def test_a_region_without_a_voxel_after_downsampling_is_refused(cell):
    with pytest.raises(ConfigError, match=r"holds no voxel at data\.downsample_factor=8"):
        opened(cell, cell.entry(offset=(9, 9, 9), shape=(3, 3, 3)), downsample_factor=8)


def test_labels_between_the_voxels_of_raw_are_told_of_once(cell, caplog):
    cell.put("volumes/labels/er", np.ones((32, 36, 40), np.uint8), offset=(4, 4.5, 4))
    for _ in range(2):
        opened(cell, cell.entry(offset=(8, 8, 8), shape=(4, 4, 4)))
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "volumes/labels/er of cell_1 lies a fraction of a voxel beside volumes/raw ([18.4, 22.5, 20] nm)"
    )


def test_the_offset_of_a_region_is_that_of_its_raw_volume_between_voxels(cell):
    cell.put("volumes/raw", np.zeros((40, 44, 48), np.uint8), offset=(4, 4.5, -3))
    entry = cell.entry(offset=(8, 9, 8), shape=(4, 4, 4), labels={})
    (region,) = opened(cell, entry, need_labels=False)
    assert region.offset == (8 * 4.6, 8.5 * 5, 40)  # a position half-way goes to the next voxel
    (halved,) = opened(cell, entry, need_labels=False, downsample_factor=2)
    assert halved.roi.begin == (4, 5, 4)
    assert halved.offset == (8 * 4.6, 9.5 * 5, 40)


def test_labels_on_the_voxels_of_raw_are_not_told_of_for_float_noise(cell, caplog):
    cell.put("volumes/labels/er", np.ones((32, 36, 40), np.uint8), offset=(7, 4, 4))  # 7 * 4.6 is 32.199999999999996
    opened(cell, cell.entry(offset=(8, 8, 8), shape=(4, 4, 4)))
    assert not caplog.records


def test_a_negative_label_is_refused_at_its_voxel_before_downsampling(cell):
    labels = np.zeros((40, 44, 48), np.int16)
    labels[20, 30, 10] = -1
    cell.put("volumes/labels/er", labels)
    region = opened(cell, cell.entry(), downsample_factor=2)[0]
    with pytest.raises(DataError, match=r"volumes/labels/er of cell_1 holds the label -1 at z 20, y 30, x 10"):
        region.read_labels(region.roi)
