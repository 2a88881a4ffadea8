"""Choosing the position of a sample: a region in proportion to its volume, a position in it by labels and mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from incasem_like.errors import DataError
from incasem_like.samples.blocks import CLASSES, MASK, BlockReader, instances_of
from incasem_like.samples.settings import SampleSettings
from incasem_like.volumes import Coordinate, Roi

MAX_TRIES = 1000


@dataclass(frozen=True)
class Place:
    """A region and the shift, in voxels, that moves a request there."""

    region: int
    shift: Coordinate


class PlaceChooser:
    """Draws positions until one has enough foreground and mask, or is accepted by chance.

    A region is drawn with a probability proportional to its weight, or to its volume if entries have none. In it the
    label block is placed uniformly among the whole-voxel positions at which it lies in the region; along an axis where
    the region is shorter than the block, it is centred. A position with less foreground than ``min_masked`` is rejected
    with ``reject_probability`` and redrawn in the same region; one with less mask than ``min_mask_fraction`` is
    rejected with ``mask_reject_probability`` and another region is drawn. Both shares are of those voxels of the
    (deformed, hence larger) label request that lie in the region.
    """

    def __init__(self, readers: Sequence[BlockReader], settings: SampleSettings) -> None:
        self.readers = readers
        self.settings = settings
        regions = [reader.region for reader in readers]
        shares = np.array([region.entry.weight or region.roi.size for region in regions], dtype=float)
        self.probabilities = shares / shares.sum()
        self.latest: Place  # position of the latest sample
        self.latest_raw: Roi  # ROI of the raw read there, set by the reader

    def choose(self, request: Roi, rng: np.random.Generator) -> Place:
        """Draw a position for a label request.

        Args:
            request: The label request in voxels; it has the centre of the label block.
            rng: Source of all randomness.

        Raises:
            DataError: No position was accepted in 1000 attempts.
        """
        reject = self.settings.reject
        best_foreground = best_mask = 0.0
        region = self._draw_region(rng)
        for _ in range(MAX_TRIES):
            shift = self._draw_shift(request, self.readers[region].region.roi, rng)
            foreground, mask = self._shares(region, request + shift)
            best_foreground, best_mask = max(best_foreground, foreground), max(best_mask, mask)
            if foreground < reject.min_masked and rng.random() < reject.reject_probability:
                continue
            if mask < reject.min_mask_fraction and rng.random() < reject.mask_reject_probability:
                region = self._draw_region(rng)
                continue
            self.latest = Place(region, shift)
            return self.latest
        raise DataError(self._nothing_found(region, best_foreground, best_mask))

    def _draw_region(self, rng: np.random.Generator) -> int:
        return int(rng.choice(len(self.readers), p=self.probabilities))

    def _draw_shift(self, request: Roi, region: Roi, rng: np.random.Generator) -> Coordinate:
        block = Coordinate(self.settings.output_size)
        begin = request.begin + (request.shape - block) // 2
        room = region.shape - block
        steps = [int(rng.integers(free, endpoint=True)) if free >= 0 else free // 2 for free in room]
        return region.begin - begin + Coordinate(steps)

    def _shares(self, region: int, request: Roi) -> tuple[float, float]:
        """Return the shares of foreground and mask in the part of a request that lies in the region."""
        reader = self.readers[region]
        known = reader.known_labels(request.intersect(reader.region.roi))
        found, mask = known[CLASSES], known[MASK]
        for one in self.settings.overlapping_classes:  # they are background in the class map where they overlap
            found = (found > 0) | (known[instances_of(one)] > 0)
        return np.count_nonzero(found) / found.size, np.count_nonzero(mask) / mask.size

    def _nothing_found(self, region: int, foreground: float, mask: float) -> str:
        reject, size = self.settings.reject, " x ".join(map(str, self.settings.output_size))
        name = self.readers[region].region.name
        if foreground < reject.min_masked:
            return (
                f"None of {MAX_TRIES} random blocks of {size} voxels in {name} has the foreground share "
                f"training.reject.min_masked={reject.min_masked:g} (best: {foreground:.3g}): lower it or "
                "training.reject.reject_probability, or choose regions with more labels."
            )
        return (
            f"None of {MAX_TRIES} random blocks of {size} voxels (the last ones in {name}) has both the foreground "
            f"share training.reject.min_masked={reject.min_masked:g} and the mask share "
            f"training.reject.min_mask_fraction={reject.min_mask_fraction:g} (best: {foreground:.3g} and {mask:.3g}): "
            "lower one of them, or choose regions with more mask."
        )
