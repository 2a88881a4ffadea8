"""Parameter counts and sizes of the networks that others published, by the options that reproduce them."""

import pytest
import torch

from incasem_like.config import ModelConfig
from incasem_like.networks import build_network, count_parameters, network_geometry

C1, C3, C2 = [[1, 3, 3]] * 2, [[3, 3, 3]] * 2, [[2, 3, 3]] * 2
RESIDUAL = {"residual": "linear", "upsample_mode": "linear", "final_kernel_size": 1}
SPARSE_2D = {**RESIDUAL, "num_fmaps": 12, "fmap_inc_factor": 6, "downsample_factors": [[2, 2]] * 3}
SPARSE_3D = {
    **{**SPARSE_2D, "downsample_factors": [[1, 2, 2]] * 3},
    **{"kernel_size_down": [C3, C3, C1, C1], "kernel_size_up": [C1, C3, C3]},
}
SYNTHETIC = {
    **{**RESIDUAL, "num_fmaps": 5, "fmap_inc_factor": 5, "downsample_factors": [[1, 2, 2]] * 2, "num_fmaps_out": 3},
    **{"kernel_size_down": [C2, C1, C1], "kernel_size_up": [C1, C2]},
}
ADJACENT = {**SPARSE_2D, "fmap_inc_factor": 5, "adjacent_sections": 3}
RAW_3D = {**RESIDUAL, "num_fmaps": 12, "fmap_inc_factor": 5, "downsample_factors": [[1, 2, 2]] * 3}
FROM_2D = {
    **{**RAW_3D, "num_fmaps": 9, "fmap_inc_factor": 3, "num_fmaps_last": 18, "num_fmaps_out": 9},
    **{"kernel_size_down": [C1, C1, C3, C3]},
}
PAPER = {
    **{"num_fmaps": 12, "fmap_inc_factor": 6, "num_fmaps_out": 3, "final_kernel_size": 1, "crop_to_factor": False},
    **{"constant_upsample": False, "transposed_fmaps": "upper", "transposed_relu": True},
    "downsample_factors": [[2, 2, 2], [2, 2, 2], [3, 3, 3]],
}
ZEBRAFINCH = {**PAPER, "fmap_inc_factor": 5, "downsample_factors": [[1, 3, 3], [1, 3, 3], [3, 3, 3]]}
EXLLSM = {
    **{"num_fmaps": 8, "halve_first": True, "constant_upsample": False, "upsampled_first": True},
    **{"crop_to_factor": False, "final_kernel_size": 1, "bottleneck_dropout": 0.2},
}

# Parameters of one output channel of the last layer, 1 x 1 x 1: of the paper's U-Nets, and of the residual ones.
HEAD, RESIDUAL_HEAD = 12 + 1, 2 * (12 + 1)
# Maps of the last level grow from 12 to 14: two convolutions of 27 weights, from 24 maps and from themselves.
FROM_12_TO_14 = 27 * (24 * (14 - 12) + 14 * 14 - 12 * 12) + 2 * (14 - 12)

NETWORKS = {
    "incasem": ({}, 5_837_730, {(204,) * 3: (110,) * 3}),
    "incasem, learnt up-sampling": ({"constant_upsample": False}, 6_526_306, {(204,) * 3: (110,) * 3}),
    "sparse 2-D affinities": ({**SPARSE_2D, "num_fmaps_out": 2}, 88_886_116, {(196, 196): (104, 104)}),
    "sparse 2-D LSD": ({**SPARSE_2D, "num_fmaps_out": 6}, 88_886_220, {(196, 196): (104, 104)}),
    "sparse 2-D MTLSD": (
        {**SPARSE_2D, "num_fmaps_out": 8, "decoder_channels": [6, 2]},
        104_052_028,
        {(196, 196): (104, 104), (292, 292): (200, 200)},
    ),
    "sparse 3-D affinities": ({**SPARSE_3D, "num_fmaps_out": 3}, 116_618_166, {(24, 196, 196): (8, 104, 104)}),
    "sparse 3-D LSD": (
        {**SPARSE_3D, "num_fmaps_out": 10},
        116_618_166 + 7 * RESIDUAL_HEAD,
        {(24, 196, 196): (8, 104, 104)},
    ),
    "sparse 3-D MTLSD": (
        {**SPARSE_3D, "num_fmaps": 13, "num_fmaps_out": 13, "decoder_channels": [10, 3]},
        187_077_748,
        {(24, 196, 196): (8, 104, 104), (20, 196, 196): (4, 104, 104), (40, 292, 292): (24, 200, 200)},
    ),
    "affinities of synthetic labels": (
        {**SYNTHETIC, "in_channels": 2},
        264_206,
        {(10, 148, 148): (6, 108, 108), (26, 228, 228): (22, 188, 188)},
    ),
    "affinities of synthetic labels from 2-D LSD": (
        {**SYNTHETIC, "in_channels": 6},
        264_206 + 4 * (18 * 5 + 5),
        {(10, 148, 148): (6, 108, 108)},
    ),
    "affinities of synthetic labels from 3-D LSD": (
        {**SYNTHETIC, "in_channels": 10},
        264_206 + 8 * (18 * 5 + 5),
        {(10, 148, 148): (6, 108, 108)},
    ),
    "three sections, affinities": (
        {**ADJACENT, "num_fmaps_out": 6},
        32_256_480,
        {(196, 196): (104, 104), (412, 412): (320, 320)},
    ),
    "three sections, MTLSD": ({**ADJACENT, "num_fmaps_out": 12}, 32_256_636, {(196, 196): (104, 104)}),
    "3-D affinities": (
        {**RAW_3D, "num_fmaps_out": 9},
        94_692_656 - RESIDUAL_HEAD,
        {(32, 196, 196): (4, 104, 104), (32, 412, 412): (4, 320, 320)},
    ),
    "3-D LSD": ({**RAW_3D, "num_fmaps_out": 10}, 94_692_656, {(32, 196, 196): (4, 104, 104)}),
    "3-D MTLSD": (
        {**RAW_3D, "num_fmaps_out": 19},
        94_692_656 + 9 * RESIDUAL_HEAD,
        {(32, 196, 196): (4, 104, 104)},
    ),
    "3-D from 2-D": (
        {**FROM_2D, "in_channels": 6},
        3_436_092,
        {(24, 148, 148): (4, 56, 56), (36, 388, 388): (16, 296, 296)},
    ),
    "3-D from 2-D MTLSD": (
        {**FROM_2D, "in_channels": 12},
        3_436_092 + 6 * (9 * 9 + 9),
        {(24, 148, 148): (4, 56, 56)},
    ),
    "3-D from 3-D": (
        {**FROM_2D, "in_channels": 10, "num_fmaps": 12, "num_fmaps_last": None},
        6_079_998,
        {(24, 148, 148): (4, 56, 56)},
    ),
    "LSD paper, FIB-25": (
        PAPER,
        263_722_527,
        {(size,) * 3: (size - 104,) * 3 for size in (196, 268, 304, 364)},
    ),
    "LSD paper, long range": ({**PAPER, "num_fmaps_out": 12}, 263_722_527 + 9 * HEAD, {(196,) * 3: (92,) * 3}),
    "LSD paper, LSD": ({**PAPER, "num_fmaps_out": 10}, 263_722_527 + 7 * HEAD, {(304,) * 3: (200,) * 3}),
    "LSD paper, MTLSD": (
        {**PAPER, "num_fmaps_out": 13, "num_fmaps_last": 14},
        263_722_527 + FROM_12_TO_14 + 13 * (14 + 1) - 3 * HEAD,
        {(196,) * 3: (92,) * 3},
    ),
    "LSD paper, AcLSD": (
        {**PAPER, "type": "AutoContext", "with_raw": False, "first": {**PAPER, "num_fmaps_out": 10}},
        263_722_527 + 9 * 27 * 12,
        {(304,) * 3: (92,) * 3},
    ),
    "LSD paper, AcrLSD": (
        {**PAPER, "type": "AutoContext", "first": {**PAPER, "num_fmaps_out": 10}},
        263_722_527 + 10 * 27 * 12,
        {(304,) * 3: (92,) * 3},
    ),
    "FIB-25 with maps of the lower level": ({**PAPER, "transposed_fmaps": "lower"}, 442_082_787, {}),
    "FIB-25 with crop to factor": ({**PAPER, "crop_to_factor": True}, 263_722_527, {(196,) * 3: (72,) * 3}),
    "LSD paper, zebrafinch": (
        ZEBRAFINCH,
        95_853_495,
        {(84, 268, 268): (48, 56, 56), (96, 484, 484): (60, 272, 272), (120, 484, 484): (84, 272, 272)},
    ),
    "ExLLSM": (EXLLSM, 298_418, {(220,) * 3: (132,) * 3, (92,) * 3: (4,) * 3}),
    "ExLLSM, two levels": ({**EXLLSM, "downsample_factors": [[2, 2, 2]] * 2}, None, {(48,) * 3: (8,) * 3}),
    "ExLLSM, four levels": ({**EXLLSM, "downsample_factors": [[2, 2, 2]] * 4}, None, {(204,) * 3: (20,) * 3}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_options_reproduce_a_published_network(name):
    values, parameters, sizes = NETWORKS[name]
    model = ModelConfig.model_validate(values)
    with torch.device("meta"):
        network = build_network(model)
    if parameters is not None:
        assert count_parameters(network) == parameters
    for given, output in sizes.items():
        assert network_geometry(model).output_size(given) == output
    for given, output in list(sizes.items())[:1]:
        channels = model.in_channels * network_geometry(model).sections
        volume = torch.zeros(1, channels, *given, device="meta")
        assert network(volume).shape == (1, model.num_fmaps_out, *output)


def test_zebrafinch_sizes_need_the_crop_switched_off():
    geometry = network_geometry(ModelConfig.model_validate({**ZEBRAFINCH, "crop_to_factor": True}))
    assert not geometry.is_valid((84, 268, 268))


def three_d(depth, maps, kernel=3, residual="none"):
    return {
        **{"num_fmaps": maps, "downsample_factors": [[2, 2, 2]] * (depth - 1), "num_fmaps_out": 1},
        **{"padding": "same", "normalization": "batch", "final_kernel_size": 1, "residual": residual},
        **{"constant_upsample": False, "transposed_fmaps": "upper", "upsampled_first": True},
        "kernel_size_down": [[[kernel] * 3] * 2] * depth,
        "kernel_size_up": [[[kernel] * 3] * 2] * (depth - 1),
    }


def unused_level(maps, inputs, kernel=3, residual=False):
    """Parameters of an up-sampling level after the last, which the source makes, counts and never uses."""

    def convolution(before, after, edge):
        return before * after * edge**3 + after

    normalizations = 2 * 2 * inputs + (2 * inputs + maps * inputs if residual else 0)
    return (
        convolution(maps, inputs, 2)
        + convolution(maps, inputs, kernel)
        + convolution(inputs, inputs, kernel)
        + normalizations
    )


@pytest.mark.parametrize(
    ("depth", "maps", "kernel", "residual", "counted"),
    [
        (4, 4, 3, "none", 88_299),
        (4, 32, 3, "none", 5_603_683),
        (4, 64, 3, "none", 22_401_699),
        (5, 64, 3, "none", 90_306_723),
        (6, 4, 3, "none", 1_416_203),
        (6, 8, 3, "none", 5_659_443),
        (6, 16, 3, "none", 22_627_139),
        (6, 4, 5, "none", 6_230_845),
        (6, 8, 5, "none", 24_916_149),
        (6, 4, 3, "shortcut", 1_438_789),
    ],
)
def test_the_padded_unet_has_the_parameters_counted_less_the_unused(depth, maps, kernel, residual, counted):
    model = ModelConfig.model_validate(three_d(depth, maps, kernel, residual))
    with torch.device("meta"):
        network = build_network(model)
    assert count_parameters(network) == counted - unused_level(maps, 1, kernel, residual == "shortcut")
    assert network.geometry.output_size((64, 64, 64)) == (64, 64, 64)
    assert network.geometry.stride == (2 ** (depth - 1),) * 3


@pytest.mark.parametrize(
    ("maps", "stacks", "counted"), [(8, 1, 5_659_644), (8, 2, 11_324_510), (8, 3, 16_989_376), (4, 8, 11_338_366)]
)
def test_the_hourglass_has_the_parameters_counted_less_the_unused(maps, stacks, counted):
    values = {"type": "StackedHourglass", "num_fmaps": maps, "num_stacks": stacks, "num_fmaps_out": 1}
    model = ModelConfig.model_validate({**values, "downsample_factors": [[2, 2, 2]] * 5})
    with torch.device("meta"):
        network = build_network(model)
    block, score_back, output = maps * maps + maps + 2 * maps, 2 * maps, maps + 1
    # Each U-Net has an output layer and a level that are not used; the last stack has layers that lead to no other.
    unused = unused_level(maps, 1) + (stacks - 1) * unused_level(maps, maps) + stacks * output + block + score_back
    assert count_parameters(network) == counted - unused
