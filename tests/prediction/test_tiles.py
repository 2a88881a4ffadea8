from dataclasses import replace

import numpy as np
import pytest
import torch

from incasem_like.config import UnetModel
from incasem_like.errors import ConfigError, IncasemError
from incasem_like.networks import build_network, geometry_in_volumes, on_volumes
from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.volumes import Roi

KINDS = [
    *("isotropic", "anisotropic", "transposed", "padded"),
    *("same", "interpolating", "decoders", "exllsm", "hourglass"),
]
SHAPE, BEGIN = (33, 52, 41), (-7, 100, 3)


def predictor(network, input_size):
    return TiledPredictor(network, geometry=network.geometry, input_size=input_size, device=torch.device("cpu"))


def one_shot(network, volume):
    """One forward pass of the whole volume, mirrored as far as the network looks and its sizes need."""
    geometry = network.geometry
    margin = [c + b for c, b in zip(geometry.context, geometry.border, strict=True)]
    size = geometry.input_for_output([s + 2 * b for s, b in zip(SHAPE, geometry.border, strict=True)])
    padded = volume.read(Roi([b - m for b, m in zip(BEGIN, margin, strict=True)], size))
    with torch.no_grad():
        logits = network(torch.from_numpy(padded)[None, None] * 2 - 1)[0]
    z, y, x = geometry.border
    whole = torch.softmax(logits, 0).numpy()
    return whole[:, z : z + SHAPE[0], y : y + SHAPE[1], x : x + SHAPE[2]]


def assembled(tiled, volume, roi):
    result = np.full((3, *roi.shape), np.nan, dtype=np.float32)
    for where, probabilities in tiled.predict(volume.read, roi, BEGIN):
        part = result[(slice(None), *(where - roi.begin).to_slices())]
        assert np.isnan(part).all(), "tiles overlap"
        part[:] = probabilities
    return result


@pytest.fixture(scope="module")
def whole(make_network, mirrored_volume):
    volume = mirrored_volume(SHAPE, BEGIN)
    return {kind: (network := make_network(kind), volume, one_shot(network, volume)) for kind in KINDS}


@pytest.mark.parametrize(
    ("begin", "shape"),
    [
        ((0, 0, 0), SHAPE),  # everything, all edges mirrored
        ((3, 5, 2), (17, 30, 33)),  # begins at no multiple of any stride
        ((32, 51, 40), (1, 1, 1)),  # the last voxel
        ((1, 0, 37), (8, 52, 4)),  # smaller than a tile, at an edge
        ((10, 7, 11), (6, 45, 9)),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_tiled_prediction_is_the_crop_of_the_whole_volumes(whole, kind, begin, shape):
    network, volume, expected = whole[kind]
    geometry = network.geometry
    small = geometry.input_for_output(
        [2 * s + 2 * b + 3 for s, b in zip(geometry.stride, geometry.border, strict=True)]
    )
    roi = Roi([b + o for b, o in zip(BEGIN, begin, strict=True)], shape)

    found = assembled(predictor(network, small), volume, roi)

    crop = tuple(slice(b, b + s) for b, s in zip(begin, shape, strict=True))
    assert expected.std() > 0.01
    assert np.abs(found - expected[(slice(None), *crop)]).max() < 1e-5


def test_a_halo_smaller_than_the_reach_of_padding_leaves_small_seams(make_network, mirrored_volume):
    network, volume, roi = make_network("same"), mirrored_volume(SHAPE, BEGIN), Roi(BEGIN, SHAPE)
    seams = []
    for halo in ((0, 0, 0), (2, 5, 5), network.geometry.border):
        geometry = replace(network.geometry, border=halo)
        size = geometry.input_for_output([4 * s + 2 * b for s, b in zip(geometry.stride, halo, strict=True)])
        tiled = TiledPredictor(network, geometry=geometry, input_size=size, device=torch.device("cpu"))
        seams.append(np.abs(assembled(tiled, volume, roi) - one_shot(network, volume)).max())
    assert seams[0] > 10 * seams[1] > 0
    assert seams[2] < 1e-5


def test_tile_size_changes_no_value(whole):
    network, volume, expected = whole["isotropic"]
    for input_size in [(60, 84, 72), (96, 96, 96)]:
        assert np.abs(assembled(predictor(network, input_size), volume, Roi(BEGIN, SHAPE)) - expected).max() < 1e-5


def test_tiles_off_the_stride_would_show(whole):
    """The test above has teeth: at a shift that is no multiple of the stride the values differ."""
    network, volume, expected = whole["isotropic"]
    wrong = predictor(network, (52, 52, 52)).predict(volume.read, Roi(BEGIN, SHAPE), [b + 1 for b in BEGIN])
    where, probabilities = next(wrong)
    crop = (slice(None), *(where - Roi(BEGIN, SHAPE).begin).to_slices())
    assert np.abs(probabilities - expected[crop]).max() > 1e-3


def test_tiles_cover_the_region_once_and_read_at_multiples_of_the_stride(whole):
    network = whole["anisotropic"][0]
    roi = Roi((4, 107, 9), (20, 33, 40))
    tiles = predictor(network, network.geometry.input_for_output((6, 18, 18))).tiles(roi, BEGIN)
    covered = np.zeros(roi.shape, dtype=int)
    for tile in tiles:
        read, write = tile.read_roi, tile.write_roi
        covered[(write - roi.begin).to_slices()] += 1
        assert network.geometry.is_valid(read.shape)
        shifts = [r + c - b for r, c, b in zip(read.begin, network.geometry.context, BEGIN, strict=True)]
        assert [shift % stride for shift, stride in zip(shifts, network.geometry.stride, strict=True)] == [0, 0, 0]
    assert (covered == 1).all()


def test_network_is_left_in_the_mode_it_was_in(whole):
    network, volume, _ = whole["padded"]
    network.train()
    list(predictor(network, (8, 8, 8)).predict(volume.read, Roi(BEGIN, (4, 4, 4)), BEGIN))
    assert network.training


def test_an_error_while_reading_comes_out(whole):
    network, _, _ = whole["padded"]

    def fail(_):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(predictor(network, (8, 8, 8)).predict(fail, Roi(BEGIN, (4, 4, 4)), BEGIN))


def test_reduced_precision_and_channels_last_stay_near(whole):
    network, volume, _ = whole["isotropic"]
    roi = Roi(BEGIN, (8, 8, 8))
    options = {"geometry": network.geometry, "input_size": (52, 52, 52), "device": torch.device("cpu")}
    plain = np.concatenate([p.ravel() for _, p in TiledPredictor(network, **options).predict(volume.read, roi, BEGIN)])
    for changes, tolerance in [({"channels_last": True}, 1e-5), ({"autocast": torch.bfloat16}, 0.1)]:
        other = TiledPredictor(network, **options, **changes).predict(volume.read, roi, BEGIN)
        found = np.concatenate([p.ravel() for _, p in other])
        assert found.dtype == np.float32
        assert np.abs(found - plain).max() < tolerance


def test_an_input_size_that_the_network_cannot_take_is_refused(make_network):
    with pytest.raises(ConfigError, match=r"nearest it can is \[52, 52, 52\] or \[56, 52, 52\]"):
        predictor(make_network("isotropic"), (54, 52, 52))


def test_tiles_too_small_for_the_stride_are_refused_with_a_size_that_will_do(make_network):
    network = make_network("isotropic")
    roi = Roi((1, 1, 1), (20, 20, 20))
    with pytest.raises(ConfigError, match=r"input_size_voxels to at least \[52, 52, 52\]"):
        predictor(network, network.geometry.smallest_input).tiles(roi, (0, 0, 0))
    assert predictor(network, (52, 52, 52)).tiles(roi, (0, 0, 0))


def test_a_gpu_without_enough_memory_is_one_sentence(make_network, mirrored_volume):
    def full(*inputs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.22 GiB.")

    network = make_network("padded")
    network.register_forward_pre_hook(full)
    with pytest.raises(
        IncasemError, match=r"does not suffice: set prediction\.input_size_voxels .* below \[60, 60, 60\]"
    ):
        assembled(predictor(network, (60, 60, 60)), mirrored_volume(SHAPE, BEGIN), Roi(BEGIN, SHAPE))


@pytest.mark.parametrize("options", [{}, {"augmentation": "mirrors"}])
@pytest.mark.parametrize("batch_size", [2, 100])
def test_tiles_computed_together_are_what_each_is_alone(whole, options, batch_size):
    network, volume, _ = whole["padded"]
    roi = Roi(BEGIN, (9, 12, 12))
    fixed = {"geometry": network.geometry, "input_size": (6, 6, 6), "device": torch.device("cpu")}
    sizes = []
    hook = network.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[0]))
    tiled = TiledPredictor(network, batch_size=batch_size, **fixed, **options)
    found = [
        (tile, part, values) for tile, part, values in tiled.predict_parts(volume.read, tiled.tiles(roi, BEGIN), 3)
    ]
    hook.remove()
    assert max(sizes) == min(batch_size, 18)  # two layers of nine; those of the last layer are smaller
    # Tile after tile, and of each tile from its first plane to its last, as without batches.
    plain = TiledPredictor(network, **fixed, **options)
    expected = list(plain.predict_parts(volume.read, plain.tiles(roi, BEGIN), 3))
    assert [(tile, part) for tile, part, _ in found] == [(tile, part) for tile, part, _ in expected]
    for (_, _, values), (_, _, alone) in zip(found, expected, strict=True):
        assert np.abs(values - alone).max() < 1e-6


@pytest.mark.parametrize("input_size", [(1, 52, 52), (4, 60, 56), (40, 84, 84)])
def test_a_network_on_sections_gives_of_each_what_it_gives_of_it_alone(enliven, mirrored_volume, input_size):
    model = UnetModel(num_fmaps=3, num_fmaps_out=3, downsample_factors=((2, 2), (2, 2)))
    network = enliven(build_network(model))
    volume = mirrored_volume(SHAPE, BEGIN)
    geometry = geometry_in_volumes(network.geometry)
    tiled = TiledPredictor(
        on_volumes(network, network.geometry), geometry=geometry, input_size=input_size, device=torch.device("cpu")
    )
    found = assembled(tiled, volume, Roi(BEGIN, SHAPE))
    margin, size = geometry.context, geometry.input_for_output(SHAPE)
    padded = volume.read(Roi([b - m for b, m in zip(BEGIN, margin, strict=True)], size))
    for section in range(SHAPE[0]):
        with torch.no_grad():
            logits = network.eval()(torch.from_numpy(padded[section])[None, None] * 2 - 1)[0]
        alone = torch.softmax(logits, 0).numpy()[:, : SHAPE[1], : SHAPE[2]]
        assert np.abs(found[:, section] - alone).max() < 1e-5
    assert found.std() > 0.01
