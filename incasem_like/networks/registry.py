"""The architectures that ``model.type`` can name. A new one is one file and one line in ``ARCHITECTURES``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from incasem_like.errors import ConfigError
from incasem_like.networks.auto_context import AutoContext
from incasem_like.networks.custom import Custom
from incasem_like.networks.hourglass import StackedHourglass
from incasem_like.networks.one_conv import OneConv3d
from incasem_like.networks.unet import Unet
from incasem_like.terminal import nearest

if TYPE_CHECKING:
    from incasem_like.config import ModelConfig
    from incasem_like.networks.geometry import NetworkGeometry


class Architecture(Protocol):
    """What makes networks of an architecture; they have their ``NetworkGeometry`` as attribute ``geometry``."""

    @staticmethod
    def geometry_of(model: Any) -> NetworkGeometry:
        """Return the input and output sizes, from the configuration alone."""
        ...

    @classmethod
    def from_config(cls, model: Any) -> Any:
        """Build the network that the configuration describes, with newly initialised weights."""
        ...


CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Each has a section of options in config/network_sections.py.
ARCHITECTURES: Mapping[str, Architecture] = {
    "Unet": Unet,
    "StackedHourglass": StackedHourglass,
    "AutoContext": AutoContext,
    "Custom": Custom,
    "OneConv3d": OneConv3d,
}


def build_network(model: ModelConfig) -> nn.Module:
    """Build the network that ``model`` describes, with weights drawn from torch's global generator.

    Args:
        model: The ``model`` part of a training configuration.

    Returns:
        A module from ``(batch, in_channels, z, y, x)`` float to logits ``(batch, num_fmaps_out, z', y', x')``, with
        its ``NetworkGeometry`` as attribute ``geometry``; a 2-D one from ``(batch, in_channels * sections, y, x)``. In
        training mode it may return a list of such logits, which the loss supervises all; the last is the result.

    Raises:
        ConfigError: Unknown ``model.type``, or values that do not fit each other.

    Example:
        >>> from incasem_like.config import UnetModel
        >>> network = build_network(UnetModel(num_fmaps=2, downsample_factors=((2, 2, 2),)))
        >>> network(torch.zeros(1, 1, 24, 24, 26)).shape
        torch.Size([1, 2, 6, 6, 8])
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


def check_output(model: ModelConfig) -> int:
    """Check that the network gives as many channels and voxels as its geometry says, for its smallest input.

    Returns:
        The number of outputs in training; more than one are intermediate results.

    Raises:
        ConfigError: It returns another shape, or fails; or as ``build_network``.
    """
    network, geometry, channels, device = inspected_network(model)
    size = geometry.smallest_input
    expected = (2, model.num_fmaps_out, *geometry.output_size(size))
    try:
        result = network(torch.zeros((2, channels, *size), device=device))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"The network fails for an input of {list(size)} ({error}): correct model.") from error
    outputs = result if isinstance(result, list | tuple) else [result]
    for logits in outputs:
        if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
            found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ConfigError(
                f"The network returned the wrong shape for an input of {list(size)}: {found} instead of {expected} "
                "(batch, channels, voxels); correct the network, model.output_size or model.num_fmaps_out."
            )
    network.eval()
    with torch.no_grad():
        result = network(torch.zeros((2, channels, *size), device=device))
    if not isinstance(result, torch.Tensor) or tuple(result.shape) != expected:
        raise ConfigError("The network returns something else in evaluation mode: return the last logits alone there.")
    return len(outputs)


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def inspected_network(model: ModelConfig) -> tuple[nn.Module, NetworkGeometry, int, torch.device]:
    """Return a network, its geometry, the channels of its input, and the device that it is to be tried out on.

    Networks of this package have no memory and do no work there, on the meta device; others may need real values.
    """
    device = torch.device("cpu" if model.type == "Custom" else "meta")
    with device, torch.random.fork_rng(devices=[]):
        network = build_network(model)
    geometry = network_geometry(model)
    return network, geometry, model.in_channels * geometry.sections, device


def _keep_torch(network: nn.Module) -> None:
    """Keep torch's default initialisation, with which the signal fades from layer to layer."""


def _he_normal(network: nn.Module) -> None:
    """Draw weights so that the signal's variance stays constant through convolutions and ReLUs; biases are 0.

    He, Zhang, Ren and Sun: Delving deep into rectifiers, 2015, arXiv:1502.01852.
    """
    for layer in network.modules():
        if isinstance(layer, CONVOLUTIONS):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _glorot_uniform(network: nn.Module) -> None:
    """Draw weights uniformly within +-sqrt(6 / (inputs + outputs)) of a layer, as Keras does; biases are 0.

    Glorot and Bengio: Understanding the difficulty of training deep feedforward neural networks, 2010.
    """
    for layer in network.modules():
        if isinstance(layer, CONVOLUTIONS):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


# By the name that ``model.initialization`` has.
INITIALIZATIONS: Mapping[str, Callable[[nn.Module], None]] = {
    "torch": _keep_torch,
    "he_normal": _he_normal,
    "glorot_uniform": _glorot_uniform,
}


def _architecture(model: ModelConfig) -> Architecture:
    if model.type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(
            f"model.type is '{model.type}', but the known ones are {known}{nearest(model.type, list(ARCHITECTURES))}"
        )
    return ARCHITECTURES[model.type]
