"""Networks and predictors, made the same way in every process: weights are found by their hash and loaded."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from incasem_like.config import ModelConfig
from incasem_like.config.prediction_config import PredictionSection
from incasem_like.config.shared_sections import TorchConfig
from incasem_like.errors import CheckpointError
from incasem_like.networks import (
    NetworkGeometry,
    autocast_dtype,
    build_network,
    check_device,
    geometry_in_volumes,
    load_checkpoint,
    network_geometry,
    on_volumes,
    torch_device,
)
from incasem_like.prediction.computing.tiles import EnsemblePredictor, Predictor, TiledPredictor
from incasem_like.prediction.computing.tiling import geometry_for
from incasem_like.samples import Region
from incasem_like.tracking import file_sha256, open_store
from incasem_like.tracking.model.cache import find_in_cache
from incasem_like.tracking.stores.records import ChosenCheckpoint

# Fewer do not fill a GPU.
VOXELS_OF_A_BATCH = 2**21
MOST_TILES_OF_A_BATCH = 16


@dataclass(frozen=True)
class NetworkSource:
    """A network that a worker can load.

    ``store`` is the address of the training run's store without credentials, which belong into the workers'
    environment (``INCASEM_TRACKING_URL``); None for that environment's, or for files.
    """

    model: ModelConfig
    torch: TorchConfig
    checkpoint: ChosenCheckpoint  # as found by the scheduler
    training_run_id: int  # of the run that registered it
    store: str | None
    runs_directory: Path
    weight: float = 1.0  # of its probabilities in the mean of several networks

    def load(self) -> nn.Module:
        """Load the network; errors as ``fetch``, and ConfigError if the device does not exist."""
        check_device(self.torch)
        return load_network(self.model, self.torch, self.fetch())

    def fetch(self) -> Path:
        """Return the checkpoint on this machine; it is fetched from the run store into the cache if it is not local.

        Raises:
            CheckpointError: It cannot be found.
            StoreError: The run store does not answer.
        """
        path, sha256 = self.checkpoint.path, self.checkpoint.sha256
        if path.is_file() and file_sha256(path) == sha256:
            return path
        if (cached := find_in_cache(path.name, sha256)) is not None:
            return cached
        record = open_store(self.store, "trainings", self.runs_directory).get(self.training_run_id)
        for checkpoint in record.checkpoints:
            if checkpoint.sha256 == sha256:
                return checkpoint.fetch()
        raise CheckpointError(
            f"{path} is not on this worker's machine, and training run {self.training_run_id} registered no such "
            "file: put it where all workers see it."
        )


@dataclass(frozen=True)
class PredictorSetUp:
    """Makes the predictor of a region in a worker; called once, before its first block."""

    region: Region
    networks: tuple[NetworkSource, ...]  # several if their mean is predicted
    section: PredictionSection
    input_size: tuple[int, ...]  # of the first network's tiles, in voxels z, y, x

    @property
    def model_hash(self) -> str:
        """Return the identity of the networks: the hash of the checkpoint, or of several with their weights."""
        if len(self.networks) == 1:
            return self.networks[0].checkpoint.sha256
        counted = " ".join(f"{network.checkpoint.sha256} {network.weight!r}" for network in self.networks)
        return hashlib.sha256(counted.encode()).hexdigest()

    def __call__(self, parameters: Mapping[str, Any]) -> tuple[Region, Predictor]:
        """Load the networks; errors as ``NetworkSource.load``."""
        loaded = [(network.load(), network) for network in self.networks]
        return self.region, joint_predictor(loaded, self.section, self.input_size)


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
        # torch's type stubs accept this argument only together with others.
        network = network.to(memory_format=layout)  # type: ignore[call-overload]
    compiled: nn.Module = torch.compile(network) if config.compile else network  # type: ignore[assignment]
    return on_volumes(compiled, geometry)


def prediction_geometry(model: ModelConfig) -> NetworkGeometry:
    """Return the sizes z, y, x that the network takes and gives when it predicts volumes."""
    return geometry_in_volumes(network_geometry(model))


def make_predictor(
    network: nn.Module, source: NetworkSource, section: PredictionSection, input_size: Sequence[int]
) -> TiledPredictor:
    """Return the predictor of a loaded network in tiles of that size.

    Raises:
        ConfigError: The network cannot take ``input_size``, or cannot be transposed for test-time augmentation.
    """
    device = torch_device(source.torch)
    fills_gpu = max(1, min(MOST_TILES_OF_A_BATCH, VOXELS_OF_A_BATCH // math.prod(input_size)))
    return TiledPredictor(
        network,
        geometry=prediction_geometry(source.model),
        input_size=input_size,
        device=device,
        autocast=autocast_dtype(source.torch),
        channels_last=_channels_last(source.torch),
        num_threads=section.num_threads,
        batch_size=section.batch_size or (fills_gpu if device.type == "cuda" else 1),
        augmentation=section.test_time_augmentation,
        channels=source.model.outputs or (),
    )


def joint_predictor(
    networks: Sequence[tuple[nn.Module, NetworkSource]], section: PredictionSection, input_size: Sequence[int]
) -> Predictor:
    """Return the predictor of one loaded network, or of the mean of several, in tiles of that size of the first.

    Raises:
        ConfigError: The first network cannot take such tiles.
    """
    (network, first), *others = networks
    members = [make_predictor(network, first, section, input_size)]
    for network, source in others:
        geometry = geometry_for(section.test_time_augmentation, prediction_geometry(source.model))
        size = geometry.input_for_output(prediction_geometry(first.model).output_size(input_size))
        members.append(make_predictor(network, source, section, size))
    return EnsemblePredictor(members, [source.weight for _, source in networks]) if others else members[0]


def _channels_last(config: TorchConfig) -> bool:
    """Return whether maps lie channels last in memory: on CPUs always, where that takes less time and memory."""
    return config.channels_last or torch_device(config).type == "cpu"
