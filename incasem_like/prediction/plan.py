"""What a prediction will do, checked before a run is started: network, checkpoint, regions, tiles, places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from incasem_like.config import (
    DataConfig,
    ModelConfig,
    PredictionConfig,
    TrainingConfig,
    load_data_config,
    output_container,
    required_file,
    resolve_training_config,
)
from incasem_like.errors import CheckpointError, ConfigError
from incasem_like.networks import (
    NetworkGeometry,
    autocast_dtype,
    build_network,
    check_device,
    load_checkpoint,
    network_geometry,
    torch_device,
)
from incasem_like.prediction.outputs import OutputPlace, prediction_group
from incasem_like.prediction.tile_size import choose_input_size, usable_memory
from incasem_like.prediction.tiles import TiledPredictor
from incasem_like.samples import Region, open_regions
from incasem_like.tracking import RunRecord, file_sha256

# More would take memory and win nothing: a tile is read faster than predicted.
MOST_TILES_AHEAD = 2


@dataclass(frozen=True)
class ChosenCheckpoint:
    """The weights a prediction is made with.

    Attributes:
        path: The file.
        sha256: Of its content now, which is that of the content the training registered.
        iteration: Number of updates; None for a file of which the training run registered no copy.
    """

    path: Path
    sha256: str
    iteration: int | None


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
        network: On its device, weights loaded.
    """

    config: PredictionConfig
    training: TrainingConfig
    training_run_id: int
    checkpoint: ChosenCheckpoint
    data: DataConfig
    regions: tuple[Region, ...]
    network: nn.Module

    @property
    def geometry(self) -> NetworkGeometry:
        """Sizes the network takes and gives."""
        return network_geometry(self.training.model)

    def input_size(self, region: Region) -> tuple[int, ...]:
        """Give the largest tile for a region: the configured one, else the best for its shape and the memory."""
        configured = self.config.prediction.input_size_voxels
        if configured is not None:
            return tuple(configured)
        memory = usable_memory(torch_device(self.config.torch))
        return choose_input_size(
            self.geometry, region.roi, region.raw_roi.begin, feature_maps(self.training.model), memory
        )

    def predictor(self, input_size: Sequence[int]) -> TiledPredictor:
        """Make the predictor with tiles of that size."""
        torch_config = self.config.torch
        return TiledPredictor(
            self.network,
            geometry=self.geometry,
            input_size=input_size,
            device=torch_device(torch_config),
            autocast=autocast_dtype(torch_config),
            channels_last=_channels_last(self.config),
            read_ahead=min(self.config.prediction.num_workers, MOST_TILES_AHEAD),
        )

    def places(self, prediction_id: int) -> list[OutputPlace]:
        """Say where each region's prediction goes; entries that share a container get a group each."""
        group = prediction_group(self.training_run_id, prediction_id)
        folders = self.config.directories.data, self.config.prediction.directories.prefix
        containers = [output_container(region.entry.file, *folders) for region in self.regions]
        times = Counter(containers)
        return [
            OutputPlace(container, group if times[container] == 1 else f"{group}/{region.name}")
            for container, region in zip(containers, self.regions, strict=True)
        ]


def plan_prediction(config: PredictionConfig, record: RunRecord) -> PredictionPlan:
    """Find and check all that a prediction needs.

    Args:
        config: The configuration of the prediction.
        record: The training run.

    Raises:
        ConfigError: ``prediction.data`` is missing or wrong, the device is not there, or the tiles do not suit the
            network.
        DataError: A volume is missing, or does not fit (see ``open_regions``).
        CheckpointError: The checkpoint is missing, changed since it was tracked, or of another architecture.
    """
    path = required_file(config.prediction.data, "prediction.data")
    check_device(config.torch)
    training = resolve_training_config(record.config, directories=config.directories)
    need_labels = config.prediction.log_metrics
    data = load_data_config(
        path,
        config.directories.data,
        num_classes=training.data.num_classes if need_labels else None,
        voxel_size=training.data.voxel_size,
    )
    regions = open_regions(
        data,
        num_classes=training.data.num_classes,
        voxel_size=training.data.voxel_size,
        need_labels=need_labels,
        downsample_factor=training.data.downsample_factor,
    )
    checkpoint = choose_checkpoint(record, config.prediction.checkpoint)
    network = _load_network(config, training, checkpoint)
    plan = PredictionPlan(config, training, record.id, checkpoint, data, tuple(regions), network)
    _check_tiles(plan)
    return plan


def choose_checkpoint(record: RunRecord, which: str | None) -> ChosenCheckpoint:
    """Find a checkpoint and hold it against what its training run registered.

    Args:
        record: The training run.
        which: ``best``, ``last``, an iteration, or the path of a file; None for the best, or the last where none was
            measured.

    Raises:
        CheckpointError: There is no such checkpoint, or its file changed since it was tracked.
    """
    if which is None:
        try:
            tracked = record.checkpoint("best")
        except CheckpointError:
            tracked = record.checkpoint("last")
    elif which in ("best", "last") or which.isdigit():
        tracked = record.checkpoint(which)
    else:
        path = Path(which).expanduser().absolute()
        registered = [entry for entry in record.checkpoints if entry.path.resolve() == path.resolve()]
        if not registered:
            if not path.is_file():
                raise CheckpointError(
                    f"There is no checkpoint {path}: check the path, or choose best, last or an iteration."
                )
            sha256 = file_sha256(path)
            copied = [entry.iteration for entry in record.checkpoints if entry.sha256 == sha256]
            return ChosenCheckpoint(path, sha256, copied[0] if copied else None)
        tracked = registered[0]
    return ChosenCheckpoint(tracked.fetch(), tracked.sha256, tracked.iteration)


def feature_maps(model: ModelConfig) -> int:
    """Give how many feature maps the network keeps at full resolution; the memory it needs goes by them."""
    return max(model.num_fmaps if model.type == "Unet" else 1, model.num_fmaps_out, model.in_channels)


def _load_network(config: PredictionConfig, training: TrainingConfig, checkpoint: ChosenCheckpoint) -> nn.Module:
    if config.torch.num_threads is not None:
        torch.set_num_threads(config.torch.num_threads)
    network = build_network(training.model)
    load_checkpoint(checkpoint.path, network)
    network = network.to(torch_device(config.torch)).eval()
    if _channels_last(config):
        # The type stubs of torch know this argument only together with others.
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    compiled: nn.Module = torch.compile(network) if config.torch.compile else network  # type: ignore[assignment]
    return compiled


def _channels_last(config: PredictionConfig) -> bool:
    """Say whether maps lie channels last in memory: on CPUs always, where that takes less time and memory."""
    return config.torch.channels_last or torch_device(config.torch).type == "cpu"


def _check_tiles(plan: PredictionPlan) -> None:
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
