"""A network loaded from its checkpoint and put to work, the same in every process that predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from incasem_like.config import ModelConfig
from incasem_like.config.prediction_config import PredictionSection
from incasem_like.config.shared_sections import TorchConfig
from incasem_like.networks import (
    NetworkGeometry,
    autocast_dtype,
    build_network,
    forward_maps,
    geometry_in_volumes,
    load_checkpoint,
    network_geometry,
    on_volumes,
    torch_device,
)
from incasem_like.networks.inference import streams
from incasem_like.prediction.channels import channel_groups
from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.prediction.computing.variants import NONE
from incasem_like.prediction.planning.memory import TileMemory

# More would take memory and win nothing: a tile is read faster than predicted, on a CPU by far.
MOST_TILES_AHEAD = {"cuda": 2, "mps": 2, "cpu": 1}
# Fewer do not fill a GPU.
VOXELS_OF_A_BATCH = 2**21
MOST_TILES_OF_A_BATCH = 16


def load_network(model: ModelConfig, config: TorchConfig, checkpoint: Path) -> nn.Module:
    """Build a network with the weights of a checkpoint, on its device and ready to predict.

    Raises:
        CheckpointError: The checkpoint is damaged or of another architecture.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    network = build_network(model)
    load_checkpoint(checkpoint, network)
    network = network.to(torch_device(config)).eval()
    geometry = network_geometry(model)
    if _channels_last(config):
        layout = torch.channels_last_3d if geometry.dims == 3 else torch.channels_last
        # The type stubs of torch know this argument only together with others.
        network = network.to(memory_format=layout)  # type: ignore[call-overload]
    compiled: nn.Module = torch.compile(network) if config.compile else network  # type: ignore[assignment]
    return on_volumes(compiled, geometry)


def prediction_geometry(model: ModelConfig) -> NetworkGeometry:
    """Work out what sizes z, y, x the network takes and gives when it predicts volumes."""
    return geometry_in_volumes(network_geometry(model))


def make_predictor(
    network: nn.Module, model: ModelConfig, config: TorchConfig, section: PredictionSection, input_size: Sequence[int]
) -> TiledPredictor:
    """Make what predicts with a loaded network in tiles of that size.

    Raises:
        ConfigError: The network cannot take ``input_size``, or cannot be transposed for test-time augmentation.
    """
    return TiledPredictor(
        network,
        geometry=prediction_geometry(model),
        input_size=input_size,
        device=torch_device(config),
        autocast=autocast_dtype(config),
        channels_last=_channels_last(config),
        read_ahead=min(section.num_workers, MOST_TILES_AHEAD[torch_device(config).type]),
        batch_size=section.batch_size or _batch_size(torch_device(config), input_size),
        augmentation=section.test_time_augmentation,
        channels=channel_groups(model),
    )


def _batch_size(device: torch.device, input_size: Sequence[int]) -> int:
    """Choose how many tiles are computed together: on a GPU so many that it has enough to do."""
    if device.type != "cuda":
        return 1
    return max(1, min(MOST_TILES_OF_A_BATCH, VOXELS_OF_A_BATCH // math.prod(input_size)))


def tile_memory(
    network: nn.Module, model: ModelConfig, config: TorchConfig, augmentation: str, batch_size: int | None = None
) -> TileMemory:
    """Say what tiles of a network take, with that test-time augmentation, and so many at a time."""
    geometry = prediction_geometry(model)
    device = torch_device(config)
    return TileMemory(
        # What the network keeps at full resolution; the memory it needs goes by that.
        feature_maps=max(model.num_fmaps if model.type == "Unet" else 1, model.num_fmaps_out, model.in_channels),
        channels=model.in_channels,
        classes=model.num_fmaps_out,
        tiles_ahead=MOST_TILES_AHEAD[device.type],
        forward=None if streams(network, device) else forward_maps(model),
        whole=augmentation != NONE,
        stride=geometry.stride[0],
        lost=geometry.lost[0],
        batch_size=batch_size or 1,
        on_gpu=device.type == "cuda",
    )


def _channels_last(config: TorchConfig) -> bool:
    """Say whether maps lie channels last in memory: on CPUs always, where that takes less time and memory."""
    return config.channels_last or torch_device(config).type == "cpu"
