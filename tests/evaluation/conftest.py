"""Small volumes on disk for evaluation."""

import pytest

from incasem_like.volumes import create_volume, open_volume


@pytest.fixture
def make_volume(tmp_path):
    """Write an array as a dataset of ``cell.zarr``; ``begin`` is its first voxel, absolute."""

    def make(dataset, array, begin=(0, 0, 0), voxel_size=(5.0, 5.0, 5.0), chunk_shape=(4, 4, 4), **options):
        offset = tuple(position * size for position, size in zip(begin, voxel_size, strict=True))
        volume = create_volume(
            tmp_path / "cell.zarr",
            dataset,
            shape=array.shape,
            dtype=array.dtype,
            voxel_size=voxel_size,
            offset=offset,
            chunk_shape=chunk_shape,
            **options,
        )
        volume.write(array)
        volume.mark_complete()
        return open_volume(tmp_path / "cell.zarr", dataset)

    return make
