"""Preflight checks: errors that would stop a training after hours are found before it starts."""

from __future__ import annotations

import bisect
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from incasem_like.config import load_data_config, required_file
from incasem_like.disk import check_writable, nearest_folder
from incasem_like.errors import ConfigError, DiskFullError
from incasem_like.networks import (
    build_network,
    check_device,
    check_output,
    count_parameters,
    describe_network,
    geometry_in_volumes,
    network_geometry,
    torch_device,
)
from incasem_like.prediction.computing.tiling import axis_step
from incasem_like.processes import available_host_memory
from incasem_like.samples import Region, open_regions
from incasem_like.samples.settings import SampleSettings
from incasem_like.training.learnable import check_training_data, look_into, warn_of_content
from incasem_like.training.processes import world_size

if TYPE_CHECKING:
    from incasem_like.config import DataConfig, ModelConfig, TrainingConfig

COPIES_IN_A_CHECKPOINT = 3  # weights and Adam's two moments; one less or more with other options
BYTES = 4


@dataclass(frozen=True)
class CheckedTraining:
    """A configuration that was checked against network, data, machine and disk.

    Attributes:
        config: The configuration.
        training_data: The data configuration for training; None if it trains on random objects.
        validation_data: The data configuration for validation, or None.
        training_regions: The opened entries of ``training_data``.
        validation_regions: The opened entries of ``validation_data``; empty without validation.
        settings: The settings that determine a training sample, besides the data.
    """

    config: TrainingConfig
    training_data: DataConfig | None
    validation_data: DataConfig | None
    training_regions: Sequence[Region]
    validation_regions: Sequence[Region]
    settings: SampleSettings

    @property
    def artifacts(self) -> dict[str, str]:
        """The data configurations as stored in the run's record, by name."""
        validation = {} if self.validation_data is None else {"validation_data.json": self.validation_data.text}
        training = {} if self.training_data is None else {"training_data.json": self.training_data.text}
        return {**training, **validation}


def check_training(config: TrainingConfig) -> CheckedTraining:
    """Check everything that a training will need, cheap checks first; no file is left behind.

    Raises:
        ConfigError: The configuration contradicts network, data or machine; the nearest setting that fits is named.
        DataError: A dataset is missing, incomplete or not what the data configuration says, or nothing can be learnt.
        InputError: The runs directory cannot be written.
        DiskFullError: Not even two checkpoints would fit on the disk.
    """
    check_network(config)
    check_options(config)
    check_block_sizes(config)
    settings = SampleSettings.from_config(config)
    training_data = None
    if config.training.synthetic is None:
        training_data = _data_config(config, required_file(config.training.data, "training.data"))
    validation_data = _data_config(config, config.validation.data) if config.validation.data else None
    check_writable(config.directories.runs / "models", "set directories.runs to a folder that is yours to write")
    training_regions = _open(config, training_data) if training_data else []
    validation_regions = _open(config, validation_data) if validation_data else []
    check_validation_tiles(config, validation_regions)
    check_device(config.torch)
    check_memory(config)
    check_space(config.model, config.directories.runs)
    if training_regions:
        check_training_data(config, training_regions)
    if validation_regions:
        found = look_into(validation_regions, measured=True, overlapping=settings.overlapping_classes)
        warn_of_content("validation.data", found, config.data.num_classes)
    return CheckedTraining(config, training_data, validation_data, training_regions, validation_regions, settings)


def check_network(config: TrainingConfig) -> None:
    """Check that the network takes volumes of one channel, as samples are, and that its outputs are learnt.

    Raises:
        ConfigError: It has more input channels, outputs without targets, another number of outputs than of
            ``training.stage_weights``, or returns other sizes than it declares.
    """
    model = config.model
    if model.outputs is not None and config.targets is None:
        names = ", ".join(group.name for group in model.outputs)
        raise ConfigError(
            f"model.outputs describes {names}, but loss.type={config.loss.type} trains classes: give targets, or set "
            "model.outputs=null. A network that was trained elsewhere can be imported and predict."
        )
    if model.in_channels != 1 and config.training.synthetic is None:
        raise ConfigError(
            f"model.in_channels is {model.in_channels}, but raw volumes have one channel: set model.in_channels=1, or "
            "training.synthetic for a network that reads predictions."
        )
    outputs, weights = check_output(model), config.training.stage_weights
    if weights is not None and len(weights) != outputs:
        raise ConfigError(
            f"training.stage_weights has {len(weights)} entries, but the network returns {outputs} outputs in "
            "training: give one for each, or null."
        )


def check_options(config: TrainingConfig) -> None:
    """Check the options of the training that depend on the network, on validation data, or on how it was started.

    Raises:
        ConfigError: A schedule or early stopping waits for a validation that there is not, the network has more or
            fewer parameters than allowed, or a batch cannot be divided among the processes.
    """
    training = config.training
    for key, needed in (
        ("training.learning_rate_schedule.type=plateau", training.learning_rate_schedule.type == "plateau"),
        (f"training.early_stopping={training.early_stopping}", training.early_stopping is not None),
    ):
        if needed and config.validation.data is None:
            raise ConfigError(f"{key} follows a validation metric, but validation.data is null: name validation data.")
    if training.num_params is not None:
        fewest, most = training.num_params
        count = _count_parameters(config.model)
        if not fewest <= count <= most:
            raise ConfigError(
                f"The network has {count} parameters, but training.num_params allows {fewest} to {most}: change "
                "model.num_fmaps or the number of levels, or set training.num_params=null."
            )
    processes, batch = world_size(), training.batch_size // training.accumulate
    if batch % processes:
        of_part = f" / training.accumulate {training.accumulate}" if training.accumulate > 1 else ""
        raise ConfigError(
            f"training.batch_size {training.batch_size}{of_part} does not divide among {processes} processes: set it "
            f"to a multiple of {processes * training.accumulate}, or start another number of processes."
        )


def check_block_sizes(config: TrainingConfig, *, validated: bool | None = None) -> None:
    """Compare the block sizes of training and validation with the network's geometry.

    Args:
        config: The configuration.
        validated: Whether the training is validated; None: if ``validation.data`` is set.

    Raises:
        ConfigError: The network does not take an input size, or has another output size for it.
    """
    geometry = geometry_in_volumes(network_geometry(config.model))
    sizes = {"training": (config.training.input_size_voxels, config.training.output_size_voxels)}
    if config.validation.data is not None if validated is None else validated:
        sizes["validation"] = (config.validation.input_size_voxels, config.validation.output_size_voxels)
    for name, (given, given_output) in sizes.items():
        if not geometry.is_valid(given):
            nearest = [size for size in geometry.nearest_valid(given) if size is not None]
            choices = " or ".join(f"{list(size)} (output {list(geometry.output_size(size))})" for size in nearest)
            raise ConfigError(f"{name}.input_size_voxels={list(given)} does not fit the network: set it to {choices}.")
        output = geometry.output_size(given)
        if output != given_output:
            raise ConfigError(
                f"{name}.output_size_voxels={list(given_output)} is not what the network gives "
                f"for an input of {list(given)}: set it to {list(output)}."
            )


def check_validation_tiles(config: TrainingConfig, regions: Sequence[Region]) -> None:
    """Check that each validation entry can be covered by tiles a stride of the network apart.

    Raises:
        ConfigError: ``validation.input_size_voxels`` is too small for that.
    """
    geometry = geometry_in_volumes(network_geometry(config.model))
    given = config.validation.input_size_voxels
    for region in regions:
        for axis, (begin, origin) in enumerate(zip(region.roi.begin, region.raw_roi.begin, strict=True)):
            try:
                axis_step(geometry, axis, given[axis], (begin - origin) % geometry.stride[axis])
            except ConfigError as error:
                enough = geometry.input_for_output(
                    [2 * s - 1 + 2 * b for s, b in zip(geometry.stride, geometry.border, strict=True)]
                )
                raise ConfigError(
                    f"validation.input_size_voxels={list(given)} is too small to cover {region.name} with tiles: "
                    f"set it to at least {list(enough)} (output {list(geometry.output_size(enough))})."
                ) from error


def check_memory(config: TrainingConfig) -> None:
    """Check that an update fits in the memory that the device has left.

    Raises:
        ConfigError: It does not; a number of parts of the batch, or a block size, that would fit is named.
    """
    if config.model.type == "Custom":
        return  # only those of this package can be tried out without computing
    training, device = config.training, torch_device(config.torch)
    on_gpu = device.type == "cuda"
    room = torch.cuda.mem_get_info(device)[0] if on_gpu else available_host_memory()
    width = 1.0 if config.torch.precision == "fp32" else 0.5

    def needed(size: Sequence[int], blocks: int) -> float:
        return width * describe_network(config.model, size, blocks).training_bytes

    size, blocks = training.input_size_voxels, training.batch_size // training.accumulate // world_size()
    if (needs := needed(size, blocks)) <= room:
        return
    parts = [part for part in range(2, blocks + 1) if blocks % part == 0 and needed(size, blocks // part) <= room]
    if parts:
        remedy = f"set training.accumulate={training.accumulate * parts[0]}"
    else:
        geometry = geometry_in_volumes(network_geometry(config.model))

        def smaller(steps: int) -> list[int]:
            return [edge - steps * stride for edge, stride in zip(size, geometry.stride, strict=True)]

        def fits(steps: int) -> bool:
            return not geometry.is_valid(smaller(steps)) or needed(smaller(steps), 1) <= room

        most = min((edge - 1) // stride for edge, stride in zip(size, geometry.stride, strict=True))
        found = smaller(bisect.bisect_left(range(most), True, key=fits))
        remedy = "lower model.num_fmaps"
        if geometry.is_valid(found):
            output = list(geometry.output_size(found))
            remedy = f"set training.input_size_voxels={found} and training.output_size_voxels={output}"
            if blocks > 1:
                remedy += f" with training.accumulate={training.accumulate * blocks}"
    raise ConfigError(
        f"An update of {blocks} block{'s' if blocks > 1 else ''} of {list(size)} voxels takes about {needs / 1e9:.3g} "
        f"GB, but {f'{device} has' if on_gpu else 'this machine has'} {room / 1e9:.3g} GB free: {remedy}, or "
        f"{'torch.precision=bf16' if width == 1 else 'lower model.num_fmaps'}."
    )


def check_space(model: ModelConfig, folder: Path) -> None:
    """Check that two checkpoints fit on the disk, since a new one is written before the old one is removed.

    Raises:
        DiskFullError: They do not.
    """
    needed = 2 * _count_parameters(model) * COPIES_IN_A_CHECKPOINT * BYTES
    free = shutil.disk_usage(nearest_folder(folder)).free
    if free < needed:
        raise DiskFullError(
            f"Two checkpoints of this network take {needed / 1e6:.0f} MB, but {folder} has {free / 1e6:.0f} MB left: "
            "free some space or set directories.runs to another disk."
        )


def _count_parameters(model: ModelConfig) -> int:
    with torch.device("meta"):
        return count_parameters(build_network(model))


def _data_config(config: TrainingConfig, path: Path) -> DataConfig:
    return load_data_config(
        path, config.directories.data, num_classes=config.data.num_classes, voxel_size=config.data.voxel_size
    )


def _open(config: TrainingConfig, data: DataConfig) -> Sequence[Region]:
    return open_regions(
        data,
        num_classes=config.data.num_classes,
        voxel_size=config.data.voxel_size,
        need_labels=True,
        downsample_factor=config.data.downsample_factor,
    )
