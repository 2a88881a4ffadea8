"""The architectures that ``model.type`` can name. A new one is one file and one line in ``ARCHITECTURES``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from incasem_like.errors import ConfigError
from incasem_like.networks.initialization import INITIALIZATIONS
from incasem_like.networks.one_conv import OneConv3d
from incasem_like.networks.unet import Unet
from incasem_like.terminal import nearest

if TYPE_CHECKING:
    from incasem_like.config import ModelConfig
    from incasem_like.networks.forward_maps import ForwardMaps
    from incasem_like.networks.geometry import NetworkGeometry


class Architecture(Protocol):
    """Interface of an architecture's class, besides ``torch.nn.Module``."""

    geometry: NetworkGeometry

    @staticmethod
    def geometry_of(model: Any) -> NetworkGeometry:
        """Return the input and output sizes, from the configuration alone."""
        ...

    @staticmethod
    def forward_maps_of(model: Any) -> ForwardMaps:
        """Return the memory of a forward pass."""
        ...

    @classmethod
    def from_config(cls, model: Any) -> Any:
        """Build the network that the configuration describes, with newly initialised weights."""
        ...


ARCHITECTURES: Mapping[str, Architecture] = {
    "Unet": Unet,
    "OneConv3d": OneConv3d,
}


def build_network(model: ModelConfig) -> nn.Module:
    """Build the network that ``model`` describes, with weights drawn from torch's global generator.

    Args:
        model: The ``model`` part of a training configuration.

    Returns:
        A module from ``(batch, in_channels, z, y, x)`` float to logits ``(batch, num_fmaps_out, z', y', x')``, with
        its ``NetworkGeometry`` as attribute ``geometry``.

    Raises:
        ConfigError: Unknown ``model.type``, or values that do not fit each other.
    """
    network: nn.Module = _architecture(model).from_config(model)
    INITIALIZATIONS[model.initialization](network)
    return network


def network_geometry(model: ModelConfig) -> NetworkGeometry:
    """Return the network's input and output sizes, without building it.

    Raises:
        ConfigError: As ``build_network``.
    """
    return _architecture(model).geometry_of(model)


def forward_maps(model: ModelConfig) -> ForwardMaps:
    """Return the memory of the network's forward pass, without building it.

    Raises:
        ConfigError: As ``build_network``.
    """
    return _architecture(model).forward_maps_of(model)


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _architecture(model: ModelConfig) -> Architecture:
    if model.type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(
            f"model.type is '{model.type}', but the known ones are {known}{nearest(model.type, list(ARCHITECTURES))}"
        )
    return ARCHITECTURES[model.type]
