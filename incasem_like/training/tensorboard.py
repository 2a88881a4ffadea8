"""TensorBoard logs of a run: ``training`` and one folder per validation entry, under incasem's tags."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from incasem_like.training.figures import Image

FLUSH_SECONDS = 10


class TensorBoardLog:
    """Writers under one folder, opened when first written to.

    Args:
        folder: ``tensorboard/<id:04d>``.
        first_step: Steps from here on that an earlier process left are hidden, since this one writes them anew; None
            for a new training.
    """

    def __init__(self, folder: Path, first_step: int | None = None) -> None:
        self.folder, self.first_step = folder, first_step
        self._writers: dict[str, SummaryWriter] = {}

    def scalars(self, part: str, values: Mapping[str, float], step: int) -> None:
        """Write scalars by tag; undefined ones (NaN) are left out, which shows as a gap in the curve."""
        writer = self._writer(part)
        for tag, value in values.items():
            if not math.isnan(value):
                writer.add_scalar(tag, value, step)

    def image(self, part: str, tag: str, image: Image, step: int) -> None:
        """Write an image, (height, width, 3) uint8."""
        self._writer(part).add_image(tag, image, step, dataformats="HWC")

    def flush(self) -> None:
        """Hand everything to the operating system."""
        for writer in self._writers.values():
            writer.flush()

    def __enter__(self) -> TensorBoardLog:
        if self.first_step is not None:
            for part in sorted({events.parent for events in self.folder.rglob("events.out.tfevents.*")}):
                self._writer(part.relative_to(self.folder).as_posix())  # which hides those steps at once
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _writer(self, part: str) -> SummaryWriter:
        if part not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[part] = SummaryWriter(
                str(self.folder / part), purge_step=self.first_step, flush_secs=FLUSH_SECONDS
            )
        return self._writers[part]
