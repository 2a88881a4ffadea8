"""One region on its way to disk, block by block, in this process or by workers; resumed by either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import run_blockwise
from incasem_like.blockwise.done_log import DoneLog, read_log
from incasem_like.prediction.blocks import region_blocks
from incasem_like.prediction.computing.predictor import Predictor
from incasem_like.prediction.computing.weights import PredictorSetUp
from incasem_like.prediction.outputs import OutputPlace, RegionOutput
from incasem_like.volumes import Roi

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

Floats = npt.NDArray[np.float32]


class TileObserver(Protocol):
    """Sees every tile of one region once, as it is stored."""

    def observe(self, roi: Roi, probabilities: Floats) -> None:
        """Take a tile: (classes, z, y, x) probabilities over ``roi``."""
        ...

    def scores(self) -> Mapping[str, float]:
        """Give what was measured over all tiles, by name; NaN where a score is not defined."""
        ...


@dataclass(frozen=True)
class Begun:
    """What an earlier run left of a region's prediction.

    Attributes:
        description: What it was begun with, ``input_size`` among it.
        done: Blocks that are done.
    """

    description: Mapping[str, Any]
    done: int

    @property
    def input_size(self) -> tuple[int, ...]:
        """Tiles that it was begun with, in voxels."""
        return tuple(self.description["input_size"])


def read_begun(place: OutputPlace) -> Begun | None:
    """Read what an earlier run left; None where none came so far as to begin."""
    log = read_log(place.container / place.main)
    return None if log is None else Begun(log.fingerprint["parameters"], len(log.done))


class RegionTask:
    """One region on its way to disk. Making one begins its log, so that another run can go on with it.

    Attributes:
        region: What is predicted.
        output: Where it goes.
    """

    def __init__(
        self, output: RegionOutput, set_up: PredictorSetUp, predictor: Predictor, description: Mapping[str, Any]
    ) -> None:
        self.region, self.output, self._predictor = set_up.region, output, predictor
        self._task = region_blocks(output, set_up, predictor, description)
        with DoneLog(self._task.folder, self._task.fingerprint(), complete=self._task.complete):
            pass

    def run(self, observer: TileObserver | None, workers: Workers | None, command: str) -> int:
        """Predict and write what is missing; then ``observer`` sees all tiles as they were stored.

        Args:
            observer: Measures them.
            workers: Who predicts; None for this process.
            command: What to type to go on after an interruption.

        Returns:
            How many voxels were missing.

        Raises:
            IncasemError: Blocks failed; all others are done.
        """
        summary = run_blockwise(
            self._task,
            workers=workers,
            description=f"Predicting {self.region.name}",
            prepared=(self.region, self._predictor),
            command=command,
        )
        if observer is not None:
            for _, tile in self._predictor.tiles(self.region.roi, self.region.raw_roi.begin):
                observer.observe(tile, self.output.read_probabilities(tile))
        return summary.voxels
