"""The arithmetic of the U-Net's options, spelled out with torch's functions."""

import pytest
import torch
from torch.nn import functional

from incasem_like.errors import ConfigError
from incasem_like.networks import build_network, forward_maps, geometry_in_volumes, on_volumes


def crop(maps, size):
    for axis, wanted in enumerate(size, start=2):
        begin = (maps.shape[axis] - wanted) // 2
        maps = maps.index_select(axis, torch.arange(begin, begin + wanted))
    return maps


def convolved(maps, weights, name, padding=0):
    return functional.conv2d(maps, weights[f"{name}.weight"], weights.get(f"{name}.bias"), padding=padding)


def normalized(maps, weights, name):
    scale = weights[f"{name}.weight"] / (weights[f"{name}.running_var"] + 1e-5).sqrt()
    shift = weights[f"{name}.bias"] - weights[f"{name}.running_mean"] * scale
    return maps * scale[:, None, None] + shift[:, None, None]


@pytest.fixture
def make(model, enliven):
    def made(**changes):
        network = enliven(build_network(model(num_fmaps=4, downsample_factors=[[2, 2]], **changes))).eval()
        for name, buffer in network.named_buffers():
            if buffer.is_floating_point():
                generator = torch.Generator().manual_seed(len(name))
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
        return network, network.state_dict(), torch.rand(2, 1, 30, 34, generator=torch.Generator().manual_seed(2))

    return made


def test_linear_residuals_with_interpolation(make):
    network, weights, image = make(residual="linear", upsample_mode="linear", final_kernel_size=1)

    def block(maps, name):
        result = convolved(convolved(maps, weights, f"{name}.conv_pass.0").relu(), weights, f"{name}.conv_pass.2")
        return (result + crop(convolved(maps, weights, f"{name}.residual.0"), result.shape[2:])).relu()

    above = block(image, "unet.l_conv.0")
    below = block(functional.max_pool2d(above, 2), "unet.l_conv.1")
    up = functional.interpolate(below, scale_factor=2, mode="bilinear", align_corners=False)
    decoded = block(torch.cat([crop(above, up.shape[2:]), up], 1), "unet.r_conv.0.0")
    expected = convolved(decoded, weights, "final_conv_pass.conv_pass.0")
    expected = expected + convolved(decoded, weights, "final_conv_pass.residual.0")
    with torch.no_grad():
        torch.testing.assert_close(network(image), expected)
    names = [name for name in weights if name.startswith("unet.l_conv.0")]
    layers = ("conv_pass.0", "conv_pass.2", "residual.0")
    assert names == [f"unet.l_conv.0.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


@pytest.mark.parametrize("residual", ["none", "shortcut"])
def test_same_padding_with_normalisation_after_relu(make, residual):
    network, weights, image = make(
        padding="same",
        normalization="batch",
        residual=residual,
        constant_upsample=False,
        transposed_fmaps="upper",
        upsampled_first=True,
        final_kernel_size=1,
    )
    image = image[:, :, :, :32]

    def block(maps, name):
        result = maps
        for number in (0, 3):
            result = convolved(result, weights, f"{name}.conv_pass.{number}", padding=1).relu()
            result = normalized(result, weights, f"{name}.conv_pass.{number + 2}")
        if residual == "none":
            return result
        beside = convolved(maps, weights, f"{name}.residual.0") if maps.shape[1] != result.shape[1] else maps
        if maps.shape[1] != result.shape[1]:
            beside = normalized(beside, weights, f"{name}.residual.1")
        return (result + beside).relu()

    above = block(image, "unet.l_conv.0")
    below = block(functional.max_pool2d(above, 2), "unet.l_conv.1")
    up = functional.conv_transpose2d(below, weights["unet.r_up.0.0.up.weight"], weights["unet.r_up.0.0.up.bias"], 2)
    decoded = block(torch.cat([up, above], 1), "unet.r_conv.0.0")
    with torch.no_grad():
        torch.testing.assert_close(network(image), convolved(decoded, weights, "final_conv_pass.conv_pass.0"))


def test_upper_level_maps_with_relu_and_several_decoders(make):
    network, weights, image = make(
        constant_upsample=False,
        transposed_fmaps="upper",
        transposed_relu=True,
        crop_to_factor=False,
        decoder_channels=[2, 3],
        num_fmaps_out=5,
        num_fmaps_last=6,
        final_kernel_size=1,
    )

    def block(maps, name):
        for number in (0, 2):
            maps = convolved(maps, weights, f"{name}.conv_pass.{number}").relu()
        return maps

    above = block(image, "unet.l_conv.0")
    below = block(functional.max_pool2d(above, 2), "unet.l_conv.1")
    heads = []
    for head in (0, 1):
        name = f"unet.r_up.{head}.0.up"
        up = functional.conv_transpose2d(below, weights[f"{name}.weight"], weights[f"{name}.bias"], 2).relu()
        decoded = block(torch.cat([crop(above, up.shape[2:]), up], 1), f"unet.r_conv.{head}.0")
        assert decoded.shape[1] == 6
        heads.append(convolved(decoded, weights, f"final_conv_passes.{head}.conv_pass.0"))
    with torch.no_grad():
        torch.testing.assert_close(network(image), torch.cat(heads, 1))
    assert [head.shape[1] for head in heads] == [2, 3]


def test_half_as_many_maps_come_first_and_dropout_only_in_training(make):
    network, weights, image = make(halve_first=True, bottleneck_dropout=0.5)
    assert weights["unet.l_conv.1.conv_pass.0.weight"].shape[:2] == (4, 4)
    assert weights["unet.l_conv.1.conv_pass.2.weight"].shape[:2] == (8, 4)
    assert weights["unet.r_conv.0.0.conv_pass.0.weight"].shape[:2] == (4, 12)
    with torch.no_grad():
        assert torch.equal(network(image), network(image))
        network.train()
        assert not torch.equal(network(image), network(image))


def test_adjacent_sections_are_channels_of_the_middle_one(make):
    network, _, _ = make(adjacent_sections=3, in_channels=2)
    volumes = on_volumes(network, network.geometry)
    volume = torch.rand(1, 2, 6, 30, 34)
    with torch.no_grad():
        result = volumes(volume)
        slabs = torch.cat(list(volumes.slabs(iter([volume[:, :, :1], volume[:, :, 1:5], volume[:, :, 5:]]))), 2)
        for section in range(4):
            channels = volume[:, :, section : section + 3].reshape(1, 6, 30, 34)
            torch.testing.assert_close(result[:, :, section], network(channels))
    torch.testing.assert_close(slabs, result)
    geometry = geometry_in_volumes(network.geometry)
    assert (geometry.smallest_input[0], geometry.context[0], geometry.stride[0]) == (3, 1, 1)
    assert geometry.output_size(volume.shape[2:]) == tuple(result.shape[2:])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"adjacent_sections": 3}, "adjacent_sections is 3, but the network is 3-D"),
        ({"padding": "same", "kernel_size_up": [[[2, 3, 3]]] * 3}, "needs kernels of odd edges"),
        ({"decoder_channels": [2, 3], "num_fmaps_out": 4}, r"decoder_channels \[2, 3\] are 5 in all"),
        ({"padding": "same", "halo": [3, 3]}, "model.halo has 2 numbers, but the network has 3 axes"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_a_sentence(model, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build_network(model(**changes))


def test_a_stated_halo_takes_the_place_of_the_whole_reach(model):
    changes = {"padding": "same", "num_fmaps": 2}
    assert build_network(model(**changes)).geometry.border == (47, 47, 47)
    assert build_network(model(**changes, halo=[8, 16, 16])).geometry.border == (8, 16, 16)


def test_memory_grows_with_decoders_only_by_their_result(model):
    one = forward_maps(model(num_fmaps_out=4))
    two = forward_maps(model(num_fmaps_out=4, decoder_channels=[2, 2]))
    assert one.widest == two.widest
    assert one.together <= two.together <= one.together + 2 * 32
