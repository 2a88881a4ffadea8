"""The files of a run in the runs directory (checkpoints, TensorBoard logs, snapshots): whose they are, freeing them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.tracking.checkpoints import file_sha256
from incasem_like.tracking.deletion.freed import Freed
from incasem_like.tracking.files.layout import write_whole
from incasem_like.tracking.model_folders import BESIDE_MODELS, models_folder, series_log_folder

if TYPE_CHECKING:
    from incasem_like.tracking.records import RunRecord

OWNERS = "owners.json"
DELETED_PREFIX = ".deleting-"


def owners(folder: Path) -> list[tuple[str, int]]:
    """List the runs that a folder is noted to belong to, by store and id; none for the usual one of a training."""
    try:
        entries = json.loads((folder / OWNERS).read_text(encoding="utf-8"))
        return [(str(entry["store"]), int(entry["run_id"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def share(folder: Path, runs: Iterable[tuple[str, int]]) -> None:
    """Note whose a folder is: checkpoints of runs of several stores, a log; deleting one run leaves it to the rest.

    Args:
        folder: The folder, which may be shared already.
        runs: Those that use it now, each by its store's description and its id.
    """
    _write_owners(folder, dict.fromkeys([*owners(folder), *runs]))


def free_model_files(record: RunRecord) -> Freed:
    """Delete what a run has in the runs directory, as far as it is certain that the files are its own.

    Checkpoints are known by their hashes. Where one that the run registered lies in the folder of its number, that
    folder is its own, and so are the TensorBoard logs and snapshots of that number; without that proof they may belong
    to a run of another store, and stay.
    """
    me = (record.store.description, record.id)
    own = models_folder(record.store.runs_directory, record.id)
    freed = Freed()
    for folder, files in _proven(record).items():
        others = [owner for owner in owners(folder) if owner != me]
        if others:
            _write_owners(folder, others)
            whose = ", ".join(f"run {run_id} in {store}" for store, run_id in others)
            freed += Freed(kept=(f"{folder} stays: it belongs to {whose} too.",))
        elif folder == own:
            freed += _remove_folders(record.store.runs_directory, own, len(files))
        else:
            freed += _remove_files(files)
    if record.kind == "predictions":
        freed += _free_log(series_log_folder(record.store.runs_directory, record.id), me)
    if record.kind == "trainings" and own.is_dir() and own not in freed.folders and not owners(own):
        freed += Freed(kept=(f"{own} stays: nothing in it is known to be of run {record.id}.",))
    return freed


def _free_log(folder: Path, me: tuple[str, int]) -> Freed:
    """Delete a log that nobody else has written into, as its owners tell."""
    known = owners(folder)
    others = [owner for owner in known if owner != me]
    if not known and folder.is_dir():
        return Freed(kept=(f"{folder} stays: it is not known whose it is.",))
    if me not in known:
        return Freed()
    if others:
        _write_owners(folder, others)
        return Freed()
    return Freed(bytes=remove_tree(folder), folders=(folder,))


def remove_tree(folder: Path) -> int:
    """Delete a folder, which is gone from sight at once; gives the bytes that it held."""
    if not folder.exists():
        return 0
    aside = folder if folder.name.startswith(DELETED_PREFIX) else folder.with_name(DELETED_PREFIX + folder.name)
    if aside != folder:
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder, aside)
    size = folder_size(aside)
    shutil.rmtree(aside)
    return size


def folder_size(folder: Path) -> int:
    """Sum up the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _proven(record: RunRecord) -> dict[Path, list[Path]]:
    """Find the registered checkpoints that are there unchanged, by folder."""
    found: dict[Path, list[Path]] = {}
    for path, entry in _registered(record):
        if path.is_file() and path.stat().st_size == entry.get("bytes") and file_sha256(path) == entry.get("sha256"):
            found.setdefault(path.parent, []).append(path)
    return found


def _registered(record: RunRecord) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Go through the registered checkpoints below the runs directory; those elsewhere may be another copy's run's."""
    here = record.store.runs_directory
    for entry in record.info.get("checkpoints") or ():
        if isinstance(entry, Mapping) and isinstance(entry.get("path"), str):
            path = Path(os.path.normpath(here / entry["path"]))
            if path.is_relative_to(here):
                yield path, entry


def _remove_folders(runs_directory: Path, own: Path, checkpoints: int) -> Freed:
    """Delete the folders of a run's number; that of the checkpoints last, for it is the proof that they are its own."""
    folders = [runs_directory / name / own.name for name in BESIDE_MODELS] + [own]
    gone = tuple(folder for folder in folders if folder.exists())
    return Freed(checkpoints=checkpoints, bytes=sum(map(remove_tree, folders)), folders=gone)


def _remove_files(models: Iterable[Path]) -> Freed:
    freed = Freed()
    for model in models:
        iteration = model.name.rpartition("_")[2]
        for path in (model.with_name(f"training_state_{iteration}"), model):  # the model last: it proves whose they are
            if path.is_file():
                freed += Freed(bytes=path.stat().st_size)
                path.unlink()
        freed += Freed(checkpoints=1)
    return freed


def _write_owners(folder: Path, runs: Iterable[tuple[str, int]]) -> None:
    text = json.dumps([{"store": store, "run_id": run_id} for store, run_id in runs], indent=2)
    write_whole(folder / OWNERS, lambda file: file.write(text.encode()))
