"""Bringing an exported run into a store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.errors import InputError, StoreError
from incasem_like.tracking.address import KINDS, singular
from incasem_like.tracking.condensing import condense, summarize
from incasem_like.tracking.model_folders import highest_number
from incasem_like.tracking.origins import KINDS_BY_KEY
from incasem_like.tracking.series import MetricTable, max_points
from incasem_like.tracking.transfer.placing import ModelFiles
from incasem_like.tracking.transfer.portable import PortableRun, RenewedIds

if TYPE_CHECKING:
    from incasem_like.tracking.records import RunRecord
    from incasem_like.tracking.store import RunStore

log = logging.getLogger("incasem_like.tracking")

Renumbered = Mapping[tuple[str, int], int]
PREDICTION_ID = "prediction_id"
_SAME_MOMENT = timedelta(milliseconds=1)  # MongoDB's clock


def import_run(
    folder: Path, store: RunStore, *, keep_id: bool = True, renumbered: Renumbered | None = None
) -> RunRecord:
    """Bring an exported run into a store, with its checkpoints into ``models/<id>/`` of the runs directory.

    Args:
        folder: What ``export_run`` made.
        store: Of the run's kind.
        keep_id: Keep its id where that is free, in the store and in ``models/``; else it gets the store's next one.
        renumbered: New ids of runs that moved with it, by kind and old id, for what it notes of its parents.

    Returns:
        Its record in the store.

    Raises:
        DataError: The folder holds no run, or a damaged one.
        InputError: The store is for runs of another kind, or has this run already.
        StoreError: The store cannot be written.
    """
    portable = PortableRun(folder)
    portable.verify()
    return bring_in(portable, store, ModelFiles.of_portable(portable, store), keep_id, renumbered or {})


def import_runs(folders: Sequence[Path], store: RunStore, *, keep_ids: bool = True) -> list[RunRecord]:
    """Bring several exported runs in, each among the runs of its kind, and keep them tied to each other.

    Args:
        folders: What ``export_run`` made; parents need not come before children.
        store: Any of the kinds of the store that they go to.
        keep_ids: As for ``import_run``.

    Returns:
        Their records, parents first.

    Raises:
        DataError, InputError, StoreError: As ``import_run``; the runs before that one are in.
    """
    runs = sorted((PortableRun(folder) for folder in folders), key=lambda run: (KINDS.index(run.kind), run.id))
    for run in runs:
        run.verify()
    renumbered: dict[tuple[str, int], int] = {}
    records = []
    for run in runs:
        target = store.sibling(run.kind)
        record = bring_in(run, target, ModelFiles.of_portable(run, target), keep_ids, renumbered)
        renumbered[run.kind, run.id] = record.id
        records.append(record)
    return records


def bring_in(
    portable: PortableRun, store: RunStore, files: ModelFiles, keep_id: bool, renumbered: Renumbered
) -> RunRecord:
    """Enter a run; see ``import_run``."""
    if portable.kind != store.kind:
        raise InputError(
            f"{portable.folder} holds a {singular(portable.kind)} run, but {store.description} is for {store.kind}: "
            "import it among its own kind."
        )
    _refuse_same(portable, store)
    above = highest_number(store.runs_directory) if files.matter else 0
    wanted = portable.id if keep_id and _is_free(portable, store, files) else None
    run_id = store.receive(portable, wanted, above, _renewing(portable, files, renumbered))
    record = store.get(run_id)
    if store.checkpoint_files is not None:
        _upload(record)
    return record


def _renewing(portable: PortableRun, files: ModelFiles, renumbered: Renumbered) -> Callable[[int], RenewedIds]:
    """Say what the run says of itself in its new place; its checkpoints are brought there on the way."""

    def renew(run_id: int) -> RenewedIds:
        info = {**portable.info, **_parents(portable.info, renumbered)}
        if isinstance(info.get("checkpoints"), list):
            info["checkpoints"] = files.place(run_id, info["checkpoints"])
        if run_id != portable.id:
            info["original_id"] = portable.id
        if "summary" not in info and portable.metrics:
            info["summary"] = _summary(portable)
        return RenewedIds(info, _result(portable, {**renumbered, (portable.kind, portable.id): run_id}))

    return renew


def _result(portable: PortableRun, renumbered: Renumbered) -> Any:
    """Give what the run came to; a prediction says which it is, or which one it resumed."""
    result = portable.document.get("result")
    if not isinstance(result, Mapping) or not isinstance(result.get(PREDICTION_ID), int):
        return result
    number = result[PREDICTION_ID]
    return {**result, PREDICTION_ID: renumbered.get(("predictions", number), number)}


def _parents(info: Mapping[str, Any], renumbered: Renumbered) -> dict[str, Any]:
    def renew(key: str, value: Any) -> Any:
        return (
            renumbered.get((KINDS_BY_KEY[key], value), value)
            if key in KINDS_BY_KEY and isinstance(value, int)
            else value
        )

    changed = {key: renew(key, value) for key, value in info.items() if key in KINDS_BY_KEY}
    parent = info.get("parent")
    if isinstance(parent, Mapping):
        changed["parent"] = {key: renew(key, value) for key, value in parent.items()}
        if isinstance(members := parent.get("members"), list):
            renewed = [{key: renew(key, value) for key, value in dict(member).items()} for member in members]
            changed["parent"]["members"] = renewed
    return changed


def _summary(portable: PortableRun) -> dict[str, Any]:
    table = MetricTable(max_points(portable.config))
    for name, document in portable.metrics.items():
        table.put(name, document)
    return table.summary


def _is_free(portable: PortableRun, store: RunStore, files: ModelFiles) -> bool:
    return store.is_free(portable.id) and files.fit(portable.id)


def _refuse_same(portable: PortableRun, store: RunStore) -> None:
    mine = summarize(portable.kind, portable.id, condense({**portable.document, "info": portable.info}))
    for other in store.summaries():
        if mine.start_time is None or other.start_time is None or mine.host.get("pid") != other.host.get("pid"):
            continue
        if abs(mine.start_time - other.start_time) <= _SAME_MOMENT and mine.hostname == other.hostname:
            raise InputError(
                f"Run {portable.id} of {portable.origin} is run {other.id} in {store.description} already: leave "
                "it, or delete that one first."
            )


def _upload(record: RunRecord) -> None:
    from incasem_like.tracking.checkpoints.uploads import upload_missing

    try:
        upload_missing(record)
    except StoreError as error:
        log.warning("Checkpoints of run %s are on this machine only: %s", record.id, error)
