"""Reading and writing regions in voxels and nanometres, and what stands outside the volume."""

import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incasem_like.errors import DataError, InputError
from incasem_like.volumes import NanometreRoi, Roi, Volume, create_volume, open_volume
from incasem_like.volumes.padding import mirrored_indices

Make = Callable[..., tuple[Volume, np.ndarray]]


def test_regions_are_absolute_voxels(random_volume: Make) -> None:
    volume, voxels = random_volume(offset=(120, 46, 32.2))
    assert volume.roi == Roi((3, 10, 7), (6, 7, 8))
    assert np.array_equal(volume.read(Roi((4, 12, 10), (2, 3, 4))), voxels[1:3, 2:5, 3:7])


def test_regions_in_nanometres_cover_what_they_touch(random_volume: Make) -> None:
    volume, voxels = random_volume(offset=(120, 46, 32.2))
    exact = NanometreRoi((160, 55.2, 46.0), (80, 13.8, 18.4))
    assert np.array_equal(volume.read(exact), voxels[1:3, 2:5, 3:7])
    partly = NanometreRoi((170, 56, 47), (60, 12, 16))
    assert np.array_equal(volume.read(partly), voxels[1:3, 2:5, 3:7])


def test_channels_are_always_read_whole(random_volume: Make) -> None:
    volume, voxels = random_volume(shape=(3, 6, 7, 8), axes="czyx")
    assert volume.spatial_shape == (6, 7, 8)
    assert np.array_equal(volume.read(Roi((1, 1, 1), (2, 2, 2))), voxels[:, 1:3, 1:3, 1:3])
    outside = volume.read(Roi((-1, 0, 0), (2, 2, 2)), outside="constant", fill=9)
    assert np.array_equal(outside, np.pad(voxels, [(0, 0), (1, 0), (0, 0), (0, 0)], constant_values=9)[:, :2, :2, :2])


@given(size=st.integers(1, 7), begin=st.integers(-40, 40), length=st.integers(1, 60))
def test_mirror_is_numpys_reflect(size: int, begin: int, length: int) -> None:
    axis = np.arange(size)
    before, after = max(0, -begin), max(0, begin + length - size)
    padded = np.pad(axis, (before, after), mode="reflect")
    assert np.array_equal(mirrored_indices(begin, begin + length, size), padded[begin + before :][:length])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_padding_is_numpys_padding(random_volume: Make, data: st.DataObject) -> None:
    voxels = np.random.default_rng(3).integers(0, 255, (6, 7, 8), dtype=np.uint8)
    volume = _kept(random_volume)
    begin = data.draw(st.tuples(*[st.integers(-20, 20)] * 3))
    shape = data.draw(st.tuples(*[st.integers(1, 25)] * 3))
    volume.write(voxels)
    pads = [(max(0, -b), max(0, b + s - n)) for b, s, n in zip(begin, shape, voxels.shape, strict=True)]
    window = tuple(slice(b + p, b + p + s) for b, (p, _), s in zip(begin, pads, shape, strict=True))
    roi = Roi(begin, shape)
    assert np.array_equal(volume.read(roi, outside="reflect"), np.pad(voxels, pads, mode="reflect")[window])
    constant = np.pad(voxels, pads, constant_values=7)[window]
    assert np.array_equal(volume.read(roi, outside="constant", fill=7), constant)


def _kept(make: Make, cache: dict[int, Volume] = {}) -> Volume:  # noqa: B006 - one volume for all examples
    if id(make) not in cache:
        cache[id(make)] = make()[0]
    return cache[id(make)]


def test_a_region_far_outside_reads_no_more_than_it_needs(random_volume: Make) -> None:
    volume, voxels = random_volume()
    far = volume.read(Roi((1000, -1000, 5), (1, 1, 1)), outside="reflect")
    assert far == voxels[mirrored_indices(1000, 1001, 6)[0], mirrored_indices(-1000, -999, 7)[0], 5]


def test_outside_is_an_error_that_names_the_part_that_fits(random_volume: Make) -> None:
    volume, _ = random_volume()
    with pytest.raises(
        DataError, match=r"covers z 0-5, .* z 4-9, .* was asked for: the part that fits is z 4-5, y 0-6"
    ):
        volume.read(Roi((4, 0, 0), (6, 7, 8)))
    with pytest.raises(DataError, match="do not overlap"):
        volume.read(Roi((40, 0, 0), (6, 7, 8)))
    with pytest.raises(DataError, match="do not overlap"):
        volume.write(np.zeros((6, 7, 8), np.uint8), Roi((40, 0, 0), (6, 7, 8)))


@pytest.mark.parametrize("roi", [Roi((0, 0, 0), (0, 2, 2)), NanometreRoi((0, 0, 0), (0, 4.6, 4.6))])
def test_an_empty_region_is_an_error(random_volume: Make, roi: Any) -> None:
    with pytest.raises(DataError, match="empty"):
        random_volume()[0].read(roi, outside="constant")


def test_writing_a_region_leaves_the_rest(random_volume: Make) -> None:
    volume, voxels = random_volume(offset=(40, 4.6, 4.6))
    part = np.full((3, 3, 3), 5, np.uint8)
    volume.write(part, Roi((3, 4, 5), (3, 3, 3)))
    voxels[2:5, 3:6, 4:7] = 5
    assert np.array_equal(open_volume(volume.address).read(), voxels)


def test_values_that_may_not_fit_are_refused(random_volume: Make) -> None:
    volume, voxels = random_volume()
    with pytest.raises(InputError, match="holds uint8, which may lose values of int64"):
        volume.write(voxels.astype(np.int64))
    with pytest.raises(InputError, match=r"expects \[6, 7, 8\] voxels .* got \[6, 7, 9\]"):
        volume.write(np.zeros((6, 7, 9), np.uint8))
    volume.write(np.ones((6, 7, 8), bool))
    assert volume.read().min() == 1


def test_a_volume_opened_for_reading_refuses_to_write(random_volume: Make) -> None:
    reader = open_volume(random_volume()[0].address)
    with pytest.raises(InputError, match="reading only"):
        reader.write(np.zeros((6, 7, 8), np.uint8))
    with pytest.raises(InputError, match="reading only"):
        reader.mark_complete()
    with pytest.raises((ValueError, PermissionError)):
        reader.as_zarr()[:] = 0


def test_a_reader_sees_what_others_wrote_since(random_volume: Make) -> None:
    volume, voxels = random_volume()
    assert volume.read()[0, 0, 0] == voxels[0, 0, 0]
    other = zarr.open_array(str(volume.address), mode="r+")
    other[0, 0, 0] = voxels[0, 0, 0] ^ 255
    assert volume.read()[0, 0, 0] == voxels[0, 0, 0] ^ 255


def test_unwritten_voxels_have_the_fill_value(tmp_path: Path) -> None:
    volume = create_volume(tmp_path / "a.zarr/raw", shape=(2, 2, 2), dtype="int16", voxel_size=(1, 1, 1), fill_value=-3)
    assert (volume.read() == -3).all()
    assert (volume.as_zarr()[:] == -3).all()


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_an_opened_volume_goes_to_another_process(random_volume: Make, method: str) -> None:
    volume, voxels = random_volume()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert np.array_equal(pool.submit(volume.read).result(timeout=60), voxels)


def test_pickling_leaves_the_open_array_behind(random_volume: Make) -> None:
    volume, voxels = random_volume()
    assert np.array_equal(pickle.loads(pickle.dumps(volume)).read(), voxels)
