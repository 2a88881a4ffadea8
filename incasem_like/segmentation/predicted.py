"""A volume that a network predicts wherever it is read, so that affinities need not be stored."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError, InputError
from incasem_like.prediction.outputs import SCALES, stored_probabilities
from incasem_like.volumes import (
    Address,
    Coordinate,
    NanometreRoi,
    Roi,
    Volume,
    describe_roi,
)
from incasem_like.volumes.chunk_files import digest
from incasem_like.volumes.volume import Outside

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.config import PredictionConfig
    from incasem_like.config.network_sections import OutputSection
    from incasem_like.prediction.computing.loading import PredictorSetUp
    from incasem_like.prediction.computing.tiles import Predictor
    from incasem_like.prediction.computing.tiling import Tile
    from incasem_like.samples import Region
    from incasem_like.tracking import RunRecord

Array = npt.NDArray[Any]
CACHE_BYTES = 1 << 29  # of predicted tiles, which several blocks read


class PredictedVolume(Volume):
    """The channels of one target of a network over a region; each voxel has the value that a prediction would store.

    It has the tiles of a prediction of the whole region, which are predicted when they are read, and once more when
    they are read again and the cache does not hold them any more.

    Args:
        set_up: Loads the network.
        description: All that the values depend on, JSON-serializable.
        group: The target.
        first_channel: Its first channel among those of the network.
        dtype: Data type in which a prediction would be stored.
        address: Where it would be stored.
        provenance: Of the values.
    """

    def __init__(
        self,
        set_up: PredictorSetUp,
        description: Mapping[str, Any],
        group: OutputSection,
        first_channel: int,
        dtype: str,
        address: Address,
        provenance: Mapping[str, Any],
    ) -> None:
        self.set_up, self.description = set_up, dict(description)
        self.address, self.format, self.writable = address, set_up.region.raw.format, False
        self._channels, self._dtype = slice(first_channel, first_channel + group.channels), np.dtype(dtype)
        self._attributes = {**group.attributes, "scale": SCALES[dtype], "provenance": dict(provenance)}
        self._name = group.name
        self._made: tuple[Region, Predictor] | None = None
        self._tiles: OrderedDict[tuple[int, ...], Array] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None, "_tiles": OrderedDict()}

    @property
    def region(self) -> Region:
        """The region that is predicted."""
        return self.set_up.region

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, z, y, x."""
        return (self._channels.stop - self._channels.start, *self.region.roi.shape)

    @property
    def axes(self) -> str:
        """``"czyx"``."""
        return "czyx"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the values."""
        return self._dtype

    @property
    def voxel_size(self) -> tuple[float, ...]:
        """That of the region, (z, y, x) in nm."""
        return self.region.voxel_size

    @property
    def offset(self) -> tuple[float, ...]:
        """Position of the first voxel (z, y, x) in nm."""
        from incasem_like.prediction.blocks import region_offset

        return region_offset(self.region)

    @property
    def content_hash(self) -> str:
        """SHA-256 of all that the values depend on."""
        return digest([self.description, self._name, self._dtype.str])

    def read(self, roi: Roi | NanometreRoi | None = None, *, outside: Outside = "error", fill: float = 0) -> Array:
        """Predict an ROI; as ``Volume.read``, beyond the region only with ``outside="constant"``."""
        wanted = self._checked(roi, "predicting")
        common = wanted.intersect(self.roi)
        if common != wanted and outside != "constant":
            raise DataError(f"{self.address} covers {describe_roi(self.roi)}, not {describe_roi(wanted)}.")
        values = np.full((self.shape[0], *wanted.shape), fill, self.dtype)
        if common.empty:
            return values
        if self._made is None:
            self._made = self.set_up({})
        region, predictor = self._made
        origin = region.raw_roi.begin
        before = predictor.steps(region.roi, origin) - Coordinate(1, 1, 1)
        for tile in predictor.tiles(region.roi, origin, within=common.grow(before, Coordinate(0, 0, 0))):
            part = tile.write_roi.intersect(common)
            if not part.empty:
                found = self._predicted(tile)[(slice(None), *(part - tile.write_roi.begin).to_slices())]
                values[(slice(None), *(part - wanted.begin).to_slices())] = found
        return values

    def _predicted(self, tile: Tile) -> Array:
        from incasem_like.prediction.blocks import check_finite

        key = tuple(tile.write_roi.begin)
        if key in self._tiles:
            self._tiles.move_to_end(key)
            return self._tiles[key]
        assert self._made is not None
        region, predictor = self._made
        values = np.zeros((self.shape[0], *tile.write_roi.shape), self.dtype)
        if region.mask is None or region.read_mask(tile.write_roi).any():

            def read(roi: Roi) -> npt.NDArray[np.float32]:
                return region.read_raw(roi, outside="reflect")

            for _, roi, found in predictor.predict_parts(read, [tile]):
                check_finite(found)
                part = (roi - tile.write_roi.begin).to_slices()
                values[(slice(None), *part)] = stored_probabilities(found[self._channels], self.dtype)
        self._tiles[key] = values
        while len(self._tiles) > 1 and sum(kept.nbytes for kept in self._tiles.values()) > CACHE_BYTES:
            self._tiles.popitem(last=False)
        return values


@dataclass(frozen=True)
class AsPrepared:
    """Hands a volume to workers: the ``set_up`` of a task."""

    volume: PredictedVolume

    def __call__(self, parameters: Mapping[str, Any]) -> PredictedVolume:
        """Return the volume."""
        return self.volume


def predicted_volume(
    config: PredictionConfig,
    trainings: Sequence[RunRecord],
    region: str | None = None,
    target: str | None = None,
    workers: Workers | None = None,
) -> PredictedVolume:
    """Return the volume that a prediction would write, without predicting it.

    Args:
        config: The configuration of the prediction.
        trainings: The training runs whose networks predict.
        region: Name of the region in the data configuration; None for the only one.
        target: Name of the network's target; None for that with offsets, else the first.
        workers: The workers that will read it.

    Raises:
        InputError: The region or the target does not exist, or the network predicts classes.
        DataError, ConfigError, CheckpointError: As ``plan_prediction``.
    """
    from incasem_like.prediction.planning.planner import plan_prediction

    plan = plan_prediction(config, trainings, workers).resolved()
    named = {one.name: one for one in plan.regions}
    if region not in named and not (region is None and len(named) == 1):
        raise InputError(f"{config.prediction.data} has the regions {', '.join(named)}: add --region, one of them.")
    chosen = plan.regions[0] if region is None else named[region]
    groups = plan.training.model.outputs or ()
    if not groups:
        raise InputError("The network predicts classes, whose prediction is stored: predict, and segment its id.")
    of = {group.name: group for group in groups}
    if target is not None and target not in of:
        raise InputError(f"The network has no target {target}: choose one of {', '.join(of)} with -d.")
    group = of[target] if target else next((one for one in groups if one.attributes.get("offsets")), groups[0])
    first = sum(one.channels for one in groups[: groups.index(group)])
    input_size = plan.choose_tiles(chosen).input_size
    container = plan.locations(0)[plan.regions.index(chosen)].container
    name = f"volumes/predictions/train_{plan.training_run_ids[0]:04d}/not_stored/{chosen.name}/{group.name}"
    return PredictedVolume(
        plan.set_up(chosen, input_size),
        plan.describe(chosen, input_size),
        group,
        first,
        plan.config.prediction.output_dtype,
        Address(str(container), name),
        plan.provenance(chosen, "segment"),
    )
