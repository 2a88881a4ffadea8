"""What a network is made of and what it needs: layers, sizes, memory; computed without its arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from incasem_like.networks.forward_maps import Allocations
from incasem_like.networks.geometry import NetworkGeometry, Size
from incasem_like.networks.registry import inspected_network
from incasem_like.networks.sections import geometry_in_volumes, on_volumes

if TYPE_CHECKING:
    from incasem_like.config import ModelConfig

BYTES_PER_FLOAT = 4
# Weights, their gradients, and Adam's two moments; the gradients are among the tensors of a backward pass.
COPIES_BESIDE_GRADIENTS = 3


@dataclass(frozen=True)
class Layer:
    """A layer, where it is used.

    Attributes:
        name: Its name in the network, as in the names of its parameters.
        kind: Its class.
        output: Shape of its output, without the batch: channels and voxels.
        parameters: Number of its parameters.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class NetworkDescription:
    """A network, and what it needs for a batch of inputs of one size.

    Attributes:
        layers: In the order of their use.
        trained: Number of parameters that are trained.
        frozen: Number of parameters that are not.
        geometry: Sizes z, y, x.
        training_bytes: Memory of one update: weights, optimizer, and the tensors of a forward and a backward pass.
        prediction_bytes: Memory of a forward pass alone, with the weights.
    """

    layers: tuple[Layer, ...]
    trained: int
    frozen: int
    geometry: NetworkGeometry
    training_bytes: int
    prediction_bytes: int


def describe_network(model: ModelConfig, input_size: Sequence[int], batch_size: int = 1) -> NetworkDescription:
    """Describe a network for inputs z, y, x of that size.

    Raises:
        ConfigError: The network cannot be built, or cannot take that size; the nearest valid ones are named.
    """
    network, own_geometry, _, device = inspected_network(model)
    geometry = geometry_in_volumes(own_geometry)
    geometry.output_size(input_size)
    volumes = on_volumes(network, own_geometry)
    trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    frozen = sum(weight.numel() for weight in network.parameters()) - trained
    shape = (batch_size, model.in_channels, *input_size)
    volumes.eval()
    with torch.no_grad(), Allocations() as predicting:
        layers = _layers(network, volumes, torch.zeros(shape, device=device))
    volumes.train()
    with Allocations() as training:
        result = volumes(torch.zeros(shape, device=device))
        sum(
            (logits.sum() for logits in (result if isinstance(result, list | tuple) else [result])), torch.zeros(())
        ).backward()
    return NetworkDescription(
        layers,
        trained,
        frozen,
        geometry,
        BYTES_PER_FLOAT * (training.most + COPIES_BESIDE_GRADIENTS * trained + frozen),
        BYTES_PER_FLOAT * (predicting.most + trained + frozen),
    )


def sizes_near(geometry: NetworkGeometry, size: Sequence[int], count: int = 2) -> list[Size]:
    """Return valid inputs: up to ``count`` smaller than a valid size, the size itself, and ``count`` larger ones."""
    steps = [
        tuple(edge + n * stride for edge, stride in zip(size, geometry.stride, strict=True))
        for n in range(-count, count + 1)
    ]
    return [one for one in steps if geometry.is_valid(one)]


def _layers(network: nn.Module, volumes: nn.Module, volume: torch.Tensor) -> tuple[Layer, ...]:
    found: list[Layer] = []

    def note(name: str, layer: nn.Module, output: Any) -> None:
        shape = tuple(output.shape[1:]) if isinstance(output, torch.Tensor) else ()
        found.append(Layer(name, type(layer).__name__, shape, sum(weight.numel() for weight in layer.parameters())))

    hooks = [
        layer.register_forward_hook(lambda layer, _, output, name=name: note(name, layer, output))
        for name, layer in network.named_modules()
        if not list(layer.children()) and not isinstance(layer, nn.Identity)
    ]
    volumes(volume)
    for hook in hooks:
        hook.remove()
    return tuple(found)
