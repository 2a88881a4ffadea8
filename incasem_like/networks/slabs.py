"""Operations on feature maps streamed in slabs along z: convolution, pooling, cropping, buffering."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import nn
from torch.backends import mkldnn

from incasem_like.networks.section_convolution import convolution_3d

Slabs = Iterator[torch.Tensor]
Size = tuple[int, ...]


def convolved(maps: Slabs, layer: nn.Conv3d) -> Slabs:
    """Convolve maps, each ``(b, c, planes, y, x)``; planes that the next slab's first outputs need are kept."""
    reach = layer.kernel_size[0] - 1
    kept: list[torch.Tensor] = []
    for slab in maps:
        seen = behind_one_another([*kept, slab])
        # Copied, so that the last planes do not keep the whole slab in memory.
        kept = [seen[:, :, max(0, seen.shape[2] - reach) :].clone()] if reach else []
        results = [applied(layer, seen)] if seen.shape[2] > reach else []
        # A suspended generator keeps its local variables alive, and many of them are chained.
        del slab, seen
        while results:
            yield results.pop()


def frozen_convolution(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Conv3d:
    """Return the valid convolution with copies of that weight (out, in, z, y, x) and bias, for inference."""
    outputs, inputs, z, y, x = weight.shape
    with torch.device("meta"):  # initialising weights would advance torch's generator
        layer = convolution_3d(inputs, outputs, (z, y, x))
    kept = weight.detach().clone(memory_format=torch.channels_last_3d)
    layer.weight = nn.Parameter(kept, requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def applied(layer: nn.Conv3d, maps: torch.Tensor) -> torch.Tensor:
    """Apply a valid convolution; on a CPU always with oneDNN, which torch does not use for maps of few planes."""
    plain = maps.device.type == "cpu" and maps.dtype == layer.weight.dtype == torch.float32
    if layer.kernel_size[0] == 1 or not plain or torch.is_autocast_enabled("cpu") or not mkldnn.is_available():  # type: ignore[no-untyped-call]
        result: torch.Tensor = layer(maps)
    else:
        result = torch.mkldnn_convolution(maps, layer.weight, layer.bias, (0, 0, 0), (1, 1, 1), (1, 1, 1), 1)
    return result


def pooled(maps: Slabs, pool: nn.Module, factor: int) -> Slabs:
    """Pool maps in cells of ``factor`` planes; planes of an incomplete cell are kept for the next slab."""
    rest: list[torch.Tensor] = []
    for slab in maps:
        seen = behind_one_another([*rest, slab])
        whole = seen.shape[2] // factor * factor
        results = [pool(seen[:, :, :whole])] if whole else []
        rest = [seen[:, :, whole:].clone()] if whole < seen.shape[2] else []
        del slab, seen
        while results:
            yield results.pop()


def planes(maps: Slabs, begin: int, count: int) -> Slabs:
    """Yield ``count`` planes from plane ``begin`` on; only the needed slabs are drawn from ``maps``."""
    end = begin + count
    at = 0
    for slab in maps:
        parts = [slab[:, :, max(0, begin - at) : end - at]]
        at += slab.shape[2]
        del slab
        if parts[0].shape[2]:
            yield parts.pop()
        if at >= end:
            return


def behind_one_another(slabs: list[torch.Tensor]) -> torch.Tensor:
    """Concatenate along z; ``torch.cat`` is several times slower when channels are last in memory."""
    if len(slabs) == 1:
        return slabs[0]
    batch, channels, _, *plane = slabs[0].shape
    shape = (batch, channels, sum(slab.shape[2] for slab in slabs), *plane)
    result = torch.empty(shape, dtype=slabs[0].dtype, device=slabs[0].device, memory_format=torch.channels_last_3d)
    at = 0
    for slab in slabs:
        result[:, :, at : at + slab.shape[2]] = slab
        at += slab.shape[2]
    return result


class Waiting:
    """Skipped maps, buffered until the maps computed from them return from the levels below."""

    def __init__(self) -> None:
        self._slabs: deque[torch.Tensor] = deque()
        self._rows = self._columns = slice(None)
        self._passed_over = 0

    def crop(self, begin: Size, size: Size) -> None:
        """Set the crop of the maps to keep, (z, y, x) begin and size, before the first slab."""
        self._passed_over = begin[0]
        self._rows, self._columns = (slice(at, at + edge) for at, edge in zip(begin[1:], size[1:], strict=True))

    def noted(self, maps: Slabs) -> Slabs:
        """Yield maps, keeping the part of each slab that will be joined."""
        for slab in maps:
            part = slab[:, :, self._passed_over :]
            self._passed_over -= slab.shape[2] - part.shape[2]
            if part.shape[2]:
                self._slabs.append(part[..., self._rows, self._columns].clone())
            passed = [slab]
            del slab, part
            yield passed.pop()

    def take(self, count: int, reach: int) -> torch.Tensor:
        """Remove and return the first ``count`` planes, followed by ``reach`` more that stay in the buffer."""
        taken: list[torch.Tensor] = []
        missing = count + reach
        while missing > 0:
            slab = self._slabs.popleft()
            taken.append(slab[:, :, :missing])
            if slab.shape[2] > missing:
                self._slabs.appendleft(slab[:, :, missing:])
            missing -= taken[-1].shape[2]
        seen = behind_one_another(taken)
        if reach:
            self._slabs.appendleft(seen[:, :, count:].clone())
        return seen
