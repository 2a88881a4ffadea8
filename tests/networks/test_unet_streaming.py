"""The streamed U-Net against the network's own forward pass, and its parts against torch on whole maps."""

import pytest
import torch
from torch.nn import functional

from incasem_like.networks import build_network
from incasem_like.networks.inference import StreamedUnet, inference, streams
from incasem_like.networks.slabs import Waiting, convolved, frozen_convolution, planes, pooled
from incasem_like.networks.upsampled_convolution import UpsampledConvolution

LAYOUTS = {
    "isotropic": {},
    "two channels": {"in_channels": 2},
    "sections": {
        "downsample_factors": [[1, 2, 2], [2, 2, 2]],
        "kernel_size_down": [[[1, 3, 3]] * 2, [[3, 3, 3]] * 2, [[3, 3, 3]] * 2],
        "kernel_size_up": [[[1, 3, 3]] * 2, [[3, 3, 3]] * 2],
    },
    "transposed": {"constant_upsample": False, "downsample_factors": [[3, 3, 3]]},
    "factors": {"downsample_factors": [[3, 2, 1], [2, 3, 2]]},
    "kernels": {
        "downsample_factors": [[2, 3, 2]],
        "kernel_size_down": [[[3, 3, 3]], [[3, 2, 3]]],
        "kernel_size_up": [[[4, 5, 3], [3, 3, 3]]],
    },
}


@pytest.fixture
def make(small, enliven):
    def made(layout):
        changes = {"num_fmaps": 3, "num_fmaps_out": 3, "kernel_size_down": None, "kernel_size_up": None}
        return enliven(build_network(small.model_copy(update=changes | LAYOUTS[layout]))).eval()

    return made


@pytest.mark.parametrize("steps", [(0, 0, 0), (3, 1, 2)])
@pytest.mark.parametrize("voxels_at_once", [1, 30_000, 10**9])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_slabs_put_together_are_the_forward_pass(make, layout, voxels_at_once, steps):
    network = make(layout)
    geometry = network.geometry
    size = [s + n * step for s, n, step in zip(geometry.smallest_input, steps, geometry.stride, strict=True)]
    volume = torch.rand(1, LAYOUTS[layout].get("in_channels", 1), *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(volume)
        found = torch.cat(list(StreamedUnet(network, voxels_at_once)(volume)), dim=2)
    assert found.shape == expected.shape
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("factor", "kernel"), [((2, 2, 2), (3, 3, 3)), ((1, 2, 3), (1, 4, 5)), ((3, 2, 2), (2, 3, 1))])
@pytest.mark.parametrize("begin", [(0, 0, 0), (1, 2, 1), (3, 1, 2)])
def test_convolution_of_small_maps_is_that_of_the_upsampled_ones(factor, kernel, begin):
    generator = torch.Generator().manual_seed(0)
    maps, weight = torch.rand(1, 4, 7, 6, 5, generator=generator), torch.rand(6, 4, *kernel, generator=generator)
    up = torch.nn.Upsample(scale_factor=tuple(map(float, factor)), mode="nearest")
    wanted = tuple(e * f - b for e, f, b in zip(maps.shape[2:], factor, begin, strict=True))
    expected = functional.conv3d(up(maps)[(..., *(slice(b, None) for b in begin))], weight)
    for thickness in (1, 3, 7):
        slabs = iter(maps.split(thickness, dim=2))
        found = UpsampledConvolution(up, weight)(slabs, tuple(maps.shape[2:]), begin, wanted)
        assert torch.allclose(torch.cat(list(found), dim=2), expected, atol=1e-4)


@pytest.mark.parametrize("thickness", [1, 2, 5, 11])
def test_convolving_and_pooling_do_not_see_where_slabs_end(thickness):
    generator = torch.Generator().manual_seed(0)
    maps, weight = torch.rand(1, 2, 11, 5, 5, generator=generator), torch.rand(3, 2, 3, 3, 3, generator=generator)

    def slabs():
        return iter(maps.split(thickness, dim=2))

    found = torch.cat(list(convolved(slabs(), frozen_convolution(weight, None))), dim=2)
    assert torch.allclose(found, functional.conv3d(maps, weight), atol=1e-5)
    found = torch.cat(list(pooled(slabs(), torch.nn.MaxPool3d((3, 1, 1)), 3)), dim=2)
    assert torch.equal(found, functional.max_pool3d(maps, (3, 1, 1)))
    assert torch.equal(torch.cat(list(planes(slabs(), 2, 6)), dim=2), maps[:, :, 2:8])


def test_maps_that_wait_come_back_in_order_each_with_the_planes_behind_it():
    maps = torch.arange(10.0).reshape(1, 1, 10, 1, 1)
    waiting = Waiting()
    waiting.crop((2, 0, 0), (7, 1, 1))
    assert sum(slab.shape[2] for slab in waiting.noted(iter(maps.split(3, dim=2)))) == 10
    assert waiting.take(2, 2).flatten().tolist() == [2, 3, 4, 5]
    assert waiting.take(3, 2).flatten().tolist() == [4, 5, 6, 7, 8]


def test_a_convolution_of_depth_one_is_the_one_on_sections():
    weight = torch.rand(3, 2, 1, 3, 3)
    maps = torch.rand(1, 2, 4, 6, 6)
    found = torch.cat(list(convolved(iter([maps]), frozen_convolution(weight, torch.ones(3)))), dim=2)
    assert torch.allclose(found, functional.conv3d(maps, weight, torch.ones(3)), atol=1e-5)


def test_it_computes_with_the_weights_as_they_are_when_it_is_made(make):
    network = make("isotropic")
    run = inference(network, torch.device("cpu"))
    volume = torch.rand(1, 1, *network.geometry.smallest_input)
    with torch.inference_mode():
        before = torch.cat(list(run(iter([volume]), tuple(volume.shape[2:]))), dim=2)
        torch.nn.init.zeros_(network.unet.r_conv[0][1].conv_pass[0].weight)
        assert torch.equal(torch.cat(list(run(iter([volume]), tuple(volume.shape[2:]))), dim=2), before)
        again = torch.cat(list(inference(network, torch.device("cpu"))(iter([volume]), tuple(volume.shape[2:]))), dim=2)
        assert torch.allclose(again, network(volume * 2 - 1), atol=1e-5)
    assert not torch.allclose(again, before, atol=1e-3)


def test_making_it_takes_nothing_from_torchs_random_numbers(make):
    network = make("isotropic")
    before = torch.random.get_rng_state()
    StreamedUnet(network)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_reduced_precision_stays_near(make):
    network = make("isotropic")
    volume = torch.rand(1, 1, *network.geometry.smallest_input)
    with torch.inference_mode():
        expected = torch.softmax(network(volume), dim=1)
        with torch.autocast("cpu", torch.bfloat16):
            found = torch.cat(list(StreamedUnet(network)(volume)), dim=2)
    assert found.dtype == torch.bfloat16
    assert (torch.softmax(found.float(), dim=1) - expected).abs().max() < 0.05


def test_what_is_no_3d_unet_on_a_cpu_runs_as_it_is(make, model):
    assert streams(make("isotropic"), torch.device("cpu"))
    assert not streams(make("isotropic"), torch.device("cuda"))
    other = build_network(model(type="OneConv3d")).eval()
    volume = torch.rand(1, 1, 5, 6, 7)
    with torch.inference_mode():
        (found,) = inference(other, torch.device("cpu"))(iter(volume.split(2, dim=2)), (5, 6, 7))
        assert torch.equal(found, other(volume * 2 - 1))
