"""Predictors: a region is predicted tile by tile, with the values of the whole volume predicted at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby, product, tee
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from incasem_like.config.network_sections import OutputSection
from incasem_like.networks import NetworkGeometry, enough_memory
from incasem_like.networks.inference import Inference, inference, streams
from incasem_like.networks.slabs import Slabs, planes
from incasem_like.prediction.computing.pipeline import Downloads, batches, delayed, prefetched, to_device
from incasem_like.prediction.computing.tiling import (
    NONE,
    Tile,
    Variant,
    axis_step,
    geometry_for,
    grid_phase,
    tile_that_writes,
    variants_for,
)
from incasem_like.targets import activate
from incasem_like.volumes import Coordinate, Roi

Floats = npt.NDArray[np.float32]
Reader = Callable[[Roi], Floats]
Batch = tuple[Tile, ...]
# Planes read at once from a tile predicted slab by slab: much of a chunk, so that chunks are rarely read twice.
PLANES_READ = 64
# More would only take memory: reading a tile is faster than predicting it, on a CPU by far.
MOST_TILES_AHEAD = {"cuda": 2, "mps": 2, "cpu": 1}


class TiledPredictor:
    """Predicts regions of any size with a network that takes tiles.

    A network that pools gives the same values only where its pooling cells are aligned. So every tile is read at a
    multiple of the network's stride from the begin of the volume, and a voxel has the same value in the prediction of
    any region, and of the whole volume.

    Args:
        network: Maps (1, channels, z, y, x) in [-1, 1] to logits; it is put into evaluation mode while it is used.
        geometry: The network's.
        input_size: The largest tile it is given, in voxels z, y, x; tiles at the end of a region are smaller.
        device: Device of the network.
        autocast: Type that automatic mixed precision computes in; None for the network's own.
        channels_last: Give the network tiles with channels last in memory.
        num_threads: Threads that read tiles and write results beside the network; 0 does all in turn.
        batch_size: How many tiles the network takes together; without effect where it takes them slab by slab.
        augmentation: ``none``, ``mirrors`` or ``mirrors_and_transposes``: the orientations that are averaged.
        channels: The groups of output channels; empty if all channels are classes.

    Attributes:
        in_slabs: Whether results are computed slab by slab instead of a tile at a time.

    Raises:
        ConfigError: The network cannot take ``input_size``, or cannot be transposed.
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
        num_threads: int = 1,
        batch_size: int = 1,
        augmentation: str = NONE,
        channels: Sequence[OutputSection] = (),
    ) -> None:
        assert geometry.dims == 3, "a 2-D network is wrapped in Sections"
        geometry.output_size(input_size)
        self.network, self.input_size = network, tuple(input_size)
        self.geometry, self._variants = geometry_for(augmentation, geometry), variants_for(augmentation, geometry)
        self.device, self.autocast, self.channels_last = device, autocast, channels_last
        self.channels = tuple(channels)
        self.in_slabs = len(self._variants) == 1 and streams(network, device)
        self.num_threads, self.batch_size = num_threads, 1 if self.in_slabs else batch_size

    @cached_property
    def _downloads(self) -> Downloads:
        return Downloads(self.device)  # not before it is used: a scheduler divides regions without the workers' GPU

    def steps(self, roi: Roi, origin: Sequence[int]) -> Coordinate:
        """Return the size of the tiles that ``roi`` is predicted in, in voxels; those at its end may be smaller.

        Raises:
            ConfigError: ``input_size`` is too small to cover that region with tiles a stride apart.
        """
        return Coordinate(
            axis_step(self.geometry, axis, self.input_size[axis], grid_phase(self.geometry, axis, roi, origin))
            for axis in range(3)
        )

    def tiles(self, roi: Roi, origin: Sequence[int], within: Roi | None = None) -> list[Tile]:
        """Divide a region into tiles, which write all of it without overlap; last axis fastest.

        Args:
            roi: The ROI to predict, in absolute voxels.
            origin: Where the raw volume begins, in absolute voxels.
            within: Return only those tiles that begin in this part of it.

        Raises:
            ConfigError: As ``steps``.
        """
        steps = self.steps(roi, origin)
        part = roi if within is None else within
        axes = [
            [at for at in range(roi.begin[axis], roi.end[axis], steps[axis]) if part.begin[axis] <= at < part.end[axis]]
            for axis in range(3)
        ]
        return [self.tile(Roi(at, steps).intersect(roi), origin) for at in product(*axes)]

    def tile(self, write_roi: Roi, origin: Sequence[int]) -> Tile:
        """Return the tile that writes exactly ``write_roi``, however large; arguments as for ``tiles``."""
        return tile_that_writes(self.geometry, write_roi, origin)

    def like(self, tile: Tile) -> Tile:
        """Return the tile that writes what a tile of another network writes."""
        return self.tile(tile.write_roi, tile.origin)

    def predict(self, read: Reader, roi: Roi, origin: Sequence[int]) -> Iterator[tuple[Roi, Floats]]:
        """Predict a region.

        Args:
            read: Returns the raw values in [0, 1] of a region that may extend beyond the volume, as (z, y, x) or
                (channels, z, y, x) float32. It is called from other threads, a few tiles ahead.
            roi: As for ``tiles``.
            origin: As for ``tiles``.

        Yields:
            The part of ``roi`` that a tile covers, and the probabilities there, (classes, z, y, x) float32.

        Raises:
            ConfigError: As ``steps``.
            IncasemError: The GPU's memory is too small for a tile.
        """
        return ((part, values) for _, part, values in self.predict_parts(read, self.tiles(roi, origin)))

    def predict_parts(
        self, read: Reader, tiles: Iterable[Tile], depth: int | None = None
    ) -> Iterator[tuple[Tile, Roi, Floats]]:
        """Predict some of the tiles that ``tiles`` returned, each from its first plane to its last.

        Args:
            read: As for ``predict``; it is called for parts of tiles.
            tiles: The tiles to predict.
            depth: Number of planes to yield at a time, as soon as they are computed; None yields whole tiles.

        Yields:
            The tile, the part of it that was computed, and the probabilities, (classes, planes, y, x) float32.

        Raises:
            IncasemError: The GPU's memory is too small for a tile.
        """
        remedy = f"set prediction.input_size_voxels (validation.input_size_voxels) below {list(self.input_size)}"
        with enough_memory(remedy):
            for batch, slabs in groupby(delayed(self._computed(read, tiles), self._downloads.behind), itemgetter(0)):
                values = (fetched() for _, fetched in slabs)
                # Tiles that were predicted together arrive as a whole; they are yielded one after the other.
                whole = [next(values)] if len(batch) > 1 else None
                for index, tile in enumerate(batch):
                    slabs_of_one = (slab[index] for slab in (values if whole is None else whole))
                    at, shape = tile.write_roi.begin, tile.write_roi.shape
                    for slab in collected(slabs_of_one, depth or shape[0]):
                        yield tile, Roi(at, (slab.shape[1], *shape[1:])), slab
                        at += Coordinate(slab.shape[1], 0, 0)

    def first_read(self, tile: Tile) -> Roi:
        """Return the part of a tile that is read first."""
        return next(self._parts_read(tile.read_roi))

    def _parts_read(self, roi: Roi) -> Iterator[Roi]:
        """Yield the parts along z in which a tile's input is read."""
        depth = PLANES_READ if self.in_slabs else roi.shape[0]
        for at in range(0, roi.shape[0], depth):
            yield Roi(roi.begin + Coordinate(at, 0, 0), (min(depth, roi.shape[0] - at), *roi.shape[1:]))

    def _computed(self, read: Reader, tiles: Iterable[Tile]) -> Iterator[tuple[Batch, Callable[[], Floats]]]:
        """Compute tiles, several at a time; each function returns probabilities (tiles, classes, planes, y, x)."""
        together = batches(tiles, self.batch_size)
        wanted = ((batch, part) for batch in together for tile in batch for part in self._parts_read(tile.read_roi))
        count = min(self.num_threads, MOST_TILES_AHEAD[self.device.type]) * self.batch_size
        units = prefetched(lambda unit: (unit[0], read(unit[1])), wanted, count)
        run = inference(self.network, self.device)
        for batch, parts in groupby(units, key=itemgetter(0)):
            raw: Slabs = (to_device(values, self.device) for _, values in parts)
            if len(batch) > 1:
                raw = iter([torch.cat(list(raw))])
            for slab in self._slabs(run, raw, batch[0]):
                yield batch, self._downloads.start(slab)

    def _slabs(self, run: Inference, raw: Slabs, tile: Tile) -> Slabs:
        """Run the network on a tile, or several equal ones, and yield the probabilities of its output, in slabs."""
        if len(self._variants) == 1:
            yield from self._in_position(run, self._variants[0], raw, tile.read_roi.shape, tile)
            return
        (volume,) = raw
        total: torch.Tensor | None = None
        for variant in self._variants:
            turned = variant.apply(volume)
            slabs = self._in_position(run, variant, iter([turned]), turned.shape[2:], tile)
            values = variant.revert(torch.cat(list(slabs), dim=2))
            total = values if total is None else total + values
        assert total is not None
        yield total / len(self._variants)

    def _in_position(self, run: Inference, variant: Variant, raw: Slabs, size: Sequence[int], tile: Tile) -> Slabs:
        """Yield the probabilities of a tile in another orientation, in which slabs and size are given too."""
        margin = tile.write_roi.begin - tile.read_roi.begin
        begin, kept = variant.place(margin, tile.write_roi.shape, tile.read_roi.shape)
        z, y, x = (at - context for at, context in zip(begin, self.geometry.context, strict=True))
        if self.channels_last:
            raw = (slab.contiguous(memory_format=torch.channels_last_3d) for slab in raw)
        logits = planes(run(raw, tuple(size)), z, kept[0])
        while (slab := self._next(logits)) is not None:
            yield activated(slab[..., y : y + kept[1], x : x + kept[2]].float(), self.channels)

    def _next(self, logits: Slabs) -> torch.Tensor | None:
        """Compute the next slab, with torch's modes set for the time of this call alone."""
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


def activated(logits: torch.Tensor, groups: Sequence[OutputSection] = ()) -> torch.Tensor:
    """Turn logits (batch, channels, z, y, x) into values, group by group; without groups all channels are classes."""
    if not groups:
        return activate(logits, "softmax")
    parts = torch.split(logits, [group.channels for group in groups], dim=1)
    values = [activate(part, group.activation) for group, part in zip(groups, parts, strict=True)]
    return values[0] if len(values) == 1 else torch.cat(values, dim=1)


def collected(slabs: Iterable[Floats], depth: int) -> Iterator[Floats]:
    """Join slabs (classes, planes, y, x) to ``depth`` planes each; the last one may have fewer."""
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


class EnsemblePredictor:
    """Predicts the mean of several networks: sum(weight * probability) / sum(weight).

    The networks take turns on the same part of a tile, so that only that part of each result is in memory.
    The mean is computed in double precision and rounded once.

    Args:
        members: One for each network. The tiles of the first are those of the ensemble; the others write the same ones
            whatever their own size.
        weights: One for each network, above 0.
    """

    def __init__(self, members: Sequence[TiledPredictor], weights: Sequence[float]) -> None:
        assert len(members) == len(weights) > 0
        self.members, self.weights = tuple(members), tuple(weights)
        self.num_threads, self.batch_size = members[0].num_threads, members[0].batch_size
        self.in_slabs = any(member.in_slabs for member in members)
        self.steps, self.tiles, self.first_read = members[0].steps, members[0].tiles, members[0].first_read

    def predict_parts(
        self, read: Reader, tiles: Iterable[Tile], depth: int | None = None
    ) -> Iterator[tuple[Tile, Roi, Floats]]:
        """As ``TiledPredictor.predict_parts``, of tiles that ``tiles`` of this ensemble returned."""
        parts = [
            member.predict_parts(read, map(member.like, same), depth)
            for member, same in zip(self.members, tee(tiles, len(self.members)), strict=True)
        ]
        for found in zip(*parts, strict=True):
            tile, part, _ = found[0]
            assert all(other == part for _, other, _ in found)
            total = np.zeros(found[0][2].shape, dtype=np.float64)
            for (_, _, probabilities), weight in zip(found, self.weights, strict=True):
                total += np.float64(weight) * probabilities
            yield tile, part, (total / sum(self.weights)).astype(np.float32)


Predictor = TiledPredictor | EnsemblePredictor
