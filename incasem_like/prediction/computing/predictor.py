"""What predicts a region tile by tile, as seen by those who write the tiles: one network or several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from incasem_like.prediction.computing.tiles import Floats, Reader
from incasem_like.volumes import Coordinate, Roi

Tile = tuple[Roi, Roi]


class Predictor(Protocol):
    """Predicts regions of any size in tiles; its methods are explained at ``TiledPredictor``.

    Attributes:
        read_ahead: How many tiles are read ahead in other threads.
        batch_size: How many tiles are predicted together.
        in_slabs: Tiles come slab by slab; else as a whole.
    """

    read_ahead: int
    batch_size: int
    in_slabs: bool

    def steps(self, roi: Roi, origin: Sequence[int]) -> Coordinate:
        """Give the size of the tiles that ``roi`` is predicted in."""
        ...

    def tiles(self, roi: Roi, origin: Sequence[int], within: Roi | None = None) -> list[Tile]:
        """Divide a region into tiles."""
        ...

    def first_read(self, tile: Tile) -> Roi:
        """Say what of a tile is read first."""
        ...

    def predict_parts(
        self, read: Reader, tiles: Iterable[Tile], depth: int | None = None
    ) -> Iterator[tuple[Tile, Roi, Floats]]:
        """Predict tiles, each from its first plane to its last."""
        ...
