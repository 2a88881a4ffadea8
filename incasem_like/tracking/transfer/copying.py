"""Copying runs from one store to another, in either direction."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.tracking.address import KINDS
from incasem_like.tracking.transfer.exporting import export_run
from incasem_like.tracking.transfer.importing import Renumbered, bring_in
from incasem_like.tracking.transfer.placing import ModelFiles
from incasem_like.tracking.transfer.portable import PortableRun

if TYPE_CHECKING:
    from incasem_like.tracking.records import RunRecord
    from incasem_like.tracking.store import RunStore


def copy_run(
    record: RunRecord, store: RunStore, *, keep_id: bool = True, renumbered: Renumbered | None = None
) -> RunRecord:
    """Copy a run into another store.

    Two stores of one runs directory share its checkpoints: they go when the run is deleted from both.

    Args:
        record: The run, which must be over.
        store: Of its kind.
        keep_id: Keep its id where that is free; else it gets the store's next one, and its checkpoints a new folder.
        renumbered: New ids of runs that moved with it, by kind and old id, for what it notes of its parents.

    Returns:
        Its record in the other store.

    Raises:
        InputError: The run goes on, or the other store has it already.
        StoreError: One of the stores does not answer or cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="incasem-run-") as temporary:
        folder = export_run(record, Path(temporary) / "run", with_checkpoints=False)
        return bring_in(PortableRun(folder), store, ModelFiles.of_record(record, store), keep_id, renumbered or {})


def copy_runs(records: Sequence[RunRecord], store: RunStore, *, keep_ids: bool = True) -> list[RunRecord]:
    """Copy several runs, each among the runs of its kind, and keep them tied to each other.

    Args:
        records: The runs; parents need not come before children.
        store: Any of the kinds of the store that they go to.
        keep_ids: As for ``copy_run``.

    Returns:
        Their records there, parents first.

    Raises:
        InputError, StoreError: As ``copy_run``; the runs before that one are copied.
    """
    renumbered: dict[tuple[str, int], int] = {}
    copies = []
    for record in sorted(records, key=lambda record: (KINDS.index(record.kind), record.id)):
        copy = copy_run(record, store.sibling(record.kind), keep_id=keep_ids, renumbered=renumbered)
        renumbered[record.kind, record.id] = copy.id
        copies.append(copy)
    return copies
