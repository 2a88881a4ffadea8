"""Checkpoints of runs: their record, the folders and stores their files may be in, and the choice among them."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from incasem_like.errors import CheckpointError
from incasem_like.tracking.model.cache import cached_path, download, fetch_into_cache, file_sha256, find_in_cache
from incasem_like.tracking.values import as_mapping

DELETED_PREFIX = ".deleting-"
MODELS = "models"
BESIDE_MODELS = ("tensorboard", "snapshots")
# Under this a run notes which folders of runs it wrote to before it was continued with another one
EARLIER_FOLDERS = "earlier_runs_directories"


@dataclass(frozen=True)
class StoredFile:
    """A file of a checkpoint that the database has whole, under an id of GridFS.

    Its name is ``model_checkpoint_<iteration>`` or ``training_state_<iteration>``; of the former ``entry`` is the run's
    entry of the checkpoint.
    """

    id: str
    run_id: int
    sha256: str
    bytes: int
    name: str
    entry: dict[str, Any] = field(default_factory=dict)


def folder_name(run_id: int) -> str:
    """Return the name of a run's own folders: its id with four digits, as in incasem."""
    return f"{run_id:04d}"


def models_folder(runs_directory: Path, run_id: int) -> Path:
    """Return the folder of a training run's checkpoints."""
    return runs_directory / MODELS / folder_name(run_id)


def series_log_folder(runs_directory: Path, run_id: int) -> Path:
    """Return the TensorBoard folder of a prediction with many checkpoints, which is not that of a training."""
    return runs_directory / "tensorboard" / f"predict_{folder_name(run_id)}"


def highest_number(runs_directory: Path) -> int:
    """Return the highest id that has a folder of checkpoints, whichever store knows that run; 0 for none."""
    folder = runs_directory / MODELS
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


class CheckpointCopies(Protocol):
    """A run store's own copies of checkpoints, as far as they are read here."""

    def of_run(self, run_id: int) -> list[StoredFile]:
        """List the files of a run."""

    def read(self, stored: StoredFile) -> Iterator[bytes]:
        """Read a file in chunks."""


@dataclass(eq=False)
class Places:
    """Where the files of one run may be.

    Attributes:
        run_id: The run.
        folders: Folders of runs that its paths may be relative to: this machine's first, then those that the run wrote
            to, on whatever machine, the latest first.
        host: Name of the machine it ran on, or empty.
        stored_files: The run store's own copies; None for a store that keeps none.
        description: The run store, for messages.
    """

    run_id: int
    folders: Sequence[Path]
    host: str
    stored_files: CheckpointCopies | None
    description: str

    @cached_property
    def stored(self) -> dict[str, StoredFile]:
        """The run store's copies by hash, as they were when first asked for."""
        found = self.stored_files.of_run(self.run_id) if self.stored_files is not None else []
        return {copy.sha256: copy for copy in found}


@dataclass(frozen=True, kw_only=True)
class TrackedFile:
    """A file as it was when a run registered it.

    Attributes:
        registered: Its path, relative to the runs directory or absolute.
        places: Where it may be.
        url: Where it was published, or None.
    """

    registered: str
    sha256: str
    bytes: int
    places: Places = field(compare=False, repr=False)
    url: str | None = None

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], places: Places) -> TrackedFile:
        """Read what a run registered: path, sha256, bytes and perhaps a url."""
        return cls(**_fields_of_a_file(entry), places=places)

    @property
    def entry(self) -> dict[str, Any]:
        """What ``from_entry`` reads."""
        entry: dict[str, Any] = {"path": self.registered, "sha256": self.sha256, "bytes": self.bytes}
        return entry if self.url is None else {**entry, "url": self.url}

    @property
    def name(self) -> str:
        """The name of the file."""
        return PurePosixPath(self.registered).name

    @property
    def candidates(self) -> list[Path]:
        """Paths where it may be, the likeliest first: below this machine's runs directory, where the run wrote it."""
        return list(dict.fromkeys(folder / self.registered for folder in self.places.folders))

    @property
    def path(self) -> Path:
        """The candidate that has a file of its length, else one that has a file, else the likeliest."""
        return max(self.candidates, key=lambda path: (self._has_its_length(path), path.is_file()))

    def can_be_had(self) -> bool:
        """Return whether it seems to be available anywhere; lengths are compared, but no file is read."""
        return self.seems_here() or self.is_elsewhere()

    def is_elsewhere(self) -> bool:
        """Return whether the cache, the run store or the publisher seems to have it."""
        is_cached = self._has_its_length(cached_path(self.name, self.sha256))
        return is_cached or self.url is not None or self.sha256 in self.places.stored

    def is_nowhere(self) -> bool:
        """Return whether it is not available and no other file has its path."""
        return not self.can_be_had() and not any(path.is_file() for path in self.candidates)

    def seems_here(self) -> bool:
        """Return whether a file of its length has its path in a folder of runs; nothing is read."""
        return any(map(self._has_its_length, self.candidates))

    def here(self) -> Path | None:
        """Find it in the folders of runs; files are compared with their hash."""
        return next((path for path in self.candidates if not self._difference(path)), None)

    def fetch(self) -> Path:
        """Find it, on this machine or else where copies are, make sure that it is the one that was tracked.

        What comes from elsewhere is kept in the cache of this machine.

        Raises:
            CheckpointError: It is not available anywhere, or the copy elsewhere is damaged.
            StoreError: The run store, or where it was published, does not answer.
        """
        problems: dict[Path, str] = {}
        for path in self.candidates:
            problems[path] = self._difference(path)
            if not problems[path]:
                return path
        if found := find_in_cache(self.name, self.sha256):
            return found
        read: Callable[[], Iterator[bytes]]
        if copy := self.places.stored.get(self.sha256):
            assert self.places.stored_files is not None
            read, origin = partial(self.places.stored_files.read, copy), self.places.description
        elif self.url is not None:
            read, origin = partial(download, self.url), self.url
        else:
            changed = [f"{path} is another file ({found})" for path, found in problems.items() if found != "missing"]
            missing = [f"{path} does not exist" for path, found in problems.items() if found == "missing"]
            machine = f" on {self.places.host}" if self.places.host else ""
            copies = f", and {self.places.description} has no copy" if self.places.stored_files is not None else ""
            raise CheckpointError(
                f"The checkpoint file {self.name} that run {self.places.run_id}{machine} tracked cannot be had here: "
                f"{', '.join([*changed, *missing])}{copies}; restore the file, or choose another checkpoint."
            )
        return fetch_into_cache(self.name, self.sha256, self.bytes, read, origin)

    def _has_its_length(self, path: Path) -> bool:
        return path.is_file() and path.stat().st_size == self.bytes

    def _difference(self, path: Path) -> str:
        """Describe how a file differs from the one that was tracked; empty when it is that one."""
        if not path.is_file():
            return "missing"
        if (size := path.stat().st_size) != self.bytes:
            return f"{size} bytes, not {self.bytes}"
        digest = file_sha256(path)
        return "" if digest == self.sha256 else f"SHA-256 {digest[:12]}…, not {self.sha256[:12]}…"


def _fields_of_a_file(entry: Mapping[str, Any]) -> dict[str, Any]:
    url = entry.get("url")
    registered = entry.get("path") or PurePosixPath(url or "").name
    return {"registered": registered, "sha256": entry["sha256"], "bytes": int(entry["bytes"]), "url": url}


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord(TrackedFile):
    """A checkpoint as the run registered it: the file of network and optimizer, and what belongs to it.

    Attributes:
        iteration: Number of updates the network had seen.
        state: The file that exact continuation needs beside it; None where none was registered.
        metrics: Validation metrics at that iteration, by name.
    """

    iteration: int
    state: TrackedFile | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], places: Places) -> CheckpointRecord:
        """Read an entry of ``info.checkpoints``: iteration, path, sha256, bytes, and perhaps metrics, state, url."""
        state = TrackedFile.from_entry(entry["state"], places) if entry.get("state") else None
        metrics, iteration = dict(entry.get("metrics") or {}), int(entry["iteration"])
        return cls(**_fields_of_a_file(entry), places=places, iteration=iteration, state=state, metrics=metrics)

    @property
    def entry(self) -> dict[str, Any]:
        """The entry of ``info.checkpoints`` that ``from_entry`` reads."""
        entry = {"iteration": self.iteration, **super().entry, "metrics": dict(self.metrics)}
        return entry if self.state is None else {**entry, "state": self.state.entry}

    @property
    def files(self) -> list[TrackedFile]:
        """The training state, where there is one, and the checkpoint: whoever has the latter whole has both."""
        return [self] if self.state is None else [self.state, self]

    def fetch_state(self) -> Path:
        """Find the training state in the same way; of a run that registered none, the file beside the model's.

        Raises:
            CheckpointError: There is none, so that the training cannot be continued from here.
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
    """Return whether something is an entry of ``info.checkpoints`` that can be read, whoever wrote it."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("iteration"), int):
        return False
    files = [as_mapping(file) for file in ([entry, entry["state"]] if entry.get("state") else [entry])]
    places = [(file.get("path") or file.get("url"), file.get("sha256"), file.get("bytes")) for file in files]
    return all(isinstance(a, str) and isinstance(b, str) and isinstance(c, int) for a, b, c in places)


def rank(records: Sequence[CheckpointRecord], metric: str | None, mode: str) -> list[CheckpointRecord]:
    """Sort the checkpoints that were measured, the best first; of equals the latest comes first."""
    sign = -1.0 if mode == "min" else 1.0
    measured = [record for record in records if not math.isnan(record.metrics.get(metric or "", math.nan))]
    return sorted(measured, key=lambda record: (sign * record.metrics[metric or ""], record.iteration), reverse=True)


def listed(numbers: list[int]) -> str:
    """Write sorted numbers for a message: all of them, or the first and last few."""
    if len(numbers) <= 8:
        return ", ".join(map(str, numbers))
    return f"{', '.join(map(str, numbers[:3]))}, … {', '.join(map(str, numbers[-3:]))}"


@dataclass(frozen=True)
class StorePolicy:
    """The choice among a run's checkpoints: some of ``best``, ``last``, ``all``, ``none``, and what is best."""

    words: frozenset[str]
    metric: str | None
    mode: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> StorePolicy:
        """Read a run's configuration; one without the key counts as ``best,last``."""
        words = (config.get("tracking") or {}).get("store_checkpoints") or "best,last"
        chosen = (config.get("training") or {}).get("checkpoints") or {}
        stored = frozenset(word.strip() for word in words.split(","))
        return cls(stored, chosen.get("best_metric"), chosen.get("best_mode") or "max")

    def wanted(self, records: Sequence[CheckpointRecord]) -> list[CheckpointRecord]:
        """Choose among the checkpoints that a run has now; the newest comes first."""
        newest_first = sorted(records, key=lambda record: record.iteration, reverse=True)
        if "none" in self.words or not newest_first:
            return []
        if "all" in self.words:
            return newest_first
        chosen = newest_first[:1] if "last" in self.words else []
        best = rank(records, self.metric, self.mode)[:1] if "best" in self.words else []
        return chosen + [record for record in best if record not in chosen]


def remove_tree(folder: Path) -> int:
    """Delete a folder, which is gone from sight at once; return the bytes that it held."""
    if not folder.exists():
        return 0
    aside = folder.with_name(DELETED_PREFIX + folder.name.removeprefix(DELETED_PREFIX))
    if aside != folder:
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder, aside)
    size = folder_size(aside)
    shutil.rmtree(aside)
    return size


def folder_size(folder: Path) -> int:
    """Sum up the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
