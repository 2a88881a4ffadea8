import pytest
import torch

from incasem_like.config import ModelConfig
from incasem_like.networks import build_network, network_geometry
from incasem_like.prediction.tile_size import BYTES_PER_VOXEL_AND_MAP, UsableMemory, choose_input_size, usable_memory
from incasem_like.prediction.tiles import TiledPredictor
from incasem_like.volumes import Roi

GIB = 2**30


@pytest.fixture(scope="module")
def default_model():
    return ModelConfig()


def read_voxels(model, input_size, shape):
    with torch.device("meta"):
        network = build_network(model)
    tiled = TiledPredictor(network, geometry=network.geometry, input_size=input_size, device=torch.device("cpu"))
    return sum(read.size for read, _ in tiled.tiles(Roi((7, 7, 7), shape), (0, 0, 0)))


def region(edge, begin=7):
    return Roi((begin,) * 3, (edge,) * 3)


def test_more_memory_means_less_work(default_model):
    geometry = network_geometry(default_model)
    shape = (600, 600, 600)
    sizes = [
        choose_input_size(geometry, Roi((7, 7, 7), shape), (0, 0, 0), 32, UsableMemory(memory * GIB, float("inf")))
        for memory in (1, 4, 16)
    ]
    work = [read_voxels(default_model, size, shape) for size in sizes]
    assert work == sorted(work, reverse=True)
    assert all(geometry.is_valid(size) for size in sizes)


def test_memory_bounds_the_tile(default_model):
    size = choose_input_size(
        network_geometry(default_model), region(600), (0, 0, 0), 32, UsableMemory(2 * GIB, float("inf"))
    )
    assert size[0] * size[1] * size[2] * 32 * BYTES_PER_VOXEL_AND_MAP <= 2 * GIB


def test_chosen_tile_is_as_cheap_as_the_cheapest_of_all_cubes_in_the_bound(default_model):
    geometry = network_geometry(default_model)
    shape = (300, 300, 300)
    chosen = read_voxels(
        default_model,
        choose_input_size(geometry, Roi((7, 7, 7), shape), (0, 0, 0), 32, UsableMemory(8 * GIB, float("inf"))),
        shape,
    )
    largest_cube = int((8 * GIB / 32 / BYTES_PER_VOXEL_AND_MAP) ** (1 / 3))
    cubes = [read_voxels(default_model, (size,) * 3, shape) for size in range(116, largest_cube + 1, 8)]
    assert chosen <= min(cubes)


def test_a_small_region_gets_one_small_tile(default_model):
    geometry = network_geometry(default_model)
    # 20 voxels and the 94 of the context, which begin at a multiple of 8 or up to 7 voxels behind it.
    assert choose_input_size(geometry, region(20, begin=8), (0, 0, 0), 32, UsableMemory(64 * GIB, float("inf"))) == (
        124,
        124,
        124,
    )
    assert choose_input_size(geometry, region(20, begin=7), (0, 0, 0), 32, UsableMemory(64 * GIB, float("inf"))) == (
        132,
        132,
        132,
    )


def test_without_enough_memory_the_smallest_usable_tile_is_chosen(default_model):
    assert choose_input_size(network_geometry(default_model), region(600), (0, 0, 0), 32, UsableMemory(1, 1)) == (
        116,
        116,
        116,
    )


def test_comfort_bounds_the_tile_long_before_the_limit(default_model):
    geometry = network_geometry(default_model)
    sizes = [
        choose_input_size(geometry, region(1000), (0, 0, 0), 32, UsableMemory(1000 * GIB, comfortable * GIB))[0]
        for comfortable in (1, 4, 1000)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < 260 < sizes[2]


def test_memory_of_this_machine_is_found():
    memory = usable_memory(torch.device("cpu"))
    assert 2**20 < memory.limit < 2**50
