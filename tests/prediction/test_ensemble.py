"""The mean of several networks, tile by tile: of one it is that one, of two the mean of what each gives alone."""

import numpy as np
import pytest
import torch

from incasem_like.prediction.computing.tiles import EnsemblePredictor, TiledPredictor
from incasem_like.volumes import Roi

ROI = Roi((12, -18, 3), (25, 30, 28))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def volume(mirrored_volume):
    return mirrored_volume((40, 44, 36), (10, -20, 0))


@pytest.fixture(scope="module")
def predictor(make_network):
    def make(kind, output_size, **options):
        network = make_network(kind)
        size = network.geometry.input_for_output(output_size)
        return TiledPredictor(network, geometry=network.geometry, input_size=size, device=CPU, **options)

    return make


def whole(predictor, volume, roi=ROI):
    """Put the parts of all tiles together; each voxel is written once."""
    tiles = predictor.tiles(roi, volume.begin)
    found = None
    for _, part, probabilities in predictor.predict_parts(volume.read, tiles, 8):
        if found is None:
            found = np.full((len(probabilities), *roi.shape), np.nan, dtype=np.float32)
        at = (slice(None), *(part - roi.begin).to_slices())
        assert np.isnan(found[at]).all()
        found[at] = probabilities
    assert not np.isnan(found).any()
    return found


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_of_one_network_it_is_what_that_network_gives(predictor, volume, weight):
    alone = predictor("isotropic", (20, 20, 20))
    np.testing.assert_array_equal(whole(EnsemblePredictor([alone], [weight]), volume), whole(alone, volume))


def test_of_two_equal_tilings_it_is_the_mean_of_both_to_the_last_bit(predictor, volume):
    first, second = predictor("isotropic", (20, 20, 20)), predictor("isotropic", (20, 20, 20))
    with torch.no_grad():
        for parameter in second.network.parameters():
            parameter.mul_(0.7)
    expected = (whole(first, volume).astype(np.float64) * 3 + whole(second, volume)) / 4
    assert np.abs(whole(first, volume) - whole(second, volume)).max() > 0.01
    found = whole(EnsemblePredictor([first, second], [3.0, 1.0]), volume)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_networks_of_different_strides_contexts_and_tiles_are_averaged_voxel_by_voxel(predictor, volume):
    members = [
        predictor("isotropic", (20, 20, 20)),
        predictor("anisotropic", (10, 24, 24)),
        predictor("transposed", (13, 13, 13)),
    ]
    expected = np.mean([whole(member, volume).astype(np.float64) for member in members], axis=0)
    for order in ([0, 1, 2], [2, 0, 1]):
        found = whole(EnsemblePredictor([members[index] for index in order], [1.0] * 3), volume)
        assert np.abs(found - expected).max() < 1e-6


def test_a_part_of_the_region_is_what_it_is_in_the_whole(predictor, volume):
    ensemble = EnsemblePredictor([predictor("isotropic", (20, 20, 20)), predictor("transposed", (13, 13, 13))], [1, 1])
    part = Roi((19, -11, 8), (9, 13, 7))
    inside = (slice(None), *(part - ROI.begin).to_slices())
    assert np.abs(whole(ensemble, volume, part) - whole(ensemble, volume)[inside]).max() < 1e-6


def test_positions_are_averaged_for_each_network(predictor, volume):
    members = [
        predictor(kind, size, augmentation="mirrors")
        for kind, size in (("isotropic", (20, 20, 20)), ("anisotropic", (22, 22, 22)))
    ]
    expected = np.mean([whole(member, volume).astype(np.float64) for member in members], axis=0)
    assert np.abs(whole(EnsemblePredictor(members, [1, 1]), volume) - expected).max() < 1e-6
