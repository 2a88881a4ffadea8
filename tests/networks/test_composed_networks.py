"""Stacked hourglass, auto-context and networks of the user's own."""

import numpy as np
import pytest
import torch

from incasem_like.config import ModelConfig
from incasem_like.errors import CheckpointError, ConfigError
from incasem_like.networks import (
    build_network,
    check_output,
    count_parameters,
    forward_maps,
    network_geometry,
    save_checkpoint,
)
from incasem_like.networks.registry import ARCHITECTURES

SMALL = {"num_fmaps": 2, "downsample_factors": [[2, 2, 2]]}


def test_the_schema_and_the_registry_name_the_same_architectures():
    choices = ModelConfig.model_fields["type"].annotation.__args__
    assert set(choices) == set(ARCHITECTURES) == set(ModelConfig.variants())
    for name, section in ModelConfig.variants().items():
        assert section.model_fields["type"].default == name


@pytest.fixture
def hourglass(enliven):
    values = {**SMALL, "type": "StackedHourglass", "num_stacks": 3, "num_fmaps": 4, "num_fmaps_out": 3}
    return enliven(build_network(ModelConfig.model_validate(values)))


def test_an_hourglass_gives_the_logits_of_every_stack_in_training_and_of_the_last_otherwise(hourglass):
    volume = torch.rand(2, 1, 8, 6, 4)
    results = hourglass.train()(volume)
    assert [tuple(logits.shape) for logits in results] == [(2, 3, 8, 6, 4)] * 3
    sum(logits.square().mean() for logits in results).backward()
    assert all(parameter.grad is not None for parameter in hourglass.parameters())
    assert hourglass.eval()(volume).shape == (2, 3, 8, 6, 4)


def test_each_stack_sees_the_input_features_and_logits_of_the_one_before(hourglass):
    hourglass.eval()
    volume, seen = torch.rand(1, 1, 4, 4, 4), []
    for unet in hourglass.unets:
        unet.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output[0])))
    with torch.no_grad():
        result = hourglass(volume)
        for stack in (0, 1):
            given, decoded = seen[stack]
            features = hourglass.features[stack](decoded)
            score = hourglass.scores[stack](features)
            expected = given + hourglass.features_back[stack](features) + hourglass.scores_back[stack](score)
            torch.testing.assert_close(seen[stack + 1][0], expected)
        torch.testing.assert_close(result, hourglass.scores[2](hourglass.features[2](seen[2][1])))
    assert torch.equal(seen[0][0], volume)


def test_an_hourglass_works_on_images_and_channels():
    values = {"type": "StackedHourglass", "num_fmaps": 4, "downsample_factors": [[2, 2]], "in_channels": 3}
    network = build_network(ModelConfig.model_validate(values)).eval()
    assert network(torch.rand(1, 3, 6, 8)).shape == (1, 2, 6, 8)


@pytest.fixture
def auto_context():
    def made(**changes):
        values = {**SMALL, "type": "AutoContext", "first": {**SMALL, "num_fmaps_out": 3}, **changes}
        return ModelConfig.model_validate(values)

    return made


@pytest.mark.parametrize("with_raw", [True, False])
def test_auto_context_feeds_the_second_network_the_first_ones_values_as_8_bits(auto_context, enliven, with_raw):
    kernels = {"kernel_size_down": [[[3, 3, 3]], [[3, 3, 3]]], "kernel_size_up": [[[3, 3, 4]]]}
    model = auto_context(with_raw=with_raw, downsample_factors=[[3, 3, 3]], **kernels)
    network = enliven(build_network(model)).eval()
    size = network_geometry(model).smallest_input
    volume = torch.rand(1, 1, *size)
    with torch.no_grad():
        described = (torch.sigmoid(network.first(volume)) * 255).round() / 255
        first, second = network.first.geometry, network.second.geometry
        taken, _ = second.nearest_valid(described.shape[2:])
        # The output is centred in the whole input.
        begin = [
            whole - before - after
            for whole, before, after in zip(network.geometry.context, first.context, second.context, strict=True)
        ]
        crop = tuple(slice(at, at + edge) for at, edge in zip(begin, taken, strict=True))
        raw = tuple(
            slice(at + context, at + context + edge)
            for at, context, edge in zip(begin, first.context, taken, strict=True)
        )
        inputs = [volume[(..., *raw)]] * with_raw + [described[(..., *crop)]]
        torch.testing.assert_close(network(volume), network.second(torch.cat(inputs, 1)))
    assert network(volume).shape[2:] == network.geometry.output_size(size)
    assert min(begin) >= 0


def test_only_the_second_network_of_auto_context_is_trained(auto_context, tmp_path):
    model = auto_context()
    network = build_network(model).train()
    first = build_network(model.first)
    save_checkpoint(tmp_path / "first", first)
    network.read_first(tmp_path / "first")
    assert all(torch.equal(network.first.state_dict()[name], value) for name, value in first.state_dict().items())
    assert count_parameters(network) == count_parameters(network.second)
    assert not network.first.training
    network(torch.rand(1, 1, *network.geometry.smallest_input)).square().sum().backward()
    assert all(parameter.grad is None for parameter in network.first.parameters())
    assert all(parameter.grad is not None for parameter in network.second.parameters())
    with pytest.raises(CheckpointError, match="does not exist"):
        network.read_first(tmp_path / "none")


def test_the_papers_auto_context_reads_304_voxels_and_writes_92():
    unet = {
        **{"num_fmaps": 12, "fmap_inc_factor": 6, "final_kernel_size": 1, "crop_to_factor": False},
        **{"constant_upsample": False, "transposed_fmaps": "upper", "transposed_relu": True},
        "downsample_factors": [[2, 2, 2], [2, 2, 2], [3, 3, 3]],
    }
    values = {"type": "AutoContext", **unet, "num_fmaps_out": 3, "first": {**unet, "num_fmaps_out": 10}}
    geometry = network_geometry(ModelConfig.model_validate(values))
    assert geometry.output_size((304,) * 3) == (92,) * 3
    assert geometry.stride == (12,) * 3


MODULE = """
import torch

class Blur(torch.nn.Module):
    def __init__(self, in_channels, num_fmaps_out, edge=3):
        super().__init__()
        self.layer = torch.nn.Conv3d(in_channels, num_fmaps_out, edge)

    def forward(self, volume):
        assert float(volume.sum()) == float(volume.sum())  # needs values
        return self.layer(volume)

class Stuck(Blur):
    def forward(self, volume):
        raise RuntimeError("stuck here")

NOTHING = 3
"""


@pytest.fixture
def custom(tmp_path, monkeypatch):
    (tmp_path / "networks_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(**changes):
        sizes = {"input_size": [5, 6, 7], "output_size": [3, 4, 5]}
        return ModelConfig.model_validate({"type": "Custom", "module": "networks_of_mine:Blur", **sizes, **changes})

    return made


def test_a_network_of_the_users_own_has_the_declared_geometry(custom):
    model = custom()
    check_output(model)
    network = build_network(model)
    assert network.geometry.output_size((7, 8, 10)) == (5, 6, 8)
    assert network(torch.rand(1, 1, 7, 8, 10)).shape == (1, 2, 5, 6, 8)
    assert np.isfinite(forward_maps(model).together)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"output_size": [5, 6, 7]}, r"returned the wrong shape .*: \(2, 2, 3, 4, 5\) instead of \(2, 2, 5, 6, 7\)"),
        ({"options": {"edge": 5}}, r"returned the wrong shape for an input of \[5, 6, 7\]: \(2, 2, 1, 2, 3\) instead"),
        ({"options": {"edges": 5}}, r"cannot be made \(.*'edges'\)"),
        ({"module": "networks_of_mine:Blurr"}, "cannot be imported .*'Blurr'"),
        ({"module": "networks_of_nobody:Blur"}, "cannot be imported .*set PYTHONPATH"),
        ({"module": "networks_of_mine:NOTHING"}, "is not a torch.nn.Module"),
        ({"module": "networks_of_mine:Stuck"}, r"fails for an input of \[5, 6, 7\] \(stuck here\)"),
        ({"output_size": [6, 6, 6]}, "larger than model.input_size"),
    ],
)
def test_a_network_that_is_not_what_it_declares_is_refused_in_a_sentence(custom, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_output(custom(**changes))
