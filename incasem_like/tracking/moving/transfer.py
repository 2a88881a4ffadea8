"""Exporting, importing and copying runs."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from incasem_like.errors import InputError, StoreError
from incasem_like.tracking.kinds import KINDS, KINDS_BY_KEY, singular
from incasem_like.tracking.metrics_log import read_table
from incasem_like.tracking.mirror.checkpoints import upload_missing
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import highest_number
from incasem_like.tracking.model.summaries import condense, summarize
from incasem_like.tracking.moving.model_files import ModelFiles, fetch_if_possible
from incasem_like.tracking.run_folder import (
    ANNOTATIONS,
    CHECKPOINTS,
    FORMAT,
    MANIFEST,
    METRICS_LOG,
    VERSION,
    PortableRun,
    RenewedIds,
    RunFolder,
)
from incasem_like.tracking.series import MetricTable, max_points

if TYPE_CHECKING:
    from incasem_like.tracking.stores.base import RunRecord, RunStore

# What a store adds to a run's document, or keeps in files of their own.
_NOT_IN_RUN_JSON = ("_id", "config", "info", "captured_out", "omniboard")


def export_run(record: RunRecord, folder: Path, *, with_checkpoints: bool = True) -> Path:
    """Write a run, with all that belongs to it, into a new folder.

    A run that goes on is refused: its parts change one after the other, so that a copy would not be of one moment.

    Args:
        record: The run.
        folder: Made whole or not at all; must not exist, or be empty.
        with_checkpoints: Whether its checkpoints come along; they are fetched from the store where need be,
            and one that is nowhere to be had is left out with a warning.

    Returns:
        The folder.

    Raises:
        InputError: The run goes on, or the folder is in use.
        StoreError: The store does not answer, or the folder cannot be written.
    """
    record = _whole(record)
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already and is not empty: name a new folder for run {record.id}.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _write(record, beside, with_checkpoints)
            os.chmod(beside, 0o777 & ~_umask())
            os.replace(beside, folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written ({error.strerror or error}): check its rights and the space on its disk."
        ) from None
    return folder


def _whole(record: RunRecord) -> RunRecord:
    """Return a run's record, if it is over, after its pending part has been pushed."""
    from incasem_like.tracking.mirror.push import deliver_journal

    record.store.refuse_live(record.id)
    return record if deliver_journal(record.store, record.id) is None else record.store.get(record.id)


def _write(record: RunRecord, folder: Path, with_checkpoints: bool) -> None:
    exported = RunFolder(folder)
    document = record.document
    run = {key: value for key, value in document.items() if key not in _NOT_IN_RUN_JSON}
    if record.status != record.recorded_status:  # whoever reads it elsewhere cannot find out that it was killed
        run.update(status=record.status, stop_time=record.heartbeat and record.heartbeat.replace(tzinfo=None))
    run["artifacts"] = [_portable(name) for name in record.artifacts]
    run["experiment"] = {**record.experiment, "sources": _write_stored(record, folder, "sources")}
    run["resources"] = _write_stored(record, folder, "resources")
    exported.write("run.json", run)
    exported.write("config.json", record.config)
    exported.write("info.json", record.info)
    exported.write(ANNOTATIONS, document.get("omniboard") or {})
    exported.write_output(record.captured_output)
    _write_metrics(record, folder)
    for name in record.artifacts:
        exported.artifact(_portable(name)).write_bytes(record.artifact(name))
    checkpoints = _write_checkpoints(record, folder) if with_checkpoints else {}
    exported.write(MANIFEST, {**_description(record, folder), "checkpoints": checkpoints})


def _description(record: RunRecord, folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": record.kind,
        "id": record.id,
        "store": record.store.description,
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": {
            path.relative_to(folder).as_posix(): {"sha256": file_sha256(path), "bytes": path.stat().st_size}
            for path in files
        },
    }


def _write_stored(record: RunRecord, folder: Path, what: Literal["sources", "resources"]) -> list[list[str]]:
    """Write sources or resources as ``_sources/<number>/<name>``; return what the document says of them."""
    entries = []
    for number, (name, content) in enumerate(record.store.read_stored(record.id, what)):
        if content is None:
            entries.append([name, "not stored"])
            continue
        path = folder / f"_{what}" / str(number) / Path(name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        entries.append([name, path.relative_to(folder).as_posix()])
    return entries


def _write_metrics(record: RunRecord, folder: Path) -> None:
    log = record.store.metrics_log(record.id)
    if log is not None:
        shutil.copyfile(log, folder / METRICS_LOG)
        documents = read_table(log, max_points(record.config)).as_documents()
    else:
        documents = record.store.read_metric_documents(record.id)
    RunFolder(folder).write("metrics.json", documents)


def _write_checkpoints(record: RunRecord, folder: Path) -> dict[str, str]:
    """Copy the checkpoints that can be had; return their paths by hash."""
    found: dict[str, str] = {}
    for checkpoint in record.checkpoints:
        for file in checkpoint.files:
            source = fetch_if_possible(file, record.id)
            if source is None:
                continue
            target = folder / CHECKPOINTS / file.name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
            found[file.sha256] = target.relative_to(folder).as_posix()
    return found


def _portable(name: str) -> str:
    """Name an artifact so that it stays in its folder."""
    return name.replace("/", "_") if name.strip(".") else f"artifact{name}"


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


log = logging.getLogger("incasem_like.tracking")
Renumbered = Mapping[tuple[str, int], int]
PREDICTION_ID = "prediction_id"
_SAME_MOMENT = timedelta(milliseconds=1)  # MongoDB's clock


def import_run(
    folder: Path, store: RunStore, *, keep_id: bool = True, renumbered: Renumbered | None = None
) -> RunRecord:
    """Import an exported run into a store, and its checkpoints into ``models/<id>/`` of the runs directory.

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
    """Import several exported runs, each among the runs of its kind, and renew the ids by which they name each other.

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
    run_id = store.put(portable, wanted, above, _renewing(portable, files, renumbered))
    record = store.get(run_id)
    if store.checkpoint_files is not None:
        _upload(record)
    return record


def _renewing(portable: PortableRun, files: ModelFiles, renumbered: Renumbered) -> Callable[[int], RenewedIds]:
    """Return a function that renews the ids and paths that a run notes; it also copies the checkpoints."""

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
    """Return the run's result; a prediction's names its own id, or that of the one it resumed."""
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
    try:
        upload_missing(record)
    except StoreError as error:
        log.warning("Checkpoints of run %s are on this machine only: %s", record.id, error)


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
