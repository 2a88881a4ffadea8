"""The model part of a configuration, made without YAML."""

import pytest
import torch

from incasem_like.config import ModelConfig, UnetModel


def _model(**changes):
    # A copy is not validated: what config refuses, the networks have to refuse by themselves too.
    section = ModelConfig.variants().get(changes.get("type", "Unet"), UnetModel)
    return section().model_copy(update=changes)


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
