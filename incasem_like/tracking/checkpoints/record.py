"""A checkpoint as a run registered it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from incasem_like.errors import CheckpointError
from incasem_like.tracking.checkpoints.files import Places, TrackedFile


@dataclass(frozen=True)
class CheckpointRecord:
    """A checkpoint as the run registered it.

    Attributes:
        iteration: Number of updates the network had seen.
        model: The file of network and optimizer.
        state: The file that exact continuation needs beside it; None where none was registered.
        metrics: Validation metrics at that iteration, by name.
    """

    iteration: int
    model: TrackedFile
    state: TrackedFile | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], places: Places) -> CheckpointRecord:
        """Read an entry of ``info.checkpoints``: iteration, path, sha256, bytes, and perhaps metrics, state, url."""
        state = entry.get("state")
        return cls(
            int(entry["iteration"]),
            TrackedFile.from_entry(entry, places),
            TrackedFile.from_entry(state, places) if state else None,
            dict(entry.get("metrics") or {}),
        )

    @property
    def entry(self) -> dict[str, Any]:
        """The entry of ``info.checkpoints`` that ``from_entry`` reads."""
        entry = {"iteration": self.iteration, **self.model.entry, "metrics": dict(self.metrics)}
        return entry if self.state is None else {**entry, "state": self.state.entry}

    @property
    def files(self) -> list[TrackedFile]:
        """The training state, where there is one, and the model: whoever has the latter whole has both."""
        return [self.model] if self.state is None else [self.state, self.model]

    @property
    def path(self) -> Path:
        """Where the file is or was on this machine, absolute; ``fetch`` makes sure of it."""
        return self.model.path

    @property
    def sha256(self) -> str:
        """Hash of the file's content when it was registered."""
        return self.model.sha256

    @property
    def bytes(self) -> int:
        """Length of the file."""
        return self.model.bytes

    def can_be_had(self) -> bool:
        """Say whether the file of network and optimizer seems to be on this machine or in the store; reads nothing."""
        return self.model.can_be_had()

    def fetch(self) -> Path:
        """Find the file, on this machine or else in the run store, hold it against its hash and return its path.

        What comes from the store is kept in the cache of this machine.

        Raises:
            CheckpointError: The file that was tracked is nowhere to be had, or the store's copy is damaged.
            StoreError: The run store does not answer.
        """
        return self.model.fetch()

    def fetch_state(self) -> Path:
        """Find the training state in the same way; of a run that registered none, the file beside the model's.

        Raises:
            CheckpointError: There is none, so that the training cannot be continued from here.
            StoreError: The run store does not answer.
        """
        if self.state is not None:
            return self.state.fetch()
        beside = self.path.with_name(f"training_state_{self.iteration}")
        if beside.is_file():
            return beside
        raise CheckpointError(
            f"The checkpoint {self.path.name} has no training state, so the training cannot be continued from it: "
            "start a new training from it."
        )


def is_checkpoint_entry(entry: Any) -> bool:
    """Say whether something is an entry of ``info.checkpoints`` that can be read, whoever wrote it."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("iteration"), int):
        return False
    return _names_a_file(entry) and (not entry.get("state") or _names_a_file(entry["state"]))


def _names_a_file(entry: Any) -> bool:
    if not isinstance(entry, Mapping):
        return False
    place = entry.get("path") or entry.get("url")
    return isinstance(place, str) and isinstance(entry.get("sha256"), str) and isinstance(entry.get("bytes"), int)
