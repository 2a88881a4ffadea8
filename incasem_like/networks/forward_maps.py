"""Memory of a network's forward pass, in feature maps of the size of its input."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from incasem_like.networks.geometry import NetworkGeometry

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
