"""EnsemblePredictor: the mean of the probabilities of several networks, tile by tile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import tee

import numpy as np

from incasem_like.prediction.computing.tiles import Floats, Reader, TiledPredictor
from incasem_like.prediction.computing.tiling import Tile
from incasem_like.volumes import Coordinate, Roi


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

    def steps(self, roi: Roi, origin: Sequence[int]) -> Coordinate:
        """As ``TiledPredictor.steps``."""
        return self.members[0].steps(roi, origin)

    def tiles(self, roi: Roi, origin: Sequence[int], within: Roi | None = None) -> list[Tile]:
        """As ``TiledPredictor.tiles``."""
        return [
            Tile(
                tile.read_roi,
                tile.write_roi,
                tuple(member.tile(tile.write_roi, origin).read_roi for member in self.members[1:]),
            )
            for tile in self.members[0].tiles(roi, origin, within)
        ]

    def first_read(self, tile: Tile) -> Roi:
        """As ``TiledPredictor.first_read``."""
        return self.members[0].first_read(tile)

    def predict_parts(
        self, read: Reader, tiles: Iterable[Tile], depth: int | None = None
    ) -> Iterator[tuple[Tile, Roi, Floats]]:
        """As ``TiledPredictor.predict_parts``, of tiles that ``tiles`` of this ensemble returned."""
        wanted = tee(tiles, len(self.members))
        parts = [
            member.predict_parts(read, map(partial(_tile_of_member, index), wanted[index]), depth)
            for index, member in enumerate(self.members)
        ]
        for found in zip(*parts, strict=True):
            tile, part, _ = found[0]
            assert all(other == part for _, other, _ in found)
            total = np.zeros(found[0][2].shape, dtype=np.float64)
            for (_, _, probabilities), weight in zip(found, self.weights, strict=True):
                total += np.float64(weight) * probabilities
            yield tile, part, (total / sum(self.weights)).astype(np.float32)


def _tile_of_member(index: int, tile: Tile) -> Tile:
    return tile if index == 0 else Tile(tile.other_read_rois[index - 1], tile.write_roi)


Predictor = TiledPredictor | EnsemblePredictor
