"""Keeping a device busy: tiles that it takes together, and results that are fetched while it computes the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from incasem_like.prediction.computing.tiles import Tile

Floats = npt.NDArray[np.float32]
Item = TypeVar("Item")


def batches(tiles: Iterable[Tile], size: int) -> Iterator[tuple[Tile, ...]]:
    """Put up to ``size`` tiles together that follow one another, read as much and lie alike in what they read."""
    for _, alike in groupby(tiles, key=lambda tile: (tile[0].shape, tile[1].shape, tile[1].begin - tile[0].begin)):
        while batch := tuple(islice(alike, size)):
            yield batch


def to_device(raw: Floats, device: torch.device) -> torch.Tensor:
    """Copy (z, y, x) or (channels, z, y, x) to the device as (1, channels, z, y, x), not waiting until it is there."""
    values = torch.from_numpy(np.ascontiguousarray(raw, dtype=np.float32))
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True).reshape(1, -1, *values.shape[-3:])


class Downloads:
    """Brings results to the host. From a GPU they come beside its further work, through memory that is pinned."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @property
    def behind(self) -> int:
        """How many results are worth waiting for only when the next is being computed."""
        return 0 if self._stream is None else 1

    def start(self, values: torch.Tensor) -> Callable[[], Floats]:
        """Begin to fetch; what is returned waits for the values and gives them."""
        if self._stream is None:
            host = values.cpu()
            return host.numpy
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            pinned.copy_(values, non_blocking=True)
            # Else the allocator gives its memory to the next tile before the copy has read it.
            values.record_stream(self._stream)
            there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            there.record(self._stream)

        def fetched() -> Floats:
            there.synchronize()
            result: Floats = pinned.numpy()
            return result

        return fetched


def delayed(items: Iterable[Item], count: int) -> Iterator[Item]:
    """Yield all items in order, each when ``count`` more have been drawn."""
    waiting: list[Item] = []
    for item in items:
        waiting.append(item)
        # Nothing but the list keeps what is passed on in memory.
        del item
        if len(waiting) > count:
            yield waiting.pop(0)
    yield from waiting
