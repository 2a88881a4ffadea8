"""Deleting a run with its checkpoints, logs and snapshots: what stands against it, and in which order they go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.errors import InputError
from incasem_like.tracking.kinds import kind_named
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import (
    BESIDE_MODELS,
    is_checkpoint_entry,
    listed,
    models_folder,
    remove_tree,
    series_log_folder,
)
from incasem_like.tracking.moving.model_files import leave, owners
from incasem_like.tracking.stores.base import Freed
from incasem_like.tracking.stores.records import RunRecord
from incasem_like.tracking.values import as_sequence

if TYPE_CHECKING:
    from incasem_like.tracking.stores.base import RunStore


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
    if not force:
        _refuse_parent(store, run_id)
    store.begin_deletion(run_id)
    return finish_deletion(store, run_id)


def finish_deletion(store: RunStore, run_id: int) -> Freed:
    """Free what is left of a run whose deletion has begun: its files on this machine first, its record last."""
    document = store.read_hidden(run_id)
    freed = Freed() if document is None else free_model_files(RunRecord(store, run_id, document))
    return freed + store.remove(run_id)


def _refuse_parent(store: RunStore, run_id: int) -> None:
    children = store.children(run_id)
    if not children:
        return
    kinds = dict.fromkeys(child.kind for child in children)
    named = ", ".join(
        f"{kind.removesuffix('s')} {listed(sorted(child.id for child in children if child.kind == kind))}"
        for kind in kinds
    )
    raise InputError(
        f"Run {run_id} in {store.description} is what other runs came from ({named}): delete those first, or force it."
    )


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
    for folder, models in _proven(record).items():
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
    if record.kind == "predictions":
        freed += _free_log(series_log_folder(runs_directory, record.id), me)
    if kind_named(record.kind).keeps_checkpoints and own.is_dir() and own not in freed.folders and not owners(own):
        freed += Freed(kept=(f"{own} stays: nothing in it is known to be of run {record.id}.",))
    return freed


def _free_log(folder: Path, me: tuple[str, int]) -> Freed:
    """Delete a log that nobody else has written into, as its owners tell."""
    known = owners(folder)
    if not known and folder.is_dir():
        return Freed(kept=(f"{folder} stays: it is not known whose it is.",))
    if me not in known or leave(folder, me):
        return Freed()
    return Freed(bytes=remove_tree(folder), folders=(folder,))


def _proven(record: RunRecord) -> dict[Path, list[Path]]:
    """Find the registered checkpoints below the runs directory, where they are unchanged, by folder."""
    here = record.store.runs_directory
    found: dict[Path, list[Path]] = {}
    for entry in filter(is_checkpoint_entry, as_sequence(record.info.get("checkpoints"))):
        path = Path(os.path.normpath(here / str(entry.get("path") or "")))
        is_below = path.is_relative_to(here) and path.is_file()
        if is_below and path.stat().st_size == entry["bytes"] and file_sha256(path) == entry["sha256"]:
            found.setdefault(path.parent, []).append(path)
    return found
