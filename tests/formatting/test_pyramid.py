"""Scale pyramids: levels, metadata for viewers, in place and separate."""

import json
import os

import numpy as np
import pytest
import zarr

from incasem_like.errors import InputError
from incasem_like.formatting.derive import Derivation
from incasem_like.formatting.pyramid import level_factors, make_pyramid
from incasem_like.volumes import list_datasets, multiscale, open_volume


@pytest.fixture
def raw():
    return np.random.default_rng(0).integers(0, 256, (10, 33, 40)).astype(np.uint8)


def test_anisotropic_voxels_become_isotropic_before_all_axes_shrink():
    factors = level_factors((400, 4000, 4000), (50, 5, 5))
    assert factors == [(1, 2, 2)] * 3 + [(2, 2, 2)] * 2
    assert level_factors((1, 600, 600), (1, 1, 1)) == [(1, 2, 2)] * 3
    assert level_factors((128, 128, 5), None) == []


@pytest.mark.parametrize("suffix", ["zarr2", "zarr3", "n5"])
def test_in_place_and_as_ome_ngff(volume_of, raw, tmp_path, suffix):
    name = "cell.n5/volumes/raw" if suffix == "n5" else "cell.zarr/volumes/raw"
    container, dataset = volume_of(raw, name, voxel_size=(40, 5, 5), begin=(3, 5, 6), format=suffix)
    made = make_pyramid(Derivation(container, dataset, "", None), factors=[(1, 2, 2), (2, 2, 2)])
    assert [one.already_complete for one in made] == [False, False]
    assert list_datasets(container) == [f"volumes/raw/s{level}" for level in range(3)]
    levels = [open_volume(container, f"{dataset}/s{level}") for level in range(3)]
    np.testing.assert_array_equal(levels[0].read(), raw)
    assert [level.voxel_size for level in levels] == [(40, 5, 5), (40, 10, 10), (80, 20, 20)]
    assert [tuple(level.roi.begin) for level in levels] == [(3, 5, 6), (3, 2, 3), (1, 1, 1)]
    assert make_pyramid(Derivation(container, dataset, "", None), factors=[(1, 2, 2), (2, 2, 2)])[0].already_complete
    if suffix == "n5":
        attributes = json.loads((tmp_path / "cell.n5/volumes/raw/attributes.json").read_text())
        assert attributes["scales"] == [[1, 1, 1], [2, 2, 1], [4, 4, 2]]
        assert attributes["resolution"] == [5, 5, 40]
        return
    if suffix == "zarr2":
        [image] = zarr.open_group(container, mode="r")["volumes/raw"].attrs["multiscales"]
        assert image["version"] == "0.4"
        assert zarr.open_group(container, mode="r")["volumes"].attrs["multiscales"] == []
    else:
        ome = json.loads((tmp_path / "cell.zarr/volumes/raw/zarr.json").read_text())["attributes"]["ome"]
        assert ome["version"] == "0.5"
        [image] = ome["multiscales"]
    assert [axis["name"] for axis in image["axes"]] == ["z", "y", "x"]
    assert {axis["unit"] for axis in image["axes"]} == {"nanometer"}
    for level, listed in zip(levels, image["datasets"], strict=True):
        scale, translation = listed["coordinateTransformations"]
        assert tuple(scale["scale"]) == level.voxel_size
        # OME-NGFF: the centre of the first voxel, here half a voxel of the first level lower in all levels
        centre = np.array(level.offset) + np.array(level.voxel_size) / 2
        np.testing.assert_allclose(np.add(translation["translation"], [20, 2.5, 2.5]), centre)


def test_a_separate_group_leaves_the_volume_alone(volume_of, raw):
    container, dataset = volume_of(raw.astype(np.uint32), voxel_size=None)
    make_pyramid(Derivation(container, dataset, "pyramid", (8, 8, 8)), factors=[(2, 2, 2)], in_place=False)
    assert list_datasets(container) == ["pyramid/s0", "pyramid/s1", "volumes/raw"]
    [image] = zarr.open_group(container, mode="r")["pyramid"].attrs["multiscales"]
    assert image["type"] == "mode"
    assert [each["coordinateTransformations"][0]["scale"] for each in image["datasets"]] == [[1, 1, 1], [2, 2, 2]]
    with pytest.raises(InputError, match="no smaller copies"):
        make_pyramid(Derivation(container, dataset, "again", (8, 8, 8)), in_place=False)


def test_the_voxel_size_of_another_programs_group_is_not_lost(tmp_path, raw):
    group = zarr.open_group(str(tmp_path / "other.zarr"), mode="w")
    group.create_dataset("image", data=raw, chunks=(8, 8, 8))
    steps = [{"type": "scale", "scale": [0.04, 0.005, 0.005]}]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    image = {"version": "0.4", "axes": axes, "datasets": [{"path": "image", "coordinateTransformations": steps}]}
    group.attrs["multiscales"] = [image]
    make_pyramid(Derivation(str(tmp_path / "other.zarr"), "image", "", None), factors=[(1, 2, 2)])
    assert open_volume(tmp_path / "other.zarr/image/s0").voxel_size == (40, 5, 5)
    assert open_volume(tmp_path / "other.zarr/image/s1").voxel_size == (40, 10, 10)


@pytest.mark.parametrize("renames", [0, 1])
def test_a_move_that_is_killed_is_finished_by_the_same_call(volume_of, raw, monkeypatch, renames):
    place = volume_of(raw)
    real, done = os.rename, []

    def rename(*paths):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(paths)
        real(*paths)

    monkeypatch.setattr(multiscale.os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        make_pyramid(Derivation(*place, "", None), factors=[(2, 2, 2)])
    monkeypatch.undo()
    make_pyramid(Derivation(*place, "", None), factors=[(2, 2, 2)])
    np.testing.assert_array_equal(open_volume(place[0], f"{place[1]}/s0").read(), raw)
    assert list_datasets(place[0]) == ["volumes/raw/s0", "volumes/raw/s1"]


@pytest.mark.parametrize("options", [{}, {"factors": [(2, 2, 2)], "method": "mode"}])
def test_a_volume_stays_in_its_place_if_no_pyramid_can_be_made(volume_of, raw, options):
    place = volume_of(raw.astype(np.float32))
    with pytest.raises(InputError):
        make_pyramid(Derivation(*place, "", None), **options)
    np.testing.assert_array_equal(open_volume(*place).read(), raw)


def test_a_level_of_a_pyramid_is_not_moved(volume_of, raw):
    container, dataset = volume_of(raw)
    make_pyramid(Derivation(container, dataset, "", None), factors=[(2, 2, 2)])
    before = open_volume(container, f"{dataset}/s1").read()
    with pytest.raises(InputError, match="s1 is a level of the pyramid"):
        make_pyramid(Derivation(container, f"{dataset}/s1", "", None), factors=[(2, 2, 2)])
    np.testing.assert_array_equal(open_volume(container, f"{dataset}/s1").read(), before)


def test_a_link_to_a_volume_is_not_moved(volume_of, raw, tmp_path):
    container, dataset = volume_of(raw)
    link = tmp_path / "cell.zarr" / "volumes" / "link"
    link.symlink_to(tmp_path / "cell.zarr" / dataset)
    with pytest.raises(InputError, match="symbolic link"):
        make_pyramid(Derivation(container, "volumes/link", "", None), factors=[(2, 2, 2)])
    np.testing.assert_array_equal(open_volume(container, "volumes/link").read(), raw)
