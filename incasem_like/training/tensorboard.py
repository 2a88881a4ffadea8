"""TensorBoard logs of a run: ``training``, one folder per validation entry, under incasem's tags, and ``hparams``."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.metadata import (
    NULL_TENSOR,
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
    create_summary_metadata,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from torch.utils.tensorboard import SummaryWriter

if TYPE_CHECKING:
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
    if error is None:
        status = api_pb2.STATUS_SUCCESS
    elif isinstance(error, Exception):
        status = api_pb2.STATUS_FAILURE
    else:
        status = api_pb2.STATUS_UNKNOWN
    return _summary(SESSION_END_INFO_TAG, session_end_info=SessionEndInfo(status=status))


def _summary(tag: str, **info: Any) -> Summary:
    # torch's add_hparams would also write a list of columns, and TensorBoard uses that of one arbitrary run for all
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


FLUSH_SECONDS = 10
HPARAMS = "hparams"


class TensorBoardLog:
    """Writers under one folder, opened when first written to.

    Args:
        folder: ``tensorboard/<id:04d>``.
        first_step: Steps from here on that an earlier process wrote are hidden, since this one writes them again; None
            for a new training.
    """

    def __init__(self, folder: Path, first_step: int | None = None) -> None:
        self.folder, self.first_step = folder, first_step
        self._writers: dict[str, SummaryWriter] = {}

    def scalars(self, part: str, values: Mapping[str, float], step: int) -> None:
        """Write scalars by tag; undefined ones (NaN) are left out and appear as a gap in the curve."""
        writer = self._writer(part)
        for tag, value in values.items():
            if not math.isnan(value):
                writer.add_scalar(tag, value, step)

    def image(self, part: str, tag: str, image: npt.NDArray[np.uint8], step: int) -> None:
        """Write an image, (height, width, 3) uint8."""
        self._writer(part).add_image(tag, image, step, dataformats="HWC")

    def trial(self, name: str, hyperparameters: Mapping[str, Value]) -> None:
        """Open the run's row on the HParams page; the scalars of the part ``hparams`` are its columns of metrics."""
        self._summary(trial_started(name, hyperparameters))

    def flush(self) -> None:
        """Pass everything to the operating system."""
        for writer in self._writers.values():
            writer.flush()

    def __enter__(self) -> TensorBoardLog:
        if self.first_step is not None:
            # A closed row cannot be opened again
            shutil.rmtree(self.folder / HPARAMS, ignore_errors=True)
            for part in sorted({events.parent for events in self.folder.rglob("events.out.tfevents.*")}):
                self._writer(part.relative_to(self.folder).as_posix())  # hides those steps at once
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if HPARAMS in self._writers:
            self._summary(trial_ended(error))
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _summary(self, summary: Summary) -> None:
        writer: Any = self._writer(HPARAMS)
        writer._get_file_writer().add_summary(summary)

    def _writer(self, part: str) -> SummaryWriter:
        if part not in self._writers:
            self._writers[part] = SummaryWriter(
                str(self.folder / part), purge_step=self.first_step, flush_secs=FLUSH_SECONDS
            )
        return self._writers[part]
