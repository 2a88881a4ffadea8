"""Keeping a device busy: prefetching, batches of tiles, and results fetched while the next tile is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from incasem_like.prediction.computing.tiling import Tile

Floats = npt.NDArray[np.float32]
Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(function: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
    """Yield ``function(item)`` for every item, in order; up to ``count`` are computed in other threads beforehand."""
    if count == 0:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(count, thread_name_prefix="prefetch") as threads:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def batches(tiles: Iterable[Tile], size: int) -> Iterator[tuple[Tile, ...]]:
    """Group up to ``size`` consecutive tiles of the same shapes and margins."""

    def layout(tile: Tile) -> tuple[object, ...]:
        return tile.read_roi.shape, tile.write_roi.shape, tile.write_roi.begin - tile.read_roi.begin

    for _, alike in groupby(tiles, key=layout):
        while batch := tuple(islice(alike, size)):
            yield batch


def delayed(items: Iterable[Item], count: int) -> Iterator[Item]:
    """Yield all items in order, each when ``count`` more have been drawn."""
    waiting: list[Item] = []
    for item in items:
        waiting.append(item)
        del item  # so that the list alone keeps it in memory
        if len(waiting) > count:
            yield waiting.pop(0)
    yield from waiting


def to_device(raw: Floats, device: torch.device) -> torch.Tensor:
    """Copy (z, y, x) or (channels, z, y, x) to the device as (1, channels, z, y, x), without waiting for the copy."""
    values = torch.from_numpy(np.ascontiguousarray(raw, dtype=np.float32))
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True).reshape(1, -1, *values.shape[-3:])


class Downloads:
    """Copies results to the host; from a GPU beside its further work, through pinned memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @property
    def behind(self) -> int:
        """Number of results to leave waiting while the next one is computed."""
        return 0 if self._stream is None else 1

    def start(self, values: torch.Tensor) -> Callable[[], Floats]:
        """Begin to copy; the returned function waits for the copy and returns it."""
        if self._stream is None:
            host = values.cpu()
            return host.numpy
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            pinned.copy_(values, non_blocking=True)
            # Otherwise the allocator gives this memory to the next tile before the copy has read it.
            values.record_stream(self._stream)
            there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            there.record(self._stream)

        def fetched() -> Floats:
            there.synchronize()
            result: Floats = pinned.numpy()
            return result

        return fetched
