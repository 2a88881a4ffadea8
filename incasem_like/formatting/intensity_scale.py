"""The factor that brings the intensities of light-microscopy volumes to one scale, from how fast their histogram falls.

After multiplication with it, the number of voxels falls tenfold per 0.5 units of intensity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from incasem_like.blockwise import WorkItem
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import DataError, InputError
from incasem_like.volumes import Coordinate, Roi, Volume

BINS, FEWEST_BINS = 1000, 10
DECADE = 0.5  # units of scaled intensity per factor of ten
HUBER, RIDGE = 1.35, 1e-4  # residuals beyond 1.35 standard deviations count linearly


def scaling_factor(values: npt.NDArray[Any], limits: tuple[float, float] = (0, 4000)) -> float | None:
    """Return the scaling factor of a block of intensities.

    The logarithm of the histogram's counts is fitted by a line that outliers hardly move (Huber, Robust Statistics,
    1981, with the scale estimated too).

    Args:
        values: Intensities; those outside the limits do not count.
        limits: Range of the histogram, 1,000 bins.

    Returns:
        The factor; None for a block that has none: empty or constant, so that fewer than 10 bins are filled, or with
        more bright voxels than dark ones.

    Example:
        >>> noise = np.random.default_rng(0).exponential(100, 10**5)
        >>> round(scaling_factor(noise) * 100, 1)
        0.2
        >>> scaling_factor(np.zeros(1000)) is None
        True
    """
    counts, edges = np.histogram(values, BINS, limits)
    filled = counts > 0
    if filled.sum() < FEWEST_BINS:
        return None
    centres = ((edges[1:] + edges[:-1]) / 2)[filled]
    unit = float(centres.std())  # of intensities, so that slope and intercept are of similar size
    slope = _robust_slope((centres - centres.mean()) / unit, np.log(counts[filled])) / unit
    return float(slope / (-np.log(10) / DECADE)) if slope < 0 else None


def _robust_slope(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """Return the slope of Huber's line, which minimises the sum of sigma + sigma h(residual / sigma)."""

    def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        slope, intercept, logarithm = parameters
        sigma = np.exp(logarithm)
        residual = (y - slope * x - intercept) / sigma
        far = np.abs(residual) > HUBER
        height = np.where(far, 2 * HUBER * np.abs(residual) - HUBER**2, residual**2)
        steep = np.where(far, 2 * HUBER * np.sign(residual), 2 * residual)
        value = sigma * (len(x) + height.sum()) + RIDGE * slope**2
        along = (len(x) + height.sum() - (steep * residual).sum()) * sigma
        return float(value), np.array([-(steep * x).sum() + 2 * RIDGE * slope, -steep.sum(), along])

    first = np.polyfit(x, y, 1)
    spread = max(float(np.std(y - np.polyval(first, x))), 1e-6)
    found = minimize(
        loss, [*first, np.log(spread)], jac=True, method="L-BFGS-B", bounds=[(None, None)] * 2 + [(-16, 16)]
    )
    return float(found.x[0])


@dataclass(frozen=True)
class Scaling:
    """The scaling factor of a volume.

    Attributes:
        factor: Mean of the tiles that have one.
        used, without: Tiles with and without a factor.
        tiles: Tiles of the whole ROI.
    """

    factor: float
    used: int
    without: int
    tiles: int

    def __str__(self) -> str:
        more = f", {self.without} of them without a factor" if self.without else ""
        return f"Scaling factor {self.factor:.6g} from {self.used + self.without} of {self.tiles} tiles{more}"


def measure_scaling(
    volume: Volume,
    *,
    roi: Roi | None = None,
    tile_shape: Sequence[int] = (200, 200, 200),
    count: int | None = None,
    share: float | None = None,
    seed: int = 0,
    limits: tuple[float, float] = (0, 4000),
    **run: Any,
) -> Scaling:
    """Return the scaling factor of a volume: the mean over tiles drawn at random.

    Args:
        volume: Intensities, (z, y, x).
        roi: Part to measure, in absolute voxels; None for all.
        tile_shape: Tiles, voxels; those at the end are smaller.
        count: Number of tiles to draw; before ``share``.
        share: Share of all tiles; without either, all are measured.
        seed: Seed of the choice.
        limits: See ``scaling_factor``.
        **run: ``num_workers`` and ``workers`` of ``run_blockwise``.

    Raises:
        InputError: A number is not valid.
        DataError: No tile has a factor.
    """
    volume.require_zyx()
    if (count is not None and count < 1) or (share is not None and not 0 < share <= 1) or min(tile_shape) < 1:
        raise InputError("Tiles have 1 or more voxels, --num_tiles is 1 or more, --share above 0 and at most 1.")
    if not limits[0] < limits[1]:
        raise InputError(f"--limits are {limits[0]:g} and {limits[1]:g}: give the lower one first.")
    tiles = list(tile_boxes(volume.roi if roi is None else roi, tile_shape))
    wanted = count if count is not None else max(1, round((share or 1) * len(tiles)))
    chosen = sorted(np.random.default_rng(seed).permutation(len(tiles))[:wanted].tolist())
    boxes = [[list(tiles[number].begin), list(tiles[number].shape)] for number in chosen]
    names = tuple(f"tile {number}" for number in chosen)
    parameters = {"boxes": boxes, "limits": list(limits)}
    task = LedgerTask("measure scaling", names, (str(volume.address),), scaling_of_tile, parameters, unit="tiles")
    task.run(**run, description="Measuring tiles")
    factors = np.array([result[0] for result in task.results()])
    task.forget()
    used = factors[~np.isnan(factors)]
    if not len(used):
        raise DataError(
            f"None of {len(factors)} tiles of {volume.address} has a scaling factor, since they are empty, constant or "
            f"outside {list(limits)}: choose more tiles, another box, or other --limits."
        )
    return Scaling(float(used.mean()), len(used), len(factors) - len(used), len(tiles))


def tile_boxes(roi: Roi, shape: Sequence[int]) -> list[Roi]:
    """Cut an ROI into boxes from its first voxel; those at the end are smaller.

    Example:
        >>> [box.shape[2] for box in tile_boxes(Roi((0, 0, 0), (1, 1, 5)), (1, 1, 2))]
        [2, 2, 1]
    """
    counts = [-(-size // step) for size, step in zip(roi.shape, shape, strict=True)]
    corners = (roi.begin + Coordinate(index) * Coordinate(shape) for index in np.ndindex(*counts))
    return [Roi(corner, shape).intersect(roi) for corner in corners]


def scaling_of_tile(item: WorkItem, parameters: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Return the factor of a tile, NaN if it has none."""
    begin, shape = parameters["boxes"][item.number]
    low, high = parameters["limits"]
    factor = scaling_factor(item.inputs[0].read(Roi(begin, shape)), (low, high))
    return np.array([np.nan if factor is None else factor])
