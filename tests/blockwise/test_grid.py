"""Blocks tile the region, own whole chunks, and keep their numbers."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incasem_like.blockwise import block_grid
from incasem_like.blockwise.grid import BlockGrid
from incasem_like.errors import DataError, InputError
from incasem_like.volumes import Coordinate, Roi, Volume, create_volume

triples = st.tuples(*[st.integers(1, 9)] * 3)


@given(data=st.data(), shape=triples, step=triples, origin=st.tuples(*[st.integers(-20, 20)] * 3))
def test_blocks_tile_the_region_and_share_no_step(data: st.DataObject, shape: Any, step: Any, origin: Any) -> None:
    begin = [data.draw(st.integers(0, size - 1)) for size in shape]
    length = [data.draw(st.integers(1, size - start)) for size, start in zip(shape, begin, strict=True)]
    roi = Roi(begin, length) + Coordinate(origin)
    grid = BlockGrid(Coordinate(origin), Coordinate(step), Coordinate((0, 0, 0)), roi)
    counted = np.zeros(shape, int)
    owner = np.full([-(-size // part) for size, part in zip(shape, step, strict=True)], -1)
    for number in range(len(grid)):
        block = grid.write_roi(number)
        inside = block - Coordinate(origin)
        counted[inside.to_slices()] += 1
        cells = tuple(slice(b // s, (e - 1) // s + 1) for b, e, s in zip(inside.begin, inside.end, step, strict=True))
        assert (owner[cells] == -1).all()
        owner[cells] = number
    expected = np.zeros(shape, int)
    expected[(roi - Coordinate(origin)).to_slices()] = 1
    assert np.array_equal(counted, expected)


@pytest.fixture
def output(tmp_path: Path) -> Volume:
    return create_volume(
        tmp_path / "a.zarr/raw",
        shape=(20, 20, 20),
        dtype="uint8",
        voxel_size=(4, 4, 4),
        offset=(12, 0, 0),
        chunk_shape=(8, 6, 5),
    )


def test_block_sizes_are_rounded_up_to_whole_chunks(output: Volume) -> None:
    grid = block_grid(output, (9, 6, 1), (2, 0, 1), None)
    assert grid.step == (16, 6, 5)
    assert grid.origin == (3, 0, 0)
    assert len(grid) == 2 * 4 * 4
    assert grid.read_roi(Roi((3, 0, 0), (16, 6, 5))) == Roi((1, 0, -1), (20, 6, 7))


def test_shards_are_what_blocks_are_made_of(tmp_path: Path) -> None:
    sharded = create_volume(
        tmp_path / "a.zarr/raw", shape=(3, 20, 20, 20), dtype="uint8", voxel_size=(4, 4, 4), axes="czyx",
        format="zarr3", chunk_shape=(4, 4, 4), shard_shape=(8, 8, 8),
    )  # fmt: skip
    assert block_grid(sharded, (4, 4, 4), (0, 0, 0), None).step == (8, 8, 8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(position=st.tuples(*[st.integers(0, 12)] * 3))
def test_a_block_owns_its_chunks_whatever_the_region(output: Volume, position: Any) -> None:
    roi = Roi(output.roi.begin + Coordinate(position), (7, 7, 7))
    chunks: dict[tuple[int, ...], int] = {}
    grid = block_grid(output, (8, 6, 5), (0, 0, 0), roi)
    for number in range(len(grid)):
        block = grid.write_roi(number)
        for voxel in itertools.product(*(range(size) for size in block.shape)):
            index = Coordinate(voxel) + block.begin - output.roi.begin
            chunk = tuple(at // size for at, size in zip(index, (8, 6, 5), strict=True))
            assert chunks.setdefault(chunk, number) == number


def test_what_does_not_fit_is_refused(output: Volume) -> None:
    with pytest.raises(DataError, match=r"covers z 3-22, .* but z 0-9"):
        block_grid(output, (8, 8, 8), (0, 0, 0), Roi((0, 0, 0), (10, 10, 10)))
    with pytest.raises(DataError, match="to be processed"):
        block_grid(output, (8, 8, 8), (0, 0, 0), Roi((3, 0, 0), (0, 10, 10)))
    with pytest.raises(InputError, match="needs 3 positive numbers for the block shape"):
        block_grid(output, (8, 8), (0, 0, 0), None)
    with pytest.raises(InputError, match="needs 3 positive numbers for the block shape"):
        block_grid(output, (8, 8, 8), (0, 0, -1), None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(begin=st.tuples(*[st.integers(0, 12)] * 3), shape=st.tuples(*[st.integers(1, 7)] * 3))
def test_blocks_fill_their_region_once_and_their_voxels_are_counted(output: Volume, begin: Any, shape: Any) -> None:
    roi = Roi(output.roi.begin + Coordinate(begin), shape)
    grid = block_grid(output, (8, 6, 5), (0, 0, 0), roi)
    filled = np.zeros(output.spatial_shape, int)
    sizes = []
    for number in range(len(grid)):
        block = grid.write_roi(number)
        filled[(block - output.roi.begin).to_slices()] += 1
        sizes.append(block.size)
    expected = np.zeros_like(filled)
    expected[(roi - output.roi.begin).to_slices()] = 1
    assert np.array_equal(filled, expected)
    assert [grid.voxels([number]) for number in range(len(grid))] == sizes
    assert grid.voxels(range(len(grid))) == roi.size
    assert grid.voxels([]) == 0


def test_outputs_with_chunks_of_their_own_share_blocks(tmp_path: Path) -> None:
    def made(name: str, chunks: tuple[int, ...], shape: tuple[int, ...] = (40, 40, 40)) -> Volume:
        return create_volume(
            tmp_path / "a.zarr" / name, shape=shape, dtype="uint8", voxel_size=(4, 4, 4), chunk_shape=chunks
        )

    first, second = made("first", (8, 8, 8)), made("second", (12, 4, 8))
    assert block_grid((first, second), (8, 8, 8), (0, 0, 0), None).step == (24, 8, 8)
    with pytest.raises(InputError, match="must cover the same voxels"):
        block_grid((first, made("other", (8, 8, 8), (40, 40, 41))), (8, 8, 8), (0, 0, 0), None)
