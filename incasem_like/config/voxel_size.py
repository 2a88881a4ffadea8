"""When two voxel sizes are one: the rule for configurations and arrays alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Headers and configurations of other tools give sizes rounded to five digits. Sizes this near each other put a voxel
# some thousand voxels off the origin into the same place, to within half a voxel.
VOXEL_SIZE_TOLERANCE = 1e-4


def same_voxel_size(one: Sequence[float], other: Sequence[float]) -> bool:
    """Tell whether two voxel sizes in nm are the same but for rounding: each axis to one part in ten thousand."""
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=VOXEL_SIZE_TOLERANCE) for a, b in zip(one, other, strict=True)
    )
