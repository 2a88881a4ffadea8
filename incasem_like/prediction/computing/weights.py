"""The networks that predict, as a worker finds them: on its disk or in the run store, held against their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from incasem_like.config import ModelConfig
from incasem_like.config.prediction_config import PredictionSection
from incasem_like.config.shared_sections import TorchConfig
from incasem_like.errors import CheckpointError
from incasem_like.networks import check_device
from incasem_like.prediction.computing.ensemble import EnsemblePredictor
from incasem_like.prediction.computing.loading import load_network, make_predictor, prediction_geometry
from incasem_like.prediction.computing.predictor import Predictor
from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.prediction.computing.variants import geometry_for
from incasem_like.samples import Region
from incasem_like.tracking import file_sha256, open_store
from incasem_like.tracking.model.cache import find_in_cache


@dataclass(frozen=True)
class CheckpointPlace:
    """Where a worker finds the weights.

    Attributes:
        path: Where the scheduler has them.
        sha256: Of the file.
        training_run_id: Of the run that registered it.
        store: Address of the training runs' store without credentials, which belong into the workers' environment
            (``INCASEM_TRACKING_URL``); None for that environment's, or for files.
        runs_directory: Folder of runs.
    """

    path: Path
    sha256: str
    training_run_id: int
    store: str | None
    runs_directory: Path

    def fetch(self) -> Path:
        """Find the file on this machine, else fetch it from the run store into the cache.

        Raises:
            CheckpointError: It is nowhere to be had.
            StoreError: The run store does not answer.
        """
        if self.path.is_file() and file_sha256(self.path) == self.sha256:
            return self.path
        if (cached := find_in_cache(self.path.name, self.sha256)) is not None:
            return cached
        record = open_store(self.store, "trainings", self.runs_directory).get(self.training_run_id)
        for checkpoint in record.checkpoints:
            if checkpoint.sha256 == self.sha256:
                return checkpoint.fetch()
        raise CheckpointError(
            f"{self.path} is not on this worker's machine, and training run {self.training_run_id} registered no such "
            "file: put it where all workers see it."
        )


@dataclass(frozen=True)
class NetworkPlace:
    """A network that a worker can make.

    Attributes:
        model: Its architecture.
        torch: Device and arithmetic.
        checkpoint: Its weights.
        weight: What its probabilities count, where those of several networks are averaged.
    """

    model: ModelConfig
    torch: TorchConfig
    checkpoint: CheckpointPlace
    weight: float = 1.0

    def load(self) -> nn.Module:
        """Make the network.

        Raises:
            CheckpointError: The checkpoint is not to be had here.
            ConfigError: The device is not there.
        """
        check_device(self.torch)
        return load_network(self.model, self.torch, self.checkpoint.fetch())


@dataclass(frozen=True)
class PredictorSetUp:
    """Makes in a worker what predicts a region; called once, before its first block.

    Attributes:
        region: The region.
        networks: One, or several whose mean is predicted.
        section: How they predict.
        input_size: Tiles of the first network, in voxels.
    """

    region: Region
    networks: tuple[NetworkPlace, ...]
    section: PredictionSection
    input_size: tuple[int, ...]

    @property
    def model_hash(self) -> str:
        """What tells these networks from others: the hash of the checkpoint, or of several with their weights."""
        if len(self.networks) == 1:
            return self.networks[0].checkpoint.sha256
        counted = " ".join(f"{network.checkpoint.sha256} {network.weight!r}" for network in self.networks)
        return hashlib.sha256(counted.encode()).hexdigest()

    def __call__(self, parameters: Mapping[str, Any]) -> tuple[Region, Predictor]:
        """Load the networks; errors as ``NetworkPlace.load``."""
        return self.region, joint_predictor(
            [(network.load(), network) for network in self.networks], self.section, self.input_size
        )


def joint_predictor(
    networks: Sequence[tuple[nn.Module, NetworkPlace]], section: PredictionSection, input_size: Sequence[int]
) -> Predictor:
    """Make what predicts with one network, or with the mean of several.

    Args:
        networks: Loaded. The first one's tiles are those of all.
        section: How they predict.
        input_size: Tiles of the first one, in voxels.

    Raises:
        ConfigError: The first network cannot take such tiles.
    """
    network, place = networks[0]
    first = make_predictor(network, place.model, place.torch, section, input_size)
    if len(networks) == 1:
        return first
    written = prediction_geometry(place.model).output_size(input_size)
    others = [_that_writes(written, *one, section) for one in networks[1:]]
    return EnsemblePredictor([first, *others], [place.weight for _, place in networks])


def _that_writes(
    size: Sequence[int], network: nn.Module, place: NetworkPlace, section: PredictionSection
) -> TiledPredictor:
    geometry = geometry_for(section.test_time_augmentation, prediction_geometry(place.model))
    return make_predictor(network, place.model, place.torch, section, geometry.input_for_output(size))
