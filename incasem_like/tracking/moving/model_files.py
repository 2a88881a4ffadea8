"""The checkpoints, logs and snapshots of runs in the runs directory: whose they are, moving and deleting them."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from incasem_like.disk import copy_whole, exclusive, write_whole
from incasem_like.errors import CheckpointError, InputError
from incasem_like.tracking.kinds import kind_named, singular
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import (
    BESIDE_MODELS,
    TrackedFile,
    is_checkpoint_entry,
    listed,
    models_folder,
    remove_tree,
    series_log_folder,
)
from incasem_like.tracking.stores.base import Freed, RunStore
from incasem_like.tracking.stores.records import RunRecord
from incasem_like.tracking.values import as_sequence

OWNERS = "owners.json"
log = logging.getLogger("incasem_like.tracking")


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


@dataclass(frozen=True)
class ModelFiles:
    """The checkpoints of a run on the move to a store; ``find`` returns the file of a hash, or None.

    They may stay in the folder that they are in (``stays_in``), since both stores have the same runs directory; then
    ``owner`` is the run that they belonged to, by description of its store and id.
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
        if self.stays_in is not None:  # the run gets another id: so do its TensorBoard logs and snapshots
            for name in BESIDE_MODELS:
                source, target = (folder.parents[1] / name / number for number in (self.stays_in.name, folder.name))
                if source.is_dir() and not target.exists():
                    shutil.copytree(source, target, copy_function=partial(_copy, link=True))
        placed = [self._place_file(folder, entry) if isinstance(entry, Mapping) else entry for entry in entries]
        for entry in placed:
            if isinstance(entry, dict) and isinstance(entry.get("state"), Mapping):
                entry["state"] = self._place_file(folder, entry["state"])
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


def _copy(source: str | Path, target: str | Path, *, link: bool) -> None:
    """Copy a file into a folder that need not exist; as a hard link where that is asked for and possible."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    copy_whole(Path(source), Path(target), link=link)


def delete_run(store: RunStore, run_id: int, *, force: bool = False) -> Freed:
    """Delete a run with its metrics, artifacts, sources that no other run needs, and checkpoints.

    Checkpoints on this machine go with their folder, TensorBoard logs and snapshots, but only where their hashes prove
    that they are this run's, and no run of another store shares them.

    The run is hidden first, so that a deletion that breaks off leaves no run that is only half there: what
    remains of it is known to ``RunStore.unfinished`` and goes with ``finish_deletion``.

    Args:
        store: Of the run.
        run_id: The run.
        force: Delete it even if other runs came from it.

    Raises:
        RunNotFoundError: The run does not exist.
        InputError: The run is still running, or other runs came from it.
        StoreError: The store cannot be written.
    """
    children = [] if force else store.children(run_id)
    if children:
        kinds = dict.fromkeys(child.kind for child in children)
        ids = {kind: listed(sorted(child.id for child in children if child.kind == kind)) for kind in kinds}
        raise InputError(
            f"Run {run_id} in {store.description} is what other runs came from "
            f"({', '.join(f'{singular(kind)} {ids[kind]}' for kind in kinds)}): delete those first, or force it."
        )
    store.begin_deletion(run_id)
    return finish_deletion(store, run_id)


def finish_deletion(store: RunStore, run_id: int) -> Freed:
    """Free what is left of a run whose deletion has begun: its files on this machine first, its record last."""
    document = store.read_hidden(run_id)
    freed = Freed() if document is None else free_model_files(RunRecord(store, run_id, document))
    return freed + store.remove(run_id)


def free_model_files(record: RunRecord) -> Freed:
    """Delete what a run has in the runs directory, as far as it is certain that the files are its own.

    Where a checkpoint that the run registered, known by its hash, lies in the folder of its number, that folder is its
    own, and so are the TensorBoard logs and snapshots of that number; without that proof they may belong to a run of
    another store, and stay.
    """
    me = (record.store.description, record.id)
    runs_directory = record.store.runs_directory
    own = models_folder(runs_directory, record.id)
    freed = Freed()
    proven: dict[Path, list[Path]] = {}  # registered checkpoints below the runs directory that are unchanged, by folder
    for entry in filter(is_checkpoint_entry, as_sequence(record.info.get("checkpoints"))):
        path = Path(os.path.normpath(runs_directory / str(entry.get("path") or "")))
        is_below = path.is_relative_to(runs_directory) and path.is_file()
        if is_below and path.stat().st_size == entry["bytes"] and file_sha256(path) == entry["sha256"]:
            proven.setdefault(path.parent, []).append(path)
    for folder, models in proven.items():
        if others := leave(folder, me):
            whose = ", ".join(f"run {run_id} in {store}" for store, run_id in others)
            freed += Freed(kept=(f"{folder} stays: it belongs to {whose} too.",))
        elif folder == own:  # last, for it is the proof that the others are the run's
            folders = [*(runs_directory / name / own.name for name in BESIDE_MODELS), own]
            gone = tuple(path for path in folders if path.exists())
            freed += Freed(sum(map(remove_tree, folders)), gone)
        else:
            for model in models:
                state = model.with_name(f"training_state_{model.name.rpartition('_')[2]}")
                for path in (state, model):  # the model last, for the same reason
                    if path.is_file():
                        freed += Freed(path.stat().st_size)
                        path.unlink()
    log_folder = series_log_folder(runs_directory, record.id)
    if record.kind == "predictions" and log_folder.is_dir():
        if not owners(log_folder):
            freed += Freed(kept=(f"{log_folder} stays: it is not known whose it is.",))
        elif me in owners(log_folder) and not leave(log_folder, me):
            freed += Freed(bytes=remove_tree(log_folder), folders=(log_folder,))
    if kind_named(record.kind).keeps_checkpoints and own.is_dir() and own not in freed.folders and not owners(own):
        freed += Freed(kept=(f"{own} stays: nothing in it is known to be of run {record.id}.",))
    return freed
