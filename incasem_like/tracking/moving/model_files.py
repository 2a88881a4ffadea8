"""The checkpoints, logs and snapshots of a run in the runs directory: whose they are, moving and deleting them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from incasem_like.disk import write_whole
from incasem_like.errors import CheckpointError, StoreError
from incasem_like.terminal import as_known_error
from incasem_like.tracking.kinds import kind_named
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import BESIDE_MODELS, models_folder, remove_tree, series_log_folder
from incasem_like.tracking.stores.base import Freed

if TYPE_CHECKING:
    from incasem_like.tracking.model.checkpoints import TrackedFile
    from incasem_like.tracking.run_folder import PortableRun
    from incasem_like.tracking.stores.base import RunRecord, RunStore

OWNERS = "owners.json"


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
    if kind_named(record.kind).keeps_checkpoints and own.is_dir() and own not in freed.folders and not owners(own):
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


def _proven(record: RunRecord) -> dict[Path, list[Path]]:
    """Find the registered checkpoints that are there unchanged, by folder."""
    found: dict[Path, list[Path]] = {}
    for path, entry in _registered(record):
        if path.is_file() and path.stat().st_size == entry.get("bytes") and file_sha256(path) == entry.get("sha256"):
            found.setdefault(path.parent, []).append(path)
    return found


def _registered(record: RunRecord) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the registered checkpoints below the runs directory; those elsewhere may belong to another copy's run."""
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
        return cls(store, portable.checkpoint, kind_named(portable.kind).keeps_checkpoints)

    @classmethod
    def of_record(cls, record: RunRecord, store: RunStore) -> ModelFiles:
        """The checkpoints of a run in another store; found here or fetched from there when it comes to them."""
        files = {file.sha256: file for checkpoint in record.checkpoints for file in checkpoint.files}
        same = record.store.runs_directory.resolve() == store.runs_directory.resolve()
        folder = models_folder(store.runs_directory, record.id)
        return cls(
            store,
            lambda sha256: fetch_if_possible(files[sha256], record.id) if sha256 in files else None,
            kind_named(record.kind).keeps_checkpoints,
            folder if same and folder.is_dir() else None,
            (record.store.description, record.id),
        )

    def fit(self, run_id: int) -> bool:
        """Return whether the folder of that number is free for them, or holds them already."""
        folder = models_folder(self.store.runs_directory, run_id)
        if not self.matter or folder == self.stays_in or not folder.is_dir():
            return True
        return not any(path.is_file() for path in folder.iterdir())

    def place(self, run_id: int, entries: Sequence[Any]) -> list[Any]:
        """Copy them into the folder of a run; return what is to be registered of them.

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
    """Copy the TensorBoard logs and snapshots of a run that gets another id to the folders of that id."""
    for name in BESIDE_MODELS:
        source, target = runs_directory / name / before, runs_directory / name / now
        if source.is_dir() and not target.exists():
            shutil.copytree(source, target, copy_function=lambda one, other: _copy(Path(one), Path(other), link=True))


def _copy(source: Path, target: Path, *, link: bool) -> None:
    """Copy a file so that it appears whole; as a hard link where that is asked for and possible."""
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
