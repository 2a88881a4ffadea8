"""One synthetic optic-lobe volume, from a seed to raw, instance labels and mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from incasem_like.errors import InputError
from incasem_like.synthetic.columns import draw_columns
from incasem_like.synthetic.fluorescence import EMPTY, draw_fluorescence, draw_kinds
from incasem_like.synthetic.geometry import draw_geometry
from incasem_like.synthetic.imaging import image, to_uint8
from incasem_like.synthetic.parameters import OpticLobeParameters

KIND_NAMES = ("empty", "dense", "clustered", "ring")
SMALLEST_SIDE = 8


@dataclass(frozen=True)
class SyntheticVolume:
    """A volume with its ground truth; arrays are z, y, x and share one shape.

    Attributes:
        raw: uint8 grey values.
        labels: uint32, 0 = none, one id per column.
        mask: uint8, 1 in any column, else 0.
        columns: ``id``, ``kind``, ``middle`` (nm) and ``direction`` (unit vector) of every labelled column.
        middles: Middles of the same columns, (n, 3), in units of the longest side.
        frames: Their frames, (n, 3, 3), see ``ColumnGeometry``.
    """

    raw: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint32]
    mask: npt.NDArray[np.uint8]
    columns: list[dict[str, object]]
    middles: npt.NDArray[np.float64]
    frames: npt.NDArray[np.float64]


def check_shape(shape: tuple[int, int, int]) -> None:
    """Check that a volume is large enough to hold columns.

    Raises:
        InputError: A side is too short.
    """
    if min(shape) < SMALLEST_SIDE:
        raise InputError(
            f"A synthetic volume needs {SMALLEST_SIDE} voxels or more a side, but got {list(shape)}: enlarge it."
        )


def generate_optic_lobe(
    shape: tuple[int, int, int],
    *,
    voxel_size: tuple[float, float, float] = (500.0, 500.0, 500.0),
    seed: int = 0,
    index: int = 0,
    parameters: OpticLobeParameters | None = None,
) -> SyntheticVolume:
    """Generate volume number ``index`` of a seed; it depends on nothing else, so any process can make it.

    Args:
        shape: Shape in voxels, z, y, x; need not be a cube.
        voxel_size: Voxel size in nm, z, y, x; the lobe is defined in world units and sampled with these voxels.
        seed: Seed of a family of volumes.
        index: Number of the volume in the family.
        parameters: Parameters to draw from; the defaults are those of the original recipe.

    Raises:
        InputError: A side is too short, or the parameters allow no layout.
    """
    check_shape(shape)
    parameters = parameters or OpticLobeParameters()
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    size = np.asarray(shape) * np.asarray(voxel_size, dtype=float)
    unit = float(size.max())
    voxel = np.asarray(voxel_size, dtype=float) / unit
    geometry = draw_geometry(parameters, size / unit, rng)
    kinds = draw_kinds(len(geometry.sites), parameters.type_ratios, rng)
    labelled = np.ones(len(kinds), dtype=bool) if parameters.label_empty_columns else kinds != EMPTY
    labels = draw_columns(geometry, parameters.relative_diameter, shape, voxel, labelled)
    dye = draw_fluorescence(geometry, kinds, labels, parameters, shape, voxel, rng)
    raw = to_uint8(image(dye, parameters, rng), parameters.percentiles)
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=len(kinds) + 1)[1:])
    directions = geometry.frames[:, 2] / np.linalg.norm(geometry.frames[:, 2], axis=1, keepdims=True)
    columns: list[dict[str, object]] = [
        {
            "id": int(i) + 1,
            "kind": KIND_NAMES[kinds[i]],
            "middle": [round(float(value), 1) for value in geometry.middles[i] * unit],
            "direction": [round(float(value), 4) for value in directions[i]],
        }
        for i in present
    ]
    mask = (labels > 0).astype(np.uint8)
    return SyntheticVolume(raw, labels, mask, columns, geometry.middles[present], geometry.frames[present])
