from dataclasses import replace

import pytest
import torch

from incasem_like.config import UnetModel
from incasem_like.networks import build_network, forward_maps, network_geometry
from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.prediction.outputs import chunk_shape_for, fills_chunks
from incasem_like.prediction.planning.memory import MOST_HOST_BYTES_BESIDE_GPU, TileMemory
from incasem_like.prediction.planning.tile_size import (
    MOST_SECONDS_PER_TILE,
    UNMEASURED,
    TileSpeed,
    choose_input_size,
    describe_input_size,
    measurable_sizes,
)
from incasem_like.volumes import Roi

GIB = 2**30
ORIGIN = (0, 0, 0)
# A network of 32 maps that keeps all of them at once, and one that is run in slabs.
WHOLE = TileMemory(32, 1, 2, 1, forward_maps(UnetModel()), whole=True, stride=8, lost=94)
STREAMED = TileMemory(32, 1, 2, 1, None, whole=False, stride=8, lost=94)


@pytest.fixture(scope="module")
def geometry():
    return network_geometry(UnetModel())


@pytest.fixture(scope="module")
def tiles():
    with torch.device("meta"):
        network = build_network(UnetModel())

    def made(input_size, roi):
        tiled = TiledPredictor(network, geometry=network.geometry, input_size=input_size, device=torch.device("cpu"))
        return tiled.tiles(roi, ORIGIN)

    return made


def region(edge, begin=7):
    return Roi((begin,) * 3, (edge,) * 3)


def choose(geometry, roi, gib, memory=WHOLE, speed=UNMEASURED):
    return choose_input_size(geometry, roi, ORIGIN, memory, gib * GIB, speed)


def test_more_memory_means_less_work(geometry):
    choices = [choose(geometry, region(600), gib) for gib in (1, 4, 16)]
    assert [choice.read for choice in choices] == sorted((choice.read for choice in choices), reverse=True)
    assert all(geometry.is_valid(choice.input_size) for choice in choices)


def test_on_a_gpu_no_tensor_has_more_values_than_cuda_counts(geometry):
    """96 maps come together at full resolution, so that a tile has 281 voxels along each axis at most."""
    on_gpu = replace(WHOLE, on_gpu=True)
    z, y, x = choose(geometry, region(600), 1000, on_gpu).input_size
    assert 0.5 * 2**31 < z * y * x * 96 < 2**31
    assert list(measurable_sizes(geometry, replace(on_gpu, batch_size=10**6), 1e18, 1e18)) == []
    z, y, x = choose(geometry, region(600), 1000).input_size
    assert z * y * x * 96 > 2**31


def test_memory_bounds_the_tile_and_slabs_allow_larger_ones(geometry):
    whole, streamed = choose(geometry, region(600), 2), choose(geometry, region(600), 2, STREAMED)
    assert max(whole.bytes, streamed.bytes) <= 2 * GIB
    assert streamed.read < 0.8 * whole.read


@pytest.mark.parametrize("roi", [region(300), region(301, begin=5), Roi((7, 7, 7), (40, 500, 130))])
@pytest.mark.parametrize("gib", [1, 3])
def test_what_is_said_of_a_choice_is_so(geometry, tiles, roi, gib):
    choice = choose(geometry, roi, gib)
    made = tiles(choice.input_size, roi)
    assert choice.tiles == len(made)
    assert choice.read == sum(tile.read_roi.size for tile in made)
    assert choice == describe_input_size(geometry, roi, ORIGIN, WHOLE, choice.input_size)


def test_chosen_tile_takes_no_longer_than_any_cube_in_the_bound(geometry):
    roi = region(300)
    best = choose(geometry, roi, 8).seconds(UNMEASURED, roi.size)
    cubes = [describe_input_size(geometry, roi, ORIGIN, WHOLE, (size,) * 3) for size in range(116, 260, 8)]
    assert best <= min(cube.seconds(UNMEASURED, roi.size) for cube in cubes if cube.bytes <= 8 * GIB)


def test_a_small_region_gets_one_small_tile(geometry):
    # 20 voxels and the 94 of the context, which begin at a multiple of 8 or up to 7 voxels behind it.
    assert choose(geometry, region(20, begin=8), 64).input_size == (124, 124, 124)
    assert choose(geometry, region(20, begin=7), 64).input_size == (132, 132, 132)


def test_without_enough_memory_the_smallest_usable_tile_is_chosen(geometry):
    assert choose(geometry, region(600), 1e-9).input_size == (116, 116, 116)


def test_tiles_that_take_minutes_are_made_smaller(geometry):
    slow = TileSpeed(1e-5, 3e-5)
    choice = choose(geometry, region(1000), 16, STREAMED, slow)
    assert choice.seconds(slow, 1000**3) / choice.tiles <= MOST_SECONDS_PER_TILE
    assert choice.tiles > choose(geometry, region(1000), 16, STREAMED).tiles


def test_tiles_of_a_choice_fill_whole_chunks(geometry, tiles):
    for edge in (333, 601, 1000):
        roi = region(edge)
        choice = choose(geometry, roi, 2, STREAMED)
        steps = tiles(choice.input_size, roi)[0].write_roi.shape
        chunks = chunk_shape_for(steps, roi.shape)
        assert all(step >= edge or step % chunk == 0 for step, chunk in zip(steps, chunks, strict=True))
    assert fills_chunks(8)
    assert fills_chunks(128)
    assert not fills_chunks(131)


def test_beside_a_gpu_the_hosts_memory_bounds_the_tile_too(geometry):
    gpu = replace(WHOLE, on_gpu=True)
    ample, bounded = choose(geometry, region(1000), 200), choose(geometry, region(1000), 200, gpu)
    assert bounded.host_bytes <= MOST_HOST_BYTES_BESIDE_GPU < float(gpu.host_bytes(*map(float, ample.input_size)))
    assert bounded.bytes < ample.bytes
    assert ample.host_bytes == 0
    assert bounded == describe_input_size(geometry, region(1000), ORIGIN, gpu, bounded.input_size)


def test_no_worker_waits_while_the_others_predict(geometry):
    alone, crowd = (
        choose_input_size(geometry, region(600), ORIGIN, STREAMED, 16 * GIB, UNMEASURED, workers) for workers in (1, 8)
    )
    assert alone.tiles == 1
    assert crowd.tiles >= 8
    # What counts is when the last worker is ready: fewer tiles would leave some of them without one.
    assert crowd.read * -(-crowd.tiles // 8) / crowd.tiles < alone.read
