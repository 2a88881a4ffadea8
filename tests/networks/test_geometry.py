import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from incasem_like.errors import ConfigError
from incasem_like.networks import NetworkGeometry, build_network, network_geometry


def output_of_real_layers(network, size):
    """Run the layers on tensors without memory, past the network's own check; None where one of them cannot."""

    def refuse_remainder(pool, inputs):
        if any(length % factor for length, factor in zip(inputs[0].shape[2:], pool.kernel_size, strict=True)):
            raise ValueError

    hooks = [pool.register_forward_pre_hook(refuse_remainder) for pool in network.unet.l_down]
    try:
        output = network.final_conv_pass(network.unet(torch.zeros(1, 1, *size, device="meta"))[0])
    except (RuntimeError, ValueError):
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(output.shape[2:]) if min(output.shape) > 0 else None


@st.composite
def unets(draw):
    dims, levels = draw(st.sampled_from([2, 3])), draw(st.integers(1, 3))
    padding = draw(st.sampled_from(["valid", "same"]))
    edges = [1, 2, 3, 5] if padding == "valid" else [1, 3, 5]
    factor = st.lists(st.integers(1, 3), min_size=dims, max_size=dims)
    kernel = st.lists(st.sampled_from(edges), min_size=dims, max_size=dims)
    kernels = st.lists(kernel, min_size=1, max_size=3)
    return {
        "num_fmaps": 1,
        "fmap_inc_factor": 1,
        "constant_upsample": draw(st.booleans()),
        "upsample_mode": draw(st.sampled_from(["nearest", "linear"])),
        "crop_to_factor": draw(st.booleans()),
        "final_kernel_size": draw(st.sampled_from([1, 3])),
        "padding": padding,
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


def averaging(network):
    """Make the output depend on all input voxels that it can depend on: weights above 0, mean instead of maximum."""
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.0)
    for level, pool in enumerate(network.unet.l_down):
        network.unet.l_down[level] = torch.nn.AvgPool2d(pool.kernel_size)
    return network.double()


FIELDS = [
    {"downsample_factors": [[2, 2], [2, 3]]},
    {"downsample_factors": [[2, 3], [2, 2]], "upsample_mode": "linear", "residual": "linear"},
    {"downsample_factors": [[2, 2]], "padding": "same", "final_kernel_size": 1},
    {"downsample_factors": [[3, 2]], "padding": "same", "upsample_mode": "linear"},
    {"downsample_factors": [[2, 2], [2, 2]], "crop_to_factor": False, "constant_upsample": False},
]


@pytest.mark.parametrize("changes", FIELDS)
def test_the_field_of_view_is_what_gradients_reach(model, changes):
    torch.manual_seed(0)
    network = averaging(build_network(model(num_fmaps=1, fmap_inc_factor=1, **changes)))
    geometry = network.geometry
    size = [geometry.nearest_valid((150, 150))[1][axis] for axis in range(2)]
    most = [0, 0]
    for phase in range(max(geometry.stride)):
        image = torch.rand(1, 1, *size, dtype=torch.double, requires_grad=True)
        output = network(image)
        centre = [edge // 2 + phase for edge in output.shape[2:]]
        output[0, 0, centre[0], centre[1]].backward()
        for axis in range(2):
            seen = (image.grad[0, 0].abs().sum(1 - axis) > 0).nonzero()
            most[axis] = max(most[axis], int(seen.max() - seen.min()) + 1)
    assert tuple(most) == geometry.field_of_view


@pytest.mark.parametrize("changes", FIELDS)
def test_the_border_is_what_a_larger_input_changes(model, changes):
    torch.manual_seed(0)
    network = averaging(build_network(model(num_fmaps=1, fmap_inc_factor=1, **changes)))
    geometry = network.geometry
    size = geometry.nearest_valid((100, 100))[1]
    more = [8 * stride for stride in geometry.stride]
    image = torch.rand(1, 1, *(edge + 2 * m for edge, m in zip(size, more, strict=True)), dtype=torch.double)
    with torch.no_grad():
        inner = image[:, :, more[0] : more[0] + size[0], more[1] : more[1] + size[1]]
        small, large = network(inner)[0, 0], network(image)[0, 0]
    large = large[more[0] : more[0] + small.shape[0], more[1] : more[1] + small.shape[1]]
    changed = ((small - large).abs() > 1e-9 * large.abs()).nonzero()
    rows, columns = (range(edge) for edge in small.shape)
    inside = [axis[border : len(axis) - border] for axis, border in zip((rows, columns), geometry.border, strict=True)]
    assert not any(y in inside[0] and x in inside[1] for y, x in changed.tolist())
    for axis, border in enumerate(geometry.border):
        if border:  # no smaller border would do
            middle = changed[:, 1 - axis] == small.shape[1 - axis] // 2
            assert changed[middle][:, axis].min() == 0
            ends = {border - 1, small.shape[axis] - border}
            assert ends & set(changed[middle][:, axis].tolist())


def test_a_second_network_takes_the_largest_crop_that_it_can(model):
    """Along each axis: first 44 + 4n minus 42, then 20 + 6m minus 16, every 12 voxels."""
    first = NetworkGeometry((44,), (4,), (42,), (1,), field_of_view=(45,))
    second = NetworkGeometry((20,), (6,), (16,), (2,), field_of_view=(17,))
    both = first.followed_by(second)
    assert (both.stride, both.border, both.field_of_view) == ((12,), (3,), (61,))
    for n in range(3):
        given = both.smallest_input[0] + 12 * n
        (between,) = first.output_size((given,))
        (taken,), _ = second.nearest_valid((between,))
        assert between - taken < 6
        assert second.output_size((taken,)) == both.output_size((given,))
    with pytest.raises(ConfigError, match="cannot follow"):
        first.followed_by(network_geometry(model()))


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
