"""The runs directory: folders and files of checkpoints that no run accounts for, and what deletions left."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.tracking.deletion.model_files import DELETED_PREFIX, OWNERS, remove_tree
from incasem_like.tracking.doctor.finding import Finding
from incasem_like.tracking.model_folders import BESIDE_MODELS, MODELS, folder_name, models_folder
from incasem_like.tracking.summaries import DAMAGED

if TYPE_CHECKING:
    from incasem_like.tracking.store import RunStore

_OF_CHECKPOINTS = ("model_checkpoint_", "training_state_")


@dataclass
class _Account:
    """What the runs of a number say of their folder: names of registered files by length, and whether it may change."""

    names: dict[str, int | None] = field(default_factory=dict)
    in_use: bool = False


def check_folders(stores: Sequence[RunStore], runs_directory: Path, settled: timedelta) -> Iterator[Finding]:
    """Check the folders of training runs.

    Args:
        stores: All that have training runs there.
        runs_directory: The folder of runs.
        settled: What changed less than this ago is left alone.
    """
    accounts = _accounts(stores, runs_directory)
    for kind in (MODELS, *BESIDE_MODELS):
        for folder in sorted((runs_directory / kind).glob("*")):
            if folder.name.startswith(DELETED_PREFIX) and _is_settled(folder, settled):
                problem = f"{folder} is left of a deletion that broke off."
                yield Finding(str(runs_directory), problem, "Delete it.", partial(remove_tree, folder))
            elif folder.name.isdecimal() and folder.is_dir() and folder not in accounts and stores:
                yield from _without_run(folder, stores, settled)
    for folder, account in accounts.items():
        if folder.parent.name == MODELS and folder.is_dir() and not account.in_use:
            yield from _check_files(folder, account, settled)


def _accounts(stores: Sequence[RunStore], runs_directory: Path) -> dict[Path, _Account]:
    """Find what accounts for each folder: a run's number, or a path that a run registered."""
    accounts: defaultdict[Path, _Account] = defaultdict(_Account)
    for store in stores:
        for run in store.summaries():
            own = [runs_directory / kind / folder_name(run.id) for kind in (MODELS, *BESIDE_MODELS)]
            for folder in own:
                accounts[folder].in_use |= run.status in ("RUNNING", DAMAGED)
            for checkpoint in run.checkpoints:
                path = runs_directory / checkpoint.path
                accounts[path.parent].names[path.name] = checkpoint.bytes
                accounts[path.parent].names[f"training_state_{checkpoint.iteration}"] = None
        for run_id in (*store.half_deleted(), *store.half_received()):
            accounts[models_folder(runs_directory, run_id)].in_use = True
    return dict(accounts)


def _without_run(folder: Path, stores: Sequence[RunStore], settled: timedelta) -> Iterator[Finding]:
    if not _is_settled(folder, settled):
        return
    known = " or ".join(store.description for store in stores)
    yield Finding(
        str(folder.parent),
        f"{folder} belongs to no run in {known}.",
        "Name the store of its run too; or delete the folder, if there is none.",
    )


def _check_files(folder: Path, account: _Account, settled: timedelta) -> Iterator[Finding]:
    """Find files that no run registered: crashes leave them between writing and registering, or half written."""
    strays = [path for path in sorted(folder.iterdir()) if _is_stray(path, account) and _is_settled(path, settled)]
    if not strays:
        return
    named = ", ".join(path.name for path in strays)
    problem = f"No run registered {named} in {folder}."
    if any(_is_there(folder / name, size) for name, size in account.names.items()):
        mend = partial(_delete, strays, [path.stat().st_mtime_ns for path in strays])
        yield Finding(str(folder), problem, "Delete what no run can use.", mend)
    else:
        repair = "If they are of this run and not of one in another store, delete them."
        yield Finding(str(folder), problem, repair)


def _is_stray(path: Path, account: _Account) -> bool:
    if path.name in account.names or path.name == OWNERS or not path.is_file():
        return False
    return path.name.lstrip(".").startswith(_OF_CHECKPOINTS)


def _is_there(path: Path, size: int | None) -> bool:
    """Say whether a registered file is there, which proves that the folder is that run's."""
    return size is not None and path.is_file() and path.stat().st_size == size


def _is_settled(path: Path, settled: timedelta) -> bool:
    return time.time() - path.stat().st_mtime > settled.total_seconds()


def _delete(paths: Sequence[Path], stamps: Sequence[int]) -> None:
    """Delete files that are as they were found."""
    for path, stamp in zip(paths, stamps, strict=True):
        if path.is_file() and path.stat().st_mtime_ns == stamp:
            path.unlink()
