"""TiledPredictor: the prediction of a region tile by tile, equal to that of the whole volume at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby, product
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from incasem_like.networks import NetworkGeometry, enough_memory
from incasem_like.networks.inference import Inference, inference, streams
from incasem_like.networks.slabs import Slabs, planes
from incasem_like.prediction.channels import ChannelGroup, activated
from incasem_like.prediction.computing.ahead import ahead
from incasem_like.prediction.computing.device_work import Downloads, batches, delayed, to_device
from incasem_like.prediction.computing.tiling import axis_input, axis_step, grid_phase
from incasem_like.prediction.computing.variants import NONE, Variant, geometry_for, variants_for
from incasem_like.volumes import Coordinate, Roi

Floats = npt.NDArray[np.float32]
Reader = Callable[[Roi], Floats]
Tile = tuple[Roi, Roi]
Batch = tuple[Tile, ...]
# Of a tile that is predicted slab by slab, read together: a good part of a chunk, so that chunks are not read often.
PLANES_READ = 64


class TiledPredictor:
    """Predicts regions of any size with a network that takes tiles.

    A network that pools gives the same values only where its pooling cells lie the same way. So every tile is read at a
    multiple of the network's stride from the volume's own begin, and what one region's prediction holds at a voxel is
    what any other's does, and the whole volume's.

    Args:
        network: Maps (1, channels, z, y, x) in [-1, 1] to logits; it is put into evaluation mode while it is used.
        geometry: The network's.
        input_size: The largest tile it is given, in voxels z, y, x; tiles at a region's end are smaller.
        device: Where the network is.
        autocast: Type that automatic mixed precision computes in; None for the network's own.
        channels_last: Give the network tiles with channels last in memory.
        read_ahead: How many tiles, or batches of them, are read ahead in other threads.
        batch_size: How many tiles the network takes together; without effect where it takes them slab by slab.
        augmentation: ``none``, ``mirrors`` or ``mirrors_and_transposes``: positions that are averaged.
        channels: What the output channels mean; none where all are classes.

    Raises:
        ConfigError: A network that cannot take ``input_size`` or be transposed.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        geometry: NetworkGeometry,
        input_size: Sequence[int],
        device: torch.device,
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
        read_ahead: int = 1,
        batch_size: int = 1,
        augmentation: str = NONE,
        channels: Sequence[ChannelGroup] = (),
    ) -> None:
        assert geometry.dims == 3, "a network on sections is put into Sections"
        geometry.output_size(input_size)
        self.network, self.input_size = network, tuple(input_size)
        self.geometry, self._variants = geometry_for(augmentation, geometry), variants_for(augmentation, geometry)
        self.device, self.autocast, self.channels_last = device, autocast, channels_last
        self.channels = tuple(channels)
        self.in_slabs = len(self._variants) == 1 and streams(network, device)
        self.read_ahead, self.batch_size = read_ahead, 1 if self.in_slabs else batch_size

    @cached_property
    def _downloads(self) -> Downloads:
        return Downloads(self.device)  # not before it is used: a scheduler divides regions without the workers' GPU

    def steps(self, roi: Roi, origin: Sequence[int]) -> Coordinate:
        """Give the size of the tiles that ``roi`` is predicted in, in voxels; those at its end may be smaller.

        Raises:
            ConfigError: ``input_size`` is too small to cover that region with tiles a stride apart.
        """
        return Coordinate(
            axis_step(self.geometry, axis, self.input_size[axis], grid_phase(self.geometry, axis, roi, origin))
            for axis in range(3)
        )

    def tiles(self, roi: Roi, origin: Sequence[int], within: Roi | None = None) -> list[Tile]:
        """Divide a region into tiles.

        Args:
            roi: What to predict, in absolute voxels.
            origin: Where the raw volume begins, in absolute voxels.
            within: Give only those tiles that begin in this part of it.

        Returns:
            For each tile what it reads and what it writes, last axis fastest. The second kind covers ``roi`` without
            overlap; the first goes beyond it, and beyond the volume at its edges.

        Raises:
            ConfigError: As ``steps``.
        """
        axes = []
        for axis, step in enumerate(self.steps(roi, origin)):
            begin, end = roi.begin[axis], roi.end[axis]
            phase = grid_phase(self.geometry, axis, roi, origin)
            starts: Iterable[int] = range(begin, end, step)
            if within is not None:
                starts = [at for at in starts if within.begin[axis] <= at < within.end[axis]]
            axes.append([self._axis_tile(axis, at, min(at + step, end), phase) for at in starts])
        return [_tile(spans) for spans in product(*axes)]

    def tile(self, write: Roi, origin: Sequence[int]) -> Tile:
        """Give the tile that writes just this, in absolute voxels, however large it is; ``origin`` as for ``tiles``."""
        phases = (grid_phase(self.geometry, axis, write, origin) for axis in range(3))
        return _tile(
            [self._axis_tile(axis, write.begin[axis], write.end[axis], phase) for axis, phase in enumerate(phases)]
        )

    def predict(self, read: Reader, roi: Roi, origin: Sequence[int]) -> Iterator[tuple[Roi, Floats]]:
        """Predict a region.

        Args:
            read: Gives the raw values in [0, 1] of a region that may go beyond the volume, as (z, y, x) or
                (channels, z, y, x) float32. It is called from other threads, ``read_ahead`` regions ahead.
            roi: As for ``tiles``.
            origin: As for ``tiles``.

        Yields:
            The part of ``roi`` that a tile covers, and the probabilities there, (classes, z, y, x) float32.

        Raises:
            ConfigError: As ``steps``.
            IncasemError: The memory of the GPU does not suffice for a tile.
        """
        return self.predict_tiles(read, self.tiles(roi, origin))

    def predict_tiles(self, read: Reader, tiles: Iterable[Tile]) -> Iterator[tuple[Roi, Floats]]:
        """Predict some of the tiles that ``tiles`` gave; see ``predict``."""
        return ((part, probabilities) for _, part, probabilities in self.predict_parts(read, tiles))

    def predict_parts(
        self, read: Reader, tiles: Iterable[Tile], depth: int | None = None
    ) -> Iterator[tuple[Tile, Roi, Floats]]:
        """Predict some of the tiles that ``tiles`` gave, each from its first plane to its last.

        Args:
            read: As for ``predict``; it is asked for parts of tiles.
            tiles: Which.
            depth: Give the probabilities of so many planes as soon as they are there; None gives tiles as a whole.

        Yields:
            The tile, the part of it that is there, and the probabilities, (classes, planes, y, x) float32.

        Raises:
            IncasemError: The memory of the GPU does not suffice for a tile.
        """
        remedy = f"set prediction.input_size_voxels (validation.input_size_voxels) below {list(self.input_size)}"
        with enough_memory(remedy):
            for batch, slabs in groupby(delayed(self._computed(read, tiles), self._downloads.behind), itemgetter(0)):
                values = (fetched() for _, fetched in slabs)
                # Tiles that were predicted together are there as a whole; they are given one after the other.
                whole = [next(values)] if len(batch) > 1 else None
                for index, tile in enumerate(batch):
                    slabs_of_one = (slab[index] for slab in (values if whole is None else whole))
                    yield from _parts(tile, collected(slabs_of_one, depth or tile[1].shape[0]))

    def first_read(self, tile: Tile) -> Roi:
        """Say what of a tile is read first."""
        return next(self._parts_read(tile[0]))

    def _parts_read(self, roi: Roi) -> Iterator[Roi]:
        """Cut what a tile reads into parts along z, where the network takes it so."""
        depth = PLANES_READ if self.in_slabs else roi.shape[0]
        for at in range(0, roi.shape[0], depth):
            yield Roi(roi.begin + Coordinate(at, 0, 0), (min(depth, roi.shape[0] - at), *roi.shape[1:]))

    def _computed(self, read: Reader, tiles: Iterable[Tile]) -> Iterator[tuple[Batch, Callable[[], Floats]]]:
        """Compute tiles, several at a time; what comes gives the probabilities (tiles, classes, planes, y, x)."""
        together = batches(tiles, self.batch_size)
        wanted = ((batch, part) for batch in together for tile in batch for part in self._parts_read(tile[0]))
        units = ahead(lambda unit: (unit[0], read(unit[1])), wanted, self.read_ahead * self.batch_size)
        run = inference(self.network, self.device)
        for batch, parts in groupby(units, key=itemgetter(0)):
            raw: Slabs = (to_device(values, self.device) for _, values in parts)
            if len(batch) > 1:
                raw = iter([torch.cat(list(raw))])
            for slab in self._slabs(run, raw, batch[0]):
                yield batch, self._downloads.start(slab)

    def _axis_tile(self, axis: int, begin: int, end: int, phase: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Give (begin, size) of what is read and of what is written for the span from ``begin`` to ``end``."""
        size = axis_input(self.geometry, axis, end - begin, phase)
        return (begin - phase - self.geometry.border[axis] - self.geometry.context[axis], size), (begin, end - begin)

    def _slabs(self, run: Inference, raw: Slabs, tile: Tile) -> Slabs:
        """Run the network on a tile, or several like it, and give the probabilities of what it writes, in slabs."""
        margin, shape = tile[1].begin - tile[0].begin, tile[1].shape
        if len(self._variants) == 1:
            yield from self._in_position(run, self._variants[0], raw, tile[0].shape, margin, shape)
            return
        (volume,) = raw
        total: torch.Tensor | None = None
        for variant in self._variants:
            turned = variant.apply(volume)
            slabs = self._in_position(run, variant, iter([turned]), turned.shape[2:], margin, shape)
            values = variant.revert(torch.cat(list(slabs), dim=2))
            total = values if total is None else total + values
        assert total is not None
        yield total / len(self._variants)

    def _in_position(
        self, run: Inference, variant: Variant, raw: Slabs, size: Sequence[int], margin: Coordinate, shape: Coordinate
    ) -> Slabs:
        """Give the probabilities of a tile that is in some position, in that position.

        Args:
            run: The network.
            variant: The position.
            raw: Slabs of the tile in that position.
            size: Of the tile in that position.
            margin: From where the tile begins to what is written, in the tile's own position.
            shape: Of what is written, in the tile's own position.
        """
        whole = (size[0], size[2], size[1]) if variant.transposed else size
        begin, kept = variant.place(margin, shape, whole)
        z, y, x = (at - context for at, context in zip(begin, self.geometry.context, strict=True))
        if self.channels_last:
            raw = (slab.contiguous(memory_format=torch.channels_last_3d) for slab in raw)
        logits = planes(run(raw, tuple(size)), z, kept[0])
        while (slab := self._next(logits)) is not None:
            yield activated(slab[..., y : y + kept[1], x : x + kept[2]].float(), self.channels)

    def _next(self, logits: Slabs) -> torch.Tensor | None:
        """Let the network compute the next slab; what torch is set to for that holds here alone."""
        was_training = self.network.training
        self.network.eval()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None),
            ):
                return next(logits, None)
        finally:
            self.network.train(was_training)


def _tile(spans: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> Tile:
    """Put a tile together from (begin, size) of what it reads and of what it writes along each axis."""
    return (
        Roi([read[0] for read, _ in spans], [read[1] for read, _ in spans]),
        Roi([write[0] for _, write in spans], [write[1] for _, write in spans]),
    )


def _parts(tile: Tile, slabs: Iterable[Floats]) -> Iterator[tuple[Tile, Roi, Floats]]:
    """Say where each slab of a tile lies."""
    at = tile[1].begin
    for slab in slabs:
        part = Roi(at, (slab.shape[1], *tile[1].shape[1:]))
        yield tile, part, slab
        at += Coordinate(slab.shape[1], 0, 0)


def collected(slabs: Iterable[Floats], depth: int) -> Iterator[Floats]:
    """Put slabs (classes, planes, y, x) together to ``depth`` planes each, the last one to what is left."""
    waiting: list[Floats] = []
    count = 0
    for slab in slabs:
        rest = slab
        while count + rest.shape[1] >= depth:
            missing = depth - count
            yield _joined([*waiting, rest[:, :missing]])
            waiting, count, rest = [], 0, rest[:, missing:]
        if rest.shape[1]:
            waiting.append(rest)
            count += rest.shape[1]
    if waiting:
        yield _joined(waiting)


def _joined(slabs: list[Floats]) -> Floats:
    return slabs[0] if len(slabs) == 1 else np.concatenate(slabs, axis=1)
