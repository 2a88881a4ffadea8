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
    """What an architecture's class offers besides being a ``torch.nn.Module``."""

    geometry: NetworkGeometry

    @staticmethod
    def geometry_of(model: Any) -> NetworkGeometry:
        """Work out the sizes from the configuration alone."""
        ...

    @staticmethod
    def forward_maps_of(model: Any) -> ForwardMaps:
        """Work out what of a forward pass is in memory at once."""
        ...

    @classmethod
    def from_config(cls, model: Any) -> Any:
        """Build the network that the configuration describes, with fresh weights."""
        ...


ARCHITECTURES: Mapping[str, Architecture] = {
    "Unet": Unet,
    "OneConv3d": OneConv3d,
}


def build_network(model: ModelConfig) -> nn.Module:
    """Build the network that ``model`` describes, with fresh weights from torch's global generator.

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
    """Work out which input sizes the network takes and gives, without building it.

    Raises:
        ConfigError: As ``build_network``.
    """
    return _architecture(model).geometry_of(model)


def forward_maps(model: ModelConfig) -> ForwardMaps:
    """Work out what of a forward pass of the network is in memory at once, without building it.

    Raises:
        ConfigError: As ``build_network``.
    """
    return _architecture(model).forward_maps_of(model)


def count_parameters(network: nn.Module) -> int:
    """Count the trainable numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _architecture(model: ModelConfig) -> Architecture:
    if model.type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(
            f"model.type is '{model.type}', but the known ones are {known}{nearest(model.type, list(ARCHITECTURES))}"
        )
    return ARCHITECTURES[model.type]
