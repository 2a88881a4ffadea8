"""EnsemblePredictor: the mean of the probabilities of several networks, tile by tile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import tee

import numpy as np

from incasem_like.prediction.computing.predictor import Tile
from incasem_like.prediction.computing.tiles import Floats, Reader, TiledPredictor
from incasem_like.volumes import Coordinate, Roi


class SharedTile(tuple[Roi, Roi]):
    """A tile of the first network, with what the others read to write the same.

    Attributes:
        others: The tiles of the other networks; the stride, and so what is read, differs from network to network.
    """

    others: tuple[Tile, ...]

    def __new__(cls, first: Tile, others: Iterable[Tile]) -> SharedTile:
        """Make it a tile like any other, that knows the others."""
        made = super().__new__(cls, first)
        made.others = tuple(others)
        return made


class EnsemblePredictor:
    """Predicts what several networks predict in the mean: sum(weight * probability) / sum(weight).

    The networks work side by side on the same part of a tile, so that no more than that part of each is held in memory.
    The mean is computed in double precision of the probabilities as the networks give them, and rounded once.

    Args:
        members: One for each network. The first one's tiles are those of the ensemble; the others write the same ones
            whatever their own size.
        weights: What each network counts, above 0.
    """

    def __init__(self, members: Sequence[TiledPredictor], weights: Sequence[float]) -> None:
        assert len(members) == len(weights) > 0
        self.members, self.weights = tuple(members), tuple(weights)
        self.read_ahead, self.batch_size = members[0].read_ahead, members[0].batch_size
        self.in_slabs = any(member.in_slabs for member in members)

    def steps(self, roi: Roi, origin: Sequence[int]) -> Coordinate:
        """As ``TiledPredictor.steps``."""
        return self.members[0].steps(roi, origin)

    def tiles(self, roi: Roi, origin: Sequence[int], within: Roi | None = None) -> list[Tile]:
        """As ``TiledPredictor.tiles``."""
        return [
            SharedTile(first, (member.tile(first[1], origin) for member in self.members[1:]))
            for first in self.members[0].tiles(roi, origin, within)
        ]

    def first_read(self, tile: Tile) -> Roi:
        """As ``TiledPredictor.first_read``."""
        return self.members[0].first_read(tile)

    def predict_parts(
        self, read: Reader, tiles: Iterable[Tile], depth: int | None = None
    ) -> Iterator[tuple[Tile, Roi, Floats]]:
        """As ``TiledPredictor.predict_parts``, of tiles that ``tiles`` of this ensemble gave."""
        wanted = tee(tiles, len(self.members))
        parts = [
            member.predict_parts(read, map(partial(_tile_of, index), wanted[index]), depth)
            for index, member in enumerate(self.members)
        ]
        for found in zip(*parts, strict=True):
            tile, part, _ = found[0]
            assert all(other == part for _, other, _ in found)
            yield tile, part, self._mean([probabilities for _, _, probabilities in found])

    def _mean(self, probabilities: Sequence[Floats]) -> Floats:
        total = np.zeros(probabilities[0].shape, dtype=np.float64)
        for values, weight in zip(probabilities, self.weights, strict=True):
            total += np.float64(weight) * values
        return (total / sum(self.weights)).astype(np.float32)


def _tile_of(index: int, tile: Tile) -> Tile:
    assert isinstance(tile, SharedTile)
    return tile if index == 0 else tile.others[index - 1]
