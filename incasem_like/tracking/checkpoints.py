"""Checkpoints as a run registered them: where they are, their hash, and the choice among them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from incasem_like.errors import CheckpointError

_BYTES_AT_ONCE = 1 << 20


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BYTES_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class CheckpointRecord:
    """A checkpoint as the run registered it.

    Attributes:
        iteration: Number of updates the network had seen.
        path: Where the file is, absolute; follows a training_runs folder that was moved.
        sha256: Of the file's content when it was registered.
        bytes: Length of the file.
        metrics: Validation metrics at that iteration, by name.
    """

    iteration: int
    path: Path
    sha256: str
    bytes: int
    metrics: dict[str, float] = field(default_factory=dict)

    def verify(self) -> Path:
        """Hold the file against what was tracked and return its path.

        Raises:
            CheckpointError: The file is missing or is not the one that was tracked.
        """
        if not self.path.is_file():
            raise CheckpointError(
                f"The checkpoint {self.path} does not exist any more: restore it, or choose another one of the run's."
            )
        size = self.path.stat().st_size
        found = f"{size} bytes, not {self.bytes}" if size != self.bytes else ""
        if not found and (digest := file_sha256(self.path)) != self.sha256:
            found = f"SHA-256 {digest[:12]}…, not {self.sha256[:12]}…"
        if found:
            raise CheckpointError(
                f"The checkpoint {self.path} changed after it was tracked ({found}): restore the file, or choose "
                "another one of the run's."
            )
        return self.path


def choose_checkpoint(
    records: Sequence[CheckpointRecord], which: str | int, *, metric: str | None, mode: str, run: str
) -> CheckpointRecord:
    """Choose a checkpoint among those of a run.

    Args:
        records: The run's checkpoints, by iteration.
        which: ``best``, ``last``, an iteration, or the path of one of the files.
        metric: What ``best`` goes by; of equals the latest wins, undefined values (NaN) do not take part.
        mode: ``max`` or ``min``.
        run: The run's name in messages.

    Raises:
        CheckpointError: There is no such checkpoint.
    """
    if not records:
        raise CheckpointError(f"{run} has no checkpoint: choose another run.")
    if which == "last":
        return records[-1]
    there = listed([record.iteration for record in records])
    if which == "best":
        return _best(records, metric, mode, f"{run} has no checkpoint measured by '{metric}'", there)
    text = str(which)
    for record in records:
        if record.path == Path(text).absolute() or (text.isdigit() and int(text) == record.iteration):
            return record
    raise CheckpointError(f"{run} has no checkpoint '{text}': choose best, last or one of the iterations {there}.")


def _best(
    records: Sequence[CheckpointRecord], metric: str | None, mode: str, problem: str, there: str
) -> CheckpointRecord:
    values = [record.metrics.get(metric or "", math.nan) for record in records]
    if all(map(math.isnan, values)):
        known = ", ".join(sorted({name for record in records for name in record.metrics})) or "none"
        raise CheckpointError(f"{problem} (metrics known: {known}): choose last or one of the iterations {there}.")
    sign = -1.0 if mode == "min" else 1.0
    measured = [pair for pair in zip(values, records, strict=True) if not math.isnan(pair[0])]
    return max(measured, key=lambda pair: (sign * pair[0], pair[1].iteration))[1]


def listed(numbers: list[int]) -> str:
    """Write sorted numbers for a message: all of them, or the first and last few."""
    if len(numbers) <= 8:
        return ", ".join(map(str, numbers))
    return f"{', '.join(map(str, numbers[:3]))}, … {', '.join(map(str, numbers[-3:]))}"
