import pytest
import torch
from torch.nn import functional

from incasem_like.errors import ConfigError
from incasem_like.networks import build_network, count_parameters

ANISOTROPIC = {
    "downsample_factors": [[1, 2, 2], [1, 2, 2], [2, 2, 2]],
    "kernel_size_down": [[[1, 3, 3]] * 2, [[1, 3, 3]] * 2, [[3, 3, 3]] * 2, [[3, 3, 3]] * 2],
    "kernel_size_up": [[[1, 3, 3]] * 2, [[1, 3, 3]] * 2, [[3, 3, 3]] * 2],
}


def on_meta_device(model):
    """Shapes and names without memory or arithmetic."""
    with torch.device("meta"):
        return build_network(model)


def test_default_network_has_the_published_number_of_parameters(model):
    assert count_parameters(on_meta_device(model())) == 5_837_730
    assert count_parameters(on_meta_device(model(constant_upsample=False))) == 6_526_306


def test_parameters_have_the_published_names_shapes_and_order(model):
    cube = (3, 3, 3)
    passes = {
        "unet.l_conv.0": (32, 1),
        "unet.l_conv.1": (64, 32),
        "unet.l_conv.2": (128, 64),
        "unet.l_conv.3": (256, 128),
        "unet.r_conv.0.0": (32, 96),
        "unet.r_conv.0.1": (64, 192),
        "unet.r_conv.0.2": (128, 384),
    }
    expected = []
    for name, (out, inputs) in passes.items():
        expected += [(f"{name}.conv_pass.0.weight", (out, inputs, *cube)), (f"{name}.conv_pass.0.bias", (out,))]
        expected += [(f"{name}.conv_pass.2.weight", (out, out, *cube)), (f"{name}.conv_pass.2.bias", (out,))]
    expected += [("final_conv_pass.conv_pass.0.weight", (2, 32, *cube)), ("final_conv_pass.conv_pass.0.bias", (2,))]

    network = on_meta_device(model())

    assert [(name, tuple(tensor.shape)) for name, tensor in network.named_parameters()] == expected
    assert list(network.state_dict()) == [name for name, _ in expected]


def test_transposed_upsampling_puts_its_weights_between_encoder_and_decoder(model):
    names = {
        name: tuple(tensor.shape) for name, tensor in on_meta_device(model(constant_upsample=False)).named_parameters()
    }
    order = list(names)

    assert order[16:22] == [f"unet.r_up.0.{level}.up.{kind}" for level in range(3) for kind in ("weight", "bias")]
    assert order[15].startswith("unet.l_conv.3")
    assert order[22].startswith("unet.r_conv.0.0")
    assert [names[f"unet.r_up.0.{level}.up.weight"] for level in range(3)] == [
        (64, 64, 2, 2, 2),
        (128, 128, 2, 2, 2),
        (256, 256, 2, 2, 2),
    ]


def test_layers_have_the_published_sizes(model):
    network = on_meta_device(model())
    seen = {}
    for name, module in network.named_modules():
        if name != "unet":  # it returns a list, a decoder each
            module.register_forward_hook(lambda _, __, result, name=name: seen.update({name: tuple(result.shape[1:3])}))

    output = network(torch.zeros(1, 1, 204, 204, 204, device="meta"))

    assert output.shape == (1, 2, 110, 110, 110)
    assert seen["unet.l_conv.0"] == (32, 200)
    assert seen["unet.l_conv.3"] == (256, 18)
    assert seen["unet.r_up.0.2"] == (384, 36)
    assert seen["unet.r_up.0.1"] == (192, 64)
    assert seen["unet.r_up.0.0.up"] == (64, 120)
    assert seen["unet.r_up.0.0"] == (96, 116)
    assert seen["unet.r_conv.0.0"] == (32, 112)


def two_convolutions(maps, weights, name, convolve):
    for index in (0, 2):
        maps = convolve(maps, weights[f"{name}.conv_pass.{index}.weight"], weights[f"{name}.conv_pass.{index}.bias"])
        maps = maps.clamp(min=0)
    return maps


def middle(maps, size):
    for axis, wanted in enumerate(size, start=2):
        begin = (maps.shape[axis] - wanted) // 2
        maps = maps.index_select(axis, torch.arange(begin, begin + wanted))
    return maps


def repeat_voxels(maps, factor):
    for axis, times in enumerate(factor, start=2):
        maps = maps.repeat_interleave(times, dim=axis)
    return maps


def written_out(maps, weights, factors, crop_sizes, dims=3):
    """The network's arithmetic spelled out with torch's functions; sizes after cropping come from the caller."""
    convolve = functional.conv3d if dims == 3 else functional.conv2d
    pool = functional.max_pool3d if dims == 3 else functional.max_pool2d
    transpose = functional.conv_transpose3d if dims == 3 else functional.conv_transpose2d
    skipped = []
    for level, factor in enumerate(factors):
        maps = two_convolutions(maps, weights, f"unet.l_conv.{level}", convolve)
        skipped.append(maps)
        maps = pool(maps, tuple(factor))
    maps = two_convolutions(maps, weights, f"unet.l_conv.{len(factors)}", convolve)
    for level in reversed(range(len(factors))):
        up = f"unet.r_up.0.{level}.up"
        if f"{up}.weight" in weights:
            maps = transpose(maps, weights[f"{up}.weight"], weights[f"{up}.bias"], stride=tuple(factors[level]))
        else:
            maps = repeat_voxels(maps, factors[level])
        size = crop_sizes[level]
        maps = torch.cat([middle(skipped[level], size), middle(maps, size)], dim=1)
        maps = two_convolutions(maps, weights, f"unet.r_conv.0.{level}", convolve)
    return convolve(maps, weights["final_conv_pass.conv_pass.0.weight"], weights["final_conv_pass.conv_pass.0.bias"])


@pytest.mark.parametrize(
    ("changes", "size", "crop_sizes"),
    [
        # The upper level gets 3 * 6 = 18 up-sampled voxels: (18 - 4) // 9 * 9 + 4 = 13.
        ({"downsample_factors": [[3, 3, 3], [3, 3, 3]]}, (88, 88, 88), [(13,) * 3, (10,) * 3]),
        ({"downsample_factors": [[2, 2], [2, 2]]}, (44, 48), [(8, 12), (8, 10)]),
        (ANISOTROPIC, (20, 100, 108), [(4, 12, 20), (4, 12, 16), (8, 10, 12)]),
    ],
)
@pytest.mark.parametrize("constant_upsample", [True, False])
def test_arithmetic_is_that_of_the_layers_written_out(model, enliven, changes, size, crop_sizes, constant_upsample):
    torch.manual_seed(0)
    description = model(num_fmaps=2, constant_upsample=constant_upsample, **changes)
    network = enliven(build_network(description))
    volume = torch.rand(1, 1, *size)

    with torch.no_grad():
        expected = written_out(volume, network.state_dict(), description.downsample_factors, crop_sizes, len(size))
        torch.testing.assert_close(network(volume), expected, rtol=1e-5, atol=1e-5)


def test_shifting_the_input_by_the_stride_shifts_the_output(small, enliven):
    torch.manual_seed(1)
    network = enliven(build_network(small))
    volume = torch.rand(1, 1, 56, 44, 44)
    with torch.no_grad():
        whole = network(volume)
        by_stride = network(volume[:, :, 4:56])
        by_less = network(volume[:, :, 2:54])
    rows = by_stride.shape[2]
    torch.testing.assert_close(by_stride, whole[:, :, 4 : 4 + rows], rtol=1e-5, atol=1e-5)
    assert (by_less - whole[:, :, 2 : 2 + rows]).abs().max() > 1e-2


def test_one_downsampling_level_with_kernels_of_one(model):
    description = model(
        num_fmaps=1, downsample_factors=[[1, 1, 1]], kernel_size_down=[[[1, 1, 1]]] * 2, kernel_size_up=[[[1, 1, 1]]]
    )
    assert build_network(description)(torch.zeros(2, 1, 3, 4, 5)).shape == (2, 2, 1, 2, 3)


def test_channels_last_changes_layout_but_no_value_and_no_name(small, enliven):
    network = enliven(build_network(small))
    names = list(network.state_dict())
    volume = torch.rand(1, 1, 44, 44, 44)
    with torch.no_grad():
        expected = network(volume)
        network = network.to(memory_format=torch.channels_last_3d)
        found = network(volume.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert list(network.state_dict()) == names


def test_gradients_reach_every_parameter(small):
    network = build_network(small)
    network(torch.rand(1, 1, 48, 48, 48)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_an_input_that_the_network_cannot_take_names_the_nearest_that_it_can(small):
    with pytest.raises(
        ConfigError, match=r"\[46, 44, 44\] voxels: the nearest it can is \[44, 44, 44\] or \[48, 44, 44\]"
    ):
        build_network(small)(torch.zeros(1, 1, 46, 44, 44))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"type": "Unett"}, "did you mean 'Unet'"),
        ({"downsample_factors": []}, "model.downsample_factors is empty"),
        ({"downsample_factors": [[2, 2, 2], [2, 2]]}, r"model.downsample_factors has the entry \[2, 2\]: give 3"),
        ({"downsample_factors": [[2]]}, "1 numbers per level"),
        ({"kernel_size_down": [[[3, 3, 3]]]}, "model.kernel_size_down has 1 levels, but .* asks for 4"),
        ({"kernel_size_up": [[[3, 3, 3]], [], [[3, 3, 3]]]}, "model.kernel_size_up has a level without a kernel"),
        ({"kernel_size_up": [[[3, 0, 3]]] * 3}, r"model.kernel_size_up has the entry \[3, 0, 3\]"),
        ({"num_fmaps_out": 0}, "model.num_fmaps_out is 0"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_in_a_sentence(model, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build_network(model(**changes))
