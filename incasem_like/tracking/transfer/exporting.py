"""Writing a run into a folder that can be carried anywhere."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from incasem_like.errors import InputError, StoreError
from incasem_like.tracking.checkpoints import file_sha256
from incasem_like.tracking.files.layout import ANNOTATIONS, METRICS_LOG, artifact_file_name
from incasem_like.tracking.metrics_log_reading import read_table
from incasem_like.tracking.plain import plain
from incasem_like.tracking.series import max_points
from incasem_like.tracking.transfer.placing import fetch_if_possible
from incasem_like.tracking.transfer.portable import CHECKPOINTS, FORMAT, MANIFEST, VERSION

if TYPE_CHECKING:
    from incasem_like.tracking.records import RunRecord

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
    """Give a run's record, if it is over, after what an outage kept from its store has been delivered."""
    from incasem_like.tracking.sync import deliver_journal

    record.store.refuse_live(record.id)
    return record if deliver_journal(record.store, record.id) is None else record.store.get(record.id)


def _write(record: RunRecord, folder: Path, with_checkpoints: bool) -> None:
    document = record.document
    run = {key: value for key, value in document.items() if key not in _NOT_IN_RUN_JSON}
    if record.status != record.recorded_status:  # whoever reads it elsewhere cannot find out that it was killed
        run.update(status=record.status, stop_time=record.heartbeat and record.heartbeat.replace(tzinfo=None))
    run["artifacts"] = [_portable(name) for name in record.artifacts]
    run["experiment"] = {**record.experiment, "sources": _write_stored(record, folder, "sources")}
    run["resources"] = _write_stored(record, folder, "resources")
    _write_json(folder / "run.json", run)
    _write_json(folder / "config.json", record.config, sort_keys=False)
    _write_json(folder / "info.json", record.info)
    _write_json(folder / ANNOTATIONS, document.get("omniboard") or {})
    (folder / "cout.txt").write_text(record.captured_output, encoding="utf-8", errors="replace")
    _write_metrics(record, folder)
    for name in record.artifacts:
        (folder / artifact_file_name(_portable(name))).write_bytes(record.artifact(name))
    checkpoints = _write_checkpoints(record, folder) if with_checkpoints else {}
    _write_json(folder / MANIFEST, {**_description(record, folder), "checkpoints": checkpoints})


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
    """Write sources or resources as ``_sources/<number>/<name>``; gives what the document says of them."""
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
    _write_json(folder / "metrics.json", documents)


def _write_checkpoints(record: RunRecord, folder: Path) -> dict[str, str]:
    """Copy the checkpoints that can be had; gives their paths by hash."""
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


def _write_json(path: Path, value: Mapping[str, Any], *, sort_keys: bool = True) -> None:
    path.write_text(json.dumps(plain(value), indent=2, sort_keys=sort_keys), encoding="utf-8")


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
