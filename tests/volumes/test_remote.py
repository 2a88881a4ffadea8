"""Volumes behind a web server."""

import socket
import time
from collections.abc import Callable

import h5py
import numpy as np
import pytest

from incasem_like.errors import DataError, InputError
from incasem_like.volumes import Roi, Volume, create_volume, dataset_exists, list_datasets, open_volume

Make = Callable[..., tuple[Volume, np.ndarray]]


@pytest.mark.parametrize(
    ("container", "format_name"), [("cell.zarr", "zarr2"), ("cell.zarr", "zarr3"), ("cell.n5", "n5")]
)
def test_a_volume_is_read_through_a_web_server(
    random_volume: Make, served: str, container: str, format_name: str
) -> None:
    local, voxels = random_volume(f"{container}/volumes/raw", offset=(80, 0, 46), format=format_name)
    for volume in (
        open_volume(f"{served}/{container}/volumes/raw"),
        open_volume(f"{served}/{container}", "volumes/raw"),
    ):
        assert np.array_equal(volume.read(), voxels)
        assert (volume.roi, volume.voxel_size) == (local.roi, local.voxel_size)
        assert volume.attributes == local.attributes
        assert np.array_equal(volume.read(Roi((3, 1, 12), (2, 2, 2))), voxels[1:3, 1:3, 2:4])
    assert dataset_exists(f"{served}/{container}/volumes/raw")
    assert list_datasets(f"{served}/{container}") == []


def test_neuroglancers_prefix_is_understood(random_volume: Make, served: str) -> None:
    _, voxels = random_volume()
    assert np.array_equal(open_volume(f"zarr://{served}/cell.zarr/volumes/raw").read(), voxels)


def test_what_is_not_there_or_cannot_be_written(random_volume: Make, served: str) -> None:
    random_volume()
    assert not dataset_exists(f"{served}/cell.zarr/volumes/labels")
    with pytest.raises(DataError, match="holds no dataset volumes/labels: check the path"):
        open_volume(f"{served}/cell.zarr/volumes/labels")
    with pytest.raises(InputError, match="reached by HTTP, which is only read"):
        open_volume(f"{served}/cell.zarr/volumes/raw", writable=True)
    with pytest.raises(InputError, match="reached by HTTP, which is only read"):
        create_volume(f"{served}/cell.zarr/labels", shape=(2, 2, 2), dtype="uint8", voxel_size=(1, 1, 1))


def test_a_server_that_does_not_answer_is_said_soon() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(DataError, match=r"cannot be reached \(.*onnect.*\): check the address"):
        open_volume(f"http://127.0.0.1:{port}/cell.zarr/volumes/raw")
    assert time.monotonic() - start < 30


def test_hdf5_over_http(served, tmp_path):
    voxels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("volumes/raw", data=voxels).attrs["resolution"] = (40, 4, 4)
    volume = open_volume(f"{served}/c.h5/volumes/raw")
    assert np.array_equal(volume.read(), voxels)
    assert volume.voxel_size == (40, 4, 4)
    with pytest.raises(DataError, match=r"absent\.h5"):
        open_volume(f"{served}/absent.h5/raw")
    with pytest.raises(InputError, match="download it first"):
        open_volume(f"{served}/absent.mrc")
