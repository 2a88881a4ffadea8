"""Looking through run stores and the runs directory for what does not fit together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.tracking.doctor.checkpoints import check_checkpoints
from incasem_like.tracking.doctor.finding import Finding
from incasem_like.tracking.doctor.folders import check_folders
from incasem_like.tracking.doctor.records import check_records

if TYPE_CHECKING:
    from incasem_like.tracking.store import RunStore

SETTLED = timedelta(hours=1)


def examine(
    stores: Sequence[RunStore], runs_directory: Path, *, thorough: bool = False, settled: timedelta = SETTLED
) -> list[Finding]:
    """Find what is inconsistent; nothing is changed until a finding is mended. Runs that go on are left alone.

    Args:
        stores: All that have runs in the runs directory: of every kind, and of every place where runs are kept.
        runs_directory: The folder of training runs on this machine.
        thorough: Read checkpoints through and compare their hashes, rather than their lengths alone.
        settled: What changed less than this ago may be in the making and is left alone.

    Raises:
        StoreError: A store does not answer.
    """
    return list(_examine(stores, Path(runs_directory).absolute(), thorough, settled))


def _examine(stores: Sequence[RunStore], runs_directory: Path, thorough: bool, settled: timedelta) -> Iterator[Finding]:
    from incasem_like.tracking.files.store import FileStore

    for store in stores:
        yield from check_records(store, settled)
        if isinstance(store, FileStore):
            from incasem_like.tracking.doctor.shelves import check_shelves

            yield from check_shelves(store, settled)
        else:
            from incasem_like.tracking.doctor.database import check_database

            yield from check_database(store, settled)
    trainings = [store for store in stores if store.kind == "trainings"]
    yield from check_checkpoints(trainings, thorough)
    yield from check_folders(trainings, runs_directory, settled)
