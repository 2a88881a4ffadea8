"""The interface of a run store, and the choice between files and MongoDB."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.errors import InputError, RunNotFoundError
from incasem_like.terminal import nearest
from incasem_like.tracking.address import KINDS, FolderAddress, parse_address, singular
from incasem_like.tracking.checkpoints import listed
from incasem_like.tracking.records import Metric, RunRecord

if TYPE_CHECKING:
    from sacred.observers import RunObserver

    from incasem_like.tracking.mongo.checkpoint_files import CheckpointFiles


class RunStore(ABC):
    """Runs of one kind, each with an id that counts up from 1.

    Attributes:
        kind: trainings, predictions, segmentations or evaluations.
        runs_directory: Paths of checkpoints are kept relative to it, so that it can be moved.
        description: Where the store is, for messages; holds no credentials.
    """

    def __init__(self, kind: str, runs_directory: Path, description: str) -> None:
        self.kind, self.runs_directory, self.description = kind, Path(runs_directory).absolute(), description

    @abstractmethod
    def ids(self) -> list[int]:
        """List the ids of all runs, sorted."""

    @abstractmethod
    def read_document(self, run_id: int) -> dict[str, Any] | None:
        """Read a run's document with plain values, artifacts by name; None where there is no such run."""

    @abstractmethod
    def read_metrics(self, run_id: int) -> dict[str, Metric]:
        """Read all metrics of a run."""

    @abstractmethod
    def read_artifact(self, run_id: int, name: str) -> bytes:
        """Read a file stored with a run."""

    @property
    def checkpoint_files(self) -> CheckpointFiles | None:
        """The store's own copies of checkpoints; None for a store that keeps none, as files do."""
        return None

    @abstractmethod
    def observer(self) -> RunObserver:
        """Make the Sacred observer that writes one new run into this store."""

    def get(self, run_id: int) -> RunRecord:
        """Look a run up.

        Raises:
            RunNotFoundError: There is no such run; the message says which there are and where was looked.
        """
        document = self.read_document(run_id)
        if document is None:
            raise RunNotFoundError(self._not_found(run_id))
        return RunRecord(self, run_id, document)

    def _not_found(self, run_id: int) -> str:
        ids, sort = self.ids(), singular(self.kind)
        if not ids:
            return (
                f"There is no {sort} run {run_id}: {self.description} holds no runs yet; start one, or name "
                "another store."
            )
        there = f"run {ids[0]}" if len(ids) == 1 else f"runs {listed(ids)}"
        near = min(ids, key=lambda other: abs(other - run_id))
        return f"There is no {sort} run {run_id}: {self.description} holds {there}; did you mean {near}?"


def open_store(url: str | Path | None, kind: str, runs_directory: Path) -> RunStore:
    """Open the store of one kind of run.

    Args:
        url: See ``parse_address``; None keeps runs as files in ``<runs_directory>/tracking/incasem_<kind>/<id>/``.
        kind: trainings, predictions, segmentations or evaluations.
        runs_directory: The folder of training runs.

    Raises:
        InputError: The address cannot be understood, or the server refuses the credentials.
        StoreError: No server answers there.
    """
    if kind not in KINDS:
        raise InputError(f"There are no runs of kind '{kind}'{nearest(kind, KINDS)}: choose one of {', '.join(KINDS)}.")
    address = parse_address(url, Path(runs_directory))
    if isinstance(address, FolderAddress):
        from incasem_like.tracking.files.store import FileStore

        return FileStore(address.folder / f"incasem_{kind}", kind, runs_directory)
    from incasem_like.tracking.mongo.store import connect

    return connect(address, kind, runs_directory)
