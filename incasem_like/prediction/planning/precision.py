"""Check whether bf16 or fp16 is exact enough for a volume, by comparison with fp32 on a real tile of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt
from torch import nn

from incasem_like.config.prediction_config import PredictionSection
from incasem_like.config.shared_sections import TorchConfig
from incasem_like.prediction.computing.loading import NetworkSource, make_predictor, prediction_geometry
from incasem_like.prediction.computing.variants import NONE
from incasem_like.samples import Region
from incasem_like.volumes import Coordinate, Roi

FULL = "fp32"
# Of 1000 values of the tile, this many must be within the tolerance.
OF_A_THOUSAND = 999
# Voxels along each axis of the tile: enough to contain objects, few enough to take about a second.
EDGE = 48
PLACES = (0.5, 0.2, 0.8)


@dataclass(frozen=True)
class PrecisionCheck:
    """The result of the comparison.

    Attributes:
        asked: The configured precision.
        used: The configured precision, or fp32 if that is not exact enough.
        difference: Difference that 999 of 1000 values of the tile, in [0, 1], do not exceed; infinite with NaN or Inf.
        tolerance: The largest allowed difference.
        region: The region of the tile.
    """

    asked: str
    used: str
    difference: float
    tolerance: float
    region: str

    def __str__(self) -> str:
        found = (
            f"torch.precision={self.asked} changes {OF_A_THOUSAND} of 1000 values of a tile of {self.region} by "
            f"at most {self.difference:.2g}"
        )
        if self.used == self.asked:
            return f"{found}; prediction.precision_tolerance allows {self.tolerance:g}."
        return f"{found}, but prediction.precision_tolerance allows {self.tolerance:g}: predicting in {self.used}."


def is_to_be_checked(config: TorchConfig, section: PredictionSection) -> bool:
    """Return whether the configured precision is a lower one, and a tolerance is set."""
    return config.precision != FULL and section.precision_tolerance is not None


def check_precision(
    network: nn.Module, source: NetworkSource, section: PredictionSection, regions: Sequence[Region]
) -> PrecisionCheck | None:
    """Compare the configured precision with fp32 on a tile of each region.

    Returns:
        The comparison with the greatest difference; None in fp32, or if no tolerance is set.
    """
    tolerance, precision = section.precision_tolerance, source.torch.precision
    if tolerance is None or not is_to_be_checked(source.torch, section) or not regions:
        return None
    plain = section.model_copy(update={"test_time_augmentation": NONE, "num_threads": 0})
    smallest = prediction_geometry(source.model).input_for_output([1, 1, 1])
    exact, used = (make_predictor(network, with_precision(source, name), plain, smallest) for name in (FULL, precision))
    found = []
    for region in regions:
        tile = exact.tile(lively_part(region), region.raw_roi.begin)
        read = partial(region.read_raw, outside="reflect")
        values = [next(predictor.predict_tiles(read, [tile]))[1] for predictor in (exact, used)]
        found.append((nearly_greatest_difference(*values), region.name))
    worst, name = max(found)
    return PrecisionCheck(precision, precision if worst <= tolerance else FULL, worst, tolerance, name)


def with_precision(source: NetworkSource, precision: str) -> NetworkSource:
    """Return the network computed in that precision."""
    return replace(source, torch=source.torch.model_copy(update={"precision": precision}))


def nearly_greatest_difference(exact: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Return the difference that 999 of 1000 values do not exceed; infinite with NaN or Inf."""
    differences = np.abs(exact - other).ravel()
    if not np.isfinite(differences).all():
        return float("inf")
    return float(np.quantile(differences, OF_A_THOUSAND / 1000, method="higher"))


def lively_part(region: Region) -> Roi:
    """Choose a part of a region that is not just background: of nine parts, the one where masked raw varies most."""
    # The first of equals, so that a resumed prediction chooses the same.
    return max(_parts(region.roi), key=partial(_liveliness, region))


def _parts(roi: Roi) -> Iterator[Roi]:
    """Yield parts at the middle of a region and towards its corners."""
    shape = Coordinate(min(EDGE, length) for length in roi.shape)
    room = roi.shape - shape
    middle, *others = PLACES
    for where in [(middle,) * 3, *product(others, repeat=3)]:
        yield Roi(roi.begin + Coordinate(int(r * at) for r, at in zip(room, where, strict=True)), shape)


def _liveliness(region: Region, part: Roi) -> float:
    inside = region.read_mask(part).astype(bool)
    if not inside.any():
        return -1.0
    raw = region.read_raw(part, outside="reflect")
    return float(raw[..., inside].std())
