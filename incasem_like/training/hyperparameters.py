"""Settings for TensorBoard's HParams page: those that make one training differ from another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

    from incasem_like.config import TrainingConfig

Value = float | str | bool

# Lengths are left out, since a continued run may change them: the page shows the iteration reached. So are seeds,
# which always differ and would come first.
_SECTIONS = (
    "training.pipeline", "training.start_from", "training.batch_size", "training.input_size_voxels",
    "training.output_size_voxels", "training.optimizer", "training.learning_rate_schedule", "training.reject",
    "training.augmentation", "training.stage_weights", "data", "targets", "model", "loss", "torch.precision",
)  # fmt: skip
_FILES = ("training.data", "validation.data")


def hyperparameters(config: TrainingConfig) -> dict[str, Value]:
    """Return the settings by dotted key: numbers and booleans unchanged, lists and all else as text."""
    dumped = config.model_dump(mode="json")
    found: dict[str, Value] = {}
    for section in _SECTIONS:
        found |= dict(_flat(section, _at(dumped, section)))
    for key in _FILES:
        if file := _at(dumped, key):
            found[key] = Path(file).name
    return found


def trial_started(trial: str, values: Mapping[str, Value]) -> Summary:
    """Return the record that opens a run's row on the HParams page.

    Args:
        trial: Name of the row; rows of the same name would be merged.
        values: The settings.
    """
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionStartInfo

    info = SessionStartInfo(group_name=trial)
    for key, value in values.items():
        if isinstance(value, bool):
            info.hparams[key].bool_value = value
        elif isinstance(value, str):
            info.hparams[key].string_value = value
        else:
            info.hparams[key].number_value = value
    return _summary(SESSION_START_INFO_TAG, session_start_info=info)


def trial_ended(error: BaseException | None) -> Summary:
    """Return the record that closes the row: success, failure, or neither for a run that was interrupted."""
    from tensorboard.plugins.hparams import api_pb2
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo

    if error is None:
        status = api_pb2.STATUS_SUCCESS
    elif isinstance(error, Exception):
        status = api_pb2.STATUS_FAILURE
    else:
        status = api_pb2.STATUS_UNKNOWN
    return _summary(SESSION_END_INFO_TAG, session_end_info=SessionEndInfo(status=status))


def _summary(tag: str, **info: Any) -> Summary:
    # torch's add_hparams would also write a list of columns, and TensorBoard uses that of one arbitrary run for all
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.metadata import NULL_TENSOR, create_summary_metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    metadata = create_summary_metadata(HParamsPluginData(**info))
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=NULL_TENSOR)])


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _flat(key: str, value: Any) -> Iterator[tuple[str, Value]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(f"{key}.{name}", item)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for item in value:
            yield from _flat(f"{key}.{item.get('name', item.get('type'))}", item)
    elif isinstance(value, list):
        yield key, _listed(value)
    elif value is not None:
        yield key, value if isinstance(value, bool | str) else float(value)
    else:
        yield key, "none"


def _listed(values: list[Any]) -> str:
    """Return a list as short text: 204 x 204 x 204; nested lists are separated by commas."""
    if any(isinstance(value, list) for value in values):
        return ", ".join(_listed(value) if isinstance(value, list) else str(value) for value in values)
    return " x ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
