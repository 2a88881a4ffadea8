"""Typed, validated configuration: YAML of trainings and predictions, and the data-config JSON."""

from incasem_like.config.data_config import (
    DataConfig,
    DataEntry,
    load_data_config,
    output_container,
    parse_data_config,
    required_file,
)
from incasem_like.config.loading import (
    Places,
    load_places,
    load_prediction_config,
    load_series_config,
    load_sweep_config,
    load_training_config,
    overlay_tracked,
    resolve_training_config,
)
from incasem_like.config.locations import default_data_directory, default_runs_directory
from incasem_like.config.network_sections import LossConfig, ModelConfig, UnetModel
from incasem_like.config.prediction_config import PredictionConfig, SeriesConfig, SeriesSection
from incasem_like.config.shared_sections import DirectoriesConfig, TorchConfig
from incasem_like.config.sweep_config import SweepConfig
from incasem_like.config.training_config import TrainingConfig

__all__ = [
    "DataConfig",
    "DataEntry",
    "DirectoriesConfig",
    "LossConfig",
    "ModelConfig",
    "Places",
    "PredictionConfig",
    "SeriesConfig",
    "SeriesSection",
    "SweepConfig",
    "TorchConfig",
    "TrainingConfig",
    "UnetModel",
    "default_data_directory",
    "default_runs_directory",
    "load_data_config",
    "load_places",
    "load_prediction_config",
    "load_series_config",
    "load_sweep_config",
    "load_training_config",
    "output_container",
    "overlay_tracked",
    "parse_data_config",
    "required_file",
    "resolve_training_config",
]
