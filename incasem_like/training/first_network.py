"""The trained, frozen network that the first part of an AutoContext is: found by its run, or as a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.config import resolve_training_config
from incasem_like.config.network_sections import AutoContextModel, UnetModel
from incasem_like.config.voxel_size import same_voxel_size
from incasem_like.errors import CheckpointError, ConfigError
from incasem_like.tracking.model.summaries import origins
from incasem_like.training.start import StartingPoint

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.tracking import RunRecord, RunStore

ROLE = "first network"


def with_first_network(config: TrainingConfig, trainings: Callable[[], RunStore]) -> TrainingConfig:
    """Return the configuration with the network of ``model.first_run_id`` as ``model.first``.

    Args:
        config: The configuration of a new training.
        trainings: Opens the store that holds the run.

    Raises:
        RunNotFoundError: The run does not exist.
        ConfigError: Its network is not a U-Net, or was trained with other voxels.
    """
    model = config.model
    if not isinstance(model, AutoContextModel) or model.first_run_id is None or config.training.start_from.named:
        return config  # a checkpoint to start from contains both networks, and its configuration describes them
    first = resolve_training_config(trainings().get(model.first_run_id).config)
    if not isinstance(first.model, UnetModel):
        raise ConfigError(
            f"model.first_run_id={model.first_run_id} is a run of a {first.model.type}, but the first network has to "
            "be a Unet: name another run."
        )
    for key, theirs, ours in (
        ("voxel_size", first.data.voxel_size, config.data.voxel_size),
        ("downsample_factor", (first.data.downsample_factor,), (config.data.downsample_factor,)),
    ):
        if not same_voxel_size(theirs, ours):
            raise ConfigError(
                f"model.first_run_id={model.first_run_id} was trained with data.{key}={list(theirs)}, but this "
                f"training has {list(ours)}: use the same voxels, or name another run."
            )
    return config.model_copy(update={"model": model.model_copy(update={"first": first.model})})


def find_first_network(
    config: TrainingConfig, trainings: Callable[[], RunStore], earlier: RunRecord | None = None
) -> StartingPoint | None:
    """Find the weights of the first network, and check that they fit it; None where the network has no such part.

    Args:
        config: The configuration.
        trainings: Opens the store that holds the run.
        earlier: A run that began with the same configuration, resumed or repeated: its weights are used again.

    Raises:
        RunNotFoundError: The run does not exist.
        CheckpointError: The checkpoint does not exist, was changed, or does not fit ``model.first``.
        ConfigError: No checkpoint is named.
    """
    from incasem_like.networks import build_network, load_checkpoint
    from incasem_like.tracking import file_sha256
    from incasem_like.tracking.queries.checkpoint_choice import choose_checkpoint

    model = config.model
    if not isinstance(model, AutoContextModel):
        return None
    if model.first_run_id is not None:
        record = trainings().get(model.first_run_id)
        used = None if earlier is None else _used_by(earlier)
        known = [str(one.iteration) for one in record.checkpoints if one.sha256 == used]
        if used is not None and not known:
            raise CheckpointError(
                f"The checkpoint of training run {record.id} that the first network had (sha256 {used[:8]}) is not "
                "registered any more: start a new training."
            )
        chosen = choose_checkpoint(record, known[0] if known else model.first_checkpoint)
        found = StartingPoint(record.id, chosen.path, chosen.sha256, chosen.iteration, False, ROLE)
    elif model.first_checkpoint is not None:
        path = Path(model.first_checkpoint).expanduser().absolute()
        if not path.is_file():
            raise CheckpointError(f"The checkpoint {path} does not exist: correct model.first_checkpoint.")
        found = StartingPoint(None, path, file_sha256(path), None, False, ROLE)
    else:
        raise ConfigError(
            "model.first_run_id and model.first_checkpoint are null: name the training run of the first network."
        )
    load_checkpoint(found.path, build_network(model.first))
    return found


def _used_by(record: RunRecord) -> str | None:
    parent = record.parent if isinstance(record.parent, Mapping) else {}
    return next((str(one["sha256"]) for one in origins(parent) if one.get("role") == ROLE), None)
