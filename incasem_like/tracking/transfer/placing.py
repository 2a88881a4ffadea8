"""Bringing the checkpoints of a run that moves to where its new store looks for them: ``<runs>/models/<id>/``."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from incasem_like.errors import CheckpointError, StoreError
from incasem_like.terminal import as_known_error
from incasem_like.tracking.checkpoints import file_sha256
from incasem_like.tracking.deletion.model_files import owners, share
from incasem_like.tracking.model_folders import BESIDE_MODELS, models_folder

if TYPE_CHECKING:
    from incasem_like.tracking.checkpoints import TrackedFile
    from incasem_like.tracking.records import RunRecord
    from incasem_like.tracking.store import RunStore
    from incasem_like.tracking.transfer.portable import PortableRun

log = logging.getLogger("incasem_like.tracking")


@dataclass(frozen=True)
class ModelFiles:
    """The checkpoints of a run on the move.

    Attributes:
        store: Where the run goes.
        find: Gives the file of a hash, or None.
        matter: Whether runs of this kind have folders of checkpoints at all.
        stays_in: The folder that the files are in and may stay in, since both stores have the same runs directory.
        owner: Whose it was, with ``stays_in``: description and id.
    """

    store: RunStore
    find: Callable[[str], Path | None]
    matter: bool
    stays_in: Path | None = None
    owner: tuple[str, int] | None = None

    @classmethod
    def of_portable(cls, portable: PortableRun, store: RunStore) -> ModelFiles:
        """The checkpoints of an exported run."""
        return cls(store, portable.checkpoint, portable.kind == "trainings")

    @classmethod
    def of_record(cls, record: RunRecord, store: RunStore) -> ModelFiles:
        """The checkpoints of a run in another store; found here or fetched from there when it comes to them."""
        files = {file.sha256: file for checkpoint in record.checkpoints for file in checkpoint.files}
        same = record.store.runs_directory.resolve() == store.runs_directory.resolve()
        folder = models_folder(store.runs_directory, record.id)
        return cls(
            store,
            lambda sha256: fetch_if_possible(files[sha256], record.id) if sha256 in files else None,
            record.kind == "trainings",
            folder if same and folder.is_dir() else None,
            (record.store.description, record.id),
        )

    def fit(self, run_id: int) -> bool:
        """Say whether the folder of that number is free for them; it is, too, when they are in it already."""
        folder = models_folder(self.store.runs_directory, run_id)
        if not self.matter or folder == self.stays_in or not folder.is_dir():
            return True
        return not any(path.is_file() for path in folder.iterdir())

    def place(self, run_id: int, entries: Sequence[Any]) -> list[Any]:
        """Bring them to the folder of a run; gives what is to be registered of them.

        Args:
            run_id: The run's new id.
            entries: What was registered of them.

        Raises:
            DiskFullError: There is no space for them.
        """
        folder = models_folder(self.store.runs_directory, run_id)
        if folder == self.stays_in:
            assert self.owner is not None
            share(folder, [*([] if owners(folder) else [self.owner]), (self.store.description, run_id)])
            return list(entries)
        if self.stays_in is not None:
            _link_logs(self.store.runs_directory, self.stays_in.name, folder.name)
        return [self._place_entry(folder, entry) if isinstance(entry, Mapping) else entry for entry in entries]

    def _place_entry(self, folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
        placed = self._place_file(folder, entry)
        if isinstance(entry.get("state"), Mapping):
            placed["state"] = self._place_file(folder, entry["state"])
        return placed

    def _place_file(self, folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
        source = self.find(str(entry.get("sha256")))
        if source is None:
            return dict(entry)
        target = folder / (PurePosixPath(str(entry.get("path") or "")).name or source.name)
        if not (target.is_file() and file_sha256(target) == entry["sha256"]):
            _copy(source, target, link=self.stays_in is not None)
        return {**entry, "path": target.relative_to(self.store.runs_directory).as_posix()}


def fetch_if_possible(file: TrackedFile, run_id: int) -> Path | None:
    """Fetch a file of a checkpoint; None, with a warning, where it is nowhere to be had."""
    try:
        return file.fetch()
    except CheckpointError as error:
        log.warning("Run %s moves without %s: %s", run_id, file.name, error)
        return None


def _link_logs(runs_directory: Path, before: str, now: str) -> None:
    """Give the TensorBoard logs and snapshots of a run that is renumbered its new number too."""
    for name in BESIDE_MODELS:
        source, target = runs_directory / name / before, runs_directory / name / now
        if source.is_dir() and not target.exists():
            shutil.copytree(source, target, copy_function=lambda one, other: _copy(Path(one), Path(other), link=True))


def _copy(source: Path, target: Path, *, link: bool) -> None:
    """Bring a file to its place whole; as a second name of the same file where that is asked for and possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    try:
        if link:
            with contextlib.suppress(OSError):
                os.link(source, beside)
        if not beside.exists():
            shutil.copyfile(source, beside)
        os.replace(beside, target)
    except OSError as error:
        raise as_known_error(error) or StoreError(
            f"{target} cannot be written ({error.strerror or error}): check its folder and disk."
        ) from None
    finally:
        beside.unlink(missing_ok=True)
