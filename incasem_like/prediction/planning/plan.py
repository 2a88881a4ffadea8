"""What a prediction will do, checked before a run is started: network, checkpoint, regions, tiles, places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from incasem_like.config import (
    DataConfig,
    PredictionConfig,
    TrainingConfig,
    load_data_config,
    output_container,
    required_file,
    resolve_training_config,
)
from incasem_like.errors import ConfigError
from incasem_like.networks import NetworkGeometry, count_parameters, for_this_machine, torch_device
from incasem_like.prediction.channels import channel_groups, check_channels
from incasem_like.prediction.computing.loading import load_network, make_predictor, prediction_geometry, tile_memory
from incasem_like.prediction.computing.predictor import Predictor
from incasem_like.prediction.computing.variants import geometry_for, variants_for
from incasem_like.prediction.computing.weights import CheckpointPlace, NetworkPlace
from incasem_like.prediction.outputs import OutputPlace, prediction_group
from incasem_like.prediction.planning.checkpoint_choice import ChosenCheckpoint, checkpoint_for, choose_checkpoint
from incasem_like.prediction.planning.memory import TileMemory, usable_memory, worker_count
from incasem_like.prediction.planning.precision import PrecisionCheck, is_to_be_checked
from incasem_like.prediction.planning.speed import fitted, measured_tiles
from incasem_like.prediction.planning.survey import Survey, check_place
from incasem_like.prediction.planning.tile_size import TileChoice, TileSpeed, choose_input_size, describe_input_size
from incasem_like.samples import Region, open_regions
from incasem_like.tracking import RunRecord
from incasem_like.tracking.values import without_credentials

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

# Measuring tiles is worth its time only where there is much to predict: no more than this part of it.
WORTH_IT = 20


@dataclass(frozen=True)
class PredictionPlan:
    """All that is needed to predict.

    Attributes:
        config: The configuration of the prediction.
        training: That of the training run, its folders replaced by those of this machine.
        training_run_id: Its id.
        checkpoint: The weights.
        data: The data configuration.
        regions: Its entries, opened.
        network: On its device, or on the CPU where that is not here; weights loaded.
        precision: How the configured precision was held against fp32; None where there was nothing to check.
        asks_worker: A worker is asked how fast and exact the network is where it computes, which cannot be told here.
        survey: What it said; None where it was not asked, or not yet.
    """

    config: PredictionConfig
    training: TrainingConfig
    training_run_id: int
    checkpoint: ChosenCheckpoint
    data: DataConfig
    regions: tuple[Region, ...]
    network: nn.Module
    precision: PrecisionCheck | None = None
    asks_worker: bool = False
    survey: Survey | None = None

    @property
    def training_run_ids(self) -> tuple[int, ...]:
        """The training runs whose networks predict."""
        return (self.training_run_id,)

    @property
    def lineage(self) -> dict[str, Any]:
        """Where the network comes from, for the record of the run and of each dataset."""
        return {
            "training_run_id": self.training_run_id,
            "checkpoint": str(self.checkpoint.path),
            "sha256": self.checkpoint.sha256,
            "iteration": self.checkpoint.iteration,
        }

    @property
    def networks_description(self) -> dict[str, Any]:
        """What of the network the values depend on."""
        return {"checkpoint": self.checkpoint.sha256, "model": self.training.model.model_dump(mode="json")}

    @property
    def iteration(self) -> int:
        """The iteration that scores are logged at; 0 where there is none, or more than one."""
        return self.checkpoint.iteration or 0

    @property
    def network_places(self) -> tuple[NetworkPlace, ...]:
        """Where workers find the network, or several of them, that whose tiles are taken first."""
        config, address = self.config, self.config.tracking.url
        store = address if address == without_credentials(address) else None
        chosen, runs = self.checkpoint, config.directories.runs
        checkpoint = CheckpointPlace(chosen.path, chosen.sha256, self.training_run_id, store, runs)
        return (NetworkPlace(self.training.model, config.torch, checkpoint),)

    @property
    def num_params(self) -> int:
        """Parameters of the network."""
        return count_parameters(self.network)

    @property
    def networks_at_once(self) -> int:
        """How many networks share the memory."""
        return 1

    @property
    def geometry(self) -> NetworkGeometry:
        """Sizes the network takes and gives, in all positions that are averaged."""
        return geometry_for(self.config.prediction.test_time_augmentation, prediction_geometry(self.training.model))

    def choose_tiles(self, region: Region, workers: Workers | None = None) -> TileChoice:
        """Give the largest tile for a region: the configured one, else the quickest for its shape and the memory.

        Args:
            region: What is predicted.
            workers: Who predicts; None for this process.

        Raises:
            ConfigError: The configured one is too small for the network.
        """
        configured = self.config.prediction.input_size_voxels
        if configured is not None:
            return self.describe_tiles(region, configured)
        memory = self._tile_memory()
        limit = self._usable_memory(workers) / self.networks_at_once
        count = worker_count(workers)

        def choose(speed: TileSpeed) -> TileChoice:
            return choose_input_size(self.geometry, region.roi, region.raw_roi.begin, memory, limit, speed, count)

        return choose(self.speed(most_voxels=choose(self.speed(most_voxels=0)).read // WORTH_IT))

    def describe_tiles(self, region: Region, input_size: Sequence[int]) -> TileChoice:
        """Say what tiles of a given size come to.

        Raises:
            ConfigError: They are too small for the network.
        """
        memory = self._tile_memory()
        return describe_input_size(self.geometry, region.roi, region.raw_roi.begin, memory, input_size)

    @property
    def knows_precision(self) -> bool:
        """Whether it is settled in which precision the network computes."""
        return self.precision is not None or not is_to_be_checked(self.config.torch, self.config.prediction)

    @property
    def knows_tiles(self) -> bool:
        """Whether there is what tiles are chosen by, or nothing to choose."""
        configured = self.config.prediction.input_size_voxels is not None
        return configured or self.survey is not None or not self.asks_worker

    @property
    def on_gpu(self) -> bool:
        """Whether the network computes on a GPU."""
        return torch_device(self.config.torch).type == "cuda"

    def speed(self, most_voxels: float) -> TileSpeed:
        """Say how long tiles take where the network computes, in all positions that are averaged.

        Args:
            most_voxels: Measure here, where that has not been done before, with so many voxels in all at most.
        """
        section = self.config.prediction
        if self.asks_worker:
            measured = [] if self.survey is None else self.survey.measured
        else:
            measured = measured_tiles(self.network, self.training.model, self.config.torch, section, most_voxels)
        return fitted(measured).times(len(variants_for(section.test_time_augmentation, self.geometry)))

    def _tile_memory(self) -> TileMemory:
        section = self.config.prediction
        augmentation, batch_size = section.test_time_augmentation, section.batch_size
        return tile_memory(self.network, self.training.model, self.config.torch, augmentation, batch_size)

    def _usable_memory(self, workers: Workers | None) -> float:
        if self.survey is not None and self.on_gpu:
            return self.survey.memory
        # Of the host's memory the workers file tells more than what was free when a worker was asked.
        return usable_memory(torch_device(self.config.torch), workers)

    def predictor(self, input_size: Sequence[int]) -> Predictor:
        """Make what predicts with tiles of that size."""
        return make_predictor(self.network, self.training.model, self.config.torch, self.config.prediction, input_size)

    def group(self, prediction_id: int) -> str:
        """Name the group, inside each container, of what a prediction run writes."""
        return prediction_group(self.training_run_id, prediction_id)

    def places(self, prediction_id: int, part: str | None = None) -> list[OutputPlace]:
        """Say where each region's prediction goes; entries that share a container get a group each.

        Args:
            prediction_id: The run.
            part: One of several predictions of that run, which get a group each.
        """
        group = self.group(prediction_id) if part is None else f"{self.group(prediction_id)}/{part}"
        folders = self.config.directories.data, self.config.prediction.directories.prefix
        containers = [output_container(region.entry.file, *folders) for region in self.regions]
        times, channels = Counter(containers), channel_groups(self.training.model)
        return [
            OutputPlace(container, group if times[container] == 1 else f"{group}/{region.name}", channels)
            for container, region in zip(containers, self.regions, strict=True)
        ]


def plan_prediction(
    config: PredictionConfig,
    record: RunRecord,
    checkpoint: ChosenCheckpoint | None = None,
    workers: Workers | None = None,
) -> PredictionPlan:
    """Find and check all that a prediction needs, but for what ``settling.settled`` finds out.

    Args:
        config: The configuration of the prediction.
        record: The training run.
        checkpoint: The weights; None for what ``prediction.checkpoint`` says.
        workers: Who predicts; None for this process.

    Raises:
        ConfigError: ``prediction.data`` is missing or wrong, the device is not there, or the tiles do not suit the
            network.
        DataError: A volume is missing, or does not fit (see ``open_regions``).
        CheckpointError: The checkpoint is missing, changed since it was tracked, or of another architecture.
    """
    required_file(config.prediction.data, "prediction.data")
    asks_worker = check_place(config, workers)
    training = resolve_training_config(record.config, directories=config.directories)
    data = load_regions_config(config, training)
    regions = open_regions(
        data,
        num_classes=training.data.num_classes,
        voxel_size=training.data.voxel_size,
        need_labels=config.prediction.log_metrics,
        downsample_factor=training.data.downsample_factor,
    )
    checkpoint = checkpoint or choose_checkpoint(record, checkpoint_for(config, 0))
    network = load_network(training.model, for_this_machine(config.torch), checkpoint.path)
    plan = PredictionPlan(
        config, training, record.id, checkpoint, data, tuple(regions), network, asks_worker=asks_worker
    )
    check_tiles(plan)
    return plan


def load_regions_config(config: PredictionConfig, training: TrainingConfig) -> DataConfig:
    """Read which regions are to be predicted.

    Raises:
        ConfigError: ``prediction.data`` is missing or wrong; or what is asked for is for classes only.
    """
    check_channels(config.prediction, training.model)
    return load_data_config(
        required_file(config.prediction.data, "prediction.data"),
        config.directories.data,
        num_classes=training.data.num_classes if config.prediction.log_metrics else None,
        voxel_size=training.data.voxel_size,
    )


def check_tiles(plan: PredictionPlan) -> None:
    """Make sure that configured tile sizes suit the network and every region.

    Raises:
        ConfigError: They do not.
    """
    input_size, output_size = plan.config.prediction.input_size_voxels, plan.config.prediction.output_size_voxels
    if input_size is None:
        return
    given = plan.geometry.output_size(input_size)
    if output_size is not None and tuple(output_size) != given:
        raise ConfigError(
            f"prediction.output_size_voxels is {list(output_size)}, but the network makes {list(given)} of "
            f"prediction.input_size_voxels {list(input_size)}: correct it or set it to null."
        )
    for region in plan.regions:
        plan.predictor(input_size).steps(region.roi, region.raw_roi.begin)
