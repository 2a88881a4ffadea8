"""Exporting, importing and copying runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from incasem_like.disk import copy_whole, whole_folder
from incasem_like.errors import InputError
from incasem_like.tracking.kinds import KINDS, KINDS_BY_KEY, kind_named
from incasem_like.tracking.metrics_log import read_table
from incasem_like.tracking.mirror.checkpoints import try_upload
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import highest_number
from incasem_like.tracking.model.summaries import condense, summarize
from incasem_like.tracking.moving.model_files import ModelFiles, fetch_if_possible
from incasem_like.tracking.run_folder import (
    CHECKPOINTS,
    MANIFEST,
    PortableRun,
    Renewed,
    RunFolder,
)
from incasem_like.tracking.series import MetricTable, max_points
from incasem_like.tracking.stores.base import RunStore, errors_of_writing
from incasem_like.tracking.stores.records import RunRecord

Renumbered = dict[tuple[str, int], int]
PREDICTION_ID = "prediction_id"
_SAME_MOMENT = timedelta(milliseconds=1)  # MongoDB's clock


def export_run(record: RunRecord, folder: Path, *, with_checkpoints: bool = True) -> Path:
    """Write a run, with all that belongs to it, into a new folder, which is returned.

    An active run is refused: its parts change one after the other, so that a copy would not be of one moment.

    Args:
        record: The run.
        folder: Made whole or not at all; must not exist, or be empty.
        with_checkpoints: Whether its checkpoints come along; one that is not available anywhere is left out with a
            warning.

    Raises:
        InputError: The run is still running, or the folder is in use.
        StoreError: The store does not answer, or the folder cannot be written.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already and is not empty: name a new folder for run {record.id}.")
    with errors_of_writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder) as beside:
            pull(record, beside)
            checkpoints: dict[str, str] = {}
            for file in (file for one in record.checkpoints if with_checkpoints for file in one.files):
                if (source := fetch_if_possible(file, record.id)) is not None:
                    target = beside / CHECKPOINTS / file.name
                    target.parent.mkdir(exist_ok=True)
                    shutil.copyfile(source, target)
                    checkpoints[file.sha256] = target.relative_to(beside).as_posix()
            files = {
                path.relative_to(beside).as_posix(): {"sha256": file_sha256(path), "bytes": path.stat().st_size}
                for path in sorted(beside.rglob("*"))
                if path.is_file() and path.name != MANIFEST
            }
            described = record.kind, record.id, record.store.description
            RunFolder(beside).write_manifest(*described, files=files, checkpoints=checkpoints)
    return folder


def pull(record: RunRecord, folder: Path) -> None:
    """Write a run that is over, without its checkpoints, into an empty folder, as an exported run."""
    store = record.store
    store.refuse_live(record.id)
    if pending := store.pending(record.id):
        for journal in pending:
            store.deliver(journal)
        record = store.get(record.id)
    pulled = RunFolder(folder)
    run = dict(record.document)
    if record.status != record.recorded_status:  # whoever reads it elsewhere cannot find out that it was killed
        run.update(status=record.status, stop_time=record.heartbeat and record.heartbeat.replace(tzinfo=None))
    run["artifacts"] = [_portable(name) for name in record.artifacts]
    run["experiment"] = {
        **record.experiment,
        "sources": pulled.write_shared("sources", store.read_stored(record.id, "sources")),
    }
    run["resources"] = pulled.write_shared("resources", store.read_stored(record.id, "resources"))
    pulled.write_document({**run, "config": record.config, "info": record.info})
    metrics_log = store.metrics_log(record.id)
    if metrics_log is None:
        pulled.write("metrics.json", store.read_metric_documents(record.id))
    else:
        copy_whole(metrics_log, pulled.log_path)
        pulled.write("metrics.json", read_table(metrics_log, max_points(record.config)).as_documents())
    for name in record.artifacts:
        pulled.artifact(_portable(name)).write_bytes(record.artifact(name))
    pulled.write_manifest(record.kind, record.id, store.description)


def _portable(name: str) -> str:
    """Name an artifact so that it stays in its folder."""
    return name.replace("/", "_") if name.strip(".") else f"artifact{name}"


def import_runs(folders: Sequence[Path], store: RunStore, *, keep_ids: bool = True) -> list[RunRecord]:
    """Import exported runs, each among the runs of its kind, and renew the ids by which they name each other.

    Args:
        folders: What ``export_run`` made; parents need not come before children.
        store: Any of the kinds of the store that they go to.
        keep_ids: Keep their ids where those are free, in the store and in ``models/``; else they get the next ones.

    Returns:
        Their records, parents first. If one of them raises, those before it are imported.

    Raises:
        DataError: A folder holds no run, or a damaged one; nothing is imported then.
        InputError: The store has a run already.
    """
    runs = [PortableRun(folder) for folder in folders]
    for run in runs:
        run.verify()
    renumbered: Renumbered = {}
    records = []
    for run in sorted(runs, key=_generation):
        target = store.sibling(run.kind)
        records.append(_bring_in(run, target, ModelFiles(target, run.checkpoint), keep_ids, renumbered))
    return records


def _generation(run: PortableRun | RunRecord) -> tuple[int, int]:
    """Return a key that sorts parents before their children."""
    return KINDS.index(run.kind), run.id


def _bring_in(
    portable: PortableRun, store: RunStore, files: ModelFiles, keep_id: bool, renumbered: Renumbered
) -> RunRecord:
    """Enter a run into a store of its kind, unless it is there already, and add its new id to those of the others."""
    mine = summarize(portable.kind, portable.id, condense({**portable.document, "info": portable.info}))
    for other in store.summaries():
        if mine.start_time is None or other.start_time is None or mine.host.get("pid") != other.host.get("pid"):
            continue
        if abs(mine.start_time - other.start_time) <= _SAME_MOMENT and mine.hostname == other.hostname:
            raise InputError(
                f"Run {portable.id} of {portable.origin} is run {other.id} in {store.description} already: leave "
                "it, or delete that one first."
            )
    above = highest_number(store.runs_directory) if kind_named(store.kind).keeps_checkpoints else 0
    is_free = keep_id and store.is_free(portable.id) and files.fit(portable.id)
    renew = partial(_renewed, portable, files, renumbered)
    record = store.get(store.put(portable, portable.id if is_free else None, above, renew))
    renumbered[portable.kind, portable.id] = record.id
    try_upload(record)
    return record


def _renewed(portable: PortableRun, files: ModelFiles, renumbered: Renumbered, run_id: int) -> Renewed:
    """Renew the ids and paths that a run notes; this also copies its checkpoints."""

    def with_new_ids(noted: Mapping[str, Any]) -> dict[str, Any]:  # of the runs that it came from
        ids = {key: value for key, value in noted.items() if key in KINDS_BY_KEY and isinstance(value, int)}
        return {**noted, **{key: renumbered.get((KINDS_BY_KEY[key], old), old) for key, old in ids.items()}}

    info = with_new_ids(portable.info)
    if isinstance(parent := info.get("parent"), Mapping):
        info["parent"] = with_new_ids(parent)
        if isinstance(members := parent.get("members"), list):
            info["parent"]["members"] = [with_new_ids(member) for member in members]
    if isinstance(info.get("checkpoints"), list):
        info["checkpoints"] = files.place(run_id, info["checkpoints"])
    if run_id != portable.id:
        info["original_id"] = portable.id
    if "summary" not in info and portable.metrics:
        info["summary"] = MetricTable.from_documents(portable.metrics, max_points(portable.config)).summary
    result = portable.document.get("result")  # of a prediction it has its own id, or that of the one it resumed
    if isinstance(result, Mapping) and isinstance(number := result.get(PREDICTION_ID), int):
        known = {**renumbered, (portable.kind, portable.id): run_id}
        result = {**result, PREDICTION_ID: known.get(("predictions", number), number)}
    return info, result


def copy_run(
    record: RunRecord, store: RunStore, *, keep_id: bool = True, renumbered: Renumbered | None = None
) -> RunRecord:
    """Copy a run that is over into another store of its kind; return its record there.

    Two stores of one runs directory share its checkpoints: they go when the run is deleted from both. If its id is not
    free, or is not to be kept, it gets the store's next one, and its checkpoints a new folder. ``renumbered`` are ids
    of runs that moved with it, by kind and old id, for what it notes of its parents; its own is added.

    Raises:
        InputError: The run is still running, or the other store has it already.
    """
    with tempfile.TemporaryDirectory(prefix="incasem-run-") as temporary:
        folder = Path(temporary)
        with errors_of_writing(folder):
            pull(record, folder)
        renumbered = {} if renumbered is None else renumbered
        return _bring_in(PortableRun(folder), store, ModelFiles.of_record(record, store), keep_id, renumbered)


def copy_runs(records: Sequence[RunRecord], store: RunStore, *, keep_ids: bool = True) -> list[RunRecord]:
    """Copy several runs, each among the runs of its kind, and keep them tied to each other.

    ``store`` is of any kind; parents need not come before children. Returns their records there, parents first. If one
    raises as ``copy_run`` does, those before it are copied.
    """
    renumbered: Renumbered = {}
    return [
        copy_run(record, store.sibling(record.kind), keep_id=keep_ids, renumbered=renumbered)
        for record in sorted(records, key=_generation)
    ]
