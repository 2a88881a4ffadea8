"""Importing sequences: voxels, place in the world, provenance, second calls."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
import zarr

from incasem_like.errors import DataError, InputError
from incasem_like.formatting import import_sections as module
from incasem_like.formatting.import_sections import SequenceImport, check_import, import_all, plan_imports
from incasem_like.volumes import open_volume


def import_sections(order, **options):
    [(_, written)] = import_all([order], **options)
    return written


@pytest.fixture
def order(write_sections, grey, tmp_path):
    return SequenceImport(
        write_sections(grey),
        container=str(tmp_path / "cell.zarr"),
        dataset="volumes/raw",
        voxel_size=(5.24, 4.0, 4.0),
        chunk_shape=(8, 8, 8),
    )


def test_zarr_python_reads_the_sections(order, grey, tmp_path):
    written = import_sections(order)
    array = zarr.open(str(tmp_path / "cell.zarr"), "r")["volumes/raw"]
    np.testing.assert_array_equal(array[:], grey)
    assert array.attrs["resolution"] == [5.24, 4, 4]
    assert array.attrs["offset"] == [0, 0, 0]
    assert array.attrs["complete"] is True
    assert array.attrs["provenance"]["parameters"]["source"] == str(order.source)
    assert not written.already_complete


def test_a_crop_keeps_its_place(order, grey):
    import_sections(replace(order, voxel_size=(4.6, 4.0, 4.0), offset=(3, 5, 2), shape=(10, 0, 7)))
    volume = open_volume(order.container, order.dataset)
    np.testing.assert_array_equal(volume.read(), grey[3:13, 5:, 2:9])
    assert volume.offset == (13.8, 20, 8)  # 3 * 4.6 in floating point falls short of it
    assert tuple(volume.roi.begin) == (3, 5, 2)


def test_several_processes_and_a_slab_through_a_file_give_the_same(order, grey, monkeypatch):
    monkeypatch.setattr(module, "useful_workers", lambda wanted, voxels: wanted)
    monkeypatch.setattr(module, "SLAB_BYTES", 100)
    import_sections(order)
    np.testing.assert_array_equal(open_volume(order.container, order.dataset).read(), grey)
    import_sections(replace(order, dataset="volumes/other"), num_workers=2)
    np.testing.assert_array_equal(open_volume(order.container, "volumes/other").read(), grey)


def test_n5_and_multi_page(order, grey, tmp_path):
    tifffile.imwrite(tmp_path / "stack.tiff", grey, photometric="minisblack")
    stack = replace(order, source=tmp_path / "stack.tiff", container=str(tmp_path / "cell.n5"))
    import_sections(stack)
    np.testing.assert_array_equal(open_volume(stack.container, stack.dataset).read(), grey)


def test_a_second_call_finds_everything_there(order):
    import_sections(order)
    assert import_sections(order).already_complete


def test_other_parameters_or_sections_are_refused_until_overwrite(order, grey):
    import_sections(order)
    with pytest.raises(InputError, match="--overwrite"):
        import_sections(replace(order, invert=True))
    tifffile.imwrite(order.source / "section_3.tif", 255 - grey[3])
    with pytest.raises(InputError, match="--overwrite"):
        import_sections(order)
    import_sections(order, overwrite=True)
    np.testing.assert_array_equal(open_volume(order.container, order.dataset).read()[3], 255 - grey[3])


def test_an_interrupted_import_goes_on(order, grey, monkeypatch):
    calls = []
    original = module.import_slab

    def fail_once(block, parameters):
        calls.append(block.number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(block, parameters)

    fail_once.__module__, fail_once.__qualname__ = original.__module__, original.__qualname__
    monkeypatch.setattr(module, "import_slab", fail_once)
    with pytest.raises(KeyboardInterrupt):
        import_sections(order)
    with pytest.raises(DataError, match=r"incomplete|not complete"):
        open_volume(order.container, order.dataset)
    import_sections(order)
    assert calls == [0, 1, 1, 2]
    np.testing.assert_array_equal(open_volume(order.container, order.dataset).read(), grey)


def test_a_late_value_that_does_not_fit_names_its_file_and_leaves_nothing_complete(order, write_sections, grey):
    wide = grey.astype(np.uint16)
    wide[13, 4, 5] = 3021
    wide_order = replace(order, source=write_sections(wide, "wide"))
    with pytest.raises(DataError, match=r"section_13.tif holds the value 3021"):
        import_sections(wide_order)
    with pytest.raises(DataError):
        open_volume(order.container, order.dataset)


def test_an_early_value_that_does_not_fit_is_found_before_anything_is_written(order, write_sections, grey, tmp_path):
    wide_order = replace(order, source=write_sections(grey.astype(np.uint16) + 1000, "wide"))
    with pytest.raises(DataError, match="give --dtype uint16"):
        import_sections(wide_order)
    assert not (tmp_path / "cell.zarr").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"offset": (0, 0, 30)}, "choose a part"),
        ({"shape": (21, 0, 0)}, "choose a part"),
        ({"voxel_size": (0.0, 1.0, 1.0)}, "above 0"),
        ({"voxel_size": (float("nan"), 1.0, 1.0)}, "above 0"),
        ({"chunk_shape": (0, 8, 8)}, "above 0"),
        ({"dtype": "int7"}, "did you mean"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(order, tmp_path, change, complaint):
    with pytest.raises(InputError, match=complaint):
        check_import(replace(order, **change))
    assert not (tmp_path / "cell.zarr").exists()


def test_one_type_serves_all_folders_and_each_may_have_its_own(tmp_path):
    folders, datasets = [tmp_path / "a", tmp_path / "b"], ["volumes/raw", "volumes/labels/er"]
    both = plan_imports(folders, datasets, ["uint8"], ["None"], container="c.zarr")
    assert [(order.dataset, order.dtype, order.conversion) for order in both] == [
        ("volumes/raw", "uint8", None),
        ("volumes/labels/er", "uint8", None),
    ]
    own = plan_imports(folders, datasets, ["uint8", "uint32"], ["None", "RelabelTo:3"], container="c.zarr")
    assert [(order.dtype, order.conversion) for order in own] == [("uint8", None), ("uint32", "RelabelTo:3")]


@pytest.mark.parametrize(
    ("datasets", "dtypes", "complaint"),
    [
        (["volumes/raw"], ["uint8"], "--output_dataset"),
        (["a", "b"], ["uint8"] * 3, "--dtype"),
        (["a", "a"], ["uint8"], "different"),
    ],
)
def test_numbers_of_values_must_go_together(tmp_path, datasets, dtypes, complaint):
    with pytest.raises(InputError, match=complaint):
        plan_imports([tmp_path, tmp_path], datasets, dtypes, ["None"], container="c.zarr")
