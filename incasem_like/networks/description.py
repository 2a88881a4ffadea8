"""What a network is made of and what it needs: layers, sizes, memory; computed without its arithmetic."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from incasem_like.networks.geometry import NetworkGeometry, Size
from incasem_like.networks.registry import inspected_network
from incasem_like.networks.sections import geometry_in_volumes, on_volumes

if TYPE_CHECKING:
    from incasem_like.config import ModelConfig

BYTES_PER_FLOAT = 4
# Weights, their gradients, and Adam's two moments; the gradients are among the tensors of a backward pass.
COPIES_BESIDE_GRADIENTS = 3
# A tile so large that the cropping of valid convolutions hardly matters; on the meta device it takes no memory.
LARGE_EDGE = 2**14


@dataclass(frozen=True)
class ForwardMaps:
    """Memory for a whole tile in a forward pass without gradients.

    Maps of a coarser level count by their number of voxels; the cropping of valid convolutions is ignored, so both
    numbers are the limit for very large tiles and an upper bound for smaller ones.

    Attributes:
        together: Feature maps in memory at the same time, including those of the input and of the output.
        widest: Feature maps of the largest tensor.
    """

    together: float
    widest: float


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


def forward_maps(model: ModelConfig) -> ForwardMaps:
    """Return the memory of the network's forward pass, without computing it.

    Raises:
        ConfigError: As ``build_network``.
    """
    return measured_maps(*inspected_network(model))


def measured_maps(network: nn.Module, geometry: NetworkGeometry, channels: int, device: torch.device) -> ForwardMaps:
    """Measure the memory of a forward pass of a network.

    Args:
        network: The network.
        geometry: Its geometry.
        channels: Channels of its input.
        device: Its device. On the meta device, tensors have shapes alone; elsewhere the smallest input is taken.
    """
    wanted = (LARGE_EDGE,) * geometry.dims if device.type == "meta" else geometry.smallest_input
    size = geometry.nearest_valid(wanted)[1]
    network.eval()
    with torch.no_grad(), Allocations() as allocated:
        network(torch.zeros((1, channels, *size), device=device))
    voxels = math.prod(size)
    return ForwardMaps(allocated.most / voxels, allocated.widest / voxels)


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


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the elements of tensors that are made in this context and exist at the same time.

    Attributes:
        most: The most there were.
        widest: Those of the largest tensor.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = self.widest = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes() // tensor.element_size()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most, self.widest = max(self.most, self.now), max(self.widest, size)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


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
