"""Metrics computed during prediction: every tile is compared with the region's labels, no volume is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.evaluation.voxel import ConfusionCounts
from incasem_like.samples import Region
from incasem_like.volumes import Roi

Array = npt.NDArray[Any]


class PredictionMetrics:
    """Accumulates the tiles of one region's prediction and computes its scores.

    Attributes:
        region: The predicted data-config entry; its labels, mask and metric masks are read tile by tile.
        index: Position of the entry in the data config, counted from 0, part of the score names.
        counts: The counts so far.
    """

    def __init__(self, region: Region, index: int, num_classes: int) -> None:
        self.region, self.index = region, index
        self.counts = ConfusionCounts(num_classes)

    def observe(self, roi: Roi, probabilities: Array) -> None:
        """Count one tile; tiles must not overlap.

        Args:
            roi: ROI of the tile, in absolute voxels; parts outside the region are ignored.
            probabilities: (num_classes, z, y, x) over ``roi``, floats in [0, 1] or uint8 in [0, 255].
        """
        inside = roi.intersect(self.region.roi)
        if inside.empty:
            return
        kept = (slice(None), *(inside - roi.begin).to_slices())
        valid = self.region.read_metric_mask(inside)
        if np.any(valid):
            self.counts.update(probabilities[kept], self.region.read_labels(inside), valid)

    def scores(self) -> dict[str, float]:
        """Return ``dice_class_<c>_ds_<k>``, ``jaccard_class_…``, ``precision_…``, ``recall_…``; NaN where undefined."""
        return self.counts.scores(f"_ds_{self.index}")
