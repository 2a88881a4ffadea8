"""Looking for classes that no label voxel belongs to, which a training would learn never to predict."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from incasem_like.volumes import Coordinate, Roi

if TYPE_CHECKING:
    from incasem_like.samples import Region

log = logging.getLogger(__name__)

VOXELS_AT_ONCE = 1 << 24
MOST_VOXELS = 1 << 31  # of a region without any label so much is looked at, some minutes of reading at worst


def warn_of_missing_classes(key: str, regions: Sequence[Region], num_classes: int) -> None:
    """Warn, once, of classes that are nowhere in the labels of a data configuration.

    Args:
        key: The configuration's key for it, ``training.data``.
        regions: Its opened entries; looked at until every class was seen.
        num_classes: Background included.
    """
    missing = set(range(1, num_classes))
    looked_at = 0
    for labels in _slabs(regions):
        missing -= {int(found) for found in np.flatnonzero(np.bincount(labels.ravel(), minlength=num_classes))}
        looked_at += labels.size
        if not missing or looked_at > MOST_VOXELS:
            break
    if missing and looked_at <= MOST_VOXELS:
        classes = f"class{'es' if len(missing) > 1 else ''} {', '.join(map(str, sorted(missing)))}"
        log.warning(
            'No voxel of %s belongs to %s (looked at: %s), so it can be neither learnt nor measured: check "labels", '
            "offset and shape.",
            key,
            classes,
            ", ".join(region.name for region in regions),
        )


def _slabs(regions: Sequence[Region]) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    for region in regions:
        depth, height, width = region.roi.shape
        thickness = max(1, VOXELS_AT_ONCE // (height * width))
        for first in range(0, depth, thickness):
            shape = Coordinate(min(thickness, depth - first), height, width)
            yield region.read_labels(Roi(region.roi.begin + Coordinate(first, 0, 0), shape))
