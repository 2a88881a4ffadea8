"""Test-time augmentation against the average over the whole volume in every position."""

import numpy as np
import pytest
import torch

from incasem_like.config import ModelConfig
from incasem_like.errors import ConfigError
from incasem_like.networks import build_network
from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.prediction.computing.tiling import Variant, geometry_for, variants_for
from incasem_like.volumes import Roi

SHAPE, BEGIN = (14, 18, 12), (5, -3, 8)


@pytest.fixture(scope="module")
def odd_network(enliven):
    """A network that takes off 13 voxels along each axis, an odd number."""
    values = {"num_fmaps": 3, "num_fmaps_out": 3, "downsample_factors": [[2, 2, 2]]}
    kernels = {"kernel_size_down": [[[2, 2, 2]], [[3, 3, 3]]], "kernel_size_up": [[[4, 4, 4], [3, 3, 3]]]}
    network = enliven(build_network(ModelConfig.model_validate(values | kernels)))
    assert all(lost % 2 for lost in network.geometry.lost)
    return network


def whole_average(network, volume, variants):
    """The whole volume with ample mirrored rim, predicted at once in each position, put back and averaged."""
    geometry = network.geometry
    margin = [-(-(lost + 2) // stride) * stride for lost, stride in zip(geometry.lost, geometry.stride, strict=True)]
    # A valid size, from which it begins at a multiple of the stride before the volume's own begin.
    begin = [b - c - m for b, c, m in zip(BEGIN, geometry.context, margin, strict=True)]
    size = geometry.input_for_output([s + 3 * m for s, m in zip(SHAPE, margin, strict=True)])
    raw = torch.from_numpy(volume.read(Roi(begin, size)))[None, None] * 2 - 1
    total = 0
    for variant in variants:
        with torch.no_grad():
            values = torch.softmax(network(variant.apply(raw))[0], 0)
        values = variant.revert(values).numpy()
        # Where the output lies in the tile: in front the context, mirrored what is behind it.
        z, y, x = variant.flipped
        flipped = (z, x, y) if variant.transposed else (z, y, x)
        at = [m - (lost % 2 if flip else 0) for m, lost, flip in zip(margin, geometry.lost, flipped, strict=True)]
        total = total + values[(slice(None), *(slice(a, a + s) for a, s in zip(at, SHAPE, strict=True)))]
    return total / len(variants)


@pytest.mark.parametrize(("kind", "augmentation", "count"), [
    ("transposed", "mirrors", 8),
    ("anisotropic", "mirrors", 8),
    ("padded", "mirrors", 8),
    ("odd", "mirrors_and_transposes", 16),
])  # fmt: skip
def test_tiles_averaged_over_positions_are_the_whole_volume_averaged(
    make_network, odd_network, mirrored_volume, kind, augmentation, count
):
    network = odd_network if kind == "odd" else make_network(kind)
    volume = mirrored_volume(SHAPE, BEGIN)
    variants = variants_for(augmentation, network.geometry)
    assert len(set(variants)) == count
    expected = whole_average(network, volume, variants)
    geometry = geometry_for(augmentation, network.geometry)
    small = geometry.input_for_output(
        [3 * s + 2 * b + 3 for s, b in zip(geometry.stride, geometry.border, strict=True)]
    )
    tiled = TiledPredictor(
        network, geometry=network.geometry, input_size=small, device=torch.device("cpu"), augmentation=augmentation
    )
    roi = Roi([b + o for b, o in zip(BEGIN, (3, 0, 5), strict=True)], (9, 8, 6))
    for where, probabilities in tiled.predict(volume.read, roi, BEGIN):
        crop = (where - Roi(BEGIN, SHAPE).begin).to_slices()
        assert np.abs(probabilities - expected[(slice(None), *crop)]).max() < 1e-5
    assert np.allclose(expected.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize(
    "variant",
    [Variant((True, False, False)), Variant((False, True, False), True), Variant((True, True, True), True)],
)
def test_a_position_is_undone_and_says_where_a_part_went(variant):
    volume = torch.arange(4 * 5 * 6.0).reshape(1, 4, 5, 6)
    turned = variant.apply(volume)
    assert torch.equal(variant.revert(turned), volume)
    begin, size = variant.place((1, 2, 3), (2, 2, 1), (4, 5, 6))
    part = turned[(slice(None), *(slice(b, b + s) for b, s in zip(begin, size, strict=True)))]
    assert torch.equal(variant.revert(part), volume[:, 1:3, 2:4, 3:4])


def test_a_network_that_tells_y_from_x_is_not_transposed(enliven):
    model = ModelConfig.model_validate({"num_fmaps": 2, "downsample_factors": [[1, 2, 1]]})
    network = build_network(model)
    with pytest.raises(ConfigError, match="set it to mirrors"):
        variants_for("mirrors_and_transposes", network.geometry)
    assert len(variants_for("mirrors", network.geometry)) == 8
