"""Small volumes on disk for segmentation."""

import pytest

from incasem_like.volumes import create_volume, open_volume


@pytest.fixture
def make_volume(tmp_path):
    """Write an array as a dataset of ``cell.zarr``; ``begin`` is its first voxel, absolute."""

    def make(dataset, array, begin=(0, 0, 0), voxel_size=(4.6, 4.0, 4.0), **options):
        volume = create_volume(
            tmp_path / "cell.zarr",
            dataset,
            shape=array.shape,
            dtype=array.dtype,
            voxel_size=voxel_size,
            offset=tuple(position * size for position, size in zip(begin, voxel_size, strict=True)),
            chunk_shape=(4, 4, 4),
            **options,
        )
        volume.write(array)
        volume.mark_complete()
        return open_volume(tmp_path / "cell.zarr", dataset)

    return make
