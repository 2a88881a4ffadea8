"""Voxel size, offset, axes, completeness and OME-NGFF, ours and those of other tools."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from incasem_like.errors import DataError, InputError
from incasem_like.volumes import (
    Roi,
    Volume,
    create_volume,
    dataset_exists,
    list_datasets,
    nanometres,
    open_volume,
    voxel_position,
)

Make = Callable[..., tuple[Volume, np.ndarray]]
SMALL: dict[str, Any] = {"shape": (2, 3, 4), "dtype": "uint8"}
FORMATS = [("cell.zarr", "zarr2"), ("cell.zarr", "zarr3"), ("cell.n5", "n5")]

tenths = st.integers(1, 100000).map(lambda number: number / 10)
picometres = st.integers(1, 10**6).map(lambda number: number / 1000)


@given(size=st.one_of(tenths, picometres), position=st.integers(-(10**6), 10**6))
def test_voxels_to_nanometres_and_back_is_exact(size: float, position: int) -> None:
    there = nanometres([position], [size])
    assert Fraction(repr(there[0])) == Fraction(repr(size)) * position
    assert voxel_position(there, [size])[0] == position


def test_float_noise_of_other_tools_is_still_on_the_grid() -> None:
    assert 7 * 4.6 != 32.2
    assert voxel_position([7 * 4.6, -7 * 4.6, 2.3], [4.6, 4.6, 4.6]) == (7, -7, 1)


@pytest.mark.parametrize(("container", "format_name"), FORMATS)
@pytest.mark.parametrize("axes", ["zyx", "czyx"])
def test_fractions_come_back_as_written(tmp_path: Path, container: str, format_name: str, axes: str) -> None:
    place = (40, 4.6, 5.24), nanometres((-3, 7, 1234567), (40, 4.6, 5.24))
    shape = (2, 3, 4) if axes == "zyx" else (5, 2, 3, 4)
    create_volume(
        tmp_path / container,
        "a/raw",
        shape=shape,
        dtype="uint8",
        axes=axes,
        voxel_size=place[0],
        offset=place[1],
        format=format_name,
    )
    volume = open_volume(tmp_path / container, "a/raw", allow_incomplete=True)
    assert (volume.voxel_size, volume.offset) == place
    assert volume.roi == Roi((-3, 7, 1234567), (2, 3, 4))
    assert volume.axes == axes


def test_incasems_attributes_are_on_the_array_in_its_form(tmp_path: Path) -> None:
    create_volume(tmp_path / "cell.zarr/volumes/raw", voxel_size=(8, 8, 4.6), offset=(80, 0, 46), **SMALL)
    attributes = json.loads((tmp_path / "cell.zarr/volumes/raw/.zattrs").read_text())
    assert attributes["resolution"] == [8, 8, 4.6]
    assert attributes["offset"] == [80, 0, 46]
    assert [type(number) for number in attributes["resolution"]] == [int, int, float]


def test_n5_attributes_are_in_n5_order(tmp_path: Path) -> None:
    create_volume(tmp_path / "cell.n5/raw", voxel_size=(40, 4.6, 4), offset=(80, 46, 0), **SMALL)
    attributes = json.loads((tmp_path / "cell.n5/raw/attributes.json").read_text())
    assert attributes["dimensions"] == [4, 3, 2]
    assert attributes["axes"] == ["x", "y", "z"]
    assert attributes["resolution"] == attributes["pixelResolution"]["dimensions"] == [4, 4.6, 40]
    assert attributes["offset"] == [0, 46, 80]
    assert attributes["units"] == ["nm"] * 3


def test_ome_04_describes_every_array_of_a_group(tmp_path: Path) -> None:
    create_volume(tmp_path / "cell.zarr/volumes/raw", voxel_size=(40, 4.6, 4.6), offset=(80, 0, 46), **SMALL)
    create_volume(
        tmp_path / "cell.zarr/volumes/prob", voxel_size=(1, 1, 1), axes="czyx", shape=(2, 2, 3, 4), dtype="float32"
    )
    create_volume(
        tmp_path / "cell.zarr/volumes/raw", voxel_size=(40, 4.6, 4.6), offset=(80, 0, 46), overwrite=True, **SMALL
    )
    raw, prob = zarr.open_group(str(tmp_path / "cell.zarr/volumes"), mode="r").attrs["multiscales"]
    space = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    assert raw == {
        "version": "0.4",
        "name": "raw",
        "axes": space,
        "datasets": [
            {
                "path": "raw",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [40, 4.6, 4.6]},
                    {"type": "translation", "translation": [80, 0, 46]},
                ],
            }
        ],
    }
    assert prob["axes"] == [{"name": "c", "type": "channel"}, *space]
    assert prob["datasets"][0]["coordinateTransformations"] == [{"type": "scale", "scale": [1, 1, 1, 1]}]


def test_ome_05_is_below_ome_in_zarr_json(tmp_path: Path) -> None:
    create_volume(tmp_path / "cell.zarr/volumes/raw", voxel_size=(8, 8, 8), format="zarr3", **SMALL)
    attributes = json.loads((tmp_path / "cell.zarr/volumes/zarr.json").read_text())["attributes"]
    assert attributes["ome"]["version"] == "0.5"
    assert attributes["ome"]["multiscales"][0]["datasets"][0]["path"] == "raw"
    assert "version" not in attributes["ome"]["multiscales"][0]


def test_a_pyramid_of_another_tool_is_left_alone(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "cell.zarr"), mode="w")
    pyramid = {"version": "0.4", "name": "image", "axes": [], "datasets": [{"path": "s0"}, {"path": "s1"}]}
    group.attrs["multiscales"] = [pyramid]
    create_volume(tmp_path / "cell.zarr/s1", voxel_size=(8, 8, 8), **SMALL)
    create_volume(tmp_path / "cell.zarr/labels", voxel_size=(8, 8, 8), **SMALL)
    found = zarr.open_group(str(tmp_path / "cell.zarr"), mode="r").attrs["multiscales"]
    assert found[0] == pyramid
    assert [image["name"] for image in found] == ["image", "labels"]


def test_voxel_size_is_found_in_ome_metadata(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "theirs"), mode="w")
    group.create_dataset("0", data=np.zeros((1, 1, 2, 3, 4), np.uint8))
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    steps = [
        {"type": "scale", "scale": [1, 1, 0.04, 0.0046, 0.0046]},
        {"type": "translation", "translation": [0, 0, 0.4, 0, 0.046]},
    ]
    group.attrs["multiscales"] = [
        {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    ]
    for volume in (open_volume(tmp_path / "theirs", "0"), open_volume(tmp_path / "theirs/0")):
        assert volume.axes == "zyx"
        assert volume.shape == (2, 3, 4)
        assert (volume.voxel_size, volume.offset) == ((40.0, 4.6, 4.6), (400.0, 0.0, 46.0))


@pytest.mark.parametrize(
    ("attributes", "voxel_size", "offset"),
    [
        ({"resolution": [4, 5, 6], "offset": [40, 50, 60]}, (6, 5, 4), (60, 50, 40)),
        ({"pixelResolution": {"unit": "um", "dimensions": [0.004, 0.005, 0.006]}}, (6, 5, 4), (0, 0, 0)),
        ({"pixelResolution": [0.004, 0.005, 0.006]}, (6, 5, 4), (0, 0, 0)),
        ({"resolution": [4, 5, 6], "units": ["nm", "nm", "um"]}, (6000, 5, 4), (0, 0, 0)),
        (
            {
                "pixelResolution": {"unit": "nm", "dimensions": [4, 4, 5.24]},
                "transform": {
                    "axes": ["z", "y", "x"],
                    "scale": [5.24, 4, 4],
                    "translate": [52.4, 0, 4],
                    "units": ["nm"] * 3,
                },
            },
            (5.24, 4, 4),
            (52.4, 0, 4),
        ),
    ],
)
def test_n5_metadata_of_other_tools(tmp_path: Path, attributes: Any, voxel_size: Any, offset: Any) -> None:
    own = {"dimensions": [4, 3, 2], "blockSize": [4, 3, 2], "dataType": "uint8", "compression": {"type": "raw"}}
    folder = tmp_path / "theirs.n5/em/s0"
    folder.mkdir(parents=True)
    (folder / "attributes.json").write_text(json.dumps({**attributes, **own}))
    volume = open_volume(folder)
    assert volume.shape == (2, 3, 4)
    assert (volume.voxel_size, volume.offset) == (voxel_size, offset)


def test_an_unknown_voxel_size_stays_unknown(tmp_path: Path) -> None:
    zarr.open_array(str(tmp_path / "bare.zarr"), mode="w", shape=(2, 3, 4), dtype="u1", chunks=2)
    volume = open_volume(tmp_path / "bare.zarr")
    assert (volume.voxel_size, volume.offset, volume.roi) == (None, (0, 0, 0), Roi((0, 0, 0), (2, 3, 4)))
    with pytest.raises(
        DataError, match=r'does not give its voxel size: add "resolution": \[z, y, x\] in nm to .*attrs'
    ):
        volume.require_voxel_size()
    assert volume.complete


def test_gunpowder_snapshots_say_voxel_size(tmp_path: Path) -> None:
    array = zarr.open_group(str(tmp_path / "batch.zarr"), mode="w").create_dataset(
        "raw", data=np.zeros((1, 2, 3, 4), "u1")
    )
    array.attrs.update({"voxel_size": [8, 4, 4], "offset": [80, 4, 4]})
    volume = open_volume(tmp_path / "batch.zarr/raw")
    assert (volume.axes, volume.voxel_size, volume.roi) == ("zyx", (8, 4, 4), Roi((10, 1, 1), (2, 3, 4)))


def test_incomplete_data_are_refused_with_the_command_that_goes_on(tmp_path: Path) -> None:
    volume = create_volume(
        tmp_path / "a.zarr/raw", voxel_size=(1, 1, 1), provenance={"command": "python make.py --x 1"}, **SMALL
    )
    assert not volume.complete
    with pytest.raises(DataError, match=r"incomplete, .* finish it with `python make.py --x 1`"):
        open_volume(volume.address)
    assert not open_volume(volume.address, allow_incomplete=True).complete
    volume.mark_complete()
    assert volume.complete
    assert open_volume(volume.address).complete
    assert zarr.open_array(str(volume.address), mode="r").attrs["complete"] is True


@pytest.mark.parametrize(("container", "format_name"), FORMATS)
def test_attributes_are_changed_one_by_one(tmp_path: Path, container: str, format_name: str) -> None:
    first = create_volume(
        tmp_path / container,
        "raw",
        voxel_size=(8, 8, 8),
        attributes={"scale": 255, "note": "a"},
        format=format_name,
        **SMALL,
    )
    second = open_volume(first.address, writable=True, allow_incomplete=True)
    first.update_attributes({"note": "b"})
    second.update_attributes({"complete": True, "threshold": 0.5})
    first.write(np.ones((2, 3, 4), np.uint8))
    found = open_volume(first.address)
    assert {name: found.attributes[name] for name in ("scale", "note", "threshold")} == {
        "scale": 255,
        "note": "b",
        "threshold": 0.5,
    }
    assert found.voxel_size == (8, 8, 8)
    assert found.read().min() == 1
    assert not set(found.attributes) & {"dimensions", "shape", "chunk_grid"}


def test_what_is_there(tmp_path: Path) -> None:
    for container, format_name in FORMATS[1:]:
        create_volume(tmp_path / container, "volumes/raw", voxel_size=(1, 1, 1), format=format_name, **SMALL)
        create_volume(tmp_path / container, "volumes/labels/er", voxel_size=(1, 1, 1), **SMALL)
        assert list_datasets(tmp_path / container) == ["volumes/labels/er", "volumes/raw"]
        assert list_datasets(tmp_path / container / "volumes") == ["labels/er", "raw"]
        assert dataset_exists(tmp_path / container, "volumes/raw")
        assert dataset_exists(tmp_path / container / "volumes/raw")
        assert not dataset_exists(tmp_path / container, "volumes")
        assert not dataset_exists(tmp_path / container, "volumes/rax")
    assert not dataset_exists(tmp_path / "nothing.zarr/raw")
    assert list_datasets(tmp_path / "nothing.zarr") == []


def test_overwriting_is_asked_for(tmp_path: Path, random_volume: Make) -> None:
    volume, _ = random_volume("cell.zarr/volumes/raw")
    options: Any = {"shape": (2, 2, 2), "dtype": "uint16", "voxel_size": (1, 1, 1)}
    with pytest.raises(InputError, match="exists already: add --overwrite"):
        create_volume(volume.address, **options)
    again = create_volume(volume.address, overwrite=True, **options)
    assert again.dtype == np.uint16
    assert not again.complete
    assert again.read().max() == 0
    assert [path.name for path in (tmp_path / "cell.zarr/volumes").iterdir() if "deleted" in path.name] == []
