"""Feature maps that come slab by slab along z: convolving, pooling, cropping, keeping for later."""

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
    """Convolve maps, each ``(b, c, planes, y, x)``; the planes that the next slab's first outputs see are kept."""
    reach = layer.kernel_size[0] - 1
    kept: list[torch.Tensor] = []
    for slab in maps:
        seen = behind_one_another([*kept, slab])
        # Copied, else the whole slab stays in memory with its last planes.
        kept = [seen[:, :, max(0, seen.shape[2] - reach) :].clone()] if reach else []
        results = [applied(layer, seen)] if seen.shape[2] > reach else []
        # A generator that waits keeps what it has names for, and many of them wait behind one another.
        del slab, seen
        while results:
            yield results.pop()


def frozen_convolution(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Conv3d:
    """Make the valid convolution with copies of that weight (out, in, z, y, x) and bias, for inference."""
    outputs, inputs, z, y, x = weight.shape
    with torch.device("meta"):  # fresh weights would only take numbers from torch's generator
        layer = convolution_3d(inputs, outputs, (z, y, x))
    kept = weight.detach().clone(memory_format=torch.channels_last_3d)
    layer.weight = nn.Parameter(kept, requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def applied(layer: nn.Conv3d, maps: torch.Tensor) -> torch.Tensor:
    """Apply a valid convolution; on a CPU always with oneDNN, which torch leaves aside where maps are few planes."""
    plain = maps.device.type == "cpu" and maps.dtype == layer.weight.dtype == torch.float32
    if layer.kernel_size[0] == 1 or not plain or torch.is_autocast_enabled("cpu") or not mkldnn.is_available():  # type: ignore[no-untyped-call]
        result: torch.Tensor = layer(maps)
    else:
        result = torch.mkldnn_convolution(maps, layer.weight, layer.bias, (0, 0, 0), (1, 1, 1), (1, 1, 1), 1)
    return result


def pooled(maps: Slabs, pool: nn.Module, factor: int) -> Slabs:
    """Pool maps in cells of ``factor`` planes; planes that fill no cell wait for the next slab."""
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
    """Pass on ``count`` planes from plane ``begin`` on; nothing is drawn from ``maps`` that is not needed."""
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
    """Concatenate along z; ``torch.cat`` does so several times slower when channels are last in memory."""
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
    """Maps that wait until others, which are computed from them, have come back from the levels below."""

    def __init__(self) -> None:
        self._slabs: deque[torch.Tensor] = deque()
        self._rows = self._columns = slice(None)
        self._passed_over = 0

    def crop(self, begin: Size, size: Size) -> None:
        """Say, before the first slab comes, what of the maps is kept: (z, y, x) begin and size."""
        self._passed_over = begin[0]
        self._rows, self._columns = (slice(at, at + edge) for at, edge in zip(begin[1:], size[1:], strict=True))

    def noted(self, maps: Slabs) -> Slabs:
        """Pass maps on, keeping of each slab what will be joined."""
        for slab in maps:
            part = slab[:, :, self._passed_over :]
            self._passed_over -= slab.shape[2] - part.shape[2]
            if part.shape[2]:
                self._slabs.append(part[..., self._rows, self._columns].clone())
            passed = [slab]
            del slab, part
            yield passed.pop()

    def take(self, count: int, reach: int) -> torch.Tensor:
        """Take ``count`` planes off the front, and see ``reach`` more behind them that stay."""
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
