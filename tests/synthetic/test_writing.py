"""Synthetic volumes on disk: layout, provenance, workers, second calls."""

import json

import numpy as np
import pytest
import tifffile
import zarr

from incasem_like.errors import InputError
from incasem_like.synthetic import OpticLobeParameters, generate_optic_lobe
from incasem_like.synthetic.family import make_volumes
from incasem_like.synthetic.writing import order_volumes

SHAPE = (12, 24, 20)
PARAMETERS = OpticLobeParameters.clear()


def orders(output, format="tiff", **options):
    options = {"voxel_size": (500.0, 250.0, 250.0), "seed": 3, "num_volumes": 1, "parameters": PARAMETERS, **options}
    return order_volumes(output, format, SHAPE, **options)


def make(*arguments, num_workers=1, overwrite=False, **options):
    return list(make_volumes(orders(*arguments, **options), num_workers=num_workers, overwrite=overwrite))


@pytest.fixture(scope="module")
def expected():
    return generate_optic_lobe(SHAPE, voxel_size=(500.0, 250.0, 250.0), seed=3, parameters=PARAMETERS)


def test_tiff_sections_hold_raw_labels_and_mask(tmp_path, expected):
    [made] = make(tmp_path / "lobe")
    for folder, array in (("raw", expected.raw), ("labels", expected.labels), ("mask", expected.mask)):
        files = sorted((tmp_path / "lobe" / folder).iterdir())
        assert [file.name for file in files] == [f"section_{number:04d}.tif" for number in range(12)]
        np.testing.assert_array_equal(np.stack([tifffile.imread(file) for file in files]), array)
        assert tifffile.imread(files[0]).dtype == array.dtype
    record = json.loads((tmp_path / "lobe" / "provenance.json").read_text())
    assert record["complete"] is True
    assert record["order"]["seed"] == 3
    assert record["order"]["parameters"]["diffuse_dye"] == PARAMETERS.diffuse_dye
    assert len(record["columns"]) == made.columns == len(expected.columns)


def test_zarr_datasets_are_read_by_zarr_python(tmp_path, expected):
    make(tmp_path / "lobe.zarr", "zarr")
    group = zarr.open_group(str(tmp_path / "lobe.zarr"), mode="r")
    np.testing.assert_array_equal(group["volumes/raw"][:], expected.raw)
    np.testing.assert_array_equal(group["volumes/labels/columns"][:], expected.labels)
    np.testing.assert_array_equal(group["volumes/labels/columns_mask"][:], expected.mask)
    attributes = dict(group["volumes/labels/columns"].attrs)
    assert attributes["resolution"] == [500, 250, 250]
    assert attributes["complete"] is True
    assert attributes["provenance"]["parameters"]["seed"] == 3
    assert len(attributes["columns"]) == len(expected.columns)


def test_workers_do_not_matter_and_the_first_of_several_is_the_only_one(tmp_path, expected):
    make(tmp_path / "one", num_volumes=2, num_workers=1)
    make(tmp_path / "two", num_volumes=2, num_workers=2)
    for number in ("000", "001"):
        for folder in ("raw", "labels"):
            for file in (tmp_path / f"one_{number}" / folder).iterdir():
                assert file.read_bytes() == (tmp_path / f"two_{number}" / folder / file.name).read_bytes()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "one_000/raw/section_0005.tif"), expected.raw[5])


@pytest.mark.parametrize(("name", "format"), [("lobe", "tiff"), ("lobe.zarr", "zarr")])
def test_second_call_other_seed_and_overwrite(tmp_path, name, format):
    assert not make(tmp_path / name, format)[0].already_complete
    assert make(tmp_path / name, format)[0].already_complete
    with pytest.raises(InputError, match="was made with seed 3, but now it is 4: give --overwrite"):
        make(tmp_path / name, format, seed=4)
    assert not make(tmp_path / name, format, seed=4, overwrite=True)[0].already_complete
    assert make(tmp_path / name, format, seed=4)[0].already_complete


def test_a_folder_of_something_else_is_never_removed(tmp_path):
    (tmp_path / "lobe").mkdir()
    (tmp_path / "lobe" / "thesis.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(InputError if not overwrite else Exception, match=r"another|--overwrite"):
            make(tmp_path / "lobe", overwrite=overwrite)
    assert (tmp_path / "lobe" / "thesis.txt").exists()


def test_what_a_killed_call_left_is_replaced(tmp_path, expected):
    (tmp_path / ".lobe.partial" / "raw").mkdir(parents=True)
    (tmp_path / ".lobe.partial" / "raw" / "section_9999.tif").write_text("")
    make(tmp_path / "lobe")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lobe"]
    assert len(list((tmp_path / "lobe" / "raw").iterdir())) == 12


def test_names_and_wrong_numbers(tmp_path):
    assert [order.output.name for order in orders(tmp_path / "a.zarr", "zarr", num_volumes=2)] == [
        "a_000.zarr",
        "a_001.zarr",
    ]
    assert orders(tmp_path / "a", "zarr")[0].output == tmp_path / "a" / "volume.zarr"
    assert "40_equalize" in orders(tmp_path / "a.zarr", "zarr")[0].next_command
    assert "--resolution 500 250 250" in orders(tmp_path / "a")[0].next_command
    for wrong in ({"num_volumes": 0}, {"voxel_size": (0.0, 1.0, 1.0)}):
        with pytest.raises(InputError, match="above 0"):
            orders(tmp_path / "a", **wrong)
    with pytest.raises(InputError, match="tiff or zarr"):
        orders(tmp_path / "a", "png")
