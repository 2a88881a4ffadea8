"""Whether two volumes lie on one voxel grid, by one rule for configurations, samples, evaluation and segmentation."""

import pytest
import zarr

from incasem_like.config.voxel_size import same_voxel_size
from incasem_like.errors import DataError
from incasem_like.volumes import create_volume, open_volume
from incasem_like.volumes.agreement import check_same_voxels


@pytest.fixture
def make(tmp_path):
    def make(name, voxel_size=(4.6, 4.0, 4.0), offset=(0, 0, 0), **options):
        shape = (2, 8, 8, 8) if options.get("axes") == "czyx" else (8, 8, 8)
        return create_volume(
            tmp_path / f"{name}.zarr", shape=shape, dtype="uint8", voxel_size=voxel_size, offset=offset, **options
        )

    return make


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ((4.6, 4, 4), True),
        ((4.599999904632568, 4, 4), True),  # 4.6 through float32
        ((4.6, 4.0003, 4), True),
        ((4.6, 4.0005, 4), False),
        ((4.6, 4), False),
    ],
)
def test_sizes_are_the_same_but_for_rounding(other, same):
    assert same_voxel_size((4.6, 4, 4), other) is same
    assert same_voxel_size(other, (4.6, 4, 4)) is same


def test_another_voxel_size_and_channels_are_refused(make):
    with pytest.raises(DataError, match=r"other\.zarr has voxels of 5 4 4 nm, but .*one\.zarr has 4\.6 4 4 nm"):
        check_same_voxels(make("other", (5, 4, 4)), make("one"))
    with pytest.raises(DataError, match="czyx"):
        check_same_voxels(make("channels", axes="czyx"), make("two"))


def test_a_fraction_of_a_voxel_apart_is_told_of_once(make, caplog):
    one, beside = make("one"), make("beside", offset=(4.6, 6, 4))
    for _ in range(2):
        check_same_voxels(beside, one)
    (record,) = caplog.records
    assert "beside.zarr lies a fraction of a voxel beside" in record.getMessage()
    assert "([4.6, 6, 4] nm)" in record.getMessage()


def test_whole_voxels_apart_are_not_told_of_for_float_noise(make, caplog):
    check_same_voxels(make("far", offset=(7 * 4.6, 4, 4)), make("one"))  # 7 * 4.6 is 32.199999999999996
    assert not caplog.records


def test_an_unknown_voxel_size_agrees_with_none(make, tmp_path):
    zarr.open_array(str(tmp_path / "plain.zarr"), mode="w", shape=(8, 8, 8), dtype="u1")
    plain = open_volume(tmp_path / "plain.zarr")
    for pair in ((plain, make("one")), (make("two"), plain), (plain, plain)):
        with pytest.raises(DataError, match=r"plain\.zarr does not give its voxel size: add \"resolution\""):
            check_same_voxels(*pair)


def test_an_offset_without_a_voxel_size_is_refused(make, tmp_path):
    array = zarr.open_array(str(tmp_path / "plain.zarr"), mode="w", shape=(8, 8, 8), dtype="u1")
    array.attrs["offset"] = [46, 0, 0]
    plain = open_volume(tmp_path / "plain.zarr")
    with pytest.raises(DataError, match=r"plain\.zarr has an offset of \[46, 0, 0\] but no voxel size.*resolution"):
        _ = plain.roi
