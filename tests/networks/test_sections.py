import pytest
import torch

from incasem_like.networks import build_network, geometry_in_volumes, network_geometry, on_volumes
from incasem_like.networks.inference import inference, streams
from incasem_like.networks.sections import Sections

CPU = torch.device("cpu")


@pytest.fixture
def network(model, enliven):
    return enliven(build_network(model(num_fmaps=3, downsample_factors=[[2, 2], [2, 3]]))).eval()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_each_section_is_what_the_network_makes_of_it_alone(network, layout):
    y, x = network.geometry.smallest_input
    volume = torch.rand(2, 1, 5, y + 4, x + 6).contiguous(memory_format=layout)
    with torch.inference_mode():
        together = on_volumes(network, network.geometry)(volume)
        for section in range(5):
            alone = network(volume[:, :, section])
            assert torch.allclose(together[:, :, section], alone, atol=1e-6)
        assert together.std() > 1e-3
    assert together.shape[2:] == geometry_in_volumes(network.geometry).output_size(volume.shape[2:])


def test_few_sections_are_computed_at_a_time(network, monkeypatch):
    monkeypatch.setattr("incasem_like.networks.inference.VOXELS_AT_ONCE", 2 * 88 * 92)
    wrapped = on_volumes(network, network.geometry)
    assert streams(wrapped, CPU)
    y, x = network.geometry.nearest_valid((80, 90))[1]
    volume = torch.rand(1, 1, 7, y, x)
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[0]))
    with torch.inference_mode():
        slabs = list(inference(wrapped, CPU)(iter([volume[:, :, :4], volume[:, :, 4:]]), tuple(volume.shape[2:])))
        assert torch.allclose(torch.cat(slabs, dim=2), wrapped(volume * 2 - 1), atol=1e-6)
    assert max(seen[:-1]) < 4
    assert sum(seen[:-1]) == 7


def test_a_network_on_volumes_is_left_as_it_is(model):
    network = build_network(model(num_fmaps=2, downsample_factors=[[1, 2, 2]]))
    assert on_volumes(network, network.geometry) is network
    assert geometry_in_volumes(network.geometry) == network.geometry
    assert not isinstance(network, Sections)
    assert network_geometry(model()).dims == 3
