"""A run as the code inside it sees it."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.tracking.plain import plain, without_credentials
from incasem_like.tracking.recording.checkpoints import RunCheckpoints

if TYPE_CHECKING:
    from incasem_like.tracking.recording.sacred_run import TrackedSacredRun

UNOBSERVED_ID = 0


class Run:
    """What a running experiment tells its record; may be used from any thread.

    Metrics and info leave with the next heartbeat, every ten seconds; ``flush`` sends them now.

    Attributes:
        name: What the run is called.
        runs_directory: The folder that checkpoints and logs are in.
    """

    def __init__(self, sacred_run: TrackedSacredRun, runs_directory: Path, name: str) -> None:
        self._sacred, self.name = sacred_run, name
        self.runs_directory = runs_directory.absolute()
        self._lock = threading.Lock()
        self.checkpoints = RunCheckpoints(self)
        self.set_info("runs_directory", self.runs_directory)

    @property
    def id(self) -> int:
        """The run's id in its store; 0 for a run that is not observed."""
        return UNOBSERVED_ID if self._sacred._id is None else int(self._sacred._id)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration on record."""
        return dict(self._sacred.config)

    @property
    def info(self) -> dict[str, Any]:
        """A copy of what the run noted of itself so far."""
        return dict(self._sacred.info)

    def log_scalar(self, name: str, value: float, step: int) -> None:
        """Log one value of a metric.

        Args:
            name: The metric's name, ``dice_class_1``.
            value: A number, or a NumPy or torch scalar.
            step: The iteration it belongs to.
        """
        self._sacred.log_scalar(name, float(value), int(step))

    def metric_counts(self) -> dict[str, int]:
        """Give the number of values logged so far of each metric."""
        return self._sacred.buffer.counts()

    def set_info(self, key: str, value: Any) -> None:
        """Note a fact of the run, such as its ``parent``; replaces what was noted under that key."""
        self.change_info(key, lambda before: value)

    def change_info(self, key: str, change: Callable[[Any], Any]) -> None:
        """Note what ``change`` makes of what was noted under a key (None at first), undisturbed by other threads."""
        with self._lock:
            noted = without_credentials(plain(change(self._sacred.info.get(key))))
            self._sacred.info = {**self._sacred.info, key: noted}

    def inputs(self, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Note which data the run reads: one mapping for each dataset, with its address and content hash."""
        self.set_info("inputs", list(datasets))

    def add_artifact(self, content: str | bytes | Path, name: str) -> None:
        """Store a file with the run.

        Args:
            content: A ``Path`` to the file, or the text or bytes themselves.
            name: What it is called in the store; one of that name is replaced.
        """
        name = name.replace("/", "_")
        if isinstance(content, Path):
            self._sacred.add_artifact(str(content), name)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "artifact"
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            self._sacred.add_artifact(str(path), name)

    def register_checkpoint(
        self,
        path: Path,
        iteration: int,
        metrics: Mapping[str, float] | None = None,
        state: Path | None = None,
    ) -> None:
        """Note a checkpoint that is whole on disk, with its hashes, and write the record now.

        Args:
            path: The file; kept relative to the runs directory when it lies inside.
            iteration: Number of updates the network has seen.
            metrics: Validation metrics at that iteration; ``best`` is chosen by them.
            state: The file beside it that exact continuation needs.

        Raises:
            DiskFullError, StoreError: As ``save``; the checkpoint is not noted then.
        """
        self.checkpoints.register(path, iteration, metrics or {}, state)

    def forget_checkpoint(self, path: Path) -> None:
        """Take a checkpoint out of the record and write it now; call this before the file is deleted."""
        self.checkpoints.forget(path)

    def save(self) -> None:
        """Write metrics, info and output on this machine now.

        Raises:
            DiskFullError: There is no space for the metrics.
            StoreError: They cannot be written for another reason.
        """
        self._sacred.save()

    def flush(self) -> None:
        """Save, and give a server a moment to take all.

        Raises:
            DiskFullError, StoreError: As ``save``.
            StoreError: Another process continued the run; ``log_scalar`` says so too.
        """
        self._sacred.flush()
