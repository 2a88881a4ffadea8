"""A run as the code inside it sees it, and its checkpoints."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.tracking.mirror.checkpoints import CheckpointUploader
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import CheckpointRecord, Places, StorePolicy, listed
from incasem_like.tracking.values import plain, without_credentials

if TYPE_CHECKING:
    from incasem_like.tracking.mirror.checkpoints import CheckpointUploader
    from incasem_like.tracking.recording.sacred_run import TrackedSacredRun
    from incasem_like.tracking.stores.base import RunStore

log = logging.getLogger("incasem_like.tracking")
SECONDS_FOR_UPLOADS = 1800.0
SECONDS_FOR_UPLOADS_WHEN_STOPPED = 15.0


class RunCheckpoints:
    """The list of checkpoints in a run's record, ``info.checkpoints``.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._uploader: CheckpointUploader | None = None

    def register(self, path: Path, iteration: int, metrics: Mapping[str, float], state: Path | None) -> None:
        """Enter a checkpoint, one of the same path is replaced; all that was logged up to here is on disk before.

        A run that is killed afterwards resumes from it, and nobody would log again what is missing before it.
        """
        self._run.save()
        entry = {
            "iteration": int(iteration),
            **self._described(path),
            "metrics": {name: float(value) for name, value in metrics.items()},
            "counts": self._run.metric_counts(),
        }
        if state is not None:
            entry["state"] = self._described(state)
        self._change(entry["path"], entry)

    def forget(self, path: Path) -> None:
        """Remove a checkpoint from the list."""
        self._change(self._relative(path), None)

    @contextlib.contextmanager
    def kept_in(self, store: RunStore | None) -> Iterator[None]:
        """Copy checkpoints into a store that keeps them; wait at the end for what is on its way.

        A run that was stopped or failed does not wait long. What is not in by then is named.
        """
        policy = StorePolicy.from_config(self._run.config)
        files = store.checkpoint_files if store is not None else None
        if files is None or "none" in policy.words:
            yield
            return
        self._uploader = CheckpointUploader(files, self._run.id, policy)
        self._tell_uploader()
        patience = SECONDS_FOR_UPLOADS_WHEN_STOPPED
        try:
            yield
            patience = SECONDS_FOR_UPLOADS
        finally:
            uploader, self._uploader = self._uploader, None
            self._note_missing(uploader.finish(patience), files.description)

    def _note_missing(self, missing: Sequence[CheckpointRecord], description: str) -> None:
        if not missing:
            return
        iterations = listed(sorted(record.iteration for record in missing))
        print(
            f"Checkpoints of iterations {iterations} are not in {description} yet: "
            "'incasem-like runs sync' on this machine uploads them.",
            file=sys.stderr,
            flush=True,
        )

    def _described(self, path: Path) -> dict[str, Any]:
        return {"path": self._relative(path), "sha256": file_sha256(path), "bytes": path.stat().st_size}

    def _relative(self, path: Path) -> str:
        path, folder = Path(path).absolute(), self._run.runs_directory
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)

    def _change(self, path: str, entry: dict[str, Any] | None) -> None:
        def change(entries: Any) -> list[Any]:
            others = [other for other in entries or [] if other["path"] != path]
            return others if entry is None else [*others, entry]

        self._run.change_info("checkpoints", change)
        self._tell_uploader()
        self._run.flush()

    def _tell_uploader(self) -> None:
        """Pass the checkpoints on to the uploader; a run without any, such as a prediction, starts no thread."""
        entries = self._run.info.get("checkpoints")
        if self._uploader is None or entries is None:
            return
        places = Places(self._run.id, [self._run.runs_directory], "", None, "")
        self._uploader.keep([CheckpointRecord.from_entry(entry, places) for entry in entries])
        if self._uploader.ident is None:
            self._uploader.start()


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

    @property
    def result(self) -> Any:
        """What the run returns, as plain values; None until it is set."""
        return self._sacred.result

    @result.setter
    def result(self, value: Any) -> None:
        self._sacred.result = plain(value)

    def log_scalar(self, name: str, value: float, step: int) -> None:
        """Log one value of a metric.

        Args:
            name: The metric's name, ``dice_class_1``.
            value: A number, or a NumPy or torch scalar.
            step: The iteration it belongs to.
        """
        self._sacred.log_scalar(name, float(value), int(step))

    def metric_counts(self) -> dict[str, int]:
        """Return the number of values logged so far of each metric."""
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
        """Remove a checkpoint from the record and write it now; call this before the file is deleted."""
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
