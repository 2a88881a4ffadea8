"""A running experiment's checkpoints: entered in its record, and copied into a database that keeps them."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.tracking.checkpoints import CheckpointRecord, Places, StorePolicy, file_sha256, listed

if TYPE_CHECKING:
    from incasem_like.tracking.mongo.uploader import CheckpointUploader
    from incasem_like.tracking.recording.run import Run
    from incasem_like.tracking.store import RunStore

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

        A run that is killed afterwards goes on from it, and nobody would log again what is missing before it.
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
        """Take a checkpoint off the list."""
        self._change(self._relative(path), None)

    @property
    def is_uploading(self) -> bool:
        """Whether a checkpoint is on its way into the run store."""
        return self._uploader is not None and not self._uploader.is_settled

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
        from incasem_like.tracking.mongo.uploader import CheckpointUploader

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
        """Say which checkpoints there are; a run without any, such as a prediction, starts no thread."""
        entries = self._run.info.get("checkpoints")
        if self._uploader is None or entries is None:
            return
        places = Places(self._run.id, [self._run.runs_directory], "", None, "")
        self._uploader.keep([CheckpointRecord.from_entry(entry, places) for entry in entries])
        if self._uploader.ident is None:
            self._uploader.start()
