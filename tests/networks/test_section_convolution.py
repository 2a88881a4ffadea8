import pytest
import torch
from torch import nn

from incasem_like.networks.section_convolution import SectionConv3d, convolution_3d


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_sections_in_the_batch_give_the_volume_convolution_and_its_gradients(memory_format):
    torch.manual_seed(0)
    ours, reference = SectionConv3d(3, 5, (1, 3, 3)), nn.Conv3d(3, 5, (1, 3, 3))
    reference.load_state_dict(ours.state_dict())
    maps = torch.randn(2, 3, 4, 9, 8).contiguous(memory_format=memory_format)
    results, gradients = [], []
    for layer in (ours, reference):
        given = maps.clone().requires_grad_(True)
        result = layer(given)
        (result * torch.arange(result.numel()).reshape(result.shape)).sum().backward()
        results.append(result.detach())
        gradients.append([given.grad, layer.weight.grad, layer.bias.grad])
    torch.testing.assert_close(results[0], results[1])
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


def test_only_kernels_one_section_deep_are_computed_by_section():
    assert type(convolution_3d(1, 2, (1, 3, 3))) is SectionConv3d
    assert type(convolution_3d(1, 2, (3, 3, 3))) is nn.Conv3d
