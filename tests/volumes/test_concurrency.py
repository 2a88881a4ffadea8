"""Several processes at one container: nothing that one writes is lost by another."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from incasem_like.volumes import Roi, create_volume, open_volume


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("forkserver")) as executor:
        yield executor


def test_arrays_made_at_the_same_time_are_all_in_the_groups_metadata(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    names = [f"class_{number}" for number in range(9)]
    options = {"shape": (2, 2, 2), "dtype": "uint8", "voxel_size": (1, 1, 1)}
    made = [pool.submit(create_volume, tmp_path / "cell.zarr", f"volumes/{name}", **options) for name in names]
    assert all(future.result(60).shape == (2, 2, 2) for future in made)
    images = zarr.open_group(str(tmp_path / "cell.zarr/volumes"), mode="r").attrs["multiscales"]
    assert sorted(image["name"] for image in images) == names


def test_attributes_changed_at_the_same_time_are_all_kept(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    volume = create_volume(tmp_path / "cell.zarr/raw", shape=(2, 2, 2), dtype="uint8", voxel_size=(1, 1, 1))
    for future in [pool.submit(volume.update_attributes, {f"note {number}": number}) for number in range(20)]:
        future.result(60)
    attributes = open_volume(volume.address, allow_incomplete=True).attributes
    assert [attributes[f"note {number}"] for number in range(20)] == list(range(20))


@pytest.mark.parametrize("format_name", ["zarr2", "zarr3", "n5"])
def test_parts_of_one_chunk_written_at_the_same_time_are_merged(
    pool: ProcessPoolExecutor, tmp_path: Path, format_name: str
) -> None:
    volume = create_volume(
        tmp_path / "cell", "raw", shape=(12, 8, 8), dtype="uint8", voxel_size=(1, 1, 1), format=format_name
    )
    sections = [np.full((1, 8, 8), number + 1, np.uint8) for number in range(12)]
    written = [pool.submit(volume.write, array, Roi((z, 0, 0), (1, 8, 8))) for z, array in enumerate(sections)]
    for future in written:
        future.result(60)
    assert np.array_equal(volume.read(), np.concatenate(sections))
