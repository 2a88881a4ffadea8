"""Annotated crops and sections: paintings, crops with many classes, 2-D datasets."""

import json

import numpy as np
import pytest
import tifffile
import zarr

from incasem_like.config import load_data_config
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.crops import ClassOfIds, import_crops, import_painting, parse_classes
from incasem_like.formatting.derive import Derivation
from incasem_like.formatting.label_masks import metric_mask
from incasem_like.formatting.plane_sections import SectionChoice, split_sections, stack_sections
from incasem_like.volumes import open_volume

SIZE, BEGIN = (40, 8, 8), (4, 10, 20)


@pytest.fixture
def raw():
    return np.random.default_rng(0).integers(1, 255, (12, 40, 50)).astype(np.uint8)


@pytest.fixture
def cell(volume_of, raw):
    return volume_of(raw, voxel_size=SIZE, begin=BEGIN)


def test_a_painting_becomes_a_crop_with_its_mask(cell, raw, tmp_path):
    painted = np.zeros((5, 20, 30), np.uint16)
    painted[1:3, 4:9, 10:20], painted[2, 12, 13] = 7, 9
    tifffile.imwrite(tmp_path / "painted.tif", painted)
    out = Derivation(cell[0], "", "crop", (8, 8, 8), out_container=cell[0])
    place = {"offset": (6, 15, 22), "margin": (1, 2, 100)}
    import_painting(str(tmp_path / "painted.tif"), "/".join(cell), out, **place)
    labels, mask, around = (open_volume(cell[0], f"crop/{name}") for name in ("labels", "mask", "raw"))
    np.testing.assert_array_equal(labels.read(), painted[1:3, 4:13, 10:20])
    assert tuple(labels.roi.begin) == (7, 19, 32)
    np.testing.assert_array_equal(mask.read(), labels.read() > 0)
    assert mask.roi == labels.roi
    assert tuple(around.roi.begin) == (6, 17, 20)
    np.testing.assert_array_equal(around.read(), raw[2:6, 7:20, :])
    again = import_painting(str(tmp_path / "painted.tif"), "/".join(cell), out, **place)
    assert all(one.already_complete for one in again)
    with pytest.raises(DataError, match="another --offset"):
        import_painting(
            str(tmp_path / "painted.tif"), "/".join(cell), Derivation(cell[0], "", "no", out_container=cell[0]),
            offset=(14, 10, 20),
        )  # fmt: skip
    with pytest.raises(InputError, match="--margin"):
        import_painting(str(tmp_path / "painted.tif"), "/".join(cell), out, margin=(-1, 0, 0))


def test_crops_with_many_classes_become_class_maps_masks_and_configs(cell, tmp_path, volume_of):
    ids = np.random.default_rng(1).choice([0, 3, 4, 16, 30], (8, 10, 12)).astype(np.uint8)
    crops = {"crop7": (5, 12, 21), "crop12": (6, 20, 30)}
    for name, begin in crops.items():
        volume_of(ids, f"gt.n5/volumes/groundtruth/0003/{name}/labels/all", voxel_size=SIZE, begin=begin)
    volume_of(ids, "gt.n5/volumes/groundtruth/0003/other/labels/er", voxel_size=SIZE)
    classes = [*parse_classes(["mito"]), ClassOfIds("np", (22, 23), 2)]
    out = Derivation(cell[0], "", "", (8, 8, 8), out_container=cell[0])
    configs = import_crops(str(tmp_path / "gt.n5"), "volumes/raw", out, classes)
    assert sorted(configs["mito"]) == ["cell_crop12_mito", "cell_crop7_mito"]
    assert configs["np"] == {}  # it does not occur
    for name, begin in crops.items():
        labels = open_volume(cell[0], f"volumes/labels/mito/{name}")
        np.testing.assert_array_equal(labels.read(), np.isin(ids, (3, 4)))
        assert tuple(labels.roi.begin) == begin
        mask = open_volume(cell[0], f"volumes/metric_masks/mito/{name}").read()
        np.testing.assert_array_equal(mask, metric_mask(labels.read(), 4, 4))
    (tmp_path / "mito.json").write_text(json.dumps(configs["mito"]))
    assert len(load_data_config(tmp_path / "mito.json", tmp_path).entries) == 2
    with pytest.raises(DataError, match="--pattern"):
        import_crops(str(tmp_path / "gt.n5"), "volumes/raw", out, classes, "nothing")
    with pytest.raises(InputError, match="not a regular expression"):
        import_crops(str(tmp_path / "gt.n5"), "volumes/raw", out, classes, "(")
    with pytest.raises(InputError, match="NAME=ID"):
        parse_classes(["mito=x"])
    with pytest.raises(InputError, match="names er twice"):
        parse_classes(["er", "er=5"])
    volume_of(ids, "gt.n5/volumes/groundtruth/0003/crop9/labels/all", voxel_size=SIZE)  # outside raw
    new = [ClassOfIds("new", (3,), 2)]
    with pytest.raises(DataError, match="crop9/labels/all covers z 0-7"):
        import_crops(str(tmp_path / "gt.n5"), "volumes/raw", out, new)
    assert not (tmp_path / "cell.zarr/volumes/labels/new").exists()  # no crop is imported


def test_sections_are_written_and_stacked_again(volume_of, raw):
    raw[3] = 0
    place = volume_of(raw, voxel_size=SIZE, begin=BEGIN)
    written, empty = split_sections(Derivation(*place, "sections/raw", (8, 8, 8)))
    assert (len(written), empty) == (11, 1)
    group = zarr.open(place[0], mode="r")["sections/raw"]
    assert sorted(map(int, group)) == [number for number in range(4, 16) if number != 7]
    np.testing.assert_array_equal(group["9"][:], raw[5])
    assert open_volume(place[0], "sections/raw/9").offset == (80, 160)
    stacked = stack_sections(
        Derivation(place[0], "sections/raw", "stack", (4, 8, 8)), 40, SectionChoice(start=8, stop=14, exclude=(13,))
    )
    volume = open_volume(stacked.address)
    np.testing.assert_array_equal(volume.read(), raw[4:9])
    assert (volume.offset, volume.voxel_size) == ((320, 80, 160), (40, 8, 8))
    every_second = stack_sections(
        Derivation(place[0], "sections/raw", "second", (4, 8, 8)), 80, SectionChoice(include=(4, 6, 8))
    )
    np.testing.assert_array_equal(open_volume(every_second.address).read(), raw[[0, 2, 4]])
    with pytest.raises(DataError, match="no datasets named nothing"):
        stack_sections(Derivation(place[0], "nothing", "x"), 40)
    with pytest.raises(InputError, match="No section"):
        split_sections(Derivation(*place, "s"), SectionChoice(start=99))


def test_the_scripts_count_and_import(cell, run_stage, tmp_path):
    painted = np.zeros((3, 20, 30), np.uint8)
    painted[1, 4:9, 10:20] = 7
    tifffile.imwrite(tmp_path / "painted.tif", painted, photometric="minisblack")
    done = run_stage("65_import_crops.py", "-i", "painted.tif", "-f", "cell.zarr", "--offset", 6, 15, 22)
    assert done.returncode == 0, done.stderr
    counted = run_stage("30_count_labels.py", "-f", "cell.zarr", "-d", "crop/labels", "-o", "counts.json")
    assert counted.stdout.startswith("crop/labels: 1 objects, 50 labelled voxels (100.000%), in shape [1, 5, 10]")
    assert json.loads((tmp_path / "counts.json").read_text())["crop/labels"]["largest_object"] == 50
    assert run_stage("80_make_2d.py", "-f", "cell.zarr", "-d", "x", "-o", "y", "--stack").returncode == 2
