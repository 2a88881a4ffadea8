import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from incasem_like.errors import ConfigError
from incasem_like.networks import build_network, network_geometry


def output_of_real_layers(network, size):
    """Run the layers on tensors without memory, past the network's own check; None where one of them cannot."""

    def refuse_remainder(pool, inputs):
        if any(length % factor for length, factor in zip(inputs[0].shape[2:], pool.kernel_size, strict=True)):
            raise ValueError

    hooks = [pool.register_forward_pre_hook(refuse_remainder) for pool in network.unet.l_down]
    try:
        output = network.final_conv_pass(network.unet(torch.zeros(1, 1, *size, device="meta")))
    except (RuntimeError, ValueError):
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(output.shape[2:]) if min(output.shape) > 0 else None


@st.composite
def unets(draw):
    dims, levels = draw(st.sampled_from([2, 3])), draw(st.integers(1, 3))
    factor = st.lists(st.integers(1, 3), min_size=dims, max_size=dims)
    kernel = st.lists(st.sampled_from([1, 2, 3, 5]), min_size=dims, max_size=dims)
    kernels = st.lists(kernel, min_size=1, max_size=3)
    return {
        "num_fmaps": 1,
        "fmap_inc_factor": 1,
        "constant_upsample": draw(st.booleans()),
        "downsample_factors": draw(st.lists(factor, min_size=levels, max_size=levels)),
        "kernel_size_down": draw(st.none() | st.lists(kernels, min_size=levels + 1, max_size=levels + 1)),
        "kernel_size_up": draw(st.none() | st.lists(kernels, min_size=levels, max_size=levels)),
    }


@settings(max_examples=60, deadline=None)
@given(changes=unets(), steps=st.integers(0, 3), deviation=st.integers(-30, 30))
def test_sizes_worked_out_are_those_of_the_layers(model, changes, steps, deviation):
    description = model(**changes)
    geometry = network_geometry(description)
    with torch.device("meta"):
        network = build_network(description)
    valid = tuple(s + steps * f for s, f in zip(geometry.smallest_input, geometry.stride, strict=True))

    assert output_of_real_layers(network, valid) == geometry.output_size(valid)
    # The other axes stay valid, so that only the first one decides.
    size = (max(1, valid[0] + deviation), *valid[1:])
    found = output_of_real_layers(network, size)
    assert (found is not None) == geometry.is_valid(size)
    if found is not None:
        assert found == geometry.output_size(size)


def test_default_network_takes_sizes_of_8n_plus_4_from_100_and_loses_94(model):
    geometry = network_geometry(model())
    assert [size for size in range(1, 220) if geometry.is_valid((size,) * 3)] == list(range(100, 220, 8))
    assert geometry.output_size((204, 204, 212)) == (110, 110, 118)
    assert geometry.context == (47, 47, 47)
    assert geometry.stride == (8, 8, 8)


def test_anisotropic_network_keeps_axes_apart(model):
    geometry = network_geometry(
        model(
            downsample_factors=[[1, 2, 2], [1, 2, 2], [2, 2, 2]],
            kernel_size_down=[[[1, 3, 3]] * 2, [[1, 3, 3]] * 2, [[3, 3, 3]] * 2, [[3, 3, 3]] * 2],
            kernel_size_up=[[[1, 3, 3]] * 2, [[1, 3, 3]] * 2, [[3, 3, 3]] * 2],
        )
    )
    assert geometry.stride == (2, 8, 8)
    # Along z: 4 at the third level before pooling and 4 after it, 4 * 2 at the bottom, 2 in the last convolution.
    assert geometry.lost[0] == 4 + 8 + 4 + 2


def test_nearest_sizes_lie_on_both_sides(model):
    geometry = network_geometry(model())
    assert geometry.nearest_valid((200, 204, 101)) == ((196, 204, 100), (204, 204, 108))
    assert geometry.nearest_valid((50, 204, 204)) == (None, (100, 204, 204))


def test_too_small_an_input_names_the_smallest(model):
    with pytest.raises(ConfigError, match=r"\[64, 64, 64\] voxels: the nearest it can is \[100, 100, 100\]\."):
        network_geometry(model()).output_size((64, 64, 64))


def test_wrong_number_of_axes_is_named(model):
    with pytest.raises(ConfigError, match="3 spatial axes, but the input size"):
        network_geometry(model()).output_size((204, 204))


def test_input_for_output_is_the_smallest_that_suffices(model):
    geometry = network_geometry(model())
    assert geometry.input_for_output((110, 111, 1)) == (204, 212, 100)


def test_one_conv_takes_any_size_and_keeps_it(model):
    description = model(type="OneConv3d", num_fmaps_out=3)
    network = build_network(description)
    assert [name for name, _ in network.named_parameters()] == ["layer.weight", "layer.bias"]
    assert network(torch.zeros(1, 1, 4, 5, 6)).shape == (1, 3, *network.geometry.output_size((4, 5, 6)))
    assert network_geometry(description) == network.geometry
