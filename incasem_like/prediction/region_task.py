"""One region on its way to disk, in this process: what is missing is predicted, written and noted tile by tile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from incasem_like.errors import CheckpointError
from incasem_like.prediction.ahead import Behind, ahead
from incasem_like.prediction.outputs import RegionOutput
from incasem_like.prediction.tile_log import TileLog
from incasem_like.prediction.tiles import Tile, TiledPredictor
from incasem_like.samples import Region
from incasem_like.terminal import Progress
from incasem_like.volumes import Roi

Floats = npt.NDArray[np.float32]


class TileObserver(Protocol):
    """Sees every tile of one region once, as it is predicted."""

    def observe(self, roi: Roi, probabilities: Floats) -> None:
        """Take a tile: (classes, z, y, x) probabilities over ``roi``."""
        ...

    def scores(self) -> Mapping[str, float]:
        """Give what was measured over all tiles, by name; NaN where a score is not defined."""
        ...


class RegionTask:
    """One region on its way to disk.

    Attributes:
        region: What is predicted.
        output: Where it goes.
        log: Which tiles are there already.
        predictor: What predicts it.
    """

    def __init__(self, region: Region, output: RegionOutput, log: TileLog, predictor: TiledPredictor) -> None:
        self.region, self.output, self.log, self.predictor = region, output, log, predictor
        self._tiles = predictor.tiles(region.roi, region.raw_roi.begin)

    @property
    def voxels_left(self) -> int:
        """Voxels that are not predicted yet."""
        return int(sum(write.size for _, write in self._tiles if write not in self.log))

    def run(self, observer: TileObserver | None, progress: Progress) -> int:
        """Predict and write what is missing, tile by tile; ``observer`` sees the tiles of an earlier run too.

        Returns:
            How many voxels were missing.
        """
        voxels = self.voxels_left
        if observer is not None:
            show_written(observer, self.output, (write for _, write in self._tiles if write in self.log))
        missing = [tile for tile in self._tiles if tile[1] not in self.log]
        with Behind(threaded=self.predictor.read_ahead > 0) as writer:
            wanted = self._inside_mask(missing, progress)
            read = partial(self.region.read_raw, outside="reflect")
            depth = self.output.chunk_depth
            for tile, part, probabilities in self.predictor.predict_parts(read, wanted, depth):
                check_finite(probabilities)
                writer.do(partial(self._store, tile[1], part, probabilities))
                if observer is not None:
                    observer.observe(part, probabilities)
                progress.advance(part.size, note=self.region.name)
        self.output.mark_complete()
        return voxels

    def _inside_mask(self, tiles: Iterable[Tile], progress: Progress) -> Iterator[Tile]:
        """Pass on the tiles that are to be predicted; of the others it is noted that they are done."""
        for tile, inside in inside_mask(self.region, tiles, self.predictor.read_ahead):
            if inside:
                yield tile
            else:
                self.log.add(tile[1])
                progress.advance(tile[1].size, note=self.region.name)

    def _store(self, tile: Roi, part: Roi, probabilities: Floats) -> None:
        self.output.write(part, probabilities, self.region.read_mask(part))
        if part.end == tile.end:
            self.log.add(tile)


def check_finite(probabilities: Floats) -> None:
    """Make sure that a network gave numbers.

    Raises:
        CheckpointError: It did not.
    """
    if not np.isfinite(probabilities[0]).all():
        raise CheckpointError(
            "The network gives values that are not numbers: its training diverged, choose an earlier checkpoint; "
            "or the precision is too low, set torch.precision=fp32."
        )


def inside_mask(region: Region, tiles: Iterable[Tile], read_ahead: int) -> Iterator[tuple[Tile, bool]]:
    """Yield each tile and whether the mask is anything but 0 there; masks are read ahead in other threads."""
    if region.mask is None:
        yield from ((tile, True) for tile in tiles)
    else:
        yield from ahead(lambda tile: (tile, bool(region.read_mask(tile[1]).any())), tiles, read_ahead)


def show_written(observer: TileObserver, output: RegionOutput, tiles: Iterable[Roi]) -> None:
    """Show an observer tiles that are on disk already."""
    for tile in tiles:
        observer.observe(tile, output.read_probabilities(tile))
