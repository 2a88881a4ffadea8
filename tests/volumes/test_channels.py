"""Channels and time points of others: a lone one is left out, of several one is chosen behind the name."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr

from incasem_like.errors import DataError, InputError
from incasem_like.volumes import create_volume, open_volume, parse_address

VOXELS = np.random.default_rng(0).integers(1, 255, (3, 2, 4, 5, 6), np.uint8)  # tczyx


def write(path: Path, voxels: np.ndarray, axes: str) -> None:
    array = zarr.open_array(str(path), mode="w", shape=voxels.shape, dtype="u1", chunks=2)
    array[:] = voxels
    array.attrs["_ARRAY_DIMENSIONS"] = list(axes)


@pytest.mark.parametrize(
    ("axes", "voxels"),
    [
        ("czyx", VOXELS[0, :1]),
        ("tczyx", VOXELS[:1, :1]),
        ("tzyx", VOXELS[:1, 0]),
        ("zyxc", np.moveaxis(VOXELS[0, :1], 0, -1)),
    ],
)
def test_a_lone_channel_or_time_point_is_left_out(tmp_path: Path, axes: str, voxels: np.ndarray) -> None:
    write(tmp_path / "c.zarr/raw", voxels, axes)
    volume = open_volume(tmp_path / "c.zarr/raw")
    assert (volume.axes, volume.shape) == ("zyx", (4, 5, 6))
    assert np.array_equal(volume.read(), VOXELS[0, 0])


def test_of_several_one_is_chosen_behind_the_name(tmp_path: Path) -> None:
    write(tmp_path / "c.zarr/raw", VOXELS, "tczyx")
    for address in (f"{tmp_path}/c.zarr/raw@t=2,c=1", f"{tmp_path}/c.zarr/raw@c=1,t=2"):
        volume = open_volume(address)
        assert np.array_equal(volume.read(), VOXELS[2, 1])
    other = open_volume(tmp_path / "c.zarr", "raw@t=2,c=0")
    assert np.array_equal(other.read(), VOXELS[2, 0])
    assert other.content_hash != volume.content_hash
    assert np.array_equal(open_volume(str(other.address)).read(), VOXELS[2, 0])
    assert np.array_equal(pickle.loads(pickle.dumps(other)).read(), VOXELS[2, 0])
    assert other.address.location == str(tmp_path / "c.zarr/raw")


def test_a_choice_that_is_missing_or_wrong_is_said(tmp_path: Path) -> None:
    write(tmp_path / "c.zarr/raw", VOXELS, "tczyx")
    with pytest.raises(DataError, match=r"has 3 time points .* from raw@t=0 to raw@t=2"):
        open_volume(tmp_path / "c.zarr/raw")
    with pytest.raises(DataError, match="names t=3, but the array has 3 of them"):
        open_volume(tmp_path / "c.zarr/raw@t=3")
    volume = open_volume(tmp_path / "c.zarr/raw@t=0")
    assert volume.axes == "czyx"
    with pytest.raises(DataError, match="one channel is needed: choose one as raw@c=0 to raw@c=1"):
        volume.require_zyx()
    write(tmp_path / "c.zarr/plain", VOXELS[0, 0], "zyx")
    with pytest.raises(DataError, match=r"names c=0, but the array has the axes z, y, x"):
        open_volume(tmp_path / "c.zarr/plain@c=0")


def test_nothing_is_written_through_a_choice(tmp_path: Path) -> None:
    write(tmp_path / "c.zarr/raw", VOXELS[0], "czyx")
    with pytest.raises(InputError, match="without '@'"):
        open_volume(tmp_path / "c.zarr/raw@c=0", writable=True)
    with pytest.raises(InputError, match="without '@'"):
        create_volume(tmp_path / "c.zarr/new@c=0", shape=(2, 2, 2), dtype="u1", voxel_size=(1, 1, 1))


def test_what_is_written_keeps_its_lone_channel(tmp_path: Path) -> None:
    volume = create_volume(tmp_path / "c.zarr/raw", shape=(1, 2, 2, 2), axes="czyx", dtype="u1", voxel_size=(1, 1, 1))
    volume.write(np.ones((1, 2, 2, 2), np.uint8))
    volume.mark_complete()
    assert volume.axes == "czyx"
    assert open_volume(tmp_path / "c.zarr/raw").axes == "zyx"


@pytest.mark.parametrize("name", ["mail@lab.zarr/raw", "c.zarr/raw@c", "c.zarr/a@c=x", "user@c=1/c.zarr/raw"])
def test_other_names_with_an_at_sign_are_names(tmp_path: Path, name: str) -> None:
    address: Any = parse_address(tmp_path / name)
    assert (str(address), address.selection) == (str(tmp_path / name), ())


def test_channels_of_a_precomputed_volume_are_chosen(tmp_path: Path) -> None:
    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": f"file://{tmp_path}/two", "create": True,
        "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 2},
        "scale_metadata": {"size": [6, 5, 4], "resolution": [4, 4, 40], "chunk_size": [4, 4, 4], "encoding": "raw"},
    }  # fmt: skip
    tensorstore.open(spec).result()[...] = VOXELS[0].transpose(3, 2, 1, 0)
    assert np.array_equal(open_volume(f"{tmp_path}/two@c=1").read(), VOXELS[0, 1])
