"""TensorBoard logs of a run: ``training``, one folder per validation entry, under incasem's tags, and ``hparams``."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard import SummaryWriter

    from incasem_like.training.figures import Image
    from incasem_like.training.hyperparameters import Value

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

    def image(self, part: str, tag: str, image: Image, step: int) -> None:
        """Write an image, (height, width, 3) uint8."""
        self._writer(part).add_image(tag, image, step, dataformats="HWC")

    def trial(self, name: str, hyperparameters: Mapping[str, Value]) -> None:
        """Open the run's row on the HParams page; the scalars of the part ``hparams`` are its columns of metrics."""
        from incasem_like.training.hyperparameters import trial_started

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
            from incasem_like.training.hyperparameters import trial_ended

            self._summary(trial_ended(error))
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _summary(self, summary: Summary) -> None:
        writer: Any = self._writer(HPARAMS)
        writer._get_file_writer().add_summary(summary)

    def _writer(self, part: str) -> SummaryWriter:
        if part not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[part] = SummaryWriter(
                str(self.folder / part), purge_step=self.first_step, flush_secs=FLUSH_SECONDS
            )
        return self._writers[part]
