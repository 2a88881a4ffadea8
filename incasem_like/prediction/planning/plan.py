"""The plan of a prediction: networks and their checkpoints, regions, tiles, outputs; for a run or a dry run."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from incasem_like.blockwise.workers_file import Workers
from incasem_like.config import DataConfig, PredictionConfig, TrainingConfig, output_container
from incasem_like.networks import NetworkGeometry, count_parameters, torch_device
from incasem_like.prediction.blocks import region_block_shape, volumes_read
from incasem_like.prediction.computing.loading import (
    NetworkSource,
    PredictorSetUp,
    joint_predictor,
    prediction_geometry,
)
from incasem_like.prediction.computing.tiles import Predictor
from incasem_like.prediction.computing.tiling import geometry_for, variants_for
from incasem_like.prediction.outputs import Begun, OutputLocation, chunk_shape_for, prediction_group, read_begun
from incasem_like.prediction.planning.memory import TileMemory, tile_memory, usable_memory, worker_count
from incasem_like.prediction.planning.probe import (
    DeviceProfile,
    PrecisionCheck,
    ProbeRequest,
    check_precision,
    device_profiles,
    is_to_be_checked,
    with_precision,
)
from incasem_like.prediction.planning.tile_size import (
    TileChoice,
    TileSpeed,
    choose_input_size,
    describe_input_size,
    fitted,
    measured_tiles,
    sum_of_speeds,
)
from incasem_like.samples import Region
from incasem_like.volumes import Address, Coordinate, check_outputs, make_provenance

log = logging.getLogger(__name__)
# Measuring tiles pays only for large predictions: it may take at most one part in this many.
WORTH_IT = 20
# The tile by which the memory of several networks is compared, in voxels written along each axis.
COMPARED_EDGE = 64


@dataclass(frozen=True)
class PlannedNetwork:
    """One of the networks that predict."""

    source: NetworkSource  # the precision is the one in use
    training: TrainingConfig  # of its training run, with the folders of this machine
    module: nn.Module  # with its weights, on its device, or on the CPU if that is not here
    precision: PrecisionCheck | None = None  # None if there was nothing to check
    profile: DeviceProfile | None = None  # what a worker measured; None if none was probed, or not yet

    @property
    def lineage(self) -> dict[str, Any]:
        """Return the origin of the network, for the record of the run and of each dataset."""
        checkpoint = self.source.checkpoint
        return {
            "training_run_id": self.source.training_run_id,
            "checkpoint": str(checkpoint.path),
            "sha256": checkpoint.sha256,
            "iteration": checkpoint.iteration,
        }

    @property
    def description(self) -> dict[str, Any]:
        """Return the properties of the network that the values depend on."""
        return {"checkpoint": self.source.checkpoint.sha256, "model": self.source.model.model_dump(mode="json")}


@dataclass(frozen=True)
class PredictionPlan:
    """Everything that a prediction needs."""

    config: PredictionConfig
    data: DataConfig
    regions: tuple[Region, ...]  # the entries of ``data``, opened
    networks: tuple[PlannedNetwork, ...]  # several whose mean is predicted in the order of the named training runs
    workers: Workers | None = None  # None: this process predicts
    is_probed: bool = False  # a worker measures speed and precision, since the networks compute on another machine

    @cached_property
    def lead(self) -> PlannedNetwork:
        """The network that needs most memory, the first of equals: its tiles suit the others too."""

        def memory_of_a_tile(network: PlannedNetwork) -> int:
            size = self._geometry(network).input_for_output([COMPARED_EDGE] * 3)
            return int(self._tile_memory(network).bytes(*map(float, size)))

        return max(self.networks, key=memory_of_a_tile)

    @property
    def training(self) -> TrainingConfig:
        """The configuration of the training run; several agree in what the network's output means."""
        return self.lead.training

    @property
    def training_run_ids(self) -> tuple[int, ...]:
        """The training runs whose networks predict."""
        return tuple(network.source.training_run_id for network in self.networks)

    @property
    def lineage(self) -> dict[str, Any]:
        """Return the origin of each network, and its weight."""
        if len(self.networks) == 1:
            return self.lead.lineage
        return {"members": [{**one.lineage, "weight": one.source.weight} for one in self.networks]}

    @property
    def networks_description(self) -> dict[str, Any]:
        """Return the properties of the networks that the values depend on."""
        if len(self.networks) == 1:
            return self.lead.description
        return {
            "networks": [
                {**one.description, "precision": one.source.torch.precision, "weight": one.source.weight}
                for one in self.networks
            ]
        }

    @property
    def iteration(self) -> int:
        """The iteration that scores are logged at; 0 where there is none, or more than one."""
        iterations = {network.source.checkpoint.iteration or 0 for network in self.networks}
        return iterations.pop() if len(iterations) == 1 else 0

    @property
    def sources(self) -> tuple[NetworkSource, ...]:
        """Sources from which workers load the networks, the lead first."""
        return tuple(network.source for network in self._lead_first)

    @property
    def num_params(self) -> int:
        """Parameters of all networks together."""
        return sum(count_parameters(network.module) for network in self.networks)

    @property
    def on_gpu(self) -> bool:
        """Whether the networks compute on a GPU."""
        return torch_device(self.config.torch).type == "cuda"

    @property
    def geometry(self) -> NetworkGeometry:
        """Input and output sizes of the lead, for all orientations that are averaged."""
        return self._geometry(self.lead)

    @property
    def knows_precision(self) -> bool:
        """Whether the precision of each network is resolved."""
        section = self.config.prediction
        return all(one.precision or not is_to_be_checked(one.source.torch, section) for one in self.networks)

    @property
    def knows_tiles(self) -> bool:
        """Whether tiles can be chosen, or there is nothing to choose."""
        configured = self.config.prediction.input_size_voxels is not None
        return configured or self.lead.profile is not None or not self.is_probed

    def choose_tiles(self, region: Region, input_size: Sequence[int] | None = None) -> TileChoice:
        """Choose the tiles of a region: of the given or configured size, else the fastest one that fits into memory.

        Raises:
            ConfigError: The given or configured one is too small for the network.
        """
        # On a CPU the networks take turns on parts of a tile and share the memory; a GPU computes one tile at a time.
        at_once = 1 if self.on_gpu else len(self.networks)
        input_size = input_size or self.config.prediction.input_size_voxels
        where = self.geometry, region.roi, region.raw_roi.begin, self._tile_memory(self.lead)
        if input_size is not None:
            choice = describe_input_size(*where, input_size)
        else:
            if self.lead.profile is not None and self.on_gpu:
                memory = self.lead.profile.memory
            else:  # the workers file says more about the host's memory than what was free when it was measured
                memory = usable_memory(torch_device(self.config.torch), self.workers)

            def choose(speed: TileSpeed) -> TileChoice:
                return choose_input_size(*where, memory / at_once, speed, worker_count(self.workers))

            estimate = choose(self.speed(most_voxels=0))
            choice = choose(self.speed(most_voxels=estimate.read // WORTH_IT))
        return replace(choice, bytes=choice.bytes * at_once)

    def speed(self, most_voxels: float) -> TileSpeed:
        """Return the time of a tile with all networks and all orientations that are averaged.

        If it was not measured before, it is measured now, with at most ``most_voxels`` in all.
        """
        section, speeds = self.config.prediction, []
        for network in self.networks:
            if self.is_probed:
                measured = [] if network.profile is None else network.profile.measured
            else:
                measured = measured_tiles(network.module, network.source, section, most_voxels)
            positions = variants_for(section.test_time_augmentation, self._geometry(network))
            speeds += [fitted(measured)] * len(positions)
        return sum_of_speeds(speeds)

    def describe(self, region: Region, input_size: Sequence[int] | None = None) -> dict[str, Any]:
        """Return everything that the values of a region's prediction depend on, and the tiles if they are given."""
        hashes, section = region.content_hashes, self.config.prediction
        return {
            **self.networks_description,
            "region": [list(region.roi.begin), list(region.roi.shape)],
            "origin": list(region.raw_roi.begin),
            "raw": hashes[str(region.raw.address)],
            "mask": None if region.mask is None else hashes[str(region.mask.address)],
            "output_dtype": section.output_dtype,
            "precision": self.lead.source.torch.precision,
            "test_time_augmentation": section.test_time_augmentation,
            **({} if input_size is None else {"input_size": list(input_size)}),
        }

    def provenance(self, region: Region, tool: str, run_id: int | None = None) -> dict[str, Any]:
        """Return the provenance of a region's prediction."""
        parameters = {"region": region.name, **self.networks_description, **self.lineage}
        return make_provenance(tool, parameters, volumes_read(region), run_id=run_id)

    def set_up(self, region: Region, input_size: Sequence[int]) -> PredictorSetUp:
        """Return what makes a region's predictor in a worker, in tiles of that size of the lead."""
        return PredictorSetUp(region, self.sources, self.config.prediction, tuple(input_size))

    def predictor(self, input_size: Sequence[int]) -> Predictor:
        """Return the predictor in tiles of that size of the lead."""
        loaded = [(network.module, network.source) for network in self._lead_first]
        return joint_predictor(loaded, self.config.prediction, input_size)

    def group(self, prediction_id: int) -> str:
        """Return the group, inside each container, that a prediction run writes to."""
        if len(self.networks) == 1:
            return prediction_group(self.training_run_ids[0], prediction_id)
        runs = "_".join(f"{run_id:04d}" for run_id in self.training_run_ids)
        return f"volumes/predictions/ensemble_{runs}/predict_{prediction_id:04d}"

    def locations(self, prediction_id: int, part: str | None = None) -> list[OutputLocation]:
        """Return the output of each region; entries that share a container get a group each.

        ``part`` is one of several predictions of that run, which get a group each.
        """
        group = self.group(prediction_id) if part is None else f"{self.group(prediction_id)}/{part}"
        folders = self.config.directories.data, self.config.prediction.directories.prefix
        containers = [output_container(region.entry.file, *folders) for region in self.regions]
        times, channels = Counter(containers), self.training.model.outputs or ()
        return [
            OutputLocation(container, group if times[container] == 1 else f"{group}/{region.name}", channels)
            for container, region in zip(containers, self.regions, strict=True)
        ]

    def check_outputs(self, locations: Sequence[OutputLocation]) -> None:
        """Raise InputError if a prediction cannot be written, or would replace a volume of the data configuration."""
        groups = [Address(str(location.container), location.group) for location in locations]
        inputs = [address for region in self.regions for address in region.addresses]
        check_outputs(groups, inputs, "set prediction.directories.prefix to another folder, or name other inputs")

    def profiled(self, networks: Sequence[PlannedNetwork], *, probe: bool = True) -> list[PlannedNetwork]:
        """Return networks with the findings of one worker for all of them; arguments as for ``resolved``."""
        if not self.is_probed or self.workers is None:
            return list(networks)
        sources = tuple(network.source for network in networks)
        request = ProbeRequest(sources, self.config.prediction, self.regions)
        found = device_profiles(request, self.workers, probe=probe)
        return [replace(network, profile=one) for network, one in zip(networks, found, strict=True)]

    def in_exact_precision(self, network: PlannedNetwork) -> PlannedNetwork:
        """Return a network in the configured precision if that is exact enough, else in fp32, with a warning.

        The findings of a worker are used if one was asked; otherwise it is checked here.
        """
        if self.is_probed:
            check = None if network.profile is None else network.profile.precision
        else:
            check = check_precision(network.module, network.source, self.config.prediction, self.regions)
        if check is None:
            return network
        if check.used != check.asked:
            log.warning("%s", check)
        return replace(network, precision=check, source=with_precision(network.source, check.used))

    def resolved(self, *, probe: bool = True) -> PredictionPlan:
        """Return the plan with everything resolved that depends on the device: precision, speed and memory of tiles.

        Args:
            probe: Start a worker for it if one is needed; otherwise values never measured stay unknown.

        Raises:
            InputError: The worker that is asked cannot predict.
            IncasemError: No worker can be started.
        """
        networks = map(self.in_exact_precision, self.profiled(self.networks, probe=probe))
        return replace(self, networks=tuple(networks))

    @property
    def _lead_first(self) -> list[PlannedNetwork]:
        return sorted(self.networks, key=lambda network: network is not self.lead)

    def _geometry(self, network: PlannedNetwork) -> NetworkGeometry:
        augmentation = self.config.prediction.test_time_augmentation
        return geometry_for(augmentation, prediction_geometry(network.source.model))

    def _tile_memory(self, network: PlannedNetwork) -> TileMemory:
        section = self.config.prediction
        return tile_memory(network.module, network.source, section.test_time_augmentation, section.batch_size)


@dataclass(frozen=True)
class PlannedRegion:
    """One region of a prediction and its output, with tiles and blocks."""

    plan: PredictionPlan  # resolved
    region: Region
    location: OutputLocation
    begun: Begun | None  # what an earlier call did, if it got that far

    @classmethod
    def find(cls, plan: PredictionPlan, region: Region, location: OutputLocation, *, resumes: bool) -> PlannedRegion:
        """Look for the output of an earlier call, if there may be one.

        Raises:
            InputError: Another prediction has that place.
        """
        begun = read_begun(location) if resumes else None
        if begun is None:
            location.check_free(resuming=resumes)
        return cls(plan, region, location, begun)

    @property
    def knows_tiles(self) -> bool:
        """Whether tiles were chosen before, or can be chosen."""
        return self.begun is not None or self.plan.knows_tiles

    @cached_property
    def tiles(self) -> TileChoice:
        """The tiles of the earlier call, else those that suit best."""
        return self.plan.choose_tiles(self.region, None if self.begun is None else self.begun.input_size)

    @cached_property
    def predictor(self) -> Predictor:
        """The predictor in these tiles."""
        return self.plan.predictor(self.tiles.input_size)

    @cached_property
    def steps(self) -> Coordinate:
        """Voxels that a tile writes, except for those at the end of the region."""
        return self.predictor.steps(self.region.roi, self.region.raw_roi.begin)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Chunks of the output, in voxels z, y, x."""
        return chunk_shape_for(self.steps, self.region.roi.shape)

    @cached_property
    def blocks(self) -> int:
        """Number of blocks."""
        block = region_block_shape(self.predictor, self.region, self.chunk_shape)
        return math.prod(-(-length // edge) for length, edge in zip(self.region.roi.shape, block, strict=True))

    @property
    def blocks_left(self) -> int:
        """Number of blocks that are not done."""
        return self.blocks if self.begun is None else self.blocks - self.begun.done

    @property
    def bytes(self) -> int:
        """Bytes of the output, at most."""
        of_values = self.plan.training.model.num_fmaps_out * np.dtype(self.plan.config.prediction.output_dtype).itemsize
        return int(self.region.roi.size * (of_values + (not self.location.channels)))

    def bytes_left(self, kept: int) -> int:
        """Return an upper bound of the bytes still to be written, with ``kept`` predictions on disk at once."""
        left = self.bytes * self.blocks_left / self.blocks if self.knows_tiles else self.bytes
        return self.bytes * (kept - 1) + math.ceil(left)

    def seconds(self, speed: TileSpeed, workers: int, times: int) -> float:
        """Return the time of the worker with most blocks: those left of the first, and all of the others."""
        left, whole = (-(-blocks // workers) for blocks in (self.blocks_left, self.blocks))
        return self.tiles.seconds(speed, self.region.roi.size) / self.blocks * (left + (times - 1) * whole)
