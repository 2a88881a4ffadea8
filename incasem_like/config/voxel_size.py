"""Comparison of voxel sizes, for configurations and arrays alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Headers and configurations of other tools give sizes rounded to five digits. With sizes this close, the position of a
# voxel some thousand voxels from the origin differs by less than half a voxel.
VOXEL_SIZE_TOLERANCE = 1e-4


def same_voxel_size(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether two voxel sizes in nm are equal up to rounding: each axis to one part in ten thousand."""
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=VOXEL_SIZE_TOLERANCE) for a, b in zip(one, other, strict=True)
    )
