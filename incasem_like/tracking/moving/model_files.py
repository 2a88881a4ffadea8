"""The checkpoints, logs and snapshots of a run in the runs directory: whose they are, and moving them."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from incasem_like.disk import copy_whole, exclusive, write_whole
from incasem_like.errors import CheckpointError, StoreError
from incasem_like.terminal import as_known_error
from incasem_like.tracking.kinds import kind_named
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import BESIDE_MODELS, models_folder

if TYPE_CHECKING:
    from incasem_like.tracking.model.checkpoints import TrackedFile
    from incasem_like.tracking.stores.base import RunStore
    from incasem_like.tracking.stores.records import RunRecord

OWNERS = "owners.json"


def owners(folder: Path) -> list[tuple[str, int]]:
    """List the runs that a folder is noted to belong to, by store and id; none for the usual one of a training."""
    try:
        entries = json.loads((folder / OWNERS).read_text(encoding="utf-8"))
        return [(str(entry["store"]), int(entry["run_id"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def share(folder: Path, runs: Iterable[tuple[str, int]]) -> None:
    """Note whose a folder is, besides its owners so far; deleting one of these runs leaves it to the rest."""
    with exclusive(folder):
        _write_owners(folder, dict.fromkeys([*owners(folder), *runs]))


def leave(folder: Path, run: tuple[str, int]) -> list[tuple[str, int]]:
    """Remove a run from the owners of a folder, if there are others; return those."""
    with exclusive(folder):
        others = [owner for owner in owners(folder) if owner != run]
        if others:
            _write_owners(folder, others)
    return others


def _write_owners(folder: Path, runs: Iterable[tuple[str, int]]) -> None:
    text = json.dumps([{"store": store, "run_id": run_id} for store, run_id in runs], indent=2)
    write_whole(folder / OWNERS, lambda file: file.write(text.encode()))


log = logging.getLogger("incasem_like.tracking")


@dataclass(frozen=True)
class ModelFiles:
    """The checkpoints of a run on the move.

    Attributes:
        store: Where the run goes.
        find: Returns the file of a hash, or None.
        stays_in: The folder that the files are in and may stay in, since both stores have the same runs directory.
        owner: Whose it was, with ``stays_in``: description and id.
    """

    store: RunStore
    find: Callable[[str], Path | None]
    stays_in: Path | None = None
    owner: tuple[str, int] | None = None

    @classmethod
    def of_record(cls, record: RunRecord, store: RunStore) -> ModelFiles:
        """The checkpoints of a run in another store; found here or fetched from there when it comes to them."""
        files = {file.sha256: file for checkpoint in record.checkpoints for file in checkpoint.files}
        same = record.store.runs_directory.resolve() == store.runs_directory.resolve()
        folder = models_folder(store.runs_directory, record.id)
        return cls(
            store,
            lambda sha256: fetch_if_possible(files[sha256], record.id) if sha256 in files else None,
            folder if same and folder.is_dir() else None,
            (record.store.description, record.id),
        )

    def fit(self, run_id: int) -> bool:
        """Return whether the folder of that number is free for them, or holds them already."""
        folder = models_folder(self.store.runs_directory, run_id)
        if not kind_named(self.store.kind).keeps_checkpoints or folder == self.stays_in or not folder.is_dir():
            return True
        return not any(path.is_file() for path in folder.iterdir())

    def place(self, run_id: int, entries: Sequence[Any]) -> list[Any]:
        """Copy them into the folder of the run's new id; return what is to be registered of them."""
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
    """Fetch a file of a checkpoint; None, with a warning, where it is not available anywhere."""
    try:
        return file.fetch()
    except CheckpointError as error:
        log.warning("Run %s moves without %s: %s", run_id, file.name, error)
        return None


def _link_logs(runs_directory: Path, before: str, now: str) -> None:
    """Copy the TensorBoard logs and snapshots of a run that gets another id to the folders of that id."""
    for name in BESIDE_MODELS:
        source, target = runs_directory / name / before, runs_directory / name / now
        if source.is_dir() and not target.exists():
            shutil.copytree(source, target, copy_function=lambda one, other: _copy(Path(one), Path(other), link=True))


def _copy(source: Path, target: Path, *, link: bool) -> None:
    """Copy a file into a folder that need not exist; as a hard link where that is asked for and possible."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_whole(source, target, link=link)
    except OSError as error:
        raise as_known_error(error) or StoreError(
            f"{target} cannot be written ({error.strerror or error}): check its folder and disk."
        ) from None
