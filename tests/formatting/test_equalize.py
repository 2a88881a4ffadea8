"""Equalising volumes on disk: scikit-image's result whatever the blocks, second calls, bad input."""

import numpy as np
import pytest
from skimage.exposure import equalize_adapthist
from skimage.util import img_as_ubyte

from incasem_like.errors import DataError, InputError
from incasem_like.formatting import clahe_tables, equalize
from incasem_like.formatting import derive as deriving
from incasem_like.formatting.derive import Derivation
from incasem_like.formatting.equalize import equalize_histogram
from incasem_like.volumes import create_volume, open_volume

KERNEL = (9, 16, 7)


@pytest.fixture
def container(tmp_path, grey):
    for name, array in (("raw", grey), ("raw16", grey.astype(np.uint16) * 150 + 77), ("rawf", grey / np.float32(255))):
        volume = create_volume(
            tmp_path / "c.zarr", f"volumes/{name}", shape=grey.shape, dtype=array.dtype, voxel_size=(5, 5, 5),
            offset=(50, 0, 25), chunk_shape=(7, 11, 13),
        )  # fmt: skip
        volume.write(array)
        volume.mark_complete()
    return str(tmp_path / "c.zarr")


def expected(container, dataset, kernel=KERNEL):
    image = open_volume(container, dataset).read()
    return img_as_ubyte(equalize_adapthist(image, kernel_size=kernel, clip_limit=0.02)).astype(int)


def run(
    container, dataset="volumes/raw", out="volumes/eq", kernel=KERNEL, chunk_shape=(8, 8, 8), num_workers=1,
    overwrite=False, **options,
):  # fmt: skip
    derivation = Derivation(container, dataset, out, chunk_shape, num_workers, overwrite)
    return equalize_histogram(derivation, kernel=kernel, **options)


@pytest.mark.parametrize("dataset", ["volumes/raw", "volumes/raw16", "volumes/rawf"])
def test_equals_skimage_within_one_grey_level(container, dataset):
    run(container, dataset)
    volume = open_volume(container, "volumes/eq")
    assert volume.dtype == np.uint8
    assert volume.offset == (50, 0, 25)
    assert np.abs(volume.read() - expected(container, dataset)).max() <= 1


@pytest.mark.parametrize("kernel", [(64, 64, 64), (3, 4, 5)])
def test_kernels_larger_than_the_volume_and_tiny_ones(container, kernel):
    run(container, kernel=kernel)
    assert np.abs(open_volume(container, "volumes/eq").read() - expected(container, "volumes/raw", kernel)).max() <= 1


def test_blocks_groups_and_processes_do_not_show(container, monkeypatch):
    run(container, out="volumes/one", chunk_shape=(64, 64, 64))
    monkeypatch.setattr(deriving, "useful_workers", lambda wanted, voxels: wanted)
    monkeypatch.setattr(clahe_tables, "GROUP_SIDE", 16)
    monkeypatch.setattr(clahe_tables, "VOXELS_AT_ONCE", 700)
    for chunk_shape, workers in (((5, 6, 9), 1), ((8, 8, 8), 2)):
        run(container, chunk_shape=chunk_shape, num_workers=workers, overwrite=True)
        np.testing.assert_array_equal(
            open_volume(container, "volumes/eq").read(), open_volume(container, "volumes/one").read()
        )


def test_the_range_of_the_result_is_exact_by_brute_force(container, monkeypatch):
    seen = {}
    original = equalize.result_range
    monkeypatch.setattr(equalize, "result_range", lambda *a: seen.setdefault("range", original(*a)))
    levels = []
    original_levels = equalize.levels_of

    def keep(*a):
        levels.append(original_levels(*a))
        return levels[-1]

    monkeypatch.setattr(equalize, "levels_of", keep)
    run(container)
    assert seen["range"] == (min(part.min() for part in levels), max(part.max() for part in levels))


def test_second_call_other_parameters_and_overwrite(container, monkeypatch):
    run(container)
    measured = []
    original = equalize._measure
    monkeypatch.setattr(equalize, "_measure", lambda *a: measured.append(1) or original(*a))
    assert run(container).already_complete
    with pytest.raises(InputError, match="--overwrite"):
        run(container, clip_limit=0.05)
    assert not measured
    assert not run(container, clip_limit=0.05, overwrite=True).already_complete


def test_an_interrupted_call_goes_on_without_measuring_again(container, monkeypatch, tmp_path):
    original = deriving.run_blockwise

    def stop(task, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(deriving, "run_blockwise", stop)
    with pytest.raises(KeyboardInterrupt):
        run(container)
    with pytest.raises(DataError):
        open_volume(container, "volumes/eq")
    monkeypatch.setattr(deriving, "run_blockwise", original)
    monkeypatch.setattr(equalize, "make_tables", None)
    run(container)
    assert np.abs(open_volume(container, "volumes/eq").read() - expected(container, "volumes/raw")).max() <= 1
    left = {path.name for path in (tmp_path / "c.zarr/volumes/eq").iterdir() if "clahe" in path.name}
    assert not left


def test_a_volume_of_one_value_becomes_black(tmp_path):
    volume = create_volume(tmp_path / "f.zarr", "raw", shape=(9, 9, 9), dtype="uint8", voxel_size=(1, 1, 1))
    volume.write(np.full((9, 9, 9), 40, np.uint8))
    volume.mark_complete()
    equalize_histogram(Derivation(str(tmp_path / "f.zarr"), "raw", "eq"), kernel=(4, 4, 4))
    assert open_volume(tmp_path / "f.zarr", "eq").read().max() == 0


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"dataset": "volumes/rew"}, DataError, "volumes/raw"),
        ({"out": "volumes/raw"}, InputError, "replace"),
        ({"kernel": (0, 4, 4)}, InputError, "kernel_size"),
        ({"clip_limit": 1.5}, InputError, "clip_limit"),
        ({"bins": 1}, InputError, "bins"),
    ],
)
def test_wrong_parameters_are_said(container, options, error, complaint):
    with pytest.raises(error, match=complaint):
        run(container, **options)


def test_values_that_cannot_be_equalised(tmp_path):
    for dtype, value, complaint in (("int32", 5, "convert"), ("float32", 7.0, "0 to 1")):
        volume = create_volume(tmp_path / "f.zarr", dtype, shape=(9, 9, 9), dtype=dtype, voxel_size=(1, 1, 1))
        volume.write(np.full((9, 9, 9), value, dtype))
        volume.mark_complete()
        with pytest.raises(DataError, match=complaint):
            equalize_histogram(Derivation(str(tmp_path / "f.zarr"), dtype, "eq"), kernel=(4, 4, 4))
