"""A stand-in for the model part of a configuration, so that these tests need no YAML."""

from types import SimpleNamespace

import pytest
import torch


def _model(**changes):
    values = {
        "type": "Unet",
        "in_channels": 1,
        "num_fmaps": 32,
        "num_fmaps_out": 2,
        "fmap_inc_factor": 2,
        "downsample_factors": [[2, 2, 2]] * 3,
        "kernel_size_down": None,
        "kernel_size_up": None,
        "constant_upsample": True,
    }
    return SimpleNamespace(**(values | changes))


@pytest.fixture(scope="session")
def model():
    return _model


@pytest.fixture(scope="session")
def small(model):
    """A U-Net of two levels that runs in milliseconds: valid inputs 4n >= 44; output = input - 42."""
    return model(num_fmaps=2, downsample_factors=[[2, 2, 2]] * 2)


@pytest.fixture
def enliven():
    """Give weights with which signals reach the output: a few feature maps may all be rectified away by default."""

    def enlivened(network):
        generator = torch.Generator().manual_seed(0)
        for parameter in network.parameters():
            if parameter.dim() > 1:
                torch.nn.init.kaiming_normal_(parameter, generator=generator)
            else:
                torch.nn.init.uniform_(parameter, 0.0, 0.2, generator=generator)
        return network

    return enlivened
