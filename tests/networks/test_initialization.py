import pytest
import torch

from incasem_like.config import UnetModel
from incasem_like.networks import build_network


def built(initialization: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(UnetModel(num_fmaps=8, downsample_factors=[[2, 2, 2]], initialization=initialization))


def test_torch_leaves_the_weights_as_the_layers_drew_them():
    torch.manual_seed(0)
    first = torch.nn.Conv3d(1, 8, 3)
    torch.testing.assert_close(built("torch").unet.l_conv[0].conv_pass[0].weight, first.weight)


def test_he_normal_keeps_the_signal_from_fading_through_the_layers():
    signal = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    spread = {}
    for initialization in ("torch", "he_normal"):
        with torch.no_grad():
            spread[initialization] = float(built(initialization)(signal).std())
    assert spread["he_normal"] > 10 * spread["torch"]
    assert 0.2 < spread["he_normal"] < 5


def test_he_normal_has_the_variance_of_its_definition():
    weight = built("he_normal").unet.l_conv[1].conv_pass[2].weight
    assert float(weight.detach().std()) == pytest.approx((2 / (16 * 27)) ** 0.5, rel=0.05)


def test_glorot_uniform_has_the_bounds_of_its_definition_and_no_biases():
    network = built("glorot_uniform")
    layer = network.unet.l_conv[1].conv_pass[0]  # 8 maps to 16
    bound = (6 / ((8 + 16) * 27)) ** 0.5
    assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert not any(float(value.abs().max()) for name, value in network.named_parameters() if name.endswith("bias"))
