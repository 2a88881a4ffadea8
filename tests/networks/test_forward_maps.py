"""The memory of a forward pass, against sums of the feature maps that exist at the same time."""

import pytest

from incasem_like.config import ModelConfig
from incasem_like.networks import forward_maps

# Maps at full resolution; those of a level below count an eighth of their number each.
# The most exist where the decoder joins the finest level: skipped, up-sampled, and both joined, with input and bottom;
# or, of many channels, where the last convolution reads the decoded maps.
MODELS = {
    "incasem": ({}, 1 + 64 / 8 + 32 + 64 + 96, 96),
    "widening": ({"num_fmaps": 12, "fmap_inc_factor": 6}, 1 + 72 / 8 + 12 + 72 + 84, 84),
    "many channels": ({"in_channels": 40, "num_fmaps": 4, "num_fmaps_out": 30}, 40 + 4 + 30, 40),
    "one convolution": ({"type": "OneConv3d", "in_channels": 3}, 3 + 2, 3),
    # Padded: the result of a convolution beside its input, and the sum with the shortcut.
    "hourglass": (
        {"type": "StackedHourglass", "num_stacks": 1, "num_fmaps": 8, "downsample_factors": [[2, 2, 2]]},
        1 + 16 / 8 + 8 + 8 + 16,
        16,
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_it_is_what_a_large_tile_comes_to(kind):
    values, together, widest = MODELS[kind]
    found = forward_maps(ModelConfig.model_validate(values))
    assert 0.97 * together <= found.together <= together * 1.000001
    assert 0.97 * widest <= found.widest <= widest
